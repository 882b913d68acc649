"""OpenCV functions as filters of Frameloom jobs."""

import os

import cv2
from celery import Celery

from frameloom.celery import frame_task

app = Celery("tasks", broker=os.environ.get("BROKER", "redis://localhost/0"))


@frame_task(app, name="mytasks.anonymise")
def anonymise(frame, *, pts, index, params):
    """Blurs the whole picture."""
    return cv2.GaussianBlur(frame, (0, 0), params.get("sigma", 5))


@frame_task(app, name="mytasks.sketch")
def sketch(frame, *, pts, index, params):
    """Draws the edges, white on black."""
    edges = cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 80, 160)
    return cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB)
