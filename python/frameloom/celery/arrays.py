"""Frames as files: ``.npy`` of version 1.0, height by width by 3, uint8, RGB, in C order."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Frame: TypeAlias = NDArray[np.uint8]

_CHANNELS = 3


class FrameError(Exception):
    """A frame file or a function's answer that is not what it must be."""


#: File systems of this machine, on which a file that is removed stays while it is mapped.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay"}
    | {"ramfs", "tmpfs", "xfs", "zfs"}
)


def opened(file: BinaryIO, name: str) -> Frame:
    """The frame in a file that is open, read-only.

    It is mapped into memory as ``numpy.load(name, mmap_mode="r")`` does where the file system is
    this machine's own. Elsewhere it is read: a file that is removed on another machine may vanish
    under a map, and whoever looks at it then dies of SIGBUS.
    """
    try:
        version = npy.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"it is of version {version[0]}.{version[1]}, not 1.0")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    except (ValueError, EOFError) as error:
        raise FrameError(f"input '{name}' is no .npy file: {error}") from error
    if dtype != np.uint8 or fortran or len(shape) != 3 or shape[2] != _CHANNELS or min(shape) < 1:
        order = "Fortran" if fortran else "C"
        raise FrameError(
            f"input '{name}' is no frame: expected (height, width, 3) of uint8 in C order, "
            f"got {shape} of {dtype} in {order} order"
        )
    offset, size = file.tell(), math.prod(shape)
    if os.fstat(file.fileno()).st_size < offset + size:
        raise FrameError(f"input '{name}' is shorter than its header says")
    try:
        if is_local(file.fileno()):
            return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=shape)
        return np.frombuffer(file.read(size), dtype=np.uint8).reshape(shape)
    except ValueError as error:
        raise FrameError(f"input '{name}' cannot be read: {error}") from error


def is_local(fd: int) -> bool:
    """Whether a file lies on a file system of this machine's own; not where that is unknown."""
    try:
        with open(f"/proc/self/fdinfo/{fd}") as about:
            mount = next(line.split()[1] for line in about if line.startswith("mnt_id:"))
        return _file_system(mount, os.fstat(fd).st_dev) in _LOCAL
    except (OSError, StopIteration):
        return False


@functools.lru_cache(maxsize=64)
def _file_system(mount: str, _device: int) -> str:
    """The type of what is mounted by this number."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[0] == mount:
                return fields[fields.index("-") + 1]
    return ""


def stacked(frames: Sequence[Frame]) -> Frame:
    """One read-only array of all frames, which must be of one size."""
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise FrameError(f"frames of a batch differ in size: {sorted(sizes)}")
    batch = np.stack(frames)
    batch.flags.writeable = False
    return batch


def checked(answer: Any, expected: tuple[int, ...], function: str) -> Frame:
    """What a function returned, contiguous.

    Raises FrameError, which names what came back where that is no uint8 array of this shape.
    """
    wanted = f"return a uint8 array of shape {expected}"
    if not isinstance(answer, np.ndarray):
        came = "None" if answer is None else f"a {type(answer).__module__}.{type(answer).__name__}"
        raise FrameError(f"'{function}' returned {came}; {wanted}")
    if answer.dtype != np.uint8 or answer.shape != expected:
        raise FrameError(
            f"'{function}' returned an array of shape {answer.shape} and dtype {answer.dtype}; "
            f"{wanted}"
        )
    return np.ascontiguousarray(answer)


def write(fd: int, frame: Frame) -> None:
    """Writes a frame file to a descriptor, which stays open."""
    with os.fdopen(os.dup(fd), "wb") as file:
        npy.write_array(file, frame, version=(1, 0), allow_pickle=False)
