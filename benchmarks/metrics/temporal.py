"""How steady an edited object is over time, judged along a motion that is known exactly: surface, colour and outline."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from demo.check import iou
from metrics.temporal import RIM, mean_colour, places, solid_part, step_error, step_flicker


def warp_error(frames: np.ndarray, flow: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean squared RGB difference between the object in a frame and the same points of it in the next one. [frames - 1]

    frames: [frames, height, width, 3], uint8 or float 0..1; flow: [frames - 1, height, width, 2], the (dx, dy) in pixels from
    each pixel of a frame to its place in the next; masks: the object, bool or 0..1 [frames, height, width], inside above a half.
    In squared units of 0..1. The mean runs over the object's pixels whose next place lies in the picture, and over the channels.
    Masks must reach the object's rim: the rim is where a plain object that does not follow the motion differs.

    `step_error` of every step, along an exact flow; a rigid object that nothing covers needs no occlusion masks.

    Raises ValueError for shapes that do not fit, for fewer than two frames, and for a frame without an object to judge."""
    _check("warp_error", frames, 4, masks, flow)
    errors = []
    for index, (now, then, field, mask) in enumerate(zip(frames, frames[1:], flow, masks, strict=False)):
        error = step_error(now, then, field, mask)
        if error is None:
            raise ValueError(f"warp_error: the mask of frame {index} has no pixel that stays in the picture: leave the frame out.")
        errors.append(error)
    return np.array(errors)


def colour_flicker(frames: np.ndarray, masks: np.ndarray) -> float:
    """Variance of the object's mean colour from frame to frame: half the mean square of its change, over all steps and channels.

    With c[t, k] the mean of channel k over the object's pixels farther than RIM pixels from its outside, it is the mean of
    (c[t + 1, k] - c[t, k])**2 / 2, the Allan variance at one frame: colours that scatter independently with variance v give v on
    average, and a slow drift gives almost nothing. In squared units of 0..1.

    frames: [frames, height, width, 3], uint8 or float 0..1; masks: bool or 0..1 [frames, height, width], inside above a half.
    Raises ValueError for shapes that do not fit, for fewer than two frames, and for an object of which nothing is left without its rim."""
    _check("colour_flicker", frames, 4, masks)
    colours = []
    for index, (frame, solid) in enumerate(zip(frames, solid_part(masks), strict=True)):
        colour = mean_colour(frame, solid)
        if colour is None:
            raise ValueError(
                f"colour_flicker: nothing of the object in frame {index} lies more than {RIM} pixels inside its rim: "
                "give the masks of a larger object."
            )
        colours.append(colour)
    return float(np.mean([step_flicker(now, then) for now, then in itertools.pairwise(colours)]))


def outline_flicker(found: np.ndarray, flow: np.ndarray) -> float:
    """How much the outline found in a frame departs from the next frame's along the exact motion: mean of 1 - IoU over all steps.

    The next mask is sampled where the flow takes each pixel, bilinearly, so both lie on the earlier frame's grid; the IoU of the two
    soft masks is the sum of the lesser over the sum of the greater values. A step to or from a frame in which nothing was found counts 1.

    found: bool or 0..1 [frames, height, width]; flow: as for `warp_error`. Raises ValueError for shapes that do not fit and for fewer
    than two frames."""
    _check("outline_flicker", found, 3, found, flow)
    soft = found.astype(np.float32)
    steps = []
    for now, then, field in zip(soft, soft[1:], flow, strict=False):
        carried = cv2.remap(then, *places(field), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        union = np.maximum(now, carried).sum()
        seen = now.any() and then.any()
        steps.append(1 - np.minimum(now, carried).sum() / union if seen else 1.0)
    return float(np.mean(steps))


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


def _check(name: str, frames: np.ndarray, dimensions: int, masks: np.ndarray, flow: np.ndarray | None = None) -> None:
    if frames.ndim != dimensions or masks.shape != frames.shape[:3]:
        raise ValueError(
            f"{name}: frames of shape {frames.shape} and masks of shape {masks.shape}: give [frames, height, width, 3] and one mask for each."
        )
    if len(frames) < 2:
        raise ValueError(f"{name}: {len(frames)} frame has no next one to compare with: give two frames or more.")
    steps = (len(frames) - 1, *masks.shape[1:], 2)
    if flow is not None and flow.shape != steps:
        raise ValueError(f"{name}: a flow of shape {flow.shape} for {len(frames)} frames: give {list(steps)}.")
