"""The clips that the benchmarks edit: one object on a curved path, with its exact mask, motion and perfect edit for every frame.

Everything is drawn from seeds: the clips of the figures from 910,000 upwards, those on which settings are chosen from 920,000 upwards, and from
930,000 upwards those that judge whole edits, which nothing was chosen on. Training used seeds below 10,000 (see demo.clips), so none has been seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from demo.figures import TOO_CLOSE
from demo.scenes import COLOURS, GROUNDS, SHAPES, SIZE, Thing, caption, draw_mask, render

FRAMES = 16  # over which a drawn clip keeps its speed between the bounds below
SLOWEST, FASTEST = 2.0, 5.0  # pixels a frame
FASTEST_SPIN = 0.03  # radians a frame
SWAY = 0.2  # radians to either side: the demo model has only seen objects that stand nearly upright
REACH = 1.36  # of the outline that reaches farthest, the triangle's corner, in radii; a little more for the anti-aliased rim
INDEX_OF_ORIGIN = -0.375  # scenes.draw_mask averages the samples at 0, 1/4, 1/2 and 3/4 of a pixel, so pixel i lies at i + 0.375
DRAWN_SHAPES = tuple(shape for shape in SHAPES if shape != "star")  # the demo model often fails to draw a star at all


@dataclass(frozen=True)
class MovingClip:
    """One object that swings around its place in the picture without ever leaving it, whatever the number of frames.

    thing: in the middle of its path, where it is in frame 0. velocity: heights a frame there, (x, y). spin: radians a frame there.
    Both coordinates and the angle are sines of the frame's number, so the path is a Lissajous curve, which fills the room between
    the place and the nearest border. Raises ValueError when there is no such room."""

    seed: int
    thing: Thing
    ground: str
    velocity: tuple[float, float]
    spin: float = 0.0

    def __post_init__(self) -> None:
        if min(self.room) <= 0:
            told = f"moving clip: an object of radius {self.thing.radius} at ({self.thing.x}, {self.thing.y}) has no room to move: "
            raise ValueError(told + f"keep its centre more than {REACH * self.thing.radius:.3f} from every border.")

    @property
    def room(self) -> tuple[float, float]:
        """How far the centre swings to either side, in heights. (x, y)"""
        x, y = (min(place, 1 - place) - REACH * self.thing.radius for place in (self.thing.x, self.thing.y))
        return x, y

    @property
    def source_prompt(self) -> str:
        """The clip's caption, such as "a red circle on grass"."""
        return caption([self.thing], self.ground)

    def centre(self, frame: int) -> tuple[float, float]:
        """Where the object's centre is in a frame, in heights. (x, y)"""
        swings = zip((self.thing.x, self.thing.y), self.room, self.velocity, strict=True)
        x, y = (float(middle + room * np.sin(speed * frame / room)) for middle, room, speed in swings)
        return x, y

    def placed(self, frame: int) -> Thing:
        """The object as it is in a frame."""
        x, y = self.centre(frame)
        return replace(self.thing, x=x, y=y, angle=self.thing.angle + SWAY * float(np.sin(self.spin * frame / SWAY)))

    def render(self, frames: int) -> np.ndarray:
        """The first frames, on a still ground, with the camera noise of demo.scenes in each. uint8 RGB [frames, SIZE, SIZE, 3]"""
        return render(self.seed, self.ground, [[self.placed(frame)] for frame in range(frames)])

    def truth(self, frames: int, shape: str | None = None) -> np.ndarray:
        """The exact masks: how much of each pixel the object covers, float32 0..1. [frames, SIZE, SIZE]

        `shape` lays another outline on the same path instead, which is where an edit of the shape should draw."""
        return np.stack([draw_mask(replace(self.placed(frame), shape=shape or self.thing.shape)) for frame in range(frames)])

    def flow(self, frames: int) -> np.ndarray:
        """Where the object's rigid motion takes each pixel of a frame in the next one: (dx, dy) in pixels. float32 [frames - 1, SIZE, SIZE, 2]

        The field goes on outside the object, as if the whole picture were fixed to it, so it also serves an edited outline."""
        pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(np.float64)
        fields = []
        for frame in range(frames - 1):
            now, then = self.placed(frame), self.placed(frame + 1)
            before, after = (np.array([thing.x, thing.y]) * SIZE + INDEX_OF_ORIGIN for thing in (now, then))
            cos, sin = np.cos(then.angle - now.angle), np.sin(then.angle - now.angle)
            fields.append((pixels - before) @ np.array([[cos, sin], [-sin, cos]]) + after - pixels)
        return np.array(fields, np.float32).reshape(-1, SIZE, SIZE, 2)


@dataclass(frozen=True)
class Edit:
    """A clip and what its object is to become: another colour or another shape, the other one of the two as it was."""

    clip: MovingClip
    colour: str
    shape: str

    @property
    def perfect(self) -> MovingClip:
        """The clip in which the object has always been what the edit asks for, on the same ground under the same noise."""
        return replace(self.clip, thing=replace(self.clip.thing, colour=self.colour, shape=self.shape))

    @property
    def target_prompt(self) -> str:
        return self.perfect.source_prompt

    @property
    def source_words(self) -> str:
        """The object in the source prompt, such as "red circle"."""
        return f"{self.clip.thing.colour} {self.clip.thing.shape}"

    @property
    def target_words(self) -> str:
        """The object in the target prompt, such as "blue circle"."""
        return f"{self.colour} {self.shape}"


def draw_moving(seed: int, rng: np.random.Generator, ground: str, thing: Callable[[], Thing], frames: int) -> MovingClip:
    """A clip whose speed stays between SLOWEST and FASTEST for so many frames, drawn again until it does. thing: draws an object from `rng`"""
    while True:
        drawn, speed, direction = thing(), rng.uniform(SLOWEST, FASTEST) / SIZE, rng.uniform(0, 2 * np.pi)
        velocity = float(speed * np.cos(direction)), float(speed * np.sin(direction))
        clip = MovingClip(seed, drawn, ground, velocity, float(rng.uniform(-FASTEST_SPIN, FASTEST_SPIN)))
        steps = SIZE * np.linalg.norm(np.diff([clip.centre(frame) for frame in range(frames)], axis=0), axis=1)
        if steps.min() >= SLOWEST and steps.max() <= FASTEST:
            return clip


def draw_edit(seed: int, changes: str) -> Edit:
    """An edit of the object's "colour" or of its "shape", of a clip drawn from the seed, with a ground from which both colours stand out."""
    rng = np.random.default_rng([seed, 1])  # the clip's own ground and noise come from the seed alone
    colours, shapes = map(str, rng.permutation(list(COLOURS))[:2]), map(str, rng.permutation(DRAWN_SHAPES)[:2])
    (source_colour, colour), (source_shape, shape) = colours, shapes
    colour, shape = (colour, source_shape) if changes == "colour" else (source_colour, shape)
    ground = str(rng.choice([name for name in GROUNDS if name not in TOO_CLOSE.get(source_colour, ()) + TOO_CLOSE.get(colour, ())]))

    def thing() -> Thing:  # stripes are the only pattern: demo.scenes shifts a mottled one when the object turns, which is no rigid motion
        radius, angle = rng.uniform(0.18, 0.24), rng.uniform(-0.15, 0.15)
        x, y = map(float, rng.uniform(REACH * radius + 0.08, 1 - REACH * radius - 0.08, 2))
        pattern = str(rng.choice(["plain", "striped"], p=[0.75, 0.25]))
        red, green, blue = map(float, rng.uniform(-9, 9, 3))
        return Thing(source_colour, source_shape, x, y, float(radius), float(angle), pattern, (red, green, blue))

    return Edit(draw_moving(seed, rng, ground, thing, FRAMES), colour, shape)


COLOUR_EDITS = tuple(draw_edit(910_000 + index, "colour") for index in range(24))
SHAPE_EDITS = tuple(draw_edit(910_100 + index, "shape") for index in range(24))
UNSEEN_COLOUR_EDITS = tuple(draw_edit(930_000 + index, "colour") for index in range(24))
UNSEEN_SHAPE_EDITS = tuple(draw_edit(930_100 + index, "shape") for index in range(24))
DEVELOPMENT_COLOUR_EDITS = tuple(draw_edit(920_000 + index, "colour") for index in range(8))
DEVELOPMENT_SHAPE_EDITS = tuple(draw_edit(920_100 + index, "shape") for index in range(8))
