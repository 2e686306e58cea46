"""From maps of words to a mask of the object."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .record import CrossAttentionRecord


def noise_weight(sigma: float) -> float:
    """How much a level's maps count: signal times noise, s^2 / (1 + s^2)^2, highest where both are equally strong.

    Paper: masks are "noise-aware"; the weighting is ours, after FreeMask's finding that maps at high noise are poor."""
    return sigma**2 / (1 + sigma**2) ** 2


class HeatMap:
    """A running, noise-weighted mean of some words' maps at pixel size. [frames, height, width], unnormalised."""

    def __init__(self, height: int, width: int):
        self.size, self.weight = (height, width), 0.0
        self.total: Tensor | None = None

    def add(self, record: CrossAttentionRecord, level: int, columns: tuple[int, ...]) -> None:
        """Adds one recorded level; resolutions count equally."""
        if not columns:
            return
        picked = record.pick(level, columns)
        mean = torch.stack([resize(maps, self.size) for maps in picked.values()]).mean(0)
        weight = noise_weight(record.sigmas[level])
        self.total = mean * weight if self.total is None else self.total + mean * weight
        self.weight += weight

    def normalised(self) -> Tensor:
        """Scaled to 0..1 over the whole clip, so that a frame without the object stays dark."""
        if self.total is None:
            raise ValueError("no cross-attention maps have been recorded for these words.")
        low, high = self.total.amin(), self.total.amax()
        return (self.total - low) / (high - low).clamp(min=1e-12)


def record_heat(record: CrossAttentionRecord, columns: tuple[int, ...], height: int, width: int) -> Tensor:
    """Heat of some words over a whole record, 0..1. [frames, height, width]"""
    heat = HeatMap(height, width)
    for level in range(len(record.levels)):
        heat.add(record, level, columns)
    return heat.normalised()


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[frames, h, w] to [frames, *size], bicubic as DAAM does, never below zero."""
    return F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0].clamp(min=0)


def half_height(heat: Tensor) -> float:
    """The threshold of a clip, from its own histogram. heat: values in 0..1.

    Otsu's method separates object from background; the threshold is half way between the background's median and the object's
    plateau (its upper decile), since that is where the outline of something blurred lies. Otsu's own value, half way between the
    means, lies lower and gives masks too wide. Paper: by thresholding; the rule is ours."""
    values = (heat.flatten()[None].numpy() * 255).astype(np.uint8)
    split, inside = cv2.threshold(values, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if not inside.any():
        return float(split) / 255
    return float(np.median(values[inside == 0]) + np.quantile(values[inside == 1], 0.9)) / 2 / 255


def threshold_mask(heat: Tensor, threshold: float = 0.0, grow: int = 0) -> Tensor:
    """Where heat exceeds the threshold (0: the clip's own, at half height), grown by so many pixels. [frames, height, width] of 0 and 1."""
    mask = (heat > (threshold or half_height(heat))).float()
    return grow_mask(mask, grow)


def grow_mask(mask: Tensor, pixels: int) -> Tensor:
    """Dilates [frames, height, width] by a disc of that radius; negative pixels erode."""
    if pixels == 0:
        return mask
    radius = abs(pixels)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if pixels > 0 else cv2.erode
    return torch.from_numpy(np.stack([operation(frame, disc) for frame in mask.numpy()]))


def to_latent_mask(mask: Tensor, height: int, width: int, covered: float = 0.2) -> Tensor:
    """A pixel mask [frames, H, W] on the latent grid [frames, 1, height, width]: a cell is edited where at least `covered` of it
    is inside. A low share keeps the outermost, partly covered cells in the edit, as blended-latent-diffusion's dilation does."""
    share = F.interpolate(mask[:, None].float(), (height, width), mode="area")
    return (share >= covered).float()


def paint_heat(heat: Tensor, mask: Tensor) -> Tensor:
    """Heat as a colour map with the mask's outline in white. Both [frames, height, width]; returns RGB [frames, height, width, 3] in 0..1."""
    pictures = []
    for warmth, inside in zip(heat.numpy(), mask.numpy(), strict=True):
        picture = cv2.cvtColor(cv2.applyColorMap((warmth * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        outline, _ = cv2.findContours((inside > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        pictures.append(cv2.drawContours(picture, outline, -1, (255, 255, 255), 1))
    return torch.from_numpy(np.stack(pictures)).float() / 255
