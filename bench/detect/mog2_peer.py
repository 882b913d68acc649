"""What one writes in Python to find motion: OpenCV's MOG2 at 640 wide, grey, and boxes around what moves.

    python mog2_peer.py IN [OUT]     with OUT: the boxes drawn, encoded by x264 veryfast CRF 20 through a pipe to ffmpeg
"""

import subprocess
import sys

import cv2

source, out = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
clip = cv2.VideoCapture(source)
model = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
encoder = None
while True:
    ok, frame = clip.read()
    if not ok:
        break
    scale = 640 / frame.shape[1]
    gray = cv2.cvtColor(cv2.resize(frame, (640, round(frame.shape[0] * scale)), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    contours, _ = cv2.findContours(model.apply(gray), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [cv2.boundingRect(contour) for contour in contours if cv2.contourArea(contour) >= 50]
    if out:
        if encoder is None:
            encoder = subprocess.Popen(
                ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{frame.shape[1]}x{frame.shape[0]}", "-r",
                 str(clip.get(cv2.CAP_PROP_FPS)), "-i", "-", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20",
                 out], stdin=subprocess.PIPE)
        for x, y, w, h in boxes:
            cv2.rectangle(frame, (int(x / scale), int(y / scale)), (int((x + w) / scale), int((y + h) / scale)), (0, 255, 0), 2)
        encoder.stdin.write(frame.tobytes())
if encoder:
    encoder.stdin.close()
    sys.exit(encoder.wait())
