"""From heat to a mask: thresholds, shape, an artist's matte."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HALF_HEIGHT, OTSU, HYSTERESIS, FIXED = THRESHOLDS = ("half height", "otsu", "hysteresis", "fixed")
LIMIT, ADD, SUBTRACT = MATTES = ("limit", "add", "subtract")


def find_thresholds(counts: np.ndarray, rule: str, fixed: float = 0.0) -> tuple[float, float]:
    """The heat above which a pixel may be inside, and the heat that something inside must reach, by one of THRESHOLDS: two values for
    hysteresis, Otsu's and half height, else twice the same. counts: the clip's histogram, [256], as heat.histogram counts.

    Paper: by thresholding. Otsu 1979; half height is ours; hysteresis: as Canny's edges; fixed: FateZero and prompt-to-prompt, 0.3."""
    low = fixed if rule == FIXED else half_height(counts) if rule == HALF_HEIGHT else otsu(counts) / 255
    return low, (max(low, half_height(counts)) if rule == HYSTERESIS else low)


def otsu(counts: np.ndarray) -> int:
    """The last step of heat that is background, by Otsu's method. counts: [256]."""
    step = np.arange(256)
    below, mass = np.cumsum(counts) / counts.sum(), np.cumsum(counts * step) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mass[-1] * below - mass) ** 2 / (below * (1 - below)))  # variance between the classes
    return int(between.argmax())


def half_height(counts: np.ndarray) -> float:
    """The threshold of a clip, from its own histogram ([256]; histograms of frames add up to the clip's).

    Otsu's method separates object from background; the threshold is half way between the background's median and the object's
    plateau (its upper decile), since that is where the outline of something blurred lies. Otsu's own value, half way between the
    means, lies lower and gives masks too wide. Paper: by thresholding; the rule is ours."""
    if not counts[1:].any():
        return 0.0
    step, split = np.arange(256), otsu(counts)
    return (quantile(counts * (step <= split), 0.5) + quantile(counts * (step > split), 0.9)) / 2 / 255


def quantile(counts: np.ndarray, share: float) -> float:
    """The quantile of whole numbers of which counts[n] are n, linear between neighbours as numpy's."""
    position = (counts.sum() - 1) * share
    low, high = np.searchsorted(np.cumsum(counts), [np.floor(position), np.ceil(position)], side="right")
    return float(low + (high - low) * (position % 1))


def inside(heat: Tensor, low: float, high: float = 0.0) -> Tensor:
    """Where heat exceeds `low`, in connected components that somewhere exceed `high`. [frames, height, width] to the same, 0 and 1."""
    if high <= low:
        return (heat > low).float()
    kept = []
    for frame in heat.numpy():
        _, labels = cv2.connectedComponents((frame > low).astype(np.uint8), connectivity=8)
        kept.append(np.isin(labels, labels[frame > high]))
    return torch.from_numpy(np.stack(kept)).float()


def keep_largest(mask: Tensor, count: int) -> Tensor:
    """The `count` largest connected components of each frame; 0 keeps all. [frames, height, width]"""
    if not count:
        return mask
    kept = []
    for frame in mask.numpy():
        _, labels, stats, _ = cv2.connectedComponentsWithStats((frame > 0.5).astype(np.uint8), connectivity=8)
        largest = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1][:count]
        soft = cv2.dilate(np.isin(labels, largest).astype(np.uint8), np.ones((3, 3), np.uint8))  # an anti-aliased rim stays
        kept.append(frame * soft)
    return torch.from_numpy(np.stack(kept))


def fill_holes(mask: Tensor) -> Tensor:
    """Fills what is enclosed by the mask and does not touch the border. [frames, height, width]"""
    filled = []
    for frame in mask.numpy():
        outside = np.pad((frame <= 0.5).astype(np.uint8), 1, constant_values=1)
        _, labels = cv2.connectedComponents(outside, connectivity=4)
        enclosed = (outside > 0) & (labels != labels[0, 0])
        filled.append(np.maximum(frame, enclosed[1:-1, 1:-1]))
    return torch.from_numpy(np.stack(filled).astype(np.float32))


def grow_mask(mask: Tensor, pixels: int) -> Tensor:
    """Dilates [frames, height, width] by a disc of that radius; negative pixels erode."""
    if pixels == 0:
        return mask
    radius = abs(pixels)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if pixels > 0 else cv2.erode
    return torch.from_numpy(np.stack([operation(frame, disc) for frame in mask.numpy()]))


def blur_mask(mask: Tensor, sigma: float) -> Tensor:
    """Softens the outline by a Gaussian blur; sigma in pixels. [frames, height, width] in 0..1"""
    if sigma == 0:
        return mask
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for frame in mask.numpy()]
    return torch.from_numpy(np.stack(blurred)).clamp_(0, 1)  # the Gaussian's weights sum to 1 only to rounding


def fade_out(mask: Tensor, pixels: float) -> Tensor:
    """Lets a mask fade outwards, so that thin objects stay whole. [frames, height, width] in 0..1

    As it was wherever it is 1; exactly 0 wherever it is 0 and all of it above 0.5 is at least so many pixels away."""
    if not pixels:
        return mask
    faded = []
    for frame in mask.numpy():
        outside = (frame <= 0.5).astype(np.uint8)
        if not outside.all():
            near = np.clip(1 - cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / max(pixels, 1e-3), 0, 1)
            frame = np.maximum(frame, near * near * (3 - 2 * near))
        faded.append(frame.astype(np.float32))
    return torch.from_numpy(np.stack(faded))


def with_matte(mask: Tensor, matte: Tensor, mode: str) -> Tensor:
    """An artist's rough mask, laid over another by one of MATTES. Both [frames, height, width] in 0..1."""
    return mask * matte if mode == LIMIT else torch.maximum(mask, matte) if mode == ADD else mask * (1 - matte)


def to_latent_mask(mask: Tensor, height: int, width: int, covered: float = 0.2) -> Tensor:
    """A pixel mask [frames, H, W] on the latent grid [frames, 1, height, width]: a cell is edited where at least `covered` of it
    is inside. A low share keeps the outermost, partly covered cells in the edit, as blended-latent-diffusion's dilation does."""
    share = F.interpolate(mask[:, None].float(), (height, width), mode="area")
    return (share >= covered).float()
