"""DDIM inversion: the deterministic sampler walked upward, from the clip to noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .coordinates import EPS, Coordinates


@torch.no_grad()
def invert_ddim(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    coordinates: Coordinates = EPS,
    keep: Callable[[int, Tensor], None],
    refine: int | None = None,
    tolerance: float = 0.0,
    residuals: list[float] | None = None,
) -> Tensor:
    """DDIM inversion (Song et al. 2020, section 4.3; as diffusers' DDIMInverseScheduler computes it), refined where wanted.

    Each step asks the network for eps with the latent of the level it leaves and the label of the level it arrives at,
    and takes one Euler step of dx/dsigma = eps. x: [frames, channels, h, w], clean, model space. sigmas: falling, as samplers
    take them; they are walked from the last (0) to the first. coordinates: what the model predicts. keep(level, x) receives the latent of every level, level 0 being x itself.

    refine: None is that. With a number, from the second step on the first call is made at the latent that the step before predicts
    instead of at the leaving one, which costs nothing (an explicit predictor; paper silent, ours), and so many further calls a step, at
    most, solve the step as the sampler will walk it back (solve_step). These stop at the relative residual `tolerance`. residuals
    receives each step's last residual.
    Raises ValueError where the model gives values that are not finite."""
    extra_args = extra_args or {}
    rising = sigmas.flip(0)
    ones = x.new_ones(len(x))
    slope = None
    keep(0, x)
    for i in range(len(rising) - 1):
        leaving, arriving = rising[i], rising[i + 1]

        def denoise(y: Tensor, arriving: Tensor = arriving) -> Tensor:
            return model(y, arriving * ones, **extra_args)

        if slope is None:
            first, denoised = coordinates.relabelled_slope(x, leaving, arriving, denoise)
            guess, calls = x + (arriving - leaving) * first, refine or 0
        else:
            guess, calls = x + (arriving - leaving) * slope, (refine or 0) + 1
        if calls:
            guess, denoised, residual = solve_step(denoise, x, guess, float(leaving), float(arriving), calls, tolerance, coordinates)
            if residuals is not None:
                residuals.append(residual)
        if refine is not None:
            slope = (guess - x) / (arriving - leaving)
        x = guess
        check_finite(x, float(arriving), i + 1, len(rising) - 1)
        keep(i + 1, x)
        if callback is not None:
            callback({"i": i, "x": x, "sigma": arriving, "denoised": denoised})
    return x


def check_finite(found: Tensor, sigma: float, step: int, steps: int) -> None:
    """Raises ValueError where a model gave no numbers at a level. step: counted from 1."""
    if not torch.isfinite(found).all():
        raise ValueError(
            f"the model gives values that are not finite (NaN or infinity) at sigma {sigma:.4f}, step {step} of {steps}. "
            "Start ComfyUI with --force-fp32 or --force-upcast-attention, or take another checkpoint."
        )


def solve_step(
    denoise: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    leaving: float,
    arriving: float,
    calls: int,
    tolerance: float,
    coordinates: Coordinates = EPS,
) -> tuple[Tensor, Tensor, float]:
    """Solves r y + (1 - r) D(y) = x for y, r = leaving / arriving: the y from which one Euler step of the sampler returns to x.

    x: the latent of the leaving level, y: the first guess at the arriving one, [frames, channels, h, w]; D: denoise at the arriving level.
    Returns y, the last D, and the largest frame's residual, |r y + (1 - r) D(y) - x| relative to a latent's size at the leaving level, of the y before.

    Fixed-point refinement after AIDI (Pan et al. 2023), y <- y - gain (r y + (1 - r) D - x). Gain 1 is its form in eps, which contracts by
    about 1 - r, hopelessly slowly at a zero-terminal-SNR's last step; 1 / r is the form in D, which fails at low noise. The gain
    here is Newton's where latents are Gaussian of variance 1 (Coordinates.gain).
    On top, Anderson acceleration of depth one, for each frame (Walker and Ni 2011)."""
    r = leaving / arriving
    gain, scale = coordinates.gain(leaving, arriving), coordinates.scale(leaving)
    before: tuple[Tensor, Tensor] | None = None
    least = x.new_full((len(x), 1, 1, 1), math.inf)
    best = denoised = y
    for _ in range(calls):
        denoised = denoise(y)
        step = gain * (r * y + (1 - r) * denoised - x)
        residual = step.square().mean((1, 2, 3), keepdim=True).sqrt() / (gain * scale)
        following = y - step
        if before is not None:
            moved, changed = y - before[0], step - before[1]
            share = (step * changed).sum((1, 2, 3), keepdim=True) / changed.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-30)
            following = following - share.clamp(-2, 2) * (moved - changed)
        best = torch.where(residual <= least, following, best)  # a frame that got worse keeps what came of its best
        least = torch.minimum(least, residual)
        if float(residual.max()) <= tolerance:
            break
        before, y = (y, step), following
    return best, denoised, float(least.max())
