"""Clips of the demo's world that tests draw for themselves."""

import numpy as np

from demo.scenes import Thing, draw_mask, render


def render_clip(
    seed: int, things: list[Thing], ground: str, frames: int, velocity: tuple[float, float], spin: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The first thing moves by `velocity` (heights a frame) and turns by `spin` (radians a frame), the rest stand still.

    Returns frames [frames, SIZE, SIZE, 3] uint8 and the moving object's mask [frames, SIZE, SIZE] in 0..1."""
    moving = [things[0].moved(frame, velocity, spin) for frame in range(frames)]
    return render(seed, ground, [[*things[1:], thing] for thing in moving]), np.stack([draw_mask(thing) for thing in moving])
