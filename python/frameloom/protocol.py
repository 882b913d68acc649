"""What both clients do, without doing it: generators that ask for requests and pauses.

A driver runs such a generator: it sends what is yielded and gives the reply back, or throws the
``Error`` that came of it in. So the rules (what is sent again, where an upload goes on) are
written once, for blocking and for asynchronous use.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from frameloom.errors import Error
from frameloom.types import EncoderRequest, JobList, JobOptions, JobRequest, JobView

#: Seconds between tries without progress; after the last one an operation gives up.
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: The same where nothing is under way yet that would be lost.
SHORT = PAUSES[:3]

#: Bytes read from a file or a reply at a time.
PIECE = 1 << 18

_ENCODER = ("codec", "encoder", "crf", "preset", "lossless")


@dataclass(frozen=True)
class Slice:
    """The rest of a file from an offset, as a request's body."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Request:
    """A request to be sent."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int] = field(default_factory=dict)
    body: bytes | Slice | None = None


@dataclass(frozen=True)
class Reply:
    """What the server answered, with a status below 400."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Error("internal", f"the server's answer is no JSON: {error}", 502) from error


@dataclass(frozen=True)
class Pause:
    """Seconds to wait."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Request | Pause, Reply | None, T]


def retryable(error: Error) -> bool:
    """Whether the same request may go through later: no reply came, or it says so."""
    return (error.status is None and error.kind == "unavailable") or error.status in (503, 504)


def ask(request: Request, pauses: tuple[float, ...] = PAUSES) -> Steps[Reply]:
    """Sends a request that may be sent again, until a reply comes."""
    for pause in (*pauses, None):
        try:
            reply = yield request
        except Error as error:
            if pause is None or not retryable(error):
                raise
            yield Pause(pause)
        else:
            assert reply is not None
            return reply
    raise AssertionError("the last try returns or raises")


def job_request(
    path: str | os.PathLike[str],
    filters: Iterable[str],
    options: JobOptions,
    upload_size: int | None,
) -> JobRequest:
    """The description of a job; without a size the path is one on the server."""
    if isinstance(filters, str):
        raise TypeError(
            f"filters: expected a list of filters, got '{filters}'; write ['{filters}']"
        )
    unknown = set(options) - set(JobOptions.__annotations__)
    if unknown:
        name = sorted(unknown)[0]
        raise TypeError(f"'{name}' is no option; there are {', '.join(JobOptions.__annotations__)}")
    request: dict[str, Any] = {"filters": list(filters)}
    if upload_size is None:
        request["source"] = {"path": os.fspath(path)}
    else:
        request["source"] = {"upload": True, "name": Path(path).name, "size": upload_size}
    encoder: dict[str, Any] = {}
    for name, value in options.items():
        if name in _ENCODER:
            encoder[name] = value
        elif name == "encoder_options":
            encoder["options"] = value
        elif name == "output":
            request["output"] = {"path": os.fspath(cast(str, value))}
        else:
            request[name.rstrip("_")] = value
    if encoder:
        request["encoder"] = cast(EncoderRequest, encoder)
    return cast(JobRequest, request)


def create(description: JobRequest) -> Steps[JobView]:
    """Makes a job; one alone, however often the request must be sent."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(16)}
    body = json.dumps(description).encode()
    reply = yield from ask(Request("POST", "/v1/jobs", headers, body=body), SHORT)
    return cast(JobView, reply.json())


def upload(job: JobView, path: Path, size: int) -> Steps[None]:
    """Sends a job's source, from where the server has got to whenever the connection drops."""
    url = job.get("upload_url")
    if not url:
        return
    if not url.startswith("/"):
        raise Error("internal", f"the server names another one's address for the source: '{url}'")
    at, tries = 0, 0
    while True:
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size - at),
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(size),
            "Upload-Offset": str(at),
        }
        try:
            yield Request("PATCH", url, headers, body=Slice(path, at, size - at))
        except Error as error:
            # 409: the server has not yet seen that the connection before is gone.
            if not retryable(error) and error.status not in (408, 409):
                raise
            cause = error
        else:
            return
        if tries == len(PAUSES):
            raise cause
        yield Pause(PAUSES[tries])
        there = yield from _offset(job, url)
        if there is None:
            return
        tries = 0 if there > at else tries + 1
        at = there


def _offset(job: JobView, url: str) -> Steps[int | None]:
    """Bytes that the server has; None where it has all of them."""
    try:
        reply = yield from ask(Request("HEAD", url, {"Tus-Resumable": "1.0.0"}))
    except Error as error:
        if error.status == 409:
            now = yield from status(job["id"])
            if not now.get("upload_url"):
                return None
        raise
    try:
        return int(reply.headers["upload-offset"])
    except (KeyError, ValueError) as error:
        raise Error("internal", "the server tells no Upload-Offset", reply.status) from error


def job_path(job: str, below: str = "") -> str:
    """A job's address."""
    return f"/v1/jobs/{quote(job, safe='')}{below}"


def status(job: str) -> Steps[JobView]:
    """Shows a job."""
    reply = yield from ask(Request("GET", job_path(job)))
    return cast(JobView, reply.json())


def cancel(job: str) -> Steps[None]:
    """Stops a job; one that is cancelled already stays so."""
    try:
        yield from ask(Request("DELETE", job_path(job)))
    except Error as error:
        if error.status != 409 or (yield from status(job))["state"] != "cancelled":
            raise


def page(state: str | None, sort: str | None, after: str | None) -> Steps[JobList]:
    """A page of jobs."""
    told = {"state": state, "sort": sort, "after": after, "limit": 200}
    params = {name: value for name, value in told.items() if value is not None}
    reply = yield from ask(Request("GET", "/v1/jobs", params=params), SHORT)
    return cast(JobList, reply.json())


def listing(path: str) -> Steps[Any]:
    """What a GET without parameters answers."""
    reply = yield from ask(Request("GET", path), SHORT)
    return reply.json()


def output_request(headers: Mapping[str, str], job: str) -> Request:
    """Asks for a job's output, as it is."""
    return Request("GET", job_path(job, "/output"), {"Accept-Encoding": "identity", **headers})


def output_name(view: JobView) -> str:
    """The name of a job's output."""
    return f"{Path(view['name']).stem or view['id']}.{view['container']}"


def failure(view: JobView) -> Error | None:
    """Why a job that is over has no output; None where it has one."""
    if view["state"] == "succeeded":
        return None
    problem = view.get("error")
    if problem:
        return Error.from_problem(None, problem)
    kind = "cancelled" if view["state"] == "cancelled" else "internal"
    return Error(kind, f"job '{view['id']}' is {view['state']}")
