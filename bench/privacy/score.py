"""What a program hid, and what it left to be seen.

A face is leaked in a frame when it is visible and less than 70 % of its inner ellipse was changed. "Changed" compares
frames of the output, which was encoded, with those of the clip that went in, as decoded: both are smoothed a little (noise
does not survive an encoder), and the root mean square of the difference over a window of a fifth of the face must be more
than `TIMES` that which encoding alone makes of the same place, and more than `FLOOR`. `bench.py` checks this on each clip with
outputs of which the score is known (`checks.py`).
"""

import dataclasses

import cv2
import numpy as np

import pictures
from scenes import INNER

# In steps of 256. In the dark black differs from a face by little more.
FLOOR = 2.5
TIMES = 1.5
# Beside faces most of the picture is looked at, so what encoders do now and then must not count.
BESIDE_FLOOR = 5.0
BESIDE_TIMES = 2.0
SHARE = 0.7


def difference(before, after):
    """Smoothed squared difference of two frames over luma and chroma, a plane."""
    delta = cv2.GaussianBlur(after - before, (0, 0), 1.2)
    return (delta * delta).sum(axis=2)


def changed(square, noise, window, floor=FLOOR, times=TIMES):
    """Where the mean square difference over a window (pixels, odd) is above what encoding alone makes of it."""
    limit = np.maximum(floor * floor, times * times * cv2.blur(noise, (window, window)))
    return cv2.blur(square, (window, window)) > limit


def ellipse(shape, face, grow=1.0):
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, (round(face["cx"] * 16), round(face["cy"] * 16)), (round(face["rx"] * grow * 16), round(face["ry"] * grow * 16)),
                face["angle"], 0, 360, 1, -1, cv2.LINE_8, 4)
    return mask


def hidden_share(square, noise, face):
    """Share of a face's inner ellipse, as far as it lies in the picture, that was changed."""
    mask = ellipse(square.shape, face)
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return 0.0
    window = max(5, int(face["ry"] / INNER * 2 / 5) | 1)
    border = window
    top, bottom = max(0, ys.min() - border), ys.max() + border + 1
    left, right = max(0, xs.min() - border), xs.max() + border + 1
    part = changed(square[top:bottom, left:right], noise[top:bottom, left:right], window)
    return float(part[mask[top:bottom, left:right] > 0].mean())


@dataclasses.dataclass
class Seen:
    """One face in one frame, in the output."""

    visible: bool
    large: bool
    share: float

    @property
    def leaked(self):
        return self.visible and self.share < SHARE


@dataclasses.dataclass
class SceneScore:
    """What became of a scene."""

    faces: list  # [face][frame] of Seen
    beside: float  # mean share of the picture, outside of all heads, that was changed

    def count(self, large):
        """Leaked and visible (face, frame) pairs of a size class."""
        pairs = [seen for face in self.faces for seen in face if seen.visible and seen.large == large]
        return sum(seen.leaked for seen in pairs), len(pairs)

    def flicker(self, large):
        """Runs of leaked frames between hidden ones, inside a face's life."""
        return sum(len(gaps(face)) for face in self.faces if face[0].large == large)

    def bridged(self):
        """Occlusions of 3 to 20 frames: those during which the face's place stayed hidden, 3 frames before and after included; all."""
        found = [(all(s.share >= SHARE for s in face[max(0, a - 3) : b + 3])) for face in self.faces for a, b in occlusions(face)]
        return sum(found), len(found)


def runs(flags):
    """Half-open intervals in which the flag holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def gaps(face):
    hidden = [i for i, seen in enumerate(face) if seen.visible and not seen.leaked]
    return [(a, b) for a, b in runs([seen.leaked for seen in face]) if hidden and hidden[0] < a and b <= hidden[-1]]


def occlusions(face):
    return [(a, b) for a, b in runs([not seen.visible for seen in face]) if a > 0 and b < len(face) and 3 <= b - a <= 20]


def heads(shape, faces):
    """The heads' places: each face's box, twice as large."""
    mask = np.zeros(shape, np.uint8)
    for face in faces:
        x, y, w, h = face["box"]
        left, top, right, bottom = (int(round(v)) for v in (x - w / 2, y - h / 2, x + 1.5 * w, y + 1.5 * h))
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 1
    return mask


def score(before, encoded, after, truth):
    """Compares an output with the clip that went in, and with that clip encoded once more with nothing hidden."""
    faces, beside = [[] for _ in truth["frames"][0]], []
    for number, (old, same, new) in enumerate(zip(pictures.read(before), pictures.read(encoded), pictures.read(after))):
        if old.shape != new.shape:
            raise SystemExit(f"{after}: pictures of {new.shape[1]}×{new.shape[0]} instead of {old.shape[1]}×{old.shape[0]}")
        square, noise, now = difference(old, new), difference(old, same), truth["frames"][number]
        for row, face in zip(faces, now):
            row.append(Seen(face["visible"], face["large"], hidden_share(square, noise, face)))
        beside.append(float((changed(square, noise, 15, BESIDE_FLOOR, BESIDE_TIMES) & (heads(square.shape, now) == 0)).mean()))
    if len(beside) != len(truth["frames"]):
        raise SystemExit(f"{after}: {len(beside)} frames instead of {len(truth['frames'])}")
    return SceneScore(faces, float(np.mean(beside)))
