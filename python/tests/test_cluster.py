"""Server, nodes and Celery workers together: frames in Python, and Celery's tools on our nodes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from celery import Celery
from conftest import end, free_port, wait_for
from server_role import Worker
from serving import Serving, probed

from frameloom import Client, Error


class Cluster:
    """A server with a database of its own, and what is started beside it."""

    def __init__(self, binary: Path, home: Path, broker: str, *arguments: str) -> None:
        self.binary, self.home, self.broker = binary, home, broker
        self.serving = Serving(binary, home, "--broker", broker, *arguments)
        self.data = home / "data"
        self.client = Client(self.serving.url)
        self.started: list[subprocess.Popen[bytes]] = [self.serving.process]

    def node(self, name: str) -> subprocess.Popen[bytes]:
        """Starts a worker node with one slot."""
        command = [str(self.binary), "worker", "--broker", self.broker, "--data", str(self.data)]
        return self.start(name, *command, "--name", name, "--slots", "1")

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Starts a program that ends with the test."""
        with (self.home / f"{name}.log").open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.started.append(process)
        return process

    def python(self, name: str) -> Worker:
        """Starts a Celery worker with the tests' functions."""
        worker = Worker(self.home / f"{name}.log", self.broker, "python", self.data)
        self.started.append(worker.process)
        return worker


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, binary: Path, tmp_path: Path, redis_url: str
) -> Iterator[Cluster]:
    # Each server has a database of its own: two in one would take each other's tasks.
    number = 2 + request.session.items.index(request.node) % 10
    broker = f"{redis_url.rsplit('/', 1)[0]}/{number}"
    redis.Redis.from_url(broker).flushdb()
    made = Cluster(binary, tmp_path, broker, *request.param)
    yield made
    made.client.close()
    for process in reversed(made.started):
        end(process)


ALLOWED = ["--allow-task", "tests.*@python", "--slots", "2"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred frames without loss."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=4"]
    subprocess.run([*command, "-c:v", "ffv1", "-pix_fmt", "yuv444p", str(path)], check=True)
    return path


def pixels(video: Path) -> np.ndarray[Any, Any]:
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(video),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    return np.frombuffer(subprocess.check_output(command), np.uint8).reshape(-1, 120, 160, 3)


def submit(cluster: Cluster, clip: Path, task: str, more: str = "", **params: Any) -> Any:
    text = json.dumps(params)
    text = f"celery:task={task}:queue=python{more}:params='{text}'"
    return cluster.client.submit(clip, filters=[text], codec="ffv1", container="mkv", segment=1)


@pytest.mark.parametrize("cluster", [ALLOWED], indirect=True)
def test_every_frame_goes_to_python_and_comes_back_in_order(
    cluster: Cluster, clip: Path, tmp_path: Path
) -> None:
    cluster.python("one")
    job = submit(cluster, clip, "tests.negative")
    job.wait(progress=False)
    out = tmp_path / "out.mkv"
    job.download(out)
    assert probed(out) == (100, "ffv1")
    before, after = pixels(clip), pixels(out)
    off = np.abs((255 - before.astype(int)) - after.astype(int))
    assert off.mean() < 1.5, "the frames that came back are not the negatives, in order"
    assert (off.mean(axis=(1, 2, 3)) < 2).all()
    left = [path for path in (cluster.data / "frames").rglob("*") if path.is_file()]
    assert not left, "frames are left behind"


@pytest.mark.parametrize("cluster", [ALLOWED], indirect=True)
def test_frames_go_in_batches_also_where_fewer_are_under_way(
    cluster: Cluster, clip: Path, tmp_path: Path
) -> None:
    cluster.python("one")
    for more in (":batch=4", ":batch=4:window=3", ":batch=64:window=1"):
        job = submit(cluster, clip, "tests.batch", more)
        job.wait(progress=False)
        out = tmp_path / "out.mkv"
        job.download(out, overwrite=True)
        # The function marks one sample of each frame, and leaves the others.
        off = np.abs(pixels(clip).astype(int) - pixels(out).astype(int))
        assert off.mean() < 1.5, more
    left = [path for path in (cluster.data / "frames").rglob("*") if path.is_file()]
    assert not left, "frames are left behind"


@pytest.mark.parametrize("cluster", [ALLOWED], indirect=True)
def test_frames_that_fail_stay_as_they_are_where_that_is_asked_for(
    cluster: Cluster, clip: Path, tmp_path: Path
) -> None:
    cluster.python("one")
    job = submit(cluster, clip, "tests.answer", ":on_error=original:batch=20", what="raise")
    job.wait(progress=False)
    out = tmp_path / "out.mkv"
    job.download(out)
    assert (pixels(out) == pixels(clip)).all()


@pytest.mark.parametrize("cluster", [ALLOWED], indirect=True)
def test_a_function_that_fails_ends_the_job_and_says_why(cluster: Cluster, clip: Path) -> None:
    cluster.python("one")
    job = submit(cluster, clip, "tests.answer", what="raise")
    with pytest.raises(Error) as caught:
        job.wait(progress=False)
    text = caught.value.detail
    assert "tests.answer" in text
    assert "ValueError: no good frame: pts " in text
    # What comes back in another shape is no frame.
    job = submit(cluster, clip, "tests.answer", what="small")
    with pytest.raises(Error) as caught:
        job.wait(progress=False)
    assert "120" in caught.value.detail


@pytest.mark.parametrize("cluster", [ALLOWED], indirect=True)
def test_a_job_waits_for_workers_and_survives_their_death(
    cluster: Cluster, clip: Path, tmp_path: Path
) -> None:
    job = submit(cluster, clip, "tests.negative")
    waits = "no worker on queue python (task tests.negative)"
    wait_for(lambda: job.status().get("waiting") == waits, "the job to say so", 60)
    first = cluster.python("first")
    wait_for(lambda: job.status()["progress"]["frames"] > 0, "the first frames")
    first.stop(signal.SIGKILL)
    cluster.python("second")
    job.wait(progress=False)
    out = tmp_path / "out.mkv"
    job.download(out)
    assert probed(out) == (100, "ffv1")


@pytest.mark.parametrize("cluster", [["--slots", "1"]], indirect=True)
def test_tasks_that_nobody_allowed_are_refused(cluster: Cluster, clip: Path) -> None:
    with pytest.raises(Error) as caught:
        submit(cluster, clip, "tests.negative")
    assert caught.value.status == 403
    assert "--allow-task 'tests.negative@python'" in caught.value.detail


def flower(port: int, path: str) -> Any:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as f,
    ):
        return f.read().decode()
    return ""


@pytest.mark.parametrize("cluster", [["--no-local-slots"]], indirect=True)
def test_celerys_tools_see_and_steer_our_nodes(cluster: Cluster, clip: Path) -> None:
    node = cluster.node("one")
    name = "frameloom@one"
    app = Celery(broker=cluster.broker)
    control = app.control
    ask = control.inspect(destination=[name], timeout=5)
    wait_for(lambda: ask.ping() == {name: {"ok": "pong"}}, "the node to answer")
    queues = {queue["name"] for queue in ask.active_queues()[name]}
    assert any(queue.startswith("frameloom.cpu.") for queue in queues)
    assert "frameloom.control.V1" in queues
    assert any(queue.startswith("frameloom.frame.") for queue in queues)
    assert "frameloom.frame" in queues
    assert "frameloom.segment" in ask.registered()[name]
    assert ask.conf()[name]["worker_concurrency"] == 1
    # Names that are not ours are not answered for.
    assert control.inspect(destination=["frameloom@two"], timeout=1).ping() is None

    port = free_port()
    tool = [sys.executable, "-m", "celery", "-b", cluster.broker, "flower"]
    cluster.start("flower", *tool, f"--port={port}", "--address=127.0.0.1")
    wait_for(lambda: flower(port, "/healthcheck"), "Flower")
    seen: list[dict[str, Any]] = []
    with app.connection() as connection:
        events = app.events.Receiver(connection, handlers={"*": seen.append})
        listening = threading.Thread(target=events.capture, kwargs={"timeout": 30})
        listening.start()
        wait_for(lambda: any(event["hostname"] == name for event in seen), "a sign of life")
        cluster.client.submit(clip, filters=["invert"], segment=1).wait(progress=False)

        def done() -> int:
            return sum((e["type"], e["hostname"]) == ("task-succeeded", name) for e in seen)

        wait_for(lambda: done() >= 4, "the segments' events")
        events.should_stop = True
        listening.join()
    kinds = {event["type"] for event in seen}
    assert {"task-received", "task-started", "worker-heartbeat"} <= kinds
    assert ask.stats()[name]["total"]["frameloom.segment"] >= 4
    wait_for(
        lambda: f'type="task-succeeded",worker="{name}"' in flower(port, "/metrics"),
        "Flower to have counted its tasks",
    )
    workers = json.loads(flower(port, "/workers?json=1"))["data"]
    assert [w["status"] for w in workers if w["hostname"] == name] == [True]
    # Shut down by Celery's own word: a drain.
    control.shutdown(destination=[name])
    assert node.wait(20) == 0
