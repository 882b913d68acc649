"""The part of Frameloom's server in the tests: frames and messages out, results in."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from celery import Celery
from conftest import end, wait_for

from frameloom.celery.arrays import Frame

HERE = Path(__file__).parent


def new_id() -> str:
    """An id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def picture(seed: int = 0, height: int = 6, width: int = 8) -> Frame:
    """A frame of noise."""
    noise = np.random.default_rng(seed)
    return noise.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Server:
    """A store with one job's frame directory, and a sender of messages."""

    def __init__(self, root: Path, broker: str, queue: str) -> None:
        self.root = root
        self.queue = queue
        self.id = new_id()
        self.app = Celery("server", broker=broker)
        root.mkdir()
        (root / "store.json").write_text(json.dumps({"version": 1, "id": self.id}))
        self.begin_job()

    def begin_job(self) -> None:
        """Makes the frame directory of a new job."""
        self.job = new_id()
        self.dir = self.root / "frames" / self.job
        for name in ("claims", "beats", "results", "cancelled"):
            (self.dir / name).mkdir(parents=True)

    def message(self, *frames: Frame, **changes: Any) -> dict[str, Any]:
        """A right message about these frames, which are written; then with changes."""
        attempt = new_id()
        refs = []
        for at, frame in enumerate(frames or (picture(),)):
            name = f"{attempt[:8]}-{at}"
            np.save(self.dir / f"{name}.npy", frame)
            refs.append(
                {
                    "index": at,
                    "pts": at * 40,
                    "input": f"frames/{self.job}/{name}.npy",
                    "output": f"frames/{self.job}/{name}-out.npy",
                }
            )
        message = {
            "version": 1,
            "store": self.id,
            "job": self.job,
            "attempt": attempt,
            "params": {},
            "timeout": None,
            "frames": refs,
        }
        return message | changes

    def send(self, task: str, message: dict[str, Any], args: list[Any] | None = None) -> str:
        """Sends a message; answers its attempt."""
        self.app.send_task(task, args=args or [], kwargs=message, queue=self.queue)
        return str(message["attempt"])

    def result(self, attempt: str) -> dict[str, Any]:
        """Waits for an attempt's result."""
        path = self.dir / "results" / f"{attempt}.json"
        wait_for(path.exists, f"a result of attempt {attempt}")
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def run(self, task: str, *frames: Frame, **changes: Any) -> dict[str, Any]:
        """Sends a message about these frames and waits for the result."""
        return self.result(self.send(task, self.message(*frames, **changes)))

    def output(self, message: dict[str, Any], at: int = 0) -> Frame:
        """A frame that came back."""
        frame: Frame = np.load(self.root / message["frames"][at]["output"], mmap_mode="r")
        return frame

    def files(self) -> set[str]:
        """Every file of the store."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if not p.is_dir()}


class Worker:
    """A real Celery worker."""

    def __init__(self, log: Path, broker: str, queue: str, data: Path | None) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if k != "FRAMELOOM_DATA"}
        environment |= {"TEST_BROKER": broker, "PYTHONPATH": str(HERE)}
        if data is not None:
            environment["FRAMELOOM_DATA"] = str(data)
        command = [sys.executable, "-m", "celery", "-A", "filters", "worker", "--queues", queue]
        command += ["--concurrency", "1", "--loglevel", "INFO", "--hostname", f"{queue}@test"]
        command += ["--without-mingle", "--without-gossip"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=log.parent,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, text: str) -> bool:
        """Whether its log has this text."""
        return text in self.log.read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and its pool."""
        end(self.process, how)
