"""What a task's message says, checked before anything is touched."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1

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
        if type(version) is not int or version != VERSION:
            raise Rejected(
                f"version: this worker speaks version {VERSION}, got {_shown(version)}; "
                "update the package 'frameloom' to the server's"
            )
        job = _id(kwargs, "job")
        params = kwargs.get("params")
        if not isinstance(params, dict):
            raise Rejected(f"params: expected an object, got {_shown(params)}")
        return cls(
            store=_id(kwargs, "store"),
            job=job,
            attempt=_id(kwargs, "attempt"),
            params=params,
            timeout=_timeout(kwargs.get("timeout")),
            frames=_frames(kwargs.get("frames"), job),
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
