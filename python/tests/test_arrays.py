"""Frames as files: mapped where that is safe, read elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from server_role import picture

from frameloom.celery import arrays


@pytest.mark.parametrize("kind", ["ext4", "nfs4", "cifs", "fuse.sshfs", "9p", ""])
def test_a_frame_is_mapped_only_where_its_file_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(arrays, "_file_system", lambda mount, device: kind)
    path, frame = tmp_path / "a.npy", picture(1, 33, 17)
    np.save(path, frame)
    with path.open("rb") as file:
        got = arrays.opened(file, "a.npy")
    assert isinstance(got, np.memmap) == (kind == "ext4")
    # Another machine ends the job: over a network the pages of a map would go with the file.
    path.write_bytes(b"") if kind != "ext4" else path.unlink()
    assert np.array_equal(got, frame)
    assert not got.flags.writeable


def test_what_lies_elsewhere_is_known() -> None:
    with Path("/proc/self/status").open("rb") as file:
        assert not arrays.is_local(file.fileno())
    with Path("/dev/shm").joinpath("frameloom-test").open("w+b") as file:
        Path(file.name).unlink()
        assert arrays.is_local(file.fileno())


def test_a_header_that_promises_too_much_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_file_system", lambda mount, device: "nfs")
    path = tmp_path / "a.npy"
    np.save(path, picture(1, 4, 5))
    content = path.read_bytes()
    for text in (b"(400000000, 5, 3), ", b"(-4, -5, 3), "):
        known = b"(4, 5, 3), }"
        known += b" " * (len(text) + 1 - len(known))
        assert known in content
        path.write_bytes(content.replace(known, text + b"}"))
        with path.open("rb") as file, pytest.raises(arrays.FrameError, match=r"shorter|no frame"):
            arrays.opened(file, "a.npy")
