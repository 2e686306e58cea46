"""Blending as a wrapper around the model, so that any solver that keeps state of its own rides along unaware."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..inversion.coordinates import EPS, Coordinates
from ..inversion.ddim import check_finite

SOLVERS = {
    "euler": 1,
    "heun": 2,
    "dpm_2": 2,
    "lms": 1,
    "dpmpp_2m": 1,
    "ipndm": 1,
    "ipndm_v": 1,
    "deis": 1,
    "res_multistep": 1,
    "gradient_estimation": 1,
    "uni_pc": 1,
    "uni_pc_bh2": 1,
}
"""Deterministic solvers, with about how often they ask the model in a step: for the time that is left, nothing else depends on it."""
SAME = 1e-4  # relative: solvers that count in log-SNR give a level back by so much otherwise
FEW_STEP = ("lcm", "lightning", "hyper", "turbo", "tcd")


def check_solver(name: str) -> None:
    """Raises ValueError for a solver that cannot ride a deterministic trajectory, with those that can."""
    if name in SOLVERS:
        return
    listed = ", ".join(SOLVERS)
    if any(kind in str(name).lower() for kind in FEW_STEP):
        raise ValueError(
            f"sampler_name is {name!r}. Few-step sampling (LCM, Lightning, Hyper, Turbo) throws new noise in at every step, or jumps so far that the "
            "clip's path from noise cannot be followed. Take the checkpoint without such a LoRA, 20 steps or more, "
            f"and one of: {listed}."
        )
    raise ValueError(
        f"sampler_name is {name!r}, which adds noise of its own or has not been tested on a trajectory. Choose one of: {listed}."
    )


class BlendedModel:
    """A denoiser that equals the wrapped one inside the mask and carries the solver along the background's path outside.

    model(x, sigma * ones, **extra_args) -> denoised, [frames, channels, h, w]. background(sigma) is the trajectory's latent at
    exactly that sigma, on x's device. mask(step) gives the mask of one step, [frames or 1, 1, h, w] in 0..1, asked once
    per step, in order, and frozen for the solver's further calls in it. A call belongs to the step that leaves from its sigma or passes it, whatever
    the solver. agree(denoised, sigma) changes what the model has drawn before it is
    blended (blending.consensus).

    Paper: the latents blended in are those of the inversion. The wrapper form is ours: it puts foreground and background on
    the same level by construction (FateZero's and blended-latent-diffusion's loops are one level apart).
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        sigmas: Tensor,
        background: Callable[[Tensor], Tensor],
        mask: Callable[[int], Tensor],
        agree: Callable[[Tensor, float], Tensor] | None = None,
    ):
        self.model, self.sigmas, self.background, self.mask_at = model, sigmas.clone(), background, mask
        self.agree, self.levels = agree, sigmas.tolist()
        self.step, self.mask = 0, self.mask_at(0)

    def __getattr__(self, name: str):
        return getattr(self.model, name)  # solvers look through to inner_model

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args) -> Tensor:
        level = sigma.flatten()[0]
        self.arrive(float(level))
        self.mask = self.mask.to(x)
        behind = self.background(level).to(x)
        denoised = self.model(blend(x, behind, self.mask), sigma, **extra_args)
        check_finite(denoised, float(level), self.step + 1, len(self.sigmas) - 1)
        if self.agree is not None:
            denoised = self.agree(denoised, float(level))
        # Where the mask is soft, the input and the last blend mix already: mixing here too would leave the edit's share squared.
        return blend(denoised, self.denoised_behind(level, behind), (self.mask > 0).to(x))

    def arrive(self, sigma: float) -> None:
        """Goes on to the step to which a sigma belongs; never back."""
        while self.step + 2 < len(self.levels) and sigma <= self.levels[self.step + 1] * (1 + SAME):
            self.step += 1
            self.mask = self.mask_at(self.step)

    def denoised_behind(self, sigma: Tensor, behind: Tensor) -> Tensor:
        """The denoised value that leads a solver along the trajectory: D = x - sigma * dx/dsigma, with the slope
        towards the next level of the solver's grid; the clip's own latent where that level is 0."""
        below = self.sigmas[self.sigmas < sigma * (1 - 1e-6)]
        following = below[0] if len(below) else torch.zeros_like(sigma)
        next_behind = self.background(following).to(behind)
        if following == 0:
            return next_behind
        return behind - sigma * (behind - next_behind) / (sigma - following)


def foreground_start(
    inverted: Tensor, clip: Tensor, sigma: Tensor, noise: Tensor, amount: Tensor, coordinates: Coordinates = EPS
) -> Tensor:
    """Where the edit begins: the inverted latent, the clip under fresh noise, or a mixture that keeps the noise's variance.

    inverted, clip, noise: [frames, channels, h, w], noise of unit variance; amount: [frames or 1, 1, h, w], 0 the inverted latent (to the bit),
    1 fresh noise, which forgets what the inverted noise remembers of the old object. Paper silent; fresh noise is blended latent diffusion's."""
    remembered = coordinates.noise_of(inverted, clip, sigma)
    mixed = coordinates.noised(clip, (1 - amount).sqrt() * remembered + amount.sqrt() * noise, sigma)
    return torch.where(amount > 0, mixed, inverted)


def blend(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """mask * inside + (1 - mask) * outside; exact to the bit where the mask is 0 or 1."""
    return mask * inside + (1 - mask) * outside


@torch.no_grad()
def sample_blended(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    solver: Callable[..., Tensor],
    background: Callable[[Tensor], Tensor],
    mask: Callable[[int], Tensor],
    agree: Callable[[Tensor, float], Tensor] | None = None,
) -> Tensor:
    """Samples with `solver` inside the mask and along `background` outside; returns [frames, channels, h, w].

    Arguments before the star are those of every k-diffusion sampler. x is where the inside begins; outside the first mask the background
    does. The solver gets its own copy of x and of the sigmas, since some write into theirs. The last blend uses the last step's mask.
    Raises ValueError where the model gives no numbers."""
    blended = BlendedModel(model, sigmas, background, mask, agree)
    x = blend(x, background(sigmas[0]).to(x), blended.mask.to(x))
    x = solver(blended, x, sigmas.clone(), extra_args=extra_args or {}, callback=callback, disable=disable)
    return blend(x, background(sigmas[-1]).to(x), blended.mask.to(x))
