"""Decoded frames of a clip, by ffmpeg: planes as they are, without a way over RGB."""

import json
import subprocess

import cv2
import numpy as np


def size_of(path):
    text = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "json",
                           path], check=True, capture_output=True, text=True).stdout
    stream = json.loads(text)["streams"][0]
    return stream["width"], stream["height"]


def read(path):
    """Frames as H×W×3 f32 of Y, U and V, 0..255, as many as the clip has; chroma is brought to the size of luma."""
    width, height = size_of(path)
    decoder = subprocess.Popen(["ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p",
                                "-f", "rawvideo", "-"], stdout=subprocess.PIPE)
    half = ((height + 1) // 2, (width + 1) // 2)
    luma, chroma = width * height, half[0] * half[1]
    while True:
        raw = decoder.stdout.read(luma + 2 * chroma)
        if len(raw) < luma + 2 * chroma:
            break
        raw = np.frombuffer(raw, np.uint8)
        planes = [raw[:luma].reshape(height, width)]
        for at in (luma, luma + chroma):
            plane = raw[at : at + chroma].reshape(half)
            planes.append(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR))
        yield np.dstack(planes).astype(np.float32)
    if decoder.wait():
        raise SystemExit(f"{path}: ffmpeg failed")


class Writer:
    """Encodes frames of that shape as H.264."""

    def __init__(self, path, size, fps, crf=25):
        self.encoder = subprocess.Popen(
            ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv444p", "-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i",
             "-", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "medium", "-crf", str(crf), path], stdin=subprocess.PIPE)

    def write(self, frame):
        self.encoder.stdin.write(np.clip(frame, 0, 255).astype(np.uint8).transpose(2, 0, 1).tobytes())

    def close(self):
        self.encoder.stdin.close()
        if self.encoder.wait():
            raise SystemExit("the encoder failed")
