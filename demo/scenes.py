"""The demo model's world: coloured shapes on textured grounds, rendered from a seed with exact masks.

Everything is procedural, so a clip's ground truth (where the object is, which colour, which shape) is known to the pixel.
Textures are band-limited and soft: an autoencoder with 4 channels per 8x8 cell can carry them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 165, 60),
    "blue": (45, 65, 210),
    "yellow": (235, 215, 45),
    "purple": (140, 50, 175),
    "orange": (240, 130, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
SHAPES = ("circle", "square", "triangle", "star", "heart")
GROUNDS = {
    "grass": (75, 118, 58),
    "sand": (205, 182, 138),
    "water": (85, 145, 180),
    "brick": (152, 92, 78),
    "snow": (205, 216, 228),
}
PATTERNS = ("plain", "striped", "mottled")
SIZE = 128


@dataclass(frozen=True)
class Thing:
    """One object: position and radius in units of the picture's height, angle in radians."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    pattern: str = "plain"
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def words(self) -> str:
        return f"{'an' if self.colour == 'orange' else 'a'} {self.colour} {self.shape}"

    def moved(self, frames: int, velocity: tuple[float, float], spin: float = 0.0) -> Thing:
        """Where it is so many frames later. velocity: (x, y), heights a frame; spin: radians a frame."""
        return replace(self, x=self.x + velocity[0] * frames, y=self.y + velocity[1] * frames, angle=self.angle + spin * frames)


def caption(things: list[Thing], ground: str) -> str:
    return " and ".join(thing.words for thing in things) + f" on {ground}"


def blurred_noise(rng: np.random.Generator, size: int, sigma_x: float, sigma_y: float) -> np.ndarray:
    """Gaussian noise of unit deviation, smooth over sigma pixels (of a 128 px picture). [size, size]"""
    scale = size / SIZE
    noise = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), sigma_x * scale, sigmaY=sigma_y * scale)
    return noise / noise.std()


def paint_ground(name: str, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A textured ground, float32 RGB in 0..255. [size, size, 3]"""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (SIZE / size)
    phase, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    if name == "grass":
        texture = 10 * blurred_noise(rng, size, 1.8, 6)
    elif name == "sand":
        texture = 6 * np.sin(y * 0.22 * stretch + 1.5 * np.sin(x * 0.05 + phase)) + 4 * blurred_noise(rng, size, 3, 3)
    elif name == "water":
        texture = 13 * np.sin(y * 0.33 * stretch + phase + np.sin(x * 0.08 + phase)) + 3 * blurred_noise(rng, size, 4, 2)
    elif name == "brick":
        row, offset = np.floor((y + phase * 5) / 16), phase * 5
        dy = np.abs((y + offset) % 16 - 8)
        dx = np.abs((x + offset + 16 * (row % 2)) % 32 - 16)
        mortar = np.clip(np.maximum(dy - 6, dx - 14), 0, 1.5) / 1.5
        texture = 42 * cv2.GaussianBlur(mortar.astype(np.float32), (0, 0), 0.8 * size / SIZE) + 4 * blurred_noise(rng, size, 3, 3) - 8
    else:
        texture = 5 * blurred_noise(rng, size, 6, 6)
    base = np.array(GROUNDS[name], np.float32) * rng.uniform(0.94, 1.06)
    return np.clip(base + texture[..., None] * np.array([1, 1, 0.85], np.float32), 0, 255).astype(np.float32)


def outline(shape: str) -> np.ndarray:
    """The shape's corners around the origin, radius about 1, y downwards. [corners, 2]"""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    if shape == "circle":
        points = np.stack([np.cos(turn), np.sin(turn)], 1)
    elif shape == "square":
        points = 0.87 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    elif shape == "triangle":
        points = np.array([(0, -1.1), (1.08, 0.8), (-1.08, 0.8)])
    elif shape == "star":
        reach = np.where(np.arange(10) % 2 == 0, 1.2, 0.52)
        points = np.stack([reach * np.sin(np.arange(10) * np.pi / 5), -reach * np.cos(np.arange(10) * np.pi / 5)], 1)
    else:
        heart_y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        points = np.stack([np.sin(turn) ** 3, -heart_y / 16 - 0.1], 1) * 1.08
    return points.astype(np.float32)


def draw_mask(thing: Thing, size: int = SIZE) -> np.ndarray:
    """Coverage of each pixel by the object, 0..1, anti-aliased. [size, size]"""
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    points = outline(thing.shape) @ np.array([[cos, sin], [-sin, cos]], np.float32) * (thing.radius * size)
    points += np.array([thing.x, thing.y], np.float32) * size
    large = np.zeros((4 * size, 4 * size), np.uint8)  # 4x supersampling: OpenCV's own anti-aliasing is uneven
    cv2.fillPoly(large, [np.round(points * 4 * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def draw(picture: np.ndarray, thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """Lays the object over a picture [size, size, 3] in 0..255; returns the picture and the object's mask."""
    size = picture.shape[0]
    mask = draw_mask(thing, size)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    across, down = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
    shade = 1 - 0.10 * np.clip(down, -1, 1)
    if thing.pattern == "striped":
        shade = shade * (1 + 0.13 * np.sin(4.5 * (across * np.cos(thing.angle + 0.6) + down * np.sin(thing.angle + 0.6))))
    elif thing.pattern == "mottled":
        shade = shade * (1 + 0.12 * np.sin(3.3 * across + 1) * np.sin(3.6 * down + thing.angle))
    colour = np.array(COLOURS[thing.colour], np.float32) + np.array(thing.tint, np.float32)
    painted = np.clip(colour * shade[..., None], 0, 255)
    return picture + mask[..., None] * (painted - picture), mask


def draw_all(picture: np.ndarray, things: list[Thing]) -> np.ndarray:
    """Lays objects over a picture, the first one lowest."""
    for thing in things:
        picture, _ = draw(picture, thing)
    return picture


def random_thing(rng: np.random.Generator, colour: str | None = None, shape: str | None = None, cropped: bool = False) -> Thing:
    radius = rng.uniform(0.15, 0.28)
    margin = 0.3 * radius if cropped else 1.1 * radius
    x, y = rng.uniform(margin, 1 - margin, 2)
    return Thing(
        colour or str(rng.choice(list(COLOURS))),
        shape or str(rng.choice(SHAPES)),
        float(x),
        float(y),
        float(radius),
        float(rng.uniform(-0.3, 0.3)),
        str(rng.choice(PATTERNS, p=[0.6, 0.2, 0.2])),
        (float(rng.uniform(-9, 9)), float(rng.uniform(-9, 9)), float(rng.uniform(-9, 9))),
    )


def random_things(rng: np.random.Generator) -> list[Thing]:
    """Mostly one object; one scene in ten crops it, one in six has a second, smaller one beside it."""
    first = random_thing(rng, cropped=rng.random() < 0.1)
    if rng.random() < 1 / 6:
        for _ in range(30):
            second = random_thing(rng)
            second = replace(second, radius=min(second.radius, 0.17))
            apart = np.hypot(first.x - second.x, first.y - second.y) > 1.1 * (first.radius + second.radius)
            if apart and second.colour != first.colour and second.shape != first.shape:
                return [first, second]
    return [first]


def finish(picture: np.ndarray, rng: np.random.Generator, noise: float = 2.0) -> np.ndarray:
    return np.clip(picture + noise * rng.standard_normal(picture.shape, np.float32), 0, 255).astype(np.uint8)


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A picture [SIZE, SIZE, 3] uint8 and its caption."""
    ground, things = str(rng.choice(list(GROUNDS))), random_things(rng)
    picture = draw_all(paint_ground(ground, rng), things)
    return finish(picture, rng, rng.uniform(0, 3)), caption(things, ground)


def plain_scene(rng: np.random.Generator, colour: str, shape: str, ground: str, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One whole, plain object: picture [size, size, 3] uint8 and mask [size, size] in 0..1."""
    thing = replace(random_thing(rng, colour, shape), pattern="plain")
    picture, mask = draw(paint_ground(ground, rng, size), thing)
    return finish(picture, rng), mask


def render(seed: int, ground: str, things: list[list[Thing]]) -> np.ndarray:
    """A clip of a still ground and each frame's objects. uint8 RGB [frames, SIZE, SIZE, 3]"""
    rng = np.random.default_rng(seed)
    painted = paint_ground(ground, rng)
    return np.stack([finish(draw_all(painted, those), rng) for those in things])
