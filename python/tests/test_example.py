"""The example is what its README says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from server_role import picture

EXAMPLE = Path(__file__).parents[2] / "examples" / "python-opencv"


def test_the_examples_functions_answer_frames() -> None:
    tasks = runpy.run_path(str(EXAMPLE / "tasks.py"))
    frame = picture(0, 48, 64)
    frame.flags.writeable = False
    for name, params in (("anonymise", {"sigma": 3}), ("sketch", {})):
        task = tasks[name]
        assert task.name == f"mytasks.{name}"
        answer = task.function(frame, pts=0, index=0, params=params)
        assert (answer.shape, answer.dtype) == (frame.shape, np.uint8)
        assert not np.array_equal(answer, frame)
