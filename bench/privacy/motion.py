"""How well `motion` finds what is known to move: textures from real clips over a still real background.

    python bench/privacy/motion.py --bin FRAMELOOM --clips DIR --out DIR [--page]

Prints the mean IoU of the detections' boxes (their union) with the true boxes and of the `action=mask` output with the true
mask, for each method, and for MOG2 how near a mask that starts N frames before a segment is to that of the whole run.
"""

import argparse
import json
import math
import os
import subprocess
import sys

import cv2
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import detections
import pictures
import page

WIDTH, HEIGHT, FPS, FRAMES = 1280, 720, 25, 250
METHODS = ("mog2", "diff", "flow")
# The first frames, in which every method still learns, count for nothing.
LEARNING = 50
WARMUPS = (50, 200, 500)


def still(clips):
    """A still background: one frame of a real street."""
    clip = cv2.VideoCapture(os.path.join(clips, "vtest.avi"))
    return cv2.resize(clip.read()[1][40:472], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def texture(clips, name, at, size):
    clip = cv2.VideoCapture(os.path.join(clips, name))
    for _ in range(at):
        clip.grab()
    picture = clip.read()[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def make(clips, to):
    """Writes the clip and returns the true masks as a list of H×W uint8 (0 or 1) and the true boxes of each frame."""
    random = np.random.default_rng(6)
    ground = still(clips)
    # Texture, size, speed in pixels a frame, and the height of its way.
    movers = [(texture(clips, "bikes.mp4", 150, (180, 130)), 4.0, 520), (texture(clips, "bigbuckbunny.mp4", 30, (110, 150)), -3.0, 300),
              (texture(clips, "box.mp4", 40, (70, 60)), 6.0, 150)]
    writer = pictures.Writer(to, (WIDTH, HEIGHT), FPS, crf=18)
    masks, boxes = [], []
    for number in range(FRAMES):
        picture, mask, here = ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8), []
        for index, (image, speed, middle) in enumerate(movers):
            high, wide = image.shape[:2]
            way = WIDTH + wide
            x = int(round((speed * number + index * 400) % way)) - wide
            y = int(round(middle + 30 * math.sin(number / 25 + index) - high / 2))
            shape = np.zeros((high, wide), np.uint8)
            cv2.ellipse(shape, (wide // 2, high // 2), (wide // 2 - 1, high // 2 - 1), 0, 0, 360, 1, -1)
            left, right = max(0, x), min(WIDTH, x + wide)
            if right - left < 8:
                continue
            cut = shape[:, left - x : right - x] > 0
            picture[y : y + high, left:right][cut] = image[:, left - x : right - x][cut]
            mask[y : y + high, left:right][cut] = 1
            here.append((left, y, right - left, high))
        picture += random.normal(0, 2, picture.shape).astype(np.float32)
        yuv = cv2.cvtColor(np.clip(picture, 0, 255).astype(np.uint8), cv2.COLOR_BGR2YUV)
        # OpenCV's is full range; video is not.
        writer.write(np.dstack([16 + yuv[..., 0] * (219 / 255), *(128 + (yuv[..., c].astype(np.float32) - 128) * (224 / 255) for c in (1, 2))]))
        masks.append(mask)
        boxes.append(here)
    writer.close()
    return masks, boxes


def painted(boxes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, w, h, *_ in boxes:
        mask[max(0, int(round(y))) : max(0, int(round(y + h))), max(0, int(round(x))) : max(0, int(round(x + w)))] = 1
    return mask


def overlap(a, b):
    union = int(np.count_nonzero(a | b))
    return np.count_nonzero(a & b) / union if union else 1.0


def box_fit(found, boxes):
    """Mean IoU of the area under all found boxes with the area under the true ones."""
    return float(np.mean([overlap(painted(f), painted(b)) for f, b in list(zip(found, boxes))[LEARNING:]]))


def mask_fit(path, masks):
    """Mean IoU of a mask output (white is motion) with the true masks."""
    fits = [overlap((frame[..., 0] > 125).astype(np.uint8), mask) for frame, mask in zip(pictures.read(path), masks)]
    if len(fits) != len(masks):
        raise SystemExit(f"{path}: {len(fits)} frames instead of {len(masks)}")
    return float(np.mean(fits[LEARNING:]))


def mog2_masks(grays):
    model = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
    return [model.apply(gray) > 0 for gray in grays]


def warmup_fit(path, warmups=WARMUPS, starts=(600, 700), length=90):
    """For each warm-up: mean IoU of segment-wise MOG2 masks with those of the whole run (working width 640, grey), on a real clip."""
    clip, grays = cv2.VideoCapture(path), []
    while True:
        ok, frame = clip.read()
        if not ok:
            break
        height = round(frame.shape[0] * 640 / frame.shape[1])
        grays.append(cv2.cvtColor(cv2.resize(frame, (640, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY))
    whole = mog2_masks(grays)
    found = {}
    for warmup in warmups:
        fits = []
        for start in starts:
            cut = mog2_masks(grays[max(0, start - warmup) : start + length])[-len(grays[start : start + length]) :]
            fits += [overlap(a, b) for a, b in zip(cut, whole[start : start + length])]
        found[warmup] = float(np.mean(fits))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="", help="frameloom; left out, only the warm-ups are measured, with OpenCV")
    parser.add_argument("--clips", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--page", action="store_true", help="write the tables to docs/benchmarks.md")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    lines = []
    source = os.path.join(args.out, "movers.mp4")
    masks, boxes = make(args.clips, source)
    if args.bin:
        lines += ["| motion | boxes, IoU | mask, IoU |", "|---|---|---|"]
        for method in METHODS:
            file, mask = os.path.join(args.out, f"{method}.jsonl"), os.path.join(args.out, f"{method}.mp4")
            for command in (
                [args.bin, "run", source, "-f", f"motion:method={method}", "--detections-only", "--detections", file, "--overwrite", "--quiet"],
                [args.bin, "run", source, "-o", mask, "-f", f"motion:method={method}:action=mask", "--overwrite", "--quiet"],
            ):
                subprocess.run(command, check=True)
            lines.append(f"| {method} | {box_fit(detections.read(file), boxes):.2f} | {mask_fit(mask, masks):.2f} |")
        lines.append("")
    fits = warmup_fit(os.path.join(args.clips, "vtest.avi"))
    lines += ["| MOG2 begun so many frames before the segment (vtest) | IoU with the whole run |", "|---|---|"]
    lines += [f"| {warmup} | {fit:.3f} |" for warmup, fit in fits.items()]
    print("\n".join(lines))
    if args.page:
        page.write("motion", lines)


if __name__ == "__main__":
    main()
