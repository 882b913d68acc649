"""The loop that users come from: OpenCV decodes, filters and encodes, frame by frame, in Python.

python opencv_peer.py IN OUT blur|edges|invert|none [mp4v|x264]

`mp4v` is what cv2.VideoWriter makes of itself; `x264` pipes the frames to ffmpeg, with the settings that
Frameloom uses.
"""

import subprocess
import sys

import cv2


class X264:
    """A writer with cv2.VideoWriter's calls that encodes with x264."""

    def __init__(self, out, fps, size):
        raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", "-"]
        made = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", out]
        self.process = subprocess.Popen(["ffmpeg", "-v", "error", "-y", *raw, *made], stdin=subprocess.PIPE)

    def write(self, frame):
        self.process.stdin.write(frame.data)

    def release(self):
        self.process.stdin.close()
        if self.process.wait():
            sys.exit("ffmpeg failed")


def open_writer(out, capture, encoder):
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    fps = capture.get(cv2.CAP_PROP_FPS)
    if encoder == "x264":
        return X264(out, fps, size)
    return cv2.VideoWriter(out, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)


def main(source, out, kind, encoder="mp4v"):
    capture = cv2.VideoCapture(source)
    writer = open_writer(out, capture, encoder)
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
