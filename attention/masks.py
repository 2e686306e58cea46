"""From maps of words to a mask of the object."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .record import CrossAttentionRecord, Maps


def noise_weight(sigma: float) -> float:
    """How much a level's maps count: signal times noise, s^2 / (1 + s^2)^2, highest where both are equally strong.

    Paper: masks are "noise-aware"; the weighting is ours, after FreeMask's finding that maps at high noise are poor."""
    return sigma**2 / (1 + sigma**2) ** 2


SPAN = 32  # frames whose heat is looked at together at pixel size: a whole long clip's would not fit


class HeatMap:
    """A running, noise-weighted mean of some words' maps. Kept at the maps' own sizes; pixels are made for the frames that are asked for."""

    def __init__(self, height: int, width: int):
        self.size, self.weight = (height, width), 0.0
        self.totals: Maps = {}

    def add(self, sigma: float, maps: Maps) -> None:
        """Adds one noise level's maps, per resolution [frames, h, w]; resolutions count equally."""
        weight = noise_weight(sigma)
        for size, picked in maps.items():
            self.totals[size] = self.totals[size] + weight * picked if size in self.totals else weight * picked
        self.weight += weight

    def __len__(self) -> int:
        return len(next(iter(self.totals.values()), ()))

    def at(self, frames: slice) -> Tensor:
        """Unnormalised heat of some frames. [frames, height, width]"""
        return torch.stack([resize(total[frames], self.size) for total in self.totals.values()]).mean(0)

    def scale(self) -> tuple[float, float]:
        """The least and the greatest heat of the clip."""
        if not self.totals:
            raise ValueError("no cross-attention maps have been recorded for these words.")
        extremes = [torch.aminmax(self.at(span)) for span in spans(len(self))]
        return min(float(low) for low, _ in extremes), max(float(high) for _, high in extremes)

    def normalised(self, frames: slice, scale: tuple[float, float]) -> Tensor:
        """Heat of some frames on a scale from 0 to 1 that is the whole clip's, so that a frame without the object stays dark."""
        low, high = scale
        return (self.at(frames) - low) / max(high - low, 1e-12)


def spans(frames: int) -> list[slice]:
    return [slice(start, min(start + SPAN, frames)) for start in range(0, frames, SPAN)]


def record_heat(record: CrossAttentionRecord, columns: tuple[int, ...], height: int, width: int) -> HeatMap:
    """Heat of some words over a whole record."""
    heat = HeatMap(height, width)
    for level, sigma in enumerate(record.sigmas):
        if columns:
            heat.add(sigma, record.pick(level, columns))
    return heat


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[frames, h, w] to [frames, *size], bicubic as DAAM does, never below zero."""
    return F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0].clamp(min=0)


def histogram(heat: Tensor) -> np.ndarray:
    """How often each of 256 steps of heat occurs. heat: values in 0..1, of any shape; returns [256]."""
    return np.bincount((heat.flatten() * 255).byte().numpy(), minlength=256)


def half_height(counts: np.ndarray) -> float:
    """The threshold of a clip, from its own histogram ([256], as `histogram` counts; histograms of frames add up to the clip's).

    Otsu's method separates object from background; the threshold is half way between the background's median and the object's
    plateau (its upper decile), since that is where the outline of something blurred lies. Otsu's own value, half way between the
    means, lies lower and gives masks too wide. Paper: by thresholding; the rule is ours."""
    step = np.arange(256)
    below, mass = np.cumsum(counts) / counts.sum(), np.cumsum(counts * step) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mass[-1] * below - mass) ** 2 / (below * (1 - below)), posinf=0)  # Otsu: variance between the classes
    split = int(between.argmax())
    if not counts[split + 1 :].any():
        return split / 255
    return (quantile(counts * (step <= split), 0.5) + quantile(counts * (step > split), 0.9)) / 2 / 255


def quantile(counts: np.ndarray, share: float) -> float:
    """The quantile of whole numbers of which counts[n] are n, linear between neighbours as numpy's."""
    place = (counts.sum() - 1) * share
    low, high = np.searchsorted(np.cumsum(counts), [np.floor(place), np.ceil(place)], side="right")
    return float(low + (high - low) * (place % 1))


def threshold_mask(heat: Tensor, threshold: float, grow: int = 0) -> Tensor:
    """Where heat exceeds the threshold, grown by so many pixels. [frames, height, width] of 0 and 1."""
    return grow_mask((heat > threshold).float(), grow)


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
