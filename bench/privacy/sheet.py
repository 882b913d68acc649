"""A contact sheet: frames of a clip in a grid, as PNG, with or without the truth drawn in.

    python bench/privacy/sheet.py CLIP SHEET.png [--frames 12] [--columns 4] [--width 320] [--truth TRUTH.json] [--against CLIP]

`--against` puts the same frames of another clip below each row.
"""

import argparse
import json

import cv2
import numpy as np

VISIBLE, COVERED = (0, 255, 255), (255, 0, 255)


def frames_of(path, wanted):
    """The frames with these numbers, in order; those that the clip lacks are left out."""
    clip, found, wanted = cv2.VideoCapture(path), [], sorted(wanted)
    for number in range(wanted[-1] + 1):
        if not clip.grab():
            break
        if number in wanted:
            found.append((number, clip.retrieve()[1]))
    clip.release()
    return found


def count_of(path):
    clip, count = cv2.VideoCapture(path), 0
    while clip.grab():
        count += 1
    return count


def draw(frame, faces):
    """Draws the inner ellipse of each face: yellow where it counts as visible, purple where not."""
    for face in faces:
        center = (round(face["cx"] * 16), round(face["cy"] * 16))
        axes = (round(face["rx"] * 16), round(face["ry"] * 16))
        color = VISIBLE if face["visible"] else COVERED
        cv2.ellipse(frame, center, axes, face["angle"], 0, 360, color, 1, cv2.LINE_AA, 4)


def sheet(clips, wanted, columns, width, truth=None):
    """Rows of `columns` frames; each row of the first clip is followed by the same frames of the others."""
    rows = [[] for _ in clips]
    for row, path in zip(rows, clips):
        for number, frame in frames_of(path, wanted):
            if truth:
                draw(frame, truth["frames"][number])
            height = round(frame.shape[0] * width / frame.shape[1])
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            cv2.putText(frame, str(number), (4, height - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(frame, str(number), (4, height - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
            row.append(frame)
    lines = []
    for begin in range(0, len(rows[0]), columns):
        for row in rows:
            line = row[begin : begin + columns]
            line += [np.zeros_like(rows[0][0])] * (columns - len(line))
            lines.append(np.hstack(line))
    return np.vstack(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip")
    parser.add_argument("sheet")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--truth", default="")
    parser.add_argument("--against", action="append", default=[])
    args = parser.parse_args()
    count = count_of(args.clip)
    wanted = {round(i * (count - 1) / max(1, args.frames - 1)) for i in range(args.frames)}
    truth = json.load(open(args.truth)) if args.truth else None
    cv2.imwrite(args.sheet, sheet([args.clip, *args.against], wanted, args.columns, args.width, truth))


if __name__ == "__main__":
    main()
