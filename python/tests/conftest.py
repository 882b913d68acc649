"""What the tests share: a Redis, a store, waiting for conditions."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 20) -> T:
    """Asks until the answer is true; fails with what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process and those of its group, and waits for it."""
    if process.poll() is None:
        os.killpg(process.pid, how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server of our own; a missing one is a failure."""
    binary = shutil.which("redis-server")
    assert binary, "redis-server is missing; scripts/setup.sh installs it"
    home = tmp_path_factory.mktemp("redis")
    port = free_port()
    log = home / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "eady to accept" in log.read_text(), f"redis-server, see {log}")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        end(server)


@pytest.fixture(scope="session")
def binary() -> Path:
    """The frameloom binary; a missing one is a failure."""
    name = os.environ.get("FRAMELOOM_BIN")
    assert name, "FRAMELOOM_BIN is not set; set it to the built binary 'frameloom'"
    path = Path(name)
    assert path.is_file(), f"FRAMELOOM_BIN: '{path}' does not exist; build it first"
    return path
