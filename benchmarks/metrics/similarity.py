"""How alike an edit's background is to the clip's in structure: SSIM outside a mask, in the two conventions that the field uses."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

from metrics.background import as_float

REACH = 5  # pixels from which a window's values come: a Gaussian of deviation 1.5 over 11x11 pixels


def ssim_outside(reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """SSIM of each frame over the background alone: the mean of its map where the mask is not. [frames]

    reference, edited: [frames, height, width, 3], uint8 or float 0..1; masks: bool or 0..1 [frames, height, width], 1 at the object.
    A pixel weighs 1 - mask. Its value comes from the pixels up to REACH away too, so a mask that is wider than the object by more than that
    keeps the object out. Wang et al., "Image Quality Assessment" (2004), section III.B, with its window and constants; colours are averaged.
    Raises ValueError for shapes that do not fit, for frames of less than 11 pixels a side and for a frame without background."""
    _check("ssim_outside", reference, edited, masks)
    weight = 1 - masks.astype(np.float64)
    area = weight.sum((1, 2))
    if (area == 0).any():
        raise ValueError(
            f"ssim_outside: the mask of frame {int(np.argmin(area))} covers the whole frame, so there is no background to judge. Give a smaller mask."
        )
    maps = np.stack([_ssim(one, other)[1] for one, other in zip(as_float(reference), as_float(edited), strict=True)])
    return (maps.mean(3) * weight).sum((1, 2)) / area


def ssim_outside_five(reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """SSIM of each frame in FiVE-Bench's convention: both pictures are multiplied by 1 - mask, and the mean runs over the whole frame. [frames]

    The zeroed object counts as background that is alike, so this is nearer to 1 the larger the mask is. It is here to be compared with published
    tables only. The rim of REACH pixels at the frame's border, whose windows are not whole, does not count, as in torchmetrics, which
    FiVE-Bench takes. Arguments and errors as for `ssim_outside`, but a full mask gives 1."""
    _check("ssim_outside_five", reference, edited, masks)
    weight = (1 - masks.astype(np.float64))[..., None]
    pairs = zip(as_float(reference) * weight, as_float(edited) * weight, strict=True)
    return np.array([_ssim(one, other)[0] for one, other in pairs])


def _ssim(one: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean without the border's rim, and the map. Pictures [height, width, 3], float 0..1"""
    return structural_similarity(
        one, other, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2, full=True
    )


def _check(name: str, reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> None:
    if reference.shape != edited.shape or reference.ndim != 4 or masks.shape != reference.shape[:3]:
        raise ValueError(
            f"{name}: frames of shape {reference.shape} and {edited.shape} and masks of shape {masks.shape}: give two clips "
            "[frames, height, width, 3] of one shape and one mask for each frame."
        )
    if min(reference.shape[1:3]) < 2 * REACH + 1:
        raise ValueError(f"{name}: frames of {reference.shape[2]}x{reference.shape[1]} pixels: give both sides at least {2 * REACH + 1}.")
