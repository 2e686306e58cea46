"""What a model predicts, as inversion and blending see it: the one place where the mathematics of model families differs.

A latent at noise level sigma is x = signal(sigma) * clip + sigma * noise, as ComfyUI's solvers take it: signal 1 for models that predict noise or v (variance
exploding; z = x / sqrt(1 + sigma^2) is what DDPM calls the latent), 1 - sigma for flow matching. In both dx/dsigma = (x - denoised) / sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

PREDICTIONS = ("eps", "v", "flow")


@dataclass(frozen=True)
class Coordinates:
    """prediction: "eps", "v" or "flow". Raises ValueError for another."""

    prediction: str

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"its family is {self.prediction!r}, not 'eps', 'v' or 'flow'")

    @property
    def file_version(self) -> int:
        """Of trajectory files: those of flow models came later."""
        return 2 if self.prediction == "flow" else 1

    def signal(self, sigma):
        """How much of the clip is in a latent. sigma: a number, or a tensor of them; so for all that follow."""
        return 1 - sigma if self.prediction == "flow" else 1.0

    def share(self, sigma: float) -> float:
        """The signal's share of a latent's variance, 0..1: alpha_bar for models that predict noise or v."""
        return self.signal(sigma) ** 2 / (self.signal(sigma) ** 2 + sigma**2)

    def scale(self, sigma: float) -> float:
        """Standard deviation of a latent whose clip has variance 1."""
        return math.sqrt(self.signal(sigma) ** 2 + sigma**2)

    def gain(self, leaving: float, arriving: float) -> float:
        """Newton's step for inversion.ddim.solve_step where latents are Gaussian of variance 1: near 1 at low noise, near arriving / leaving at high."""
        signals = self.signal(arriving), self.signal(leaving)
        return (signals[0] ** 2 + arriving**2) / (signals[0] * signals[1] + leaving * arriving)

    def noise_of(self, latent: Tensor, clip: Tensor, sigma: Tensor) -> Tensor:
        """The noise in a latent. [frames, channels, h, w]"""
        return (latent - self.signal(sigma) * clip) / sigma

    def noised(self, clip: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The clip under noise. [frames, channels, h, w]"""
        return self.signal(sigma) * clip + sigma * noise

    def relabelled_slope(self, x: Tensor, leaving: Tensor, arriving: Tensor, denoise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The slope dx/dsigma and the denoised latent, [frames, channels, h, w], as plain DDIM inversion asks for them: with the latent of the level it
        leaves under the label of the level it arrives at, where `denoise` is asked."""
        if self.prediction == "flow":
            denoised = denoise(x)
            return (x - denoised) / arriving, denoised
        z = x / (1 + leaving**2) ** 0.5  # variance preserving, what the network sees
        relabelled = z * (1 + arriving**2) ** 0.5
        denoised = denoise(relabelled)
        if self.prediction == "eps":
            return (relabelled - denoised) / arriving, denoised
        v = (relabelled / (1 + arriving**2) - denoised) * (1 + arriving**2) ** 0.5 / arriving
        return (v + leaving * z) / (1 + leaving**2) ** 0.5, denoised


EPS, V, FLOW = map(Coordinates, PREDICTIONS)
