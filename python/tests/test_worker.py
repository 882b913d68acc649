"""The decorator in a real Celery worker, over a real Redis."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_for
from server_role import Server, Worker, new_id, picture


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[tuple[Server, Worker]]:
    """A server's part and a worker, which the module's tests share."""
    home = tmp_path_factory.mktemp("worker")
    server = Server(home / "data", redis_url, "shared")
    worker = Worker(home / "log", redis_url, "shared", server.root)
    yield server, worker
    worker.stop()


@pytest.fixture
def server(both: tuple[Server, Worker]) -> Server:
    """The server's part, with a new job."""
    both[0].begin_job()
    return both[0]


@pytest.fixture
def worker(both: tuple[Server, Worker]) -> Worker:
    """The worker."""
    return both[1]


def test_a_frame_goes_out_and_comes_back(server: Server) -> None:
    frame = picture(1, 33, 17)
    message = server.message(frame, params={"add": 1})
    result = server.result(server.send("tests.negative", message))
    assert result.pop("seconds") >= 0
    assert result.pop("pid") > 0
    assert result.pop("host") == os.uname().nodename
    assert result == {"version": 1, "attempt": message["attempt"], "outcome": "done"}
    assert np.array_equal(server.output(message), 255 - frame + np.uint8(1))
    head = (server.root / message["frames"][0]["output"]).read_bytes()[:8]
    assert head == b"\x93NUMPY\x01\x00"
    beat = json.loads((server.dir / "beats" / message["attempt"]).read_text())
    assert beat["counter"] >= 1
    assert beat["host"] == os.uname().nodename
    assert not [name for name in server.files() if name.endswith(".tmp")]


def test_an_answer_that_is_not_contiguous_is_made_so(server: Server) -> None:
    frame = picture(2, 5, 7)
    message = server.message(frame, params={"what": "turned"})
    assert server.result(server.send("tests.answer", message))["outcome"] == "done"
    assert np.array_equal(server.output(message), frame[::-1, ::-1])


def test_the_frame_itself_is_an_answer(server: Server) -> None:
    message = server.message(params={"what": "same"})
    assert server.result(server.send("tests.answer", message))["outcome"] == "done"
    assert np.array_equal(server.output(message), picture())


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("none", "'tests.answer' returned None; return a uint8 array of shape (6, 8, 3)"),
        ("list", "returned a builtins.list"),
        ("float", "returned an array of shape (6, 8, 3) and dtype float32"),
        ("gray", "returned an array of shape (6, 8) and dtype uint8"),
        ("small", "returned an array of shape (5, 8, 3) and dtype uint8"),
        ("modify", "ValueError: assignment destination is read-only"),
        ("exit", "SystemExit: 3"),
        ("mute", "Mute: (its text cannot be told: ValueError)"),
        ("late", "Late: it took too long"),
        ("interrupt", "KeyboardInterrupt:"),
        ("long", "ValueError: words words"),
        ("raise", "ValueError: no good frame: pts 0, index 0 second line"),
    ],
)
def test_a_function_that_fails_says_why(
    server: Server, worker: Worker, what: str, error: str
) -> None:
    message = server.message(params={"what": what})
    result = server.result(server.send("tests.answer", message))
    assert result["outcome"] == "failed"
    assert error in result["error"]
    assert "\n" not in result["error"]
    assert len(result["traceback"]) <= 2000
    assert "Traceback" in result["traceback"] or len(result["traceback"]) == 2000
    assert len(result["error"]) <= 500
    assert result["attempt"] == message["attempt"]
    assert not (server.root / message["frames"][0]["output"]).exists()
    # The worker lives on, and its log has not the whole of it.
    handled(server)
    assert worker.process.poll() is None
    assert worker.log.stat().st_size < 1_000_000


def test_a_batch_is_one_array_and_what_is_over_another(server: Server) -> None:
    frames = [picture(seed) for seed in range(6)]
    message = server.message(*frames)
    for ref in message["frames"]:
        ref["pts"] = 100 + ref["index"]
    assert server.result(server.send("tests.batch", message))["outcome"] == "done"
    for at, frame in enumerate(frames):
        expected = frame.copy()
        expected[0, 0] = (4 if at < 4 else 2, at, 100 + at)
        assert np.array_equal(server.output(message, at), expected)


def test_frames_in_a_row_are_told_by_a_few_numbers(server: Server) -> None:
    frames = [picture(seed) for seed in range(7)]
    message = server.message()
    in_a_row(message, index=9, pts=[100, 1, 1, 1, 1, 1, 1])
    for at, frame in enumerate(frames):
        np.save(server.dir / f"{message['frames']['group']}.{at}.in.npy", frame)
    assert server.result(server.send("tests.batch", message))["outcome"] == "done"
    for at, frame in enumerate(frames):
        expected = frame.copy()
        expected[0, 0] = (4 if at < 4 else 3, 9 + at, 100 + at)
        came = np.load(server.dir / f"{message['attempt']}.{at}.out.npy")
        assert np.array_equal(came, expected)


def test_a_batch_of_several_sizes_is_refused(server: Server) -> None:
    result = server.run("tests.batch", picture(0, 4, 4), picture(0, 4, 5))
    assert "frames of a batch differ in size: [(4, 4, 3), (4, 5, 3)]" in result["error"]


def test_a_message_of_several_frames_for_a_function_on_one(server: Server) -> None:
    frames = [picture(seed) for seed in range(3)]
    message = server.message(*frames)
    assert server.result(server.send("tests.negative", message))["outcome"] == "done"
    for at, frame in enumerate(frames):
        assert np.array_equal(server.output(message, at), 255 - frame)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "is no .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "is no .npy file"),
        (np.zeros((4, 4), np.uint8), "expected (height, width, 3) of uint8 in C order"),
        (np.zeros((4, 4, 3), np.float32), "got (4, 4, 3) of float32"),
        (np.zeros((4, 4, 3), np.uint8, order="F"), "in Fortran order"),
        ("cut", "is shorter than its header says"),
    ],
)
def test_an_input_that_is_no_frame(server: Server, content: Any, error: str) -> None:
    message = server.message()
    path = server.root / message["frames"][0]["input"]
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(path.read_bytes()[:-1] if content == "cut" else content)
    result = server.result(server.send("tests.negative", message))
    assert result["outcome"] == "failed"
    assert error in result["error"]
    assert "kind" not in result


@pytest.mark.parametrize("what", ["input", "output"])
def test_trouble_with_the_store_is_told_apart_from_the_function(server: Server, what: str) -> None:
    message = server.message()
    path = server.root / message["frames"][0][what]
    if what == "input":
        path.unlink()
    else:
        path.mkdir()
    result = server.result(server.send("tests.negative", message))
    assert (result["outcome"], result["kind"]) == ("failed", "store")
    assert ("is not there" if what == "input" else "Is a directory") in result["error"]


def test_an_input_that_shows_late_is_waited_for(server: Server, worker: Worker) -> None:
    message = server.message()
    source = server.root / message["frames"][0]["input"]
    source.rename(server.root / "later")
    attempt = server.send("tests.negative", message)
    wait_for((server.dir / "claims" / attempt).exists, "the claim")
    (server.root / "later").rename(source)
    assert server.result(attempt)["outcome"] == "done"


def test_a_job_that_goes_while_its_frame_is_at_work(
    server: Server, worker: Worker, tmp_path: Path
) -> None:
    params = {"began": str(tmp_path / "began"), "go": str(tmp_path / "go")}
    server.send("tests.hold", server.message(params=params))
    wait_for(Path(params["began"]).exists, "the function's begin")
    (server.root / "trash").mkdir()
    server.dir.rename(server.root / "trash" / server.job)
    Path(params["go"]).touch()
    server.begin_job()
    handled(server)
    assert worker.said("'dropped: its job is gone'")
    assert not list((server.root / "trash").rglob("*-out.npy"))


def handled(server: Server) -> None:
    """Waits until what was sent before has been handled: there is one process, in order."""
    assert server.run("tests.negative")["outcome"] == "done"


def test_a_repeat_is_dropped(server: Server, worker: Worker) -> None:
    message = server.message()
    server.result(server.send("tests.negative", message))
    (server.dir / "results" / f"{message['attempt']}.json").unlink()
    (server.root / message["frames"][0]["output"]).unlink()
    before = server.files()
    server.send("tests.negative", message)
    server.send("tests.negative", message)
    handled(server)
    assert before <= server.files()
    assert not (server.dir / "results" / f"{message['attempt']}.json").exists()
    assert not (server.root / message["frames"][0]["output"]).exists()
    assert worker.said("'dropped: it is claimed already'")


@pytest.mark.parametrize("name", ["ATTEMPT", "all"])
def test_a_cancelled_attempt_is_dropped(server: Server, name: str) -> None:
    message = server.message()
    mark = name.replace("ATTEMPT", message["attempt"])
    (server.dir / "cancelled" / mark).touch()
    server.send("tests.negative", message)
    (job, frames) = (server.job, server.dir)
    server.begin_job()
    handled(server)
    assert not list((frames / "claims").iterdir())
    assert not list((frames / "results").iterdir())
    assert job != server.job


def test_a_job_that_is_gone_is_dropped(server: Server) -> None:
    message = server.message(job=new_id())
    for ref in message["frames"]:
        for field in ("input", "output"):
            ref[field] = ref[field].replace(server.job, message["job"])
    before = server.files()
    server.send("tests.negative", message)
    handled(server)
    assert not (server.root / "frames" / message["job"]).exists()
    assert not [n for n in server.files() - before if message["attempt"] in n]


Change = Callable[[dict[str, Any]], Any]


def path_of(field: str, path: str) -> Change:
    """Puts a path into a message; JOB stands for its job."""

    def change(message: dict[str, Any]) -> None:
        message["frames"][0][field] = path.replace("JOB", message["job"])

    return change


def in_a_row(message: dict[str, Any], **changes: Any) -> None:
    """Makes it one that tells how its frames' files are named; then with changes."""
    run = {"group": new_id(), "index": 0, "pts": [0]} | changes
    message.update(version=2, frames=run)


REFUSED: dict[str, Change] = {
    "version: this worker speaks versions 1 and 2, got 3": lambda m: m.update(version=3),
    "version: this worker speaks versions 1 and 2, got True": lambda m: m.update(version=True),
    "version: this worker speaks versions 1 and 2, got None": lambda m: m.pop("version"),
    "frames: expected an object, got [": lambda m: m.update(version=2),
    "group: expected 32 hexadecimal digits, got '../x'": lambda m: in_a_row(m, group="../x"),
    "frames.index: expected a whole number": lambda m: in_a_row(m, index=None),
    "frames.pts: expected a list of 1 to 1024, got 7": lambda m: in_a_row(m, pts=7),
    "frames.pts[1].pts: expected a whole number": lambda m: in_a_row(m, pts=[0, "1"]),
    "store: the message is of store": lambda m: m.update(store=new_id()),
    "store: expected 32 hexadecimal digits, got 7": lambda m: m.update(store=7),
    "job: expected 32 hexadecimal digits, got '../x'": lambda m: m.update(job="../x"),
    "attempt: expected 32 hexadecimal digits, got '..": lambda m: m.update(attempt="../" * 11),
    "params: expected an object, got []": lambda m: m.update(params=[]),
    "timeout: expected seconds or null, got 'x'": lambda m: m.update(timeout="x"),
    "timeout: expected seconds or null, got -1": lambda m: m.update(timeout=-1),
    "timeout: expected seconds or null, got True": lambda m: m.update(timeout=True),
    "frames: expected a list of 1 to 1024, got []": lambda m: m.update(frames=[]),
    "frames: expected a list of 1 to 1024, got {}": lambda m: m.update(frames={}),
    "frames[0]: expected an object, got 'x'": lambda m: m.update(frames=["x"]),
    "frames[0].index: expected a whole number": lambda m: m["frames"][0].update(index="0"),
    "frames[0].pts: expected a whole number": lambda m: m["frames"][0].update(pts=0.5),
    "frames[0].input: expected a path, got None": lambda m: m["frames"][0].pop("input"),
    "got '/etc/passwd.npy'": path_of("input", "/etc/passwd.npy"),
    "got 'frames/../outside.npy'": path_of("input", "frames/../outside.npy"),
    "got '../outside.npy'": path_of("output", "../outside.npy"),
    "/../../../outside.npy'": path_of("output", "frames/JOB/../../../outside.npy"),
    "got 'store.json'": path_of("output", "store.json"),
    "/claims/x.npy'": path_of("output", "frames/JOB/claims/x.npy"),
    "/a\\x00.npy'": path_of("output", "frames/JOB/a\0.npy"),
    "/.npy'": path_of("output", "frames/JOB/.npy"),
    "is named twice": lambda m: m["frames"][0].update(output=m["frames"][0]["input"]),
}


def test_messages_that_no_one_should_send_are_refused_with_a_line(
    server: Server, worker: Worker
) -> None:
    before = server.files()
    for change in REFUSED.values():
        message = server.message()
        names = server.files() - before
        before |= names
        attempt = message["attempt"]
        change(message)
        server.send("tests.negative", message | {"attempt": message.get("attempt", attempt)})
    server.send("tests.negative", server.message() | {"attempt": new_id()}, args=[1])
    before = server.files()
    handled(server)
    log = worker.log.read_text()
    for line in REFUSED:
        assert f"{line}" in log, line
    assert "message rejected: args: expected none, got [1]" in log
    assert len({n for n in server.files() - before if "/claims/" in n}) == 1
    assert len({n for n in server.files() - before if "/results/" in n}) == 1
    assert not list(server.root.parent.glob("outside*"))


def test_a_message_of_ten_megabytes_is_refused(server: Server, worker: Worker) -> None:
    server.send("tests.negative", server.message(params="x" * 10_000_000))
    handled(server)
    assert worker.said("params: expected an object, got 'xxx")
    assert worker.log.stat().st_size < 5_000_000


def test_symlinks_are_not_followed(server: Server, worker: Worker, tmp_path: Path) -> None:
    outside = tmp_path / "outside.npy"
    np.save(outside, picture())
    content = outside.read_bytes()

    message = server.message()
    source = server.root / message["frames"][0]["input"]
    source.unlink()
    source.symlink_to(outside)
    result = server.result(server.send("tests.negative", message))
    assert "is a symlink" in result["error"]

    message = server.message()
    target = server.root / message["frames"][0]["output"]
    target.symlink_to(outside)
    server.result(server.send("tests.negative", message))
    assert outside.read_bytes() == content

    message = server.message()
    elsewhere = tmp_path / "job"
    server.dir.rename(elsewhere)
    server.dir.symlink_to(elsewhere)
    server.send("tests.negative", message)
    server.begin_job()
    handled(server)
    assert worker.said("is no directory")
    assert not (elsewhere / "claims" / message["attempt"]).exists()


def test_a_fifo_does_not_hang_the_worker(server: Server) -> None:
    message = server.message()
    source = server.root / message["frames"][0]["input"]
    source.unlink()
    os.mkfifo(source)
    result = server.result(server.send("tests.negative", message))
    assert "is no regular file" in result["error"]


def test_past_its_timeout_an_attempt_has_failed(
    server: Server, worker: Worker, tmp_path: Path
) -> None:
    params = {"began": str(tmp_path / "began"), "go": str(tmp_path / "go")}
    message = server.message(params=params, timeout=0.3)
    result = server.result(server.send("tests.hold", message))
    assert result["outcome"] == "failed"
    assert result["error"] == "timeout: not done 0.3 s after its claim"
    Path(params["go"]).touch()
    handled(server)
    assert worker.said("'dropped: it has timed out'")
    assert server.result(message["attempt"]) == result
    assert not (server.root / message["frames"][0]["output"]).exists()


def test_a_function_that_kills_its_process_costs_its_attempt_alone(
    server: Server, worker: Worker
) -> None:
    attempt = server.send("tests.answer", server.message(params={"what": "die"}))
    handled(server)
    assert worker.said("WorkerLostError")
    assert (server.dir / "claims" / attempt).exists()
    assert not (server.dir / "results" / f"{attempt}.json").exists()
    assert worker.process.poll() is None
