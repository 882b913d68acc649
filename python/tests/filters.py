"""The tasks of the worker that the tests start."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from celery import Celery

from frameloom.celery import frame_task

app = Celery("filters", broker=os.environ["TEST_BROKER"])
app.conf.update(worker_send_task_events=False, broker_connection_retry_on_startup=True)


@frame_task(app, name="tests.negative")
def negative(frame: Any, *, pts: int, index: int, params: dict[str, Any]) -> Any:
    """Answers the negative, and refuses what is not as promised."""
    assert isinstance(frame, np.memmap)
    assert not frame.flags.writeable
    assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
    return 255 - frame + np.uint8(params.get("add", 0))


class Mute(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Late(BaseException):
    """As gevent.Timeout is: no Exception."""


@frame_task(app, name="tests.answer")
def answer(frame: Any, *, pts: int, index: int, params: dict[str, Any]) -> Any:
    """Answers what it is asked for."""
    what = params["what"]
    if what == "raise":
        raise ValueError(f"no good frame: pts {pts}, index {index}\nsecond line")
    if what == "mute":
        raise Mute
    if what == "late":
        raise Late("it took too long")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "long":
        raise ValueError("words " * 1_000_000)
    if what == "exit":
        raise SystemExit(3)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "modify":
        frame[0, 0] = 0
    return {
        "none": None,
        "list": [[1]],
        "float": frame.astype(np.float32),
        "gray": frame[..., 0],
        "small": frame[1:],
        "turned": frame[::-1, ::-1],
        "same": frame,
    }[what]


@frame_task(app, name="tests.batch", frames=4)
def batch(frame: Any, *, pts: list[int], index: list[int], params: dict[str, Any]) -> Any:
    """Writes number, size and times of its batch into the frames' first samples."""
    assert not frame.flags.writeable
    out = frame.copy()
    for at in range(len(frame)):
        out[at, 0, 0] = (len(frame), index[at] % 256, pts[at] % 256)
    return out


@frame_task(app, name="tests.hold", timeout=20)
def hold(frame: Any, *, pts: int, index: int, params: dict[str, Any]) -> Any:
    """Says that it is at work, and works until it is let go."""
    Path(params["began"]).touch()
    deadline = time.monotonic() + 20
    while not Path(params["go"]).exists() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return frame
