"""What the clients do when replies are lost, step by step and without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frameloom import Error, protocol
from frameloom.protocol import PAUSES, Pause, Reply, Request, Slice, Steps
from frameloom.types import JobView

LOST = Error("unavailable", "the server does not answer")
UPLOAD = "/v1/uploads/7"


def reply(body: Any = None, **headers: str) -> Reply:
    return Reply(
        200, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(body).encode()
    )


def played(steps: Steps[Any], replies: list[Reply | Error]) -> list[Request]:
    """The requests of an operation that gets these replies; pauses are passed over."""
    asked = []
    try:
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                step = steps.send(None)
                continue
            asked.append(step)
            answer = replies.pop(0)
            step = steps.throw(answer) if isinstance(answer, Error) else steps.send(answer)
    except StopIteration:
        assert not replies
        return asked


def job(**fields: Any) -> JobView:
    return {"id": "7", "state": "queued", "upload_url": UPLOAD, **fields}  # type: ignore[typeddict-item]


def told(requests: list[Request]) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in requests]


def test_an_upload_whose_last_reply_is_lost_is_done() -> None:
    gone = Error("conflict", "its source has come already", 409)
    running = reply(job(state="running", upload_url=None))
    requests = played(protocol.upload(job(), Path("x"), 9), [LOST, gone, running])
    assert told(requests) == [("PATCH", UPLOAD), ("HEAD", UPLOAD), ("GET", "/v1/jobs/7")]


def test_an_upload_goes_on_at_the_servers_offset() -> None:
    busy = Error("conflict", "somebody else is sending its source", 409)
    replies: list[Reply | Error] = [
        LOST,
        reply(upload_offset="4"),
        busy,
        reply(upload_offset="6"),
        reply(),
    ]
    requests = played(protocol.upload(job(), Path("x"), 9), replies)
    bodies = [request.body for request in requests if request.method == "PATCH"]
    assert bodies == [Slice(Path("x"), at, 9 - at) for at in (0, 4, 6)]
    assert [r.headers["Upload-Offset"] for r in requests if r.method == "PATCH"] == ["0", "4", "6"]


def test_an_upload_without_progress_is_given_up() -> None:
    replies: list[Reply | Error] = []
    for _ in PAUSES:
        replies += [LOST, reply(upload_offset="0")]
    with pytest.raises(Error) as raised:
        played(protocol.upload(job(), Path("x"), 9), [*replies, LOST])
    assert raised.value is LOST


def test_an_upload_that_is_refused_is_not_sent_again() -> None:
    full = Error("exhausted", "the store is full", 507)
    with pytest.raises(Error) as raised:
        played(protocol.upload(job(), Path("x"), 9), [full])
    assert raised.value is full


def test_a_source_goes_to_no_other_server() -> None:
    steps = protocol.upload(job(upload_url="http://elsewhere/"), Path("x"), 9)
    with pytest.raises(Error, match="another one's address for the source: 'http://elsewhere/'"):
        played(steps, [])


def test_a_job_is_made_once_however_often_it_is_asked_for() -> None:
    first, second = played(protocol.create({"filters": []}), [LOST, reply(job())])
    assert first == second
    assert len(first.headers["Idempotency-Key"]) == 32


def test_a_job_that_is_cancelled_already_stays_so() -> None:
    over = Error("conflict", "it is over", 409)
    played(protocol.cancel("7"), [LOST, over, reply(job(state="cancelled"))])
    with pytest.raises(Error) as raised:
        played(protocol.cancel("7"), [over, reply(job(state="succeeded"))])
    assert raised.value is over


def test_an_answer_that_is_no_json() -> None:
    with pytest.raises(Error, match="the server's answer is no JSON") as raised:
        played(protocol.status("7"), [Reply(200, {}, b"<html>")])
    assert (raised.value.kind, raised.value.status) == ("internal", 502)
