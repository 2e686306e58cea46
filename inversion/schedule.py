"""Noise levels on which a clip is inverted and sampled."""

from __future__ import annotations

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
