"""Makes the set: for each scene a clip and the truth about its faces, frame by frame.

    python bench/privacy/make.py --portraits DIR --clips DIR --to DIR

Truth, `SCENE.json`: `frames[n][face]` has the inner ellipse (`cx`, `cy`, half axes `rx`, `ry`, `angle` in degrees clockwise),
`height` of the face in pixels, its upright `box` (x, y, w, h), `visibility` (share of the inner ellipse that is neither
covered nor outside the picture) and whether it counts as `visible` and as `large`.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess

import cv2
import numpy as np

import heads
from scenes import FPS, FRAMES, HEIGHT, INNER, LARGE, VISIBLE, WIDTH, Path, Pole, scenes

HERE = os.path.dirname(os.path.abspath(__file__))


def background(clips, scene):
    """Its frames, filling the picture; a short clip goes forth and back."""
    name, skip = scene.background
    clip = cv2.VideoCapture(os.path.join(clips, name))
    for _ in range(skip):
        clip.grab()
    stock = []
    while len(stock) < FRAMES:
        ok, frame = clip.read()
        if not ok:
            break
        stock.append(frame)
    if not stock:
        raise SystemExit(f"{name} has no frame {skip}")
    there_and_back = stock + stock[-2:0:-1]
    for number in range(FRAMES):
        frame = there_and_back[number % len(there_and_back)]
        scale = max(WIDTH / frame.shape[1], HEIGHT / frame.shape[0])
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
        top, left = (frame.shape[0] - HEIGHT) // 2, (frame.shape[1] - WIDTH) // 2
        yield frame[top : top + HEIGHT, left : left + WIDTH].astype(np.float32)


def scarf_of(head, random):
    """A knitted scarf over mouth and chin: its colour and its opacity, in the head's pixels."""
    high, wide = head.alpha.shape
    cx, cy, across, along = head.face
    ys, xs = np.mgrid[:high, :wide].astype(np.float32)
    u, v = (xs - cx) / across, (ys - cy) / along
    opaque = (v > 0.1 + 0.12 * (1 - u * u)) & (v < 1.45 + 0.1 * u) & (np.abs(u) < 1.12 + 0.25 * np.maximum(v - 0.6, 0))
    base = np.array(random.choice([[60, 60, 150], [120, 80, 50], [70, 110, 60]]), np.float32)
    knit = 26 * np.sin(2 * math.pi * (v * 9 + 0.4 * np.sin(u * 9))) + 14 * np.sin(2 * math.pi * u * 14)
    color = base + knit[..., None]
    return color, cv2.GaussianBlur(opaque.astype(np.float32), (0, 0), 1.2)


def post_texture(random, width):
    """A weathered post."""
    base = np.array(random.choice([[70, 75, 80], [50, 80, 110], [95, 95, 90]]), np.float32)
    grain = random.normal(0, 9, (HEIGHT, max(1, int(width) + 2), 1)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 1.5)[..., None] * 3
    rings = (np.arange(HEIGHT) // 34 % 2 * 26 - 13).astype(np.float32)[:, None, None]
    round_ = 1 - 0.35 * np.linspace(-1, 1, grain.shape[1], dtype=np.float32)[None, :, None] ** 2
    return (base + grain + rings) * round_


def line_kernel(dx, dy):
    """A motion blur along (dx, dy) pixels."""
    reach = int(math.ceil(max(abs(dx), abs(dy)) / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-0.5, 0.5, 8 * reach + 1):
        kernel[int(round(reach + t * dy)), int(round(reach + t * dx))] += 1
    return kernel / kernel.sum()


class Actor:
    """A head on its path, with what it wears."""

    def __init__(self, scene, slot, head):
        random = scene.random(f"face {slot}")
        self.scene, self.head, self.path = scene, head, Path(scene, slot, random)
        self.across = head.face[2] / head.face[3]
        color = head.image.astype(np.float32)
        covered = np.zeros_like(head.alpha)
        alpha = head.alpha
        if "scarf" in scene.effects:
            cloth, covered = scarf_of(head, random)
            color = color * (1 - covered[..., None]) + cloth * covered[..., None]
            alpha = np.maximum(alpha, covered)
        # Premultiplied, so that resizing and blurring keep edges clean; the last plane is what covers the face.
        self.layer = np.dstack([color * alpha[..., None], alpha, covered])
        self.pyramid = [self.layer]
        while self.pyramid[-1].shape[0] > 40:
            self.pyramid.append(cv2.pyrDown(self.pyramid[-1]))
        self.pole = None
        if "pole" in scene.effects:
            speed = (5.5 if slot < 2 else 2.2) * (1 if slot % 2 else -1)
            self.pole = Pole(self.path, self.across, FRAMES * (0.45 + 0.08 * slot), speed)
            self.post = post_texture(random, self.pole.width)

    def show(self, picture, pose, covered):
        """Puts the head into the picture, and what its own dress covers into `covered`."""
        cx, cy, _, along = self.head.face
        scale = pose.height / (2 * along)
        level = min(max(0, int(math.floor(-math.log2(scale)))), len(self.pyramid) - 1)
        layer, shrunk = self.pyramid[level], 2.0**level
        # The part of the picture that it can reach, whichever way it is turned and blurred.
        reach = int(math.hypot(max(cx, self.layer.shape[1] - cx), max(cy, self.layer.shape[0] - cy)) * scale) + 24
        left, top = max(0, int(pose.x) - reach), max(0, int(pose.y) - reach)
        right, bottom = min(WIDTH, int(pose.x) + reach), min(HEIGHT, int(pose.y) + reach)
        if right <= left or bottom <= top:
            return
        move = cv2.getRotationMatrix2D((cx / shrunk, cy / shrunk), -pose.angle, scale * shrunk)
        move[:, 2] += (pose.x - left - cx / shrunk, pose.y - top - cy / shrunk)
        color, rest = (cv2.warpAffine(np.ascontiguousarray(part), move, (right - left, bottom - top))
                       for part in (layer[..., :3], layer[..., 3:]))
        shutter = self.scene.shutter
        if shutter * math.hypot(pose.vx, pose.vy) > 1.5:
            kernel = line_kernel(shutter * pose.vx, shutter * pose.vy)
            color, rest = cv2.filter2D(color, -1, kernel), cv2.filter2D(rest, -1, kernel)
        place = picture[top:bottom, left:right]
        place *= 1 - rest[..., :1]
        place += color
        covered[top:bottom, left:right] = rest[..., 1]

    def pass_by(self, picture, frame, covered):
        """Puts the pole into the picture and into what is covered."""
        left = self.pole.middle(frame) - self.pole.width / 2
        first, last = int(round(max(0, left))), int(round(min(WIDTH, left + self.pole.width)))
        if last <= first:
            return
        top, bottom = self.pole.rows()
        from_ = int(round(first - left))
        part = self.post[top:bottom, max(0, from_) : max(0, from_) + last - first]
        last = first + part.shape[1]
        picture[top:bottom, first:last] = part
        covered[top:bottom, first:last] = 1

    def truth(self, pose, covered):
        ry = INNER * pose.height / 2
        rx = ry * self.across
        # On a canvas of its own, so that what lies outside the picture counts as well.
        half = int(ry) + 2
        x0, y0 = int(pose.x) - half, int(pose.y) - half
        inner = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
        center = (round((pose.x - x0) * 16), round((pose.y - y0) * 16))
        cv2.ellipse(inner, center, (round(rx * 16), round(ry * 16)), pose.angle, 0, 360, 1, -1, cv2.LINE_8, 4)
        x1, y1 = x0 + inner.shape[1], y0 + inner.shape[0]
        free = np.zeros_like(inner)
        if x1 > 0 and y1 > 0 and x0 < WIDTH and y0 < HEIGHT:
            free[max(0, -y0) : HEIGHT - y0, max(0, -x0) : WIDTH - x0] = covered[max(0, y0) : y1, max(0, x0) : x1] <= 0.5
        visibility = float((inner * free).sum() / inner.sum())
        angle = math.radians(pose.angle)
        a, b = rx / INNER, ry / INNER
        w = 2 * math.hypot(a * math.cos(angle), b * math.sin(angle))
        h = 2 * math.hypot(a * math.sin(angle), b * math.cos(angle))
        return {
            "cx": round(pose.x, 2), "cy": round(pose.y, 2), "rx": round(rx, 2), "ry": round(ry, 2),
            "angle": round(pose.angle, 2), "height": round(pose.height, 2),
            "box": [round(v, 2) for v in (pose.x - w / 2, pose.y - h / 2, w, h)],
            "visibility": round(visibility, 3), "visible": visibility >= VISIBLE, "large": pose.height > LARGE,
        }


def make(scene, cast, clips, to):
    """Writes the clip and the truth of a scene."""
    actors = [Actor(scene, slot, cast[(scene.number + slot) % len(cast)]) for slot in range(4)]
    crf = "26" if "compressed" in scene.effects else "14"
    clip = os.path.join(to, f"{scene.name}.mp4")
    encoder = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-",
         "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-crf", crf, clip + ".part.mp4"],
        stdin=subprocess.PIPE)
    random = scene.random("noise")
    grain = random.normal(0, 1, (HEIGHT + 200, WIDTH + 200, 3)).astype(np.float32)
    grain = grain + 0.5 * cv2.GaussianBlur(grain, (0, 0), 1.0) / 0.28
    frames = []
    for number, picture in zip(range(FRAMES), background(clips, scene)):
        poses = [actor.path.pose(number) for actor in actors]
        passed = np.zeros((HEIGHT, WIDTH), np.float32)
        covered = [np.zeros_like(passed) for _ in actors]
        for actor, pose, own in zip(actors, poses, covered):
            actor.show(picture, pose, own)
        for actor in actors:
            if actor.pole:
                actor.pass_by(picture, number, passed)
        frames.append([actor.truth(pose, np.maximum(own, passed)) for actor, pose, own in zip(actors, poses, covered)])
        picture *= scene.light(number)
        y, x = random.integers(0, 200, 2)
        picture += scene.grain(number) * grain[y : y + HEIGHT, x : x + WIDTH]
        encoder.stdin.write(np.clip(picture, 0, 255).astype(np.uint8).tobytes())
    encoder.stdin.close()
    if encoder.wait():
        raise SystemExit(f"{scene.name}: the encoder failed")
    os.replace(clip + ".part.mp4", clip)
    truth = {"scene": scene.name, "background": scene.background[0], "size": [WIDTH, HEIGHT], "fps": FPS,
             "effects": sorted(scene.effects), "frames": frames}
    with open(os.path.join(to, f"{scene.name}.json"), "w") as file:
        json.dump(truth, file)


def recipe():
    """Identifies what the clips are made by."""
    words = hashlib.sha256()
    for name in ("heads.py", "scenes.py", "make.py"):
        words.update(open(os.path.join(HERE, name), "rb").read())
    return words.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", required=True)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--only", default="", help="these scenes only, by name, with commas")
    args = parser.parse_args()
    os.makedirs(args.to, exist_ok=True)
    done = os.path.join(args.to, "recipe")
    if os.path.exists(done) and open(done).read() == recipe():
        return
    cast = heads.load(args.portraits)
    only = [name for name in args.only.split(",") if name]
    for scene in scenes():
        if not only or scene.name in only:
            print(f"making {scene.name}", flush=True)
            make(scene, cast, args.clips, args.to)
    if not only:
        with open(done, "w") as file:
            file.write(recipe())


if __name__ == "__main__":
    main()
