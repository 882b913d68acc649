"""What a task's message says, checked before anything is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Messages that name each frame's files.
WRITTEN_OUT = 1
#: Messages that tell of frames in a row how their files are named.
IN_A_ROW = 2
VERSIONS = (WRITTEN_OUT, IN_A_ROW)

#: Frames that one message may name.
MOST_FRAMES = 1024

_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\.npy")
_SHOWN = 120


class Rejected(Exception):
    """A message that must not be obeyed, and why."""


@dataclass(frozen=True)
class FrameRef:
    """One frame of a message; its files are named within the job's frame directory."""

    index: int
    pts: int
    input: str
    output: str


@dataclass(frozen=True)
class Message:
    """A task's message."""

    store: str
    job: str
    attempt: str
    params: dict[str, Any]
    timeout: float | None
    frames: tuple[FrameRef, ...]

    @classmethod
    def parse(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Message:
        """Checks versions, types and paths; fields that are not known are passed over.

        Raises Rejected, which quotes what was given.
        """
        if args:
            raise Rejected(f"args: expected none, got {_shown(list(args))}")
        version = kwargs.get("version")
        if type(version) is not int or version not in VERSIONS:
            raise Rejected(
                f"version: this worker speaks versions {WRITTEN_OUT} and {IN_A_ROW}, got "
                f"{_shown(version)}; update the package 'frameloom' to the server's"
            )
        job = _id(kwargs, "job")
        params = kwargs.get("params")
        if not isinstance(params, dict):
            raise Rejected(f"params: expected an object, got {_shown(params)}")
        attempt = _id(kwargs, "attempt")
        frames = kwargs.get("frames")
        return cls(
            store=_id(kwargs, "store"),
            job=job,
            attempt=attempt,
            params=params,
            timeout=_timeout(kwargs.get("timeout")),
            frames=_frames(frames, job) if version == WRITTEN_OUT else _in_a_row(frames, attempt),
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _id(kwargs: Mapping[str, Any], field: str) -> str:
    value = kwargs.get(field)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Rejected(f"{field}: expected 32 hexadecimal digits, got {_shown(value)}")
    return value


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:  # type: ignore[operator, arg-type]
        raise Rejected(f"timeout: expected seconds or null, got {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _whole(frame: Mapping[str, Any], field: str, where: str) -> int:
    value = frame.get(field)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise Rejected(f"{where}.{field}: expected a whole number of 64 bits, got {_shown(value)}")
    return value


def _path(frame: Mapping[str, Any], field: str, where: str, job: str) -> str:
    """A file's name, of a path that must lie right in the job's frame directory."""
    value = frame.get(field)
    if not isinstance(value, str):
        raise Rejected(f"{where}.{field}: expected a path, got {_shown(value)}")
    prefix = f"frames/{job}/"
    name = value.removeprefix(prefix)
    if name == value or not _NAME.fullmatch(name):
        raise Rejected(
            f"{where}.{field}: expected 'frames/JOB/NAME.npy' of job {job}, got {_shown(value)}"
        )
    return name


def _in_a_row(value: object, attempt: str) -> tuple[FrameRef, ...]:
    """Frames that follow each other: the first's index, its pts, and the others' steps from it."""
    if not isinstance(value, dict):
        raise Rejected(f"frames: expected an object, got {_shown(value)}")
    group = _id(value, "group")
    index = _whole(value, "index", "frames")
    steps = value.get("pts")
    if not isinstance(steps, list) or not 1 <= len(steps) <= MOST_FRAMES:
        raise Rejected(f"frames.pts: expected a list of 1 to {MOST_FRAMES}, got {_shown(steps)}")
    frames = []
    pts = 0
    for number in range(len(steps)):
        pts += _whole({"pts": steps[number]}, "pts", f"frames.pts[{number}]")
        frames.append(
            FrameRef(
                index=index + number,
                pts=pts,
                input=f"{group}.{number}.in.npy",
                output=f"{attempt}.{number}.out.npy",
            )
        )
    return tuple(frames)


def _frames(value: object, job: str) -> tuple[FrameRef, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_FRAMES:
        raise Rejected(f"frames: expected a list of 1 to {MOST_FRAMES}, got {_shown(value)}")
    frames = []
    for at, frame in enumerate(value):
        where = f"frames[{at}]"
        if not isinstance(frame, dict):
            raise Rejected(f"{where}: expected an object, got {_shown(frame)}")
        frames.append(
            FrameRef(
                index=_whole(frame, "index", where),
                pts=_whole(frame, "pts", where),
                input=_path(frame, "input", where, job),
                output=_path(frame, "output", where, job),
            )
        )
    names = [frame.output for frame in frames]
    taken = {frame.input for frame in frames}
    for at, name in enumerate(names):
        if name in taken:
            raise Rejected(f"frames[{at}].output: '{name}' is named twice")
        taken.add(name)
    return tuple(frames)
