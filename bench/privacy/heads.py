"""Real heads, cut out of the portraits: colour, opacity, and where the face lies in them."""

import dataclasses
import os

import cv2
import numpy as np


@dataclasses.dataclass
class Head:
    """A cut-out head with neck and shoulders."""

    name: str
    image: np.ndarray  # H×W×3 uint8 BGR
    alpha: np.ndarray  # H×W f32, 0..1
    face: tuple  # (cx, cy, semi-axis across, semi-axis along) of the face, chin to forehead, upright, in its pixels


# Left, top, right, bottom of the face in the portrait: from the middle of the forehead to the chin, cheek to cheek.
FACES = {
    "obama.jpg": (372, 110, 606, 416),
    "biden.jpg": (428, 174, 692, 548),
    "astronaut.png": (182, 60, 270, 179),
}
# How fast the shoulders widen below the chin: beyond them is background.
SLOPES = {"obama.jpg": 1.6, "biden.jpg": 1.6, "astronaut.png": 4.0}
# How much is cut out around the face, in face heights: left and right of its middle, above its top, below its chin.
AROUND, ABOVE, BELOW = 1.25, 0.5, 0.95


def cut_out(folder, name):
    """Cuts the head, neck and shoulders of a portrait out by GrabCut, with soft edges."""
    portrait = cv2.imread(os.path.join(folder, name))
    left, top, right, bottom = FACES[name]
    # A face 240 pixels high is larger than any that is shown.
    scale = min(1.0, 240 / (bottom - top))
    portrait = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (v * scale for v in FACES[name])
    high, middle = bottom - top, (left + right) / 2
    x0, x1 = int(max(0, middle - AROUND * high)), int(min(portrait.shape[1], middle + AROUND * high))
    y0, y1 = int(max(0, top - ABOVE * high)), int(min(portrait.shape[0], bottom + BELOW * high))
    image = portrait[y0:y1, x0:x1].copy()
    cx, cy = middle - x0, (top + bottom) / 2 - y0
    across, along = (right - left) / 2, high / 2

    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    head = ((xs - cx) / (1.75 * across)) ** 2 + ((ys - (cy - 0.15 * along)) / (1.5 * along)) ** 2 < 1
    shoulders = 0.62 * along + SLOPES[name] * np.maximum(ys - cy - 1.05 * along, 0)
    body = (ys > cy + 0.8 * along) & (np.abs(xs - cx) < shoulders)
    core = ((xs - cx) / across) ** 2 + ((ys - cy) / along) ** 2 < 1
    core |= ((xs - cx) / across) ** 2 + ((ys - cy + 0.45 * along) / (0.87 * along)) ** 2 < 1  # hair
    mask = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    mask[head | body] = cv2.GC_PR_FGD
    mask[core | ((np.abs(xs - cx) < 0.6 * along) & (ys > cy + 1.3 * along))] = cv2.GC_FGD
    cv2.setRNGSeed(1)
    cv2.grabCut(image, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_MASK)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    # The piece that holds the face, without holes.
    found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, labels = cv2.connectedComponents(found)
    found = (labels == labels[int(cy), int(cx)]).astype(np.uint8)
    outline, _ = cv2.findContours(found, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = cv2.drawContours(np.zeros_like(found), outline, -1, 1, -1)
    alpha = cv2.GaussianBlur(cv2.erode(found, np.ones((3, 3), np.uint8)).astype(np.float32), (0, 0), 1.6)
    # Shoulders end softly, as behind a vignette, not with a straight cut.
    fade = 1 - ((xs - cx) / (2.45 * along)) ** 2 - ((ys - cy) / (2.8 * along)) ** 2 * (ys > cy)
    alpha *= np.clip(fade * 5, 0, 1)
    return Head(name.split(".")[0], image, alpha, (cx, cy, across, along))


def load(folder):
    """All heads, in a fixed order."""
    return [cut_out(folder, name) for name in FACES]
