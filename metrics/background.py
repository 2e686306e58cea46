"""How much of the background an edit kept: PSNR outside a mask, in the two conventions that the field uses."""

from __future__ import annotations

import cv2
import numpy as np

IDENTICAL = 100.0  # dB given to pictures without any difference, so that means and JSON stay finite


def dilate(masks: np.ndarray, pixels: int) -> np.ndarray:
    """Every pixel whose centre lies within `pixels` (Euclidean) of a mask pixel's centre.

    masks: [frames, height, width], bool or 0..1, of which everything above 0 counts, so an anti-aliased rim is inside.
    Returns bool of the same shape. Raises ValueError for a negative distance."""
    if pixels < 0:
        raise ValueError(f"dilate: pixels is {pixels}: give 0 or more.")
    grown = np.zeros(masks.shape, bool)
    for frame, mask in enumerate(masks):
        if mask.any():
            outside = (mask <= 0).astype(np.uint8)
            # the exact distance is off by less than 1e-3 at these radii, the chance of a wrong tie is what the margin removes
            grown[frame] = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels + 1e-3
    return grown


def psnr_outside(reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame over the background pixels alone: the true masked mean. [frames]

    reference, edited: [frames, height, width, 3], uint8 or float 0..1; masks: bool or 0..1 [frames, height, width], 1 at the object.
    A pixel weighs 1 - mask. Identical backgrounds give 100 dB. Raises ValueError for shapes that differ and for a frame without background."""
    squared, weight = _squared_error(reference, edited), _background(masks, reference)
    area = weight.sum((1, 2))
    if (area == 0).any():
        raise ValueError(
            f"psnr_outside: the mask of frame {int(np.argmin(area))} covers the whole frame, so there is no background to judge. Give a smaller mask."
        )
    return _decibels((squared.mean(3) * weight).sum((1, 2)) / area)


def psnr_outside_five(reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """PSNR in dB of each frame in FiVE-Bench's convention: both pictures are multiplied by 1 - mask, and the mean runs over the whole frame. [frames]

    The zeroed object counts as background without any error, so this exceeds `psnr_outside` by -10 log10(share of the background).
    It is here to be compared with published tables only. Arguments and errors as for `psnr_outside`, but a full mask gives 100 dB."""
    squared, weight = _squared_error(reference, edited), _background(masks, reference)
    return _decibels((squared * weight[..., None] ** 2).mean((1, 2, 3)))


def as_float(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float64) / (255 if pictures.dtype == np.uint8 else 1)


def _squared_error(reference: np.ndarray, edited: np.ndarray) -> np.ndarray:
    if reference.shape != edited.shape or reference.ndim != 4:
        raise ValueError(
            f"background PSNR: frames of shape {reference.shape} and {edited.shape}: give two clips [frames, height, width, 3] of one shape."
        )
    return (as_float(reference) - as_float(edited)) ** 2


def _background(masks: np.ndarray, frames: np.ndarray) -> np.ndarray:
    if masks.shape != frames.shape[:3]:
        raise ValueError(
            f"background PSNR: masks of shape {masks.shape} for frames of shape {frames.shape}: give one mask [height, width] for each frame."
        )
    return 1 - masks.astype(np.float64)


def _decibels(squared: np.ndarray) -> np.ndarray:
    return -10 * np.log10(np.maximum(squared, 10 ** (-IDENTICAL / 10)))
