"""How a real Celery worker with frame tasks starts, and what is left where it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import wait_for
from server_role import Server, Worker, new_id


def test_a_killed_worker_leaves_its_claim_and_beats_no_more(tmp_path: Path, redis_url: str) -> None:
    server = Server(tmp_path / "data", redis_url, "doomed")
    worker = Worker(tmp_path / "log", redis_url, "doomed", server.root)
    params = {"began": str(tmp_path / "began"), "go": str(tmp_path / "go")}
    message = server.message(params=params)
    attempt = server.send("tests.hold", message)
    beat = server.dir / "beats" / attempt
    wait_for(Path(params["began"]).exists, "the function's begin")
    wait_for(lambda: beat.exists() and json.loads(beat.read_text())["counter"] >= 2, "two beats")
    worker.stop(signal.SIGKILL)
    last = beat.read_text()
    assert (server.dir / "claims" / attempt).exists()
    Path(params["go"]).touch()

    # The server sends the frame again, as another attempt, and the first message once more.
    again = Worker(tmp_path / "log2", redis_url, "doomed", server.root)
    server.send("tests.hold", message)
    second = message | {"attempt": new_id()}
    assert server.result(server.send("tests.hold", second))["outcome"] == "done"
    assert beat.read_text() == last
    assert not (server.dir / "results" / f"{attempt}.json").exists()
    again.stop()
    assert again.process.returncode == 0


def test_an_input_shows_at_once_in_a_view_that_keeps_what_was_absent(
    tmp_path: Path, redis_url: str
) -> None:
    server = Server(tmp_path / "data", redis_url, "late")
    view = tmp_path / "view"
    view.mkdir()
    kept = "negative_timeout=30,entry_timeout=30,attr_timeout=30"
    shown = ["bindfs", "--no-allow-other", "-o", kept, str(server.root), str(view)]
    subprocess.run(shown, check=True)
    try:
        worker = Worker(tmp_path / "log", redis_url, "late", view)
        # A worker that is up takes the next one at once.
        first = server.run("tests.answer", params={"what": "same"})
        assert first["outcome"] == "done", first
        message = server.message(params={"what": "same"})
        source = server.root / message["frames"][0]["input"]
        source.rename(tmp_path / "later")
        attempt = server.send("tests.answer", message)
        wait_for((server.dir / "claims" / attempt).exists, "the claim")
        (tmp_path / "later").rename(source)
        result = server.result(attempt)
        assert result["outcome"] == "done", result
        worker.stop()
    finally:
        subprocess.run(["fusermount3", "-uz", str(view)], check=True)


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        ("unset", "FRAMELOOM_DATA is not set; set it to the directory that the server has"),
        ("missing", "data' is not a directory; mount the server's --data there"),
        ("empty", "store.json' cannot be read: No such file or directory"),
        ("rubbish", "store.json' cannot be read: Expecting value"),
        ("no id", "store.json' has no id of 32 hexadecimal digits"),
        ("newer", "store.json' is of version 2, this worker knows 1"),
    ],
)
def test_without_its_store_a_worker_does_not_start(
    tmp_path: Path, redis_url: str, prepare: str, line: str
) -> None:
    data = tmp_path / "data"
    if prepare not in ("unset", "missing"):
        data.mkdir()
    content = {
        "rubbish": "rubbish",
        "no id": '{"version": 1, "id": "../"}',
        "newer": json.dumps({"version": 2, "id": new_id()}),
    }.get(prepare)
    if content:
        (data / "store.json").write_text(content)
    worker = Worker(tmp_path / "log", redis_url, "none", None if prepare == "unset" else data)
    assert worker.process.wait(20) == 1
    last = worker.log.read_text().strip().splitlines()[-1]
    assert last.startswith("frameloom: error: ")
    assert line in last
