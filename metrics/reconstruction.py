"""How well a trajectory leads back to its clip."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .chart import draw_psnr, drawn, new_figure

IDENTICAL = 140.0  # dB


def latent_psnr(clip: Tensor, other: Tensor) -> Tensor:
    """PSNR of latents in dB, the peak being the range (largest less smallest value) of each frame of the clip. [frames]

    clip, other: [frames, channels, h, w] fp32. Equal ones give 140 dB, about where fp32 ends."""
    peak = clip.amax((1, 2, 3)) - clip.amin((1, 2, 3))
    share = (clip - other).square().mean((1, 2, 3)) / peak.square().clamp(min=1e-30)
    return -10 * torch.log10(share.clamp(min=10 ** (-IDENTICAL / 10)))


def drift(level: Tensor, other: Tensor, sigma: float) -> float:
    """Distance of two latents of one noise level, as a share of sqrt(1 + sigma^2), which is about a latent's deviation there."""
    return float((level - other).square().mean().sqrt()) / (1 + sigma**2) ** 0.5


def plot(series: dict[str, np.ndarray], sigmas: np.ndarray, drifts: np.ndarray, title: str) -> np.ndarray:
    """PSNR of each frame on the left, drift at each noise level on the right, walked from noise to clip. uint8 RGB [height, width, 3]

    series: label -> dB, [frames]. sigmas, drifts: [levels], falling."""
    figure = new_figure(1000, 400)
    frames, levels = figure.subplots(1, 2)
    draw_psnr(frames, {f"{label}: {values.mean():.1f} dB": values for label, values in series.items()})
    frames.set(title="sampled back, against the clip")
    frames.legend()
    levels.plot(np.arange(1, len(sigmas)), np.maximum(drifts[1:], 1e-7), marker=".")  # the first level is where it starts
    places = np.unique(np.linspace(1, len(sigmas) - 1, 6).round().astype(int))
    levels.set_xticks(places, [f"{sigmas[place]:.2g}" for place in places])
    levels.set(xlabel="sigma, from noise to clip", ylabel="share of the latent's size", yscale="log", title="distance from the trajectory")
    levels.grid(alpha=0.3)
    figure.suptitle(title)
    return drawn(figure)
