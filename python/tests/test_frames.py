"""Frames that Celery clients send to our nodes, and runs that send frames to Celery workers."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from celery import Celery
from conftest import end, wait_for
from server_role import Worker
from test_cluster import Cluster, clip, pixels

from frameloom.celery.arrays import Frame

__all__ = ["clip"]

HEAD = 4096
QUEUE = "frameloom.frame"


class Stranger:
    """A Celery client of somebody else, who mounts the store."""

    def __init__(self, store: Path, broker: str) -> None:
        self.store = store
        self.dir = store / "frames" / "mine"
        self.dir.mkdir(parents=True)
        self.app = Celery("stranger", broker=broker)
        self.redis = redis.Redis.from_url(broker)
        self.sent = 0

    def write(self, name: str, plane: Frame, pts: int = 0) -> str:
        """Writes a grey frame as docs/celery.md says; answers its path in the store."""
        height, width = plane.shape
        head = {"width": width, "height": height, "pixel_format": "gray", "pts": pts}
        data = json.dumps(head).encode().ljust(HEAD) + plane.tobytes()
        (self.dir / name).write_bytes(data)
        return f"frames/mine/{name}"

    def send(self, frames: list[str], *filters: str, **more: Any) -> Path:
        """Sends a frame; answers where it comes back."""
        self.sent += 1
        output = f"frames/mine/{self.sent}.out"
        asked = {"filters": list(filters), "frames": frames, "output": output} | more
        self.app.send_task(QUEUE, kwargs=asked, queue=QUEUE)
        return self.store / output

    def said(self, output: Path, seconds: float = 30) -> dict[str, str]:
        """Waits for what is said of a frame."""
        beside = Path(f"{output}.json")
        wait_for(beside.exists, f"{beside}", seconds)
        said: dict[str, str] = json.loads(beside.read_text())
        return said


def plane_of(path: Path, shape: tuple[int, ...]) -> Frame:
    return np.fromfile(path, np.uint8, offset=HEAD).reshape(shape)


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, binary: Path, tmp_path: Path, redis_url: str
) -> Iterator[Cluster]:
    number = 12 + request.session.items.index(request.node) % 4
    broker = f"{redis_url.rsplit('/', 1)[0]}/{number}"
    redis.Redis.from_url(broker).flushdb()
    made = Cluster(binary, tmp_path, broker, "--no-local-slots")
    yield made
    made.client.close()
    for process in reversed(made.started):
        end(process)


def node(cluster: Cluster, name: str) -> subprocess.Popen[bytes]:
    command = [str(cluster.binary), "worker", "--broker", cluster.broker, "--name", name]
    command += ["--data", str(cluster.data), "--slots", "1", "--visibility-timeout", "10s"]
    return cluster.start(name, *command)


def test_a_celery_client_gets_its_frames_filtered(cluster: Cluster) -> None:
    stranger = Stranger(cluster.data, cluster.broker)
    noise = np.random.default_rng(1)
    planes = noise.integers(0, 256, (3, 31, 45), dtype=np.uint8)
    paths = [stranger.write(f"{at}.in", plane, at) for at, plane in enumerate(planes)]
    negative = stranger.send(paths[:1], "invert")
    median = stranger.send(paths, "denoise", "invert", frame=1)
    unknown = stranger.send(paths[:1], "nonsense")
    stateful = stranger.send(paths[:1], "ffmpeg:hqdn3d")
    gone = stranger.send(["frames/mine/gone"], "invert")
    node(cluster, "one")
    assert stranger.said(negative) == {"outcome": "done"}
    assert (plane_of(negative, (31, 45)) == 255 - planes[0]).all()
    assert stranger.said(median) == {"outcome": "done"}
    expected = 255 - np.median(planes, axis=0).astype(np.uint8)
    assert (plane_of(median, (31, 45)) == expected).all()
    for output, words in [
        (unknown, "nonsense"),
        (stateful, "keeps state"),
        (gone, "'frames/mine/gone' is not in the store"),
    ]:
        said = stranger.said(output)
        assert said["outcome"] == "failed"
        assert words in said["error"]
        assert not output.exists()
    wait_for(lambda: stranger.redis.hlen("unacked") == 0, "all messages to be done")
    assert stranger.redis.zcard("unacked_index") == 0


def test_what_nobody_should_send_is_dropped_and_the_next_frame_is_done(cluster: Cluster) -> None:
    stranger = Stranger(cluster.data, cluster.broker)
    path = stranger.write("in", np.zeros((4, 4), np.uint8))
    node(cluster, "one")
    stranger.send(["frames/mine/../../store.json"], "invert")
    stranger.send(["/etc/passwd"], "invert")
    stranger.send([path], "invert", output="jobs/x/y")
    stranger.send([path], "invert", version=2)
    stranger.send([path], "invert", store="0" * 32)
    stranger.send([path], "invert", frame=1)
    stranger.send([], "invert")
    stranger.app.send_task(QUEUE, args=[1], kwargs={}, queue=QUEUE)
    stranger.app.send_task("os.system", args=["true"], queue=QUEUE)
    good = stranger.send([path], "invert")
    assert stranger.said(good) == {"outcome": "done"}
    assert (plane_of(good, (4, 4)) == 255).all()
    log = (cluster.home / "one.log").read_text()
    assert log.count("a message is refused") == 9, log
    assert "which nobody here does" in log
    assert stranger.redis.hlen("unacked") == 0


def test_a_frame_of_a_node_that_was_killed_goes_to_another(cluster: Cluster) -> None:
    stranger = Stranger(cluster.data, cluster.broker)
    noise = np.random.default_rng(2).integers(0, 256, (3000, 3000), dtype=np.uint8)
    path = stranger.write("large", noise)
    dies = node(cluster, "dies")
    output = stranger.send([path], "bilateral:d=25", "bilateral:d=25")
    noted = wait_for(lambda: stranger.redis.hgetall("unacked"), "the frame to be taken")
    ((tag, text),) = noted.items()
    message, exchange, routing_key = json.loads(text)
    assert (exchange, routing_key) == ("", QUEUE)
    assert message["properties"]["delivery_tag"].encode() == tag
    assert stranger.redis.zscore("unacked_index", tag) is not None
    end(dies, signal.SIGKILL)
    assert not Path(f"{output}.json").exists(), "it was done before its node died"
    node(cluster, "another")
    assert stranger.said(output, 60) == {"outcome": "done"}
    assert plane_of(output, (3000, 3000)).std() < noise.std()
    wait_for(lambda: stranger.redis.hlen("unacked") == 0, "the message to be done")


def test_a_run_sends_frames_to_celery_workers(
    binary: Path, tmp_path: Path, redis_url: str, clip: Path
) -> None:
    broker = f"{redis_url.rsplit('/', 1)[0]}/12"
    redis.Redis.from_url(broker).flushdb()
    work, out = tmp_path / "work", tmp_path / "out.mkv"
    command = [str(binary), "run", str(clip), "-o", str(out), "--codec", "ffv1", "--segment", "1"]
    command += ["--overwrite", "-f", "celery:task=tests.negative:queue=python"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--broker" in refused.stderr
    assert "FRAMELOOM_DATA" in refused.stderr
    command += ["--broker", broker, "--work", str(work)]
    running = subprocess.Popen(command, start_new_session=True)
    worker = None
    try:
        wait_for((work / "store.json").exists, "the run's store")
        worker = Worker(tmp_path / "worker.log", broker, "python", work)
        assert running.wait(60) == 0
        off = np.abs((255 - pixels(clip).astype(int)) - pixels(out).astype(int))
        assert off.mean() < 1.5, "the frames that came back are not the negatives, in order"
        assert sorted(path.name for path in work.iterdir()) == ["store.json"]
        # The worker stays and does the next run's.
        out.unlink()
        assert subprocess.run(command, timeout=60).returncode == 0
        assert out.exists()
    finally:
        end(running)
        if worker is not None:
            end(worker.process)
