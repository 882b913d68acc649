"""The loop that users come from: OpenCV decodes, filters and encodes, frame by frame, in Python.

python opencv_peer.py IN OUT blur|edges|invert|none
"""

import sys

import cv2


def main(source, out, kind):
    capture = cv2.VideoCapture(source)
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    writer = cv2.VideoWriter(out, cv2.VideoWriter_fourcc(*"mp4v"), capture.get(cv2.CAP_PROP_FPS), size)
    frames = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        writer.write(apply(frame, kind))
        frames += 1
    writer.release()
    print(frames)


def apply(frame, kind):
    if kind == "blur":
        return cv2.GaussianBlur(frame, (0, 0), 3)
    if kind == "edges":
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return cv2.cvtColor(cv2.Canny(gray, 100, 200), cv2.COLOR_GRAY2BGR)
    if kind == "invert":
        return 255 - frame
    return frame


if __name__ == "__main__":
    main(*sys.argv[1:])
