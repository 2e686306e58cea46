"""DDIM inversion: the deterministic sampler walked upward, from the clip to noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def invert_ddim(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    family: str = "eps",
    keep: Callable[[int, Tensor], None],
) -> Tensor:
    """DDIM inversion (Song et al. 2020, section 4.3; as diffusers' DDIMInverseScheduler computes it).

    Each step asks the network for eps with the latent of the level it leaves and the label of the level it arrives at,
    and takes one Euler step of dx/dsigma = eps. x: [frames, channels, h, w], clean, model space. sigmas: falling, as samplers
    take them; they are walked from the last (0) to the first. family: "eps" or "v"; for "v", eps is formed with
    the alpha of the leaving level. keep(level, x) receives the latent of every level, level 0 being x itself.
    """
    extra_args = extra_args or {}
    rising = sigmas.flip(0)
    ones = x.new_ones(len(x))
    keep(0, x)
    for i in range(len(rising) - 1):
        leaving, arriving = rising[i], rising[i + 1]
        z = x / (1 + leaving**2) ** 0.5  # variance preserving, what the network sees
        relabelled = z * (1 + arriving**2) ** 0.5
        denoised = model(relabelled, arriving * ones, **extra_args)
        if family == "v":
            v = (relabelled / (1 + arriving**2) - denoised) * (1 + arriving**2) ** 0.5 / arriving
            eps = (v + leaving * z) / (1 + leaving**2) ** 0.5
        else:
            eps = (relabelled - denoised) / arriving
        x = x + (arriving - leaving) * eps
        keep(i + 1, x)
        if callback is not None:
            callback({"i": i, "x": x, "sigma": arriving, "denoised": denoised})
    return x
