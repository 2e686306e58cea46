"""How steady an edited object is from one frame to the next: its surface along a motion, and its colour."""

from __future__ import annotations

import cv2
import numpy as np

from .background import dilate

RIM = 3  # pixels at the object's edge that are no part of its colour


def step_error(now: np.ndarray, then: np.ndarray, field: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean squared RGB difference, in squared units of 0..1, between the object in a frame and the same points of it in the next one; None where
    no pixel of the mask stays in the picture.

    now, then: [height, width, 3], uint8 or float 0..1; field: [height, width, 2], the (dx, dy) in pixels from each pixel to its place in the next
    frame; mask: the object, bool or 0..1 [height, width], inside above a half. The mean runs over its pixels whose next place lies in the picture.

    E_warp of Lai et al., "Learning Blind Video Temporal Consistency" (ECCV 2018), equation 13, without its occlusion masks. The next frame is
    sampled by Lanczos weights over 8x8 pixels: shorter ones smooth what they sample between pixels, so that noise and soft edges would count
    less or more with the fraction of the motion (on a perfect clip without noise bilinear errs by half as much again at the rim)."""
    height, width = mask.shape
    x, y = places(field)
    inside = (mask > 0.5) & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if not inside.any():
        return None
    carried = cv2.remap(_as_float(then), x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return float(np.square(carried - _as_float(now))[inside].mean(dtype=np.float64))


def solid_part(masks: np.ndarray) -> np.ndarray:
    """The object without its rim: what lies more than RIM pixels from its outside. bool, of the masks' shape [frames, height, width]"""
    return ~dilate(masks <= 0.5, RIM)


def mean_colour(frame: np.ndarray, solid: np.ndarray) -> np.ndarray | None:
    """Mean of an object's colours, [3] in 0..1; None where nothing of it is left. solid: bool [height, width]"""
    return _as_float(frame)[solid].mean(0, dtype=np.float64) if solid.any() else None


def step_flicker(now: np.ndarray, then: np.ndarray) -> float:
    """Half the mean square of the change from one mean colour to the next, [3] each: one term of the Allan variance."""
    return float(np.square(then - now).mean() / 2)


def _as_float(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32) / (255 if frame.dtype == np.uint8 else 1)


def places(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a flow field takes each pixel: its columns and its rows, as cv2.remap wants them. float32 [height, width] each"""
    rows, columns = np.indices(field.shape[:2])
    return (field[..., 0] + columns).astype(np.float32), (field[..., 1] + rows).astype(np.float32)
