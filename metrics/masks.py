"""How well a mask fits the object."""

from __future__ import annotations

import cv2
import numpy as np

from .temporal import places


def iou(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Intersection over union of each frame. [frames]

    found, exact: [frames, height, width], bool or 0..1, where more than a half counts as inside. Two empty masks agree: 1.
    Raises ValueError for shapes that differ."""
    if found.shape != exact.shape or found.ndim != 3:
        raise ValueError(f"iou: masks of shape {found.shape} and {exact.shape}: give two of one shape [frames, height, width].")
    first, second = found > 0.5, exact > 0.5
    union = (first | second).sum((1, 2))
    return np.where(union == 0, 1.0, (first & second).sum((1, 2)) / np.maximum(union, 1))


def mask_flicker(found: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """1 - IoU of each frame's mask and the next one's, carried back along the exact motion. [frames - 1]

    found: [frames, height, width], bool or 0..1; a soft mask is carried as it is, and more than a half counts as inside then, as for `iou`.
    flow: [frames - 1, height, width, 2], the (dx, dy) in pixels from each pixel to its place in the next frame; pixels that leave the picture
    do not count. Raises ValueError for shapes that do not fit."""
    if found.ndim != 3 or flow.shape != (len(found) - 1, *found.shape[1:], 2):
        raise ValueError(
            f"mask_flicker: masks of shape {found.shape} and a flow of shape {flow.shape}: give one flow field between each two."
        )
    height, width = found.shape[1:]
    steps = []
    for now, then, field in zip(found, found[1:], flow, strict=False):
        x, y = places(field)
        stays = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        carried = cv2.remap(then.astype(np.float32), x, y, cv2.INTER_LINEAR)
        steps.append(1 - iou((now * stays)[None], (carried * stays)[None])[0])
    return np.array(steps)
