"""Noise levels on which a clip is inverted and sampled."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def ddim_sigmas(table: Tensor, steps: int) -> Tensor:
    """diffusers' DDIM grid: timesteps 1, 1 + T/n, 1 + 2T/n, ... of a table of T sigmas, and sigma 0 for the clean latent.

    table: [T] sigmas by rising timestep (ComfyUI's model_sampling.sigmas). Returns [steps + 1], falling, last value 0.
    Source: diffusers' DDIMScheduler with timestep_spacing "leading", steps_offset 1, set_alpha_to_one True.
    Raises ValueError where the table has fewer than `steps` timesteps.
    """
    if not 1 <= steps <= len(table) - 1:
        raise ValueError(f"steps is {steps}: this model has {len(table)} noise levels, so choose between 1 and {len(table) - 1}.")
    timesteps = torch.arange(steps) * (len(table) // steps) + 1
    return torch.cat([table[timesteps].float().cpu().flip(0), torch.zeros(1)])


def check_grid(sigmas: Tensor, highest: float) -> None:
    """Raises ValueError for a grid that no clip can be walked up: fewer than two steps, not falling to 0, or above the model's `highest`.

    sigmas: [steps + 1] as samplers take them."""
    if sigmas.ndim != 1:
        raise ValueError(f"the grid's shape is {list(sigmas.shape)}; give one row of sigmas.")
    listed = sigmas.tolist()
    shown = ", ".join(f"{value:.4g}" for value in (listed if len(listed) <= 8 else [*listed[:4], *listed[-3:]]))
    if len(listed) < 3:
        raise ValueError(
            f"the grid has {max(len(listed) - 1, 0)} steps ({shown or 'it is empty'}), and an inversion needs at least 2. Give more steps."
        )
    if not torch.isfinite(sigmas).all() or any(after >= before for before, after in pairwise(listed)):
        raise ValueError(
            f"the grid does not fall from each level to the next ({shown}). Give falling sigmas, as core's schedulers make them."
        )
    if listed[-1] != 0:
        raise ValueError(f"the grid ends at {listed[-1]:.4g} instead of 0, the clip itself ({shown}). Give one that ends at 0.")
    if listed[0] > highest * (1 + 1e-4):
        raise ValueError(f"the grid begins at sigma {listed[0]:.4g}, but this model knows noise up to {highest:.4g}. Begin there or lower.")
