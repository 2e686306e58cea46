"""The clips on which masks are measured: for each way in which a mask can fail, some whose exact mask is known in every frame.

Everything is drawn from seeds: the clips of the figures from 911,000 upwards, those on which settings are chosen from 921,000 upwards;
training used seeds below 10,000. Where a kind is about texture, training saw none of its textures and the two sets share none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from benchmarks.clips import DRAWN_SHAPES, FASTEST, INDEX_OF_ORIGIN, REACH, SLOWEST, MovingClip, draw_moving
from demo.figures import TOO_CLOSE
from demo.scenes import COLOURS, GROUNDS, SIZE, Thing, caption, finish, outline, paint_ground

FRAMES = 8  # over which a clip keeps what its kind promises: speeds, the way out of the frame, two objects drifting apart
KINDS = ("plain", "thin", "small", "textured", "unseen_ground", "close", "two", "leaving")
TEST_SURFACES = ("checkered", "dotted", "speckled", "graded")
TEST_GROUNDS = ("woven", "pebbled", "graded", "speckled")
DEVELOPMENT_TEXTURES = ("ringed", "crossed", "zigzag")  # of surfaces and of grounds
SURFACE_DEPTH, GROUND_DEPTH = 0.28, 20.0  # share of the object's colour; grey levels, where water has 13 and mortar 42
LEAVES = 0.3, 0.7  # least and most of the object's area outside the frame where it is farthest out
NEAREST, NEAR, APART = 0.9, 1.2, 1.4  # between two centres, in sums of their radii; circles touch at 1


@dataclass(frozen=True)
class Crossing(MovingClip):
    """An object on a straight path, which may cross the border: by `velocity` a frame until the frame FRAMES - 1, where it stays."""

    def __post_init__(self) -> None:
        """It needs no room."""

    def centre(self, frame: int) -> tuple[float, float]:
        """Where the object's centre is in a frame, in heights. (x, y)"""
        steps = min(frame, FRAMES - 1)
        return self.thing.x + steps * self.velocity[0], self.thing.y + steps * self.velocity[1]


@dataclass(frozen=True)
class MaskClip:
    """One or two moving objects on a still ground, one of which is sought by its words.

    paths: of the objects, in the order of the caption and of drawing; all with the clip's seed and ground. sought: which of them.
    squeeze: what is left of every object's width and height. surface, weave: unseen textures of objects and ground, see `texture`."""

    kind: str
    paths: tuple[MovingClip, ...]
    sought: int = 0
    squeeze: tuple[float, float] = (1.0, 1.0)
    surface: str | None = None
    weave: str | None = None

    @property
    def seed(self) -> int:
        return self.paths[0].seed

    @property
    def thing(self) -> Thing:
        """The sought object in the first frame."""
        return self.paths[self.sought].placed(0)

    @property
    def words(self) -> str:
        """The sought object in the source prompt, such as "red circle"."""
        return f"{self.thing.colour} {self.thing.shape}"

    @property
    def source_prompt(self) -> str:
        """The clip's caption, such as "a red circle and a blue square on grass"."""
        return caption([path.thing for path in self.paths], self.paths[0].ground)

    def render(self, frames: int) -> np.ndarray:
        """The first frames, with the camera noise of demo.scenes in each. uint8 RGB [frames, SIZE, SIZE, 3]"""
        rng, name = np.random.default_rng(self.seed), self.paths[0].ground
        ground, pictures = paint_ground(name, rng) if self.weave is None else weave(name, self.weave, rng), []
        for frame in range(frames):
            picture = ground
            for thing in (path.placed(frame) for path in self.paths):
                picture = picture + cover(thing, self.squeeze)[..., None] * (paint_thing(thing, self.surface, self.seed) - picture)
            pictures.append(finish(picture, rng))
        return np.stack(pictures)

    def truth(self, frames: int) -> np.ndarray:
        """The exact masks: how much of each pixel shows the sought object, float32 0..1. [frames, SIZE, SIZE]"""
        return self.visible(frames)[self.sought]

    def other(self, frames: int) -> np.ndarray:
        """The same of the object that is not sought, zeros where there is none. float32 [frames, SIZE, SIZE]"""
        return np.delete(self.visible(frames), self.sought, 0).sum(0)

    def visible(self, frames: int) -> np.ndarray:
        """What each object shows of itself, what is drawn over it taken away. float32 [objects, frames, SIZE, SIZE]"""
        masks = np.array([[cover(path.placed(frame), self.squeeze) for frame in range(frames)] for path in self.paths])
        for index in range(len(masks) - 1):
            masks[index] *= (1 - masks[index + 1 :]).prod(0)
        return masks

    def flow(self, frames: int) -> np.ndarray:
        """Where the sought object's rigid motion takes each pixel: (dx, dy) in pixels, as MovingClip.flow. [frames - 1, SIZE, SIZE, 2]"""
        return self.paths[self.sought].flow(frames)


def cover(thing: Thing, squeeze: tuple[float, float]) -> np.ndarray:
    """scenes.draw_mask with so much of the outline's width and height left. float32 0..1 [SIZE, SIZE]"""
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    points = outline(thing.shape) * np.array(squeeze, np.float32) @ np.array([[cos, sin], [-sin, cos]], np.float32)
    points = points * (thing.radius * SIZE) + np.array([thing.x, thing.y], np.float32) * SIZE
    large = np.zeros((4 * SIZE, 4 * SIZE), np.uint8)
    cv2.fillPoly(large, [np.round(points * 4 * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def paint_thing(thing: Thing, surface: str | None, seed: int) -> np.ndarray:
    """The object's paint wherever it may lie, shaded as scenes.draw does; a texture turns and moves with it. float32 [SIZE, SIZE, 3]"""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    shade = 1 - 0.10 * np.clip((y / SIZE - thing.y) / thing.radius, -1, 1)
    if surface is not None:
        cos, sin = np.cos(thing.angle), np.sin(thing.angle)
        x, y = x - thing.x * SIZE - INDEX_OF_ORIGIN, y - thing.y * SIZE - INDEX_OF_ORIGIN
        rng = np.random.default_rng([seed, 2])  # the same texture in every frame
        shade = shade * (1 + SURFACE_DEPTH * texture(surface, x * cos + y * sin, y * cos - x * sin, rng))
    colour = np.array(COLOURS[thing.colour], np.float32) + np.array(thing.tint, np.float32)
    return np.clip(colour * shade[..., None], 0, 255).astype(np.float32)


def weave(ground: str, name: str, rng: np.random.Generator) -> np.ndarray:
    """A ground of that colour with an unseen texture. float32 RGB in 0..255 [SIZE, SIZE, 3]"""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    left, top = rng.uniform(0, SIZE, 2)
    relief = GROUND_DEPTH * texture(name, x - left, y - top, rng)[..., None] * np.array([1, 1, 0.85])
    return np.clip(np.array(GROUNDS[ground]) * rng.uniform(0.94, 1.06) + relief, 0, 255).astype(np.float32)


def texture(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How light one of TEXTURES is at places in pixels, -1..1, in a direction and scale drawn from `rng`. Of the places' shape."""
    turn, period = rng.uniform(0, np.pi), rng.uniform(14, 18)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / period, (y * np.cos(turn) - x * np.sin(turn)) / period
    return TEXTURES[name](u, v, rng)


def speckled(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = zip(rng.uniform(0.4, 1.3, 24), rng.uniform(0, 2 * np.pi, (24, 2)), strict=True)
    noise = sum(np.cos(2 * np.pi * pitch * (u * np.cos(way) + v * np.sin(way)) + phase) for pitch, (way, phase) in waves)
    return np.tanh(noise / 12**0.5)


def woven(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    across, along = np.where((np.floor(u) + np.floor(v)) % 2, (u, v), (v, u))
    return np.sin(4 * np.pi * across) * np.tanh(4 * np.abs(np.sin(np.pi * along)))


def pebbled(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.stack(np.meshgrid(np.arange(-13, 14), np.arange(-13, 14)), -1).reshape(-1, 2)
    places = rows + rng.uniform(-0.35, 0.35, rows.shape)
    nearest, second = np.full_like(u, np.inf), np.full_like(u, np.inf)
    for distance in (np.hypot(u - left, v - top) for left, top in places):
        nearest, second = np.minimum(nearest, distance), np.minimum(second, np.maximum(nearest, distance))
    return np.tanh(5 * (second - nearest) - 1.2)


# How light by (u, v), in periods. Their edges are soft, like those of demo.scenes, so that the demo's autoencoder can carry them.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "checkered": lambda u, v, rng: np.tanh(4 * np.sin(np.pi * u) * np.sin(np.pi * v)),
    "dotted": lambda u, v, rng: np.tanh(12 * (0.3 - np.hypot(u % 1 - 0.5, v % 1 - 0.5))),
    "speckled": speckled,
    "graded": lambda u, v, rng: 2 * np.abs(2 * ((u / 8 + 0.25) % 1) - 1) - 1,
    "woven": woven,
    "pebbled": pebbled,
    "ringed": lambda u, v, rng: np.sin(2 * np.pi * np.hypot(u, v)),
    "crossed": lambda u, v, rng: 1 - 2 * np.maximum(np.sin(np.pi * u) ** 8, np.sin(np.pi * v) ** 8),
    "zigzag": lambda u, v, rng: np.sin(2 * np.pi * (v + np.abs(u % 2 - 1))),
}


def draw_thing(rng: np.random.Generator, colour: str, shape: str, radii: tuple[float, float], margin: float) -> Thing:
    """A plain object whose outline keeps `margin` heights from every border."""
    radius = float(rng.uniform(*radii))
    x, y = map(float, rng.uniform(REACH * radius + margin, 1 - REACH * radius - margin, 2))
    red, green, blue = map(float, rng.uniform(-9, 9, 3))
    return Thing(colour, shape, x, y, radius, float(rng.uniform(-0.15, 0.15)), tint=(red, green, blue))


def draw_pair(
    seed: int, rng: np.random.Generator, colours: tuple[str, str], shapes: tuple[str, str], ground: str
) -> tuple[MovingClip, MovingClip]:
    """Two paths that pass near each other, of which the second may lie over the first a little, and that end apart."""
    while True:
        things = (partial(draw_thing, rng, *names, (0.13, 0.17), 0.06) for names in zip(colours, shapes, strict=True))
        first, second = (draw_moving(seed, rng, ground, thing, FRAMES) for thing in things)
        between = np.array([np.subtract(first.centre(frame), second.centre(frame)) for frame in range(FRAMES)])
        gaps = np.linalg.norm(between, axis=1) / (first.thing.radius + second.thing.radius)
        if NEAREST <= gaps.min() <= NEAR and gaps[-1] >= APART:
            return first, second


def draw_crossing(seed: int, rng: np.random.Generator, colour: str, shape: str, ground: str, enters: bool) -> Crossing:
    """A path from inside the picture to a border, where LEAVES of the object's area are outside, or back from there.

    The four borders take turns with the seed."""
    axis, side = seed // 2 % 2, 2 * (seed % 2) - 1
    while True:
        inside = draw_thing(rng, colour, shape, (0.15, 0.19), 0.0)
        way = np.roll([side * rng.uniform(SLOWEST, FASTEST - 0.2), rng.uniform(-1, 1)], axis) / SIZE
        x, y = np.array([inside.x, inside.y]) + (FRAMES - 1) * way
        across = replace(inside, x=float(x), y=float(y))
        out = 1 - cover(across, (1, 1)).sum() / cover(inside, (1, 1)).sum()
        if LEAVES[0] <= out <= LEAVES[1]:
            dx, dy = map(float, -way if enters else way)
            return Crossing(seed, across if enters else inside, ground, (dx, dy))


def draw_mask_clip(kind: str, seed: int, index: int, textures: tuple[str, ...], enters: bool) -> MaskClip:
    """The clip of that number of a kind. Colours, shapes and textures take turns; the rest is drawn from the seed."""
    rng = np.random.default_rng([seed, 1])  # the clip's own ground and noise come from the seed alone
    colours = [colour for colour in COLOURS if (kind, colour) != ("textured", "black")]  # black has no shades that show
    turn = index + KINDS.index(kind)  # every colour meets every shape in some kind
    colour, shape = colours[3 * turn % len(colours)], DRAWN_SHAPES[index % len(DRAWN_SHAPES)]
    ground = str(rng.choice([ground for ground in GROUNDS if ground not in TOO_CLOSE.get(colour, ())]))
    if kind == "close":
        pairs = [(colour, ground) for colour, grounds in TOO_CLOSE.items() for ground in grounds]
        colour, ground = pairs[turn % len(pairs)]
    if kind == "two":
        other = str(rng.choice([name for name in COLOURS if name != colour and ground not in TOO_CLOSE.get(name, ())]))
        second = str(rng.choice([name for name in DRAWN_SHAPES if name != shape]))
        return MaskClip(kind, draw_pair(seed, rng, (colour, other), (shape, second), ground), sought=index // 2 % 2)
    if kind == "leaving":
        return MaskClip(kind, (draw_crossing(seed, rng, colour, shape, ground, enters),))
    thing = partial(draw_thing, rng, colour, shape, (0.07, 0.085) if kind == "small" else (0.18, 0.24), 0.06)
    clip = MaskClip(kind, (draw_moving(seed, rng, ground, thing, FRAMES),))
    if kind == "thin":
        left = 1 / float(rng.uniform(2.5, 4))
        return replace(clip, squeeze=(1.0, left) if index < 2 else (left, 1.0))
    texture = textures[(index + index // 4) % len(textures)] if textures else None
    return replace(clip, surface=texture if kind == "textured" else None, weave=texture if kind == "unseen_ground" else None)


def draw_set(first_seed: int, count: int, textures: dict[str, tuple[str, ...]]) -> dict[str, tuple[MaskClip, ...]]:
    """So many clips of each kind. The last one that leaves the picture enters it instead."""
    found = {}
    for number, kind in enumerate(KINDS):
        drawn = [(kind, first_seed + 100 * number + index, index, textures.get(kind, ()), index == count - 1) for index in range(count)]
        found[kind] = tuple(draw_mask_clip(*one) for one in drawn)
    return found


TEST_CLIPS = draw_set(911_000, 8, {"textured": TEST_SURFACES, "unseen_ground": TEST_GROUNDS})
DEVELOPMENT_CLIPS = draw_set(921_000, 3, {"textured": DEVELOPMENT_TEXTURES, "unseen_ground": DEVELOPMENT_TEXTURES})
