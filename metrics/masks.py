"""How well a mask fits the object."""

from __future__ import annotations

import numpy as np


def iou(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Intersection over union of each frame. [frames]

    found, exact: [frames, height, width], bool or 0..1, where more than a half counts as inside. Two empty masks agree: 1.
    Raises ValueError for shapes that differ."""
    if found.shape != exact.shape or found.ndim != 3:
        raise ValueError(f"iou: masks of shape {found.shape} and {exact.shape}: give two of one shape [frames, height, width].")
    first, second = found > 0.5, exact > 0.5
    union = (first | second).sum((1, 2))
    return np.where(union == 0, 1.0, (first & second).sum((1, 2)) / np.maximum(union, 1))
