"""The scenes: which faces move where, and what makes them hard to see. Everything follows from a scene's name."""

import dataclasses
import math
import zlib

import numpy as np

WIDTH, HEIGHT, FPS, FRAMES = 960, 544, 25, 90
# Faces higher than this (chin to forehead, in pixels) are "large".
LARGE = 40
# The inner ellipse, which must not be seen, is this much of the face: brows to chin, cheek to cheek.
INNER = 0.85
# A face of which less than this is seen (the rest is covered or outside the picture) need not be hidden.
VISIBLE = 0.4
# Clip and first frame; these stretches hold no face that could be made out.
BACKGROUNDS = [("vtest.avi", 0), ("bikes.mp4", 138), ("bigbuckbunny.mp4", 0), ("cityCC0.mpg", 20), ("tree.avi", 0)]
EFFECTS = ("turned", "scarf", "pole", "blurred", "dark", "noisy", "compressed")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip of the set: its background and what is done to its faces."""

    name: str
    effects: frozenset
    number: int

    @property
    def background(self):
        return BACKGROUNDS[self.number % len(BACKGROUNDS)]

    def light(self, frame):
        """How much of the light is left: dark scenes pulse, as under passing lamps."""
        if "dark" not in self.effects:
            return 1.0
        return (0.20 - 0.13 * math.cos(2 * math.pi * frame / 60)) / self.strength

    def grain(self, frame):
        """Standard deviation of the noise, in steps of 256; in the dark less of it hides as much."""
        if "noisy" not in self.effects:
            return 1.5
        return (29 + 18 * math.sin(2 * math.pi * frame / 50)) * (0.3 if "dark" in self.effects else 1) * self.strength

    @property
    def shutter(self):
        """For how much of a frame's time it is open."""
        return 0.9 * self.strength if "blurred" in self.effects else 0.0

    @property
    def strength(self):
        """Where everything comes together each effect is weaker, or nothing could be seen at all."""
        return 0.5 if len(self.effects) == len(EFFECTS) else 1.0

    def random(self, purpose):
        return np.random.default_rng([zlib.crc32(self.name.encode()), zlib.crc32(purpose.encode())])


def scenes():
    """All scenes, in the order of the table."""
    together = [["turned", "scarf"], ["turned", "dark"], ["turned", "blurred"], ["scarf", "noisy"],
                ["scarf", "blurred", "compressed"], ["pole", "dark", "compressed"], ["turned", "dark", "noisy"],
                ["blurred", "dark", "noisy"]]
    sets = [[], *([effect] for effect in EFFECTS), *together, EFFECTS]
    names = ["easy", *("+".join(effects) for effects in sets[1:-1]), "together"]
    return [Scene(name, frozenset(effects), number) for number, (name, effects) in enumerate(zip(names, sets))]


@dataclasses.dataclass
class Pose:
    """Where a face is in one frame."""

    x: float
    y: float
    height: float  # chin to forehead
    angle: float  # degrees, clockwise
    vx: float  # pixels a frame
    vy: float


class Path:
    """A face's way through a scene: swinging in its own part of the picture, so that no face meets another."""

    def __init__(self, scene, slot, random):
        self.scene, self.slot = scene, slot
        large, right = slot < 2, slot % 2
        effects = scene.effects
        # Sizes are spread evenly over the scenes, not drawn, so that each class has small and large in every size.
        spread = ((scene.number * 4 + slot) * 0.618) % 1
        self.height = 50 * (148 / 50) ** spread if large else 20 * (28 / 20) ** spread
        if not scene.effects:
            self.height = max(self.height, 28)
        self.zoom = 0.12 if large else 0.06
        # Small faces above large ones, or below.
        upper = (scene.number % 2 == 0) != large
        margin = 100 if large else 40
        self.y = (64 if upper else 505 - (20 if not large else 0)) if not large else (215 if upper else 330)
        self.x = WIDTH * (0.27 + 0.46 * right) + random.uniform(-20, 20)
        fast = "blurred" in effects
        self.wide = (WIDTH * 0.23 - margin) if fast or large else 60 + random.uniform(0, 60)
        self.period = random.uniform(34, 42) if fast else random.uniform(110, 150)
        self.phase = random.uniform(0, 2 * math.pi)
        self.tall, self.tall_period = (24 if large else 10), random.uniform(60, 90)
        self.turn = 75 if "turned" in effects else 0
        self.turn_period, self.turn_phase = random.uniform(80, 120), random.uniform(0, 2 * math.pi)
        # One large and one small face come in from the side, but not in the easy scene.
        self.enters = bool(scene.effects) and slot in (0, 3)

    def pose(self, frame):
        x, y = self._place(frame)
        x0, y0 = self._place(frame - 1)
        height = self.height * (1 + self.zoom * math.sin(2 * math.pi * frame / 77 + self.phase))
        # It stays at either end for a while.
        swing = 1.5 * math.sin(2 * math.pi * frame / self.turn_period + self.turn_phase)
        angle = self.turn * min(1, max(-1, swing))
        return Pose(x, y, height, angle, x - x0, y - y0)

    def _place(self, frame):
        x = self.x + self.wide * math.sin(2 * math.pi * frame / self.period + self.phase)
        y = self.y + self.tall * math.sin(2 * math.pi * frame / self.tall_period + self.phase)
        if self.enters:
            outside = -1.2 * self.height if self.slot == 0 else WIDTH + 1.2 * self.height
            come = min(1, max(0, frame) / 24)
            come = come * come * (3 - 2 * come)
            x = outside + (x - outside) * come
        return x, y


class Pole:
    """A post that goes past a face and covers all of its inner ellipse for ten frames."""

    COVERS = 10

    def __init__(self, path, across, at, speed):
        inner = INNER * across * path.height / 2
        self.path, self.at, self.speed = path, at, speed
        self.width = 2 * inner * (1 + path.zoom) + self.COVERS * abs(speed)

    def middle(self, frame):
        """Its middle, relative to the face's so that it takes equally long over each."""
        return self.path.pose(frame).x + self.speed * (frame - self.at)

    def rows(self):
        """It stands in its face's half of the picture only, so that it hides no other face."""
        reach = 1.4 * self.path.height + 30
        return int(max(0, self.path.y - reach)), int(min(HEIGHT, self.path.y + reach))
