"""One attempt at a task: its claim, its signs of life, its one result."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
import threading
import time
import traceback
from types import TracebackType
from typing import Any

from frameloom.celery.message import Message
from frameloom.celery.store import Store, StoreTrouble, Unsafe, write_all

logger = logging.getLogger(__name__)

BEAT_EVERY = 1.0
_TRACEBACK_LIMIT = 2000
_ERROR_LIMIT = 500
#: Characters of an error's own text that are looked at.
_TEXT_LIMIT = 4096


class Gone(Exception):
    """The job is gone or cancelled, or another worker has the attempt: nothing is to be done."""


class Attempt:
    """An attempt that this process works on; a context in which its beats go on."""

    def __init__(self, store: Store, message: Message, timeout: float) -> None:
        self.id = message.attempt
        self.over = False
        self._store = store
        self._job = ("frames", message.job)
        self._timeout = min(timeout, threading.TIMEOUT_MAX)
        self._settling = threading.Lock()
        self._stop = threading.Event()
        self._claimed_at = 0.0

    def claim(self) -> None:
        """Takes the attempt, for this process alone.

        Raises Gone where there is nothing to take, Unsafe for a directory that is a symlink.
        """
        try:
            self._store.look_into(self._job)
        except FileNotFoundError as error:
            raise Gone("its job is gone") from error
        for name in (self.id, "all"):
            if self._store.exists((*self._job, "cancelled"), name):
                raise Gone("it is cancelled")
        try:
            if not self._store.create((*self._job, "claims"), self.id):
                raise Gone("it is claimed already")
        except FileNotFoundError as error:
            raise Gone("its job is gone") from error
        self._claimed_at = time.monotonic()

    def __enter__(self) -> Attempt:
        for work in (self._beat, self._watch):
            name = f"frameloom{work.__name__}-{self.id[:8]}"
            threading.Thread(target=work, name=name, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def succeed(self) -> None:
        """Publishes that the outputs are there; raises Gone where that counts no more."""
        self._settle({"outcome": "done"})

    def fail(self, error: BaseException) -> None:
        """Publishes why there is no output; raises Gone where that counts no more."""
        said = {"error": told(error), "traceback": traced(error)}
        if isinstance(error, StoreTrouble):
            # It counts against nobody, and is tried again.
            said["kind"] = "store"
        self._settle({"outcome": "failed", **said})

    def _settle(self, outcome: dict[str, Any]) -> None:
        """Publishes the attempt's result, unless it has one: the first counts."""
        with self._settling:
            if self.over:
                raise Gone("it has timed out")
            result = {
                "version": 1,
                "attempt": self.id,
                **outcome,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "seconds": round(time.monotonic() - self._claimed_at, 6),
            }
            content = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")
            results = (*self._job, "results")
            try:
                first = self._store.publish_once(results, f"{self.id}.json", content)
            except FileNotFoundError as error:
                raise Gone("its job is gone") from error
            self.over = True
        self._stop.set()
        if not first:
            raise Gone("it has a result already")

    def _beat(self) -> None:
        counter = 0
        while not self._stop.is_set():
            counter += 1
            beat = {"counter": counter, "pid": os.getpid(), "host": socket.gethostname()}
            content = json.dumps(beat).encode()
            try:
                self._store.replace(
                    (*self._job, "beats"),
                    self.id,
                    functools.partial(write_all, content=content),
                    f"{self.id}.tmp",
                )
            except FileNotFoundError:
                return
            except (OSError, Unsafe) as error:
                logger.warning("attempt %s: no sign of life could be given: %s", self.id, error)
            self._stop.wait(BEAT_EVERY)

    def _watch(self) -> None:
        left = self._claimed_at + self._timeout - time.monotonic()
        if self._stop.wait(max(left, 0)):
            return
        error = f"timeout: not done {self._timeout:g} s after its claim"
        logger.error("attempt %s: %s; the function cannot be interrupted", self.id, error)
        with contextlib.suppress(OSError, Unsafe, Gone):
            self._settle({"outcome": "failed", "error": error, "traceback": ""})


def told(error: BaseException) -> str:
    """An error in one line, whatever its own text does."""
    kind = type(error).__name__
    try:
        text = str(error)[:_TEXT_LIMIT]
    except BaseException as other:
        text = f"(its text cannot be told: {type(other).__name__})"
    line = " ".join(f"{kind}: {text}".split())
    return line if len(line) <= _ERROR_LIMIT else line[: _ERROR_LIMIT - 1] + "…"


def traced(error: BaseException) -> str:
    """The last characters of an error's traceback."""
    try:
        return "".join(traceback.format_exception(error))[-_TRACEBACK_LIMIT:]
    except BaseException as other:
        return f"(its traceback cannot be told: {type(other).__name__})"


def tellable(error: BaseException) -> bool:
    """Whether an error may go into a log as it is."""
    try:
        return len(str(error)) + len(repr(error)) <= _TEXT_LIMIT
    except BaseException:
        return False
