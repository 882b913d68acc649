"""One Celery task a frame: how the same work is spread in Python. Redis is the broker, no result backend.

The sender decodes, writes each frame to a shared folder as JPEG and sends a task for it; workers filter the
frame and write it back; the sender polls the folder and encodes the frames in order.

celery -A celery_peer worker -c 2      with BROKER=redis://…
python celery_peer.py IN OUT blur|edges|invert [mp4v|x264]
"""

import os
import shutil
import sys
import time
import uuid

import cv2
from celery import Celery

from opencv_peer import apply, open_writer

app = Celery("celery_peer", broker=os.environ.get("BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, task_acks_late=True)
cv2.setNumThreads(1)
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]


@app.task(name="celery_peer.process_frame")
def process_frame(source, target, kind):
    cv2.imwrite(target + ".part.jpg", apply(cv2.imread(source), kind), QUALITY)
    os.rename(target + ".part.jpg", target)


def main(source, out, kind, encoder="mp4v"):
    folder = os.path.join("/dev/shm", "frames-" + uuid.uuid4().hex)
    os.makedirs(folder)
    capture = cv2.VideoCapture(source)
    frames = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        name = f"{folder}/{frames:06d}"
        cv2.imwrite(name + ".in.jpg", frame, QUALITY)
        process_frame.delay(name + ".in.jpg", name + ".jpg", kind)
        frames += 1
    writer = open_writer(out, capture, encoder)
    for number in range(frames):
        name = f"{folder}/{number:06d}.jpg"
        while not os.path.exists(name):
            time.sleep(0.1)
        writer.write(cv2.imread(name))
    writer.release()
    shutil.rmtree(folder)
    print(frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
