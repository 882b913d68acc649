"""What both clients read as it comes: server-sent events and files; and progress in a line."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TextIO

from frameloom.errors import Error
from frameloom.protocol import PIECE, Slice
from frameloom.types import Event, JobView

#: Called with the job whenever something about it has changed.
Progress = Callable[[JobView], None]


class EventReader:
    """Puts lines of a server-sent event stream together."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._id = last
        self._name = ""
        self._data: list[str] = []

    def line(self, line: str) -> Event | None:
        """Takes a line; answers the event that it ends."""
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            elif field == "id" and value.isdecimal():
                self._id = int(value)
            return None
        self.last = self._id
        name, text = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not text:
            return None
        try:
            data = json.loads(text)
        except ValueError as error:
            raise Error("internal", f"an event of the server is no JSON: {error}", 502) from error
        return {"id": self.last, "event": name or "message", "data": data}


def pieces(body: Slice) -> Generator[bytes, None, None]:
    """A body's bytes, a piece at a time."""
    with body.path.open("rb") as file:
        file.seek(body.offset)
        left = body.size
        while left:
            piece = file.read(min(PIECE, left))
            if not piece:
                raise Error("invalid", f"'{body.path}' became shorter while it was sent")
            left -= len(piece)
            yield piece


class Target:
    """A file that a download goes to: under its name only once it is whole."""

    def __init__(self, to: str | os.PathLike[str], name: str, *, overwrite: bool) -> None:
        path = Path(to)
        self.path = path / name if path.is_dir() else path
        if self.path.exists() and not overwrite:
            raise Error("conflict", f"'{self.path}' exists; pass overwrite=True to replace it")
        self.size = 0
        self._etag: str | None = None
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Target:
        self._file = self._part.open("xb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()
        if error is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

    def headers(self) -> dict[str, str]:
        """What to ask for: the rest, of the same file, where some is there."""
        if not self.size or not self._etag:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._etag}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """A reply begins: with the rest (206), or with all."""
        assert self._file is not None
        if status != 206:
            self.size = 0
            self._file.seek(0)
            self._file.truncate()
        self._etag = headers.get("etag")

    def write(self, piece: bytes) -> None:
        """Takes what came."""
        assert self._file is not None
        self._file.write(piece)
        self.size += len(piece)


class ProgressLine:
    """Tells of a job in a line: rewritten on a terminal, else a line each tenth."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._told: tuple[object, ...] = ()

    def __call__(self, job: JobView) -> None:
        """Tells where the job stands."""
        percent = job["progress"].get("percent")
        if not self._terminal:
            tenth = None if percent is None else int(percent / 10)
            now = (job["state"], job.get("waiting"), tenth)
            if now == self._told:
                return
            self._told = now
        before, after = ("\r\x1b[K", "") if self._terminal else ("", "\n")
        self._out.write(f"{before}{line(job)}{after}")
        self._out.flush()

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._terminal:
            self._out.write("\n")
            self._out.flush()


def line(job: JobView) -> str:
    """A job in a line."""
    progress = job["progress"]
    words = [f"job {job['id'][:8]}", job["state"]]
    if waiting := job.get("waiting"):
        words.append(f"(waiting: {waiting})")
    if (percent := progress.get("percent")) is not None:
        words.append(f"{percent:.0f} %")
    if progress["frames"]:
        total = progress.get("total")
        words.append(f"{progress['frames']}{f'/{total}' if total else ''} frames")
        words.append(f"{progress['fps']:.1f} fps")
    if (left := progress.get("eta_seconds")) is not None:
        words.append(f"{left:.0f} s left")
    return " ".join(words)
