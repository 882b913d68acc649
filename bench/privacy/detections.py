"""What a detections file says of the known faces: recall, boxes, and tracks over occlusions."""

import json

import numpy as np

import score


def read(path):
    """The boxes of each frame: x, y, w, h, track."""
    with open(path) as file:
        header = json.loads(file.readline())
        if header.get("frameloom_detections") != 1:
            raise SystemExit(f"{path}: not a detections file of version 1")
        return [[(b["x"], b["y"], b["w"], b["h"], b.get("track")) for b in json.loads(line)["boxes"]] for line in file]


def iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def best(boxes, face):
    """The box that fits a face best, and how well."""
    return max(((iou(box, face["box"]), box) for box in boxes), default=(0.0, None), key=lambda pair: pair[0])


def of_easy(found, truth, least=0.3):
    """Recall over all visible faces (a box with an IoU of `least` or more), and the mean IoU of those found."""
    fits = [best(boxes, face)[0] for boxes, faces in zip(found, truth["frames"]) for face in faces if face["visible"]]
    hits = [fit for fit in fits if fit >= least]
    return len(hits) / len(fits), float(np.mean(hits)) if hits else 0.0


def unbroken(found, truth, faces):
    """Occlusions after which a face has the same track as before (seen within 5 frames on either side); all occlusions."""
    same = total = 0
    for index, face in enumerate(faces):
        for begin, end in score.occlusions(face):
            before, after = (
                {box[4] for frame in around if 0 <= frame < len(found) for fit, box in [best(found[frame], truth["frames"][frame][index])] if fit >= 0.2}
                for around in (range(begin - 5, begin), range(end, end + 5))
            )
            total += 1
            same += bool(before & after)
    return same, total
