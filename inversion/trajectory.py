"""The path of a clip's latents from clean to noise, the background of every later edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """A clip's latents at each noise level of its inversion, in model space and ComfyUI's coordinates x = z0 + sigma * eps.

    sigmas: [levels] rising from 0. latents: [levels, frames, channels, height/8, width/8] fp32 on the CPU or in a mapped file
    (inversion.storage); latents[0] is the clip itself. record: what a recorder kept on the way, of which only its size is read here
    (None: nothing was recorded). family: what the model predicts, "eps" or "v".
    """

    sigmas: Tensor
    latents: Tensor
    record: Any = None
    family: str = "eps"

    @property
    def frames(self) -> int:
        return self.latents.shape[1]

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of latents and record, in memory or in files."""
        return self.latents.nbytes + (self.record.nbytes if self.record else 0)

    def at(self, sigma: float | Tensor) -> Tensor:
        """The latent at exactly this sigma: stored where the level is stored, else linear in sigma between its neighbours.

        Returns [frames, channels, h, w] on the CPU. Raises ValueError above the highest level that the inversion reached.
        Paper silent on levels between; linear interpolation is ours."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device="cpu")
        above = int(torch.searchsorted(self.sigmas, sigma * (1 - 1e-6)))
        if above == len(self.sigmas):
            raise ValueError(f"sigma {float(sigma):.4f} lies above the trajectory's highest level, {float(self.sigmas[-1]):.4f}.")
        if above == 0 or torch.isclose(self.sigmas[above], sigma, rtol=1e-6, atol=0):
            return self.latents[above]
        low, high = self.sigmas[above - 1], self.sigmas[above]
        return torch.lerp(self.latents[above - 1], self.latents[above], float((sigma - low) / (high - low)))
