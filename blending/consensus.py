"""Temporal consensus: what is drawn in a frame agrees with its neighbours, along the object's own motion."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 8  # frames to either side that have a say
FIT = 4  # frames to either side over which a motion counts as straight


def object_places(masks: Iterable[Tensor]) -> Tensor:
    """Centre (x, y) and size of what is inside, in shares of the picture from -1 to 1; not a number where nothing is. [frames, 3]

    masks: the clip in pieces, each [frames, height, width] of 0 and 1. Size is the root of the covered share."""
    places = []
    for piece in masks:
        height, width = piece.shape[-2:]
        area = piece.sum((1, 2))
        x = (piece.sum(1) * ((torch.arange(width) + 0.5) * 2 / width - 1)).sum(1) / area
        y = (piece.sum(2) * ((torch.arange(height) + 0.5) * 2 / height - 1)).sum(1) / area
        places.append(torch.stack([x, y, (area / (height * width)).sqrt()], 1))
    return torch.cat(places)


def steady(places: Tensor) -> Tensor:
    """Places on a motion that is straight over a few frames: a mask's jitter would otherwise become the object's. [frames, 3]

    Each frame gets the value there of a line through the places of its neighbours, nearer ones counting more (LOESS, degree 1)."""
    values, out = places.numpy().astype(np.float64), places.clone()
    seen = places.isfinite().all(1).numpy()
    for frame in np.flatnonzero(seen):
        near = [other for other in range(max(0, frame - FIT), min(len(values), frame + FIT + 1)) if seen[other]]
        weight = np.sqrt((1 - (np.abs(np.array(near) - frame) / (FIT + 1)) ** 3) ** 3)
        lines = np.stack([np.ones(len(near)), np.array(near) - frame], 1)
        fitted = np.linalg.lstsq(lines * weight[:, None], values[near] * weight[:, None], rcond=None)[0]
        out[frame] = torch.from_numpy(fitted[0])
    return out


class Consensus:
    """Moves each frame's denoised latent towards the mean of its neighbours', each warped to where the object is in this frame.

    places: [frames, 3] as `object_places` gives them. amount: 0 leaves each frame alone, 1 takes the mean. until: the lowest sigma at
    which it acts; below, the details are each frame's own, since what is finer than a latent cell cannot be warped there.

    Paper silent; ours. The idea of agreeing along the motion is FLATTEN's and TokenFlow's, who apply it to attention's features."""

    def __init__(self, places: Tensor, amount: float, until: float):
        self.places, self.amount, self.until = steady(places), amount, until

    def __call__(self, denoised: Tensor, sigma: float) -> Tensor:
        """denoised: [frames, channels, h, w]; returns the same."""
        if self.amount == 0 or sigma < self.until or len(denoised) < 2:
            return denoised
        places = self.places.to(denoised)
        total, weight = torch.zeros_like(denoised), denoised.new_zeros(len(denoised), 1, 1, 1)
        radius = min(RADIUS, len(denoised) - 1)
        for offset in range(-radius, radius + 1):
            here = torch.arange(max(0, -offset), min(len(denoised), len(denoised) - offset), device=denoised.device)
            here = here[(places[here] + places[here + offset]).isfinite().all(1)]
            if not len(here):
                continue
            share = 1 - abs(offset) / (RADIUS + 1)
            total[here] += share * warp(denoised[here + offset], places[here], places[here + offset])
            weight[here] += share
        mean = torch.where(weight > 0, total / weight.clamp(min=1e-6), denoised)
        return torch.lerp(denoised, mean, self.amount)


def warp(latents: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Latents [n, channels, h, w] of frames whose object is `there`, moved and scaled so that it is `here`. Places: [n, 3]"""
    scale = there[:, 2] / here[:, 2]
    shift = there[:, :2] - scale[:, None] * here[:, :2]
    zero = torch.zeros_like(scale)
    affine = torch.stack([torch.stack([scale, zero, shift[:, 0]], 1), torch.stack([zero, scale, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(latents.shape), align_corners=False)
    return F.grid_sample(latents, grid, mode="bilinear", padding_mode="border", align_corners=False)
