"""The mask that draws itself while the edit is sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from .masks import HeatMap, noise_weight, threshold_mask, to_latent_mask
from .record import MapRecorder


class OnlineMask:
    """One mask a step, from the source words' recorded heat and the target words' heat so far.

    Paper: masks come from cross-attention during the diffusion steps, noise-aware. FateZero: union of the source's and the target's
    map. Here the target's heat counts by the share of noise weight that its steps have gathered: its first maps, drawn in almost pure
    noise, would otherwise decide where the edit begins.

    source_heat: [frames, height, width] in 0..1. sigmas: the sampler's, falling. recorder: collects the target's maps.
    """

    def __init__(
        self,
        source_heat: Tensor,
        recorder: MapRecorder,
        columns: tuple[int, ...],
        sigmas: Tensor,
        latent_size: tuple[int, int],
        grow: int = 0,
    ):
        self.source_heat, self.recorder, self.columns = source_heat, recorder, columns
        self.sigmas, self.latent_size, self.grow = sigmas, latent_size, grow
        self.target_heat = HeatMap(*source_heat.shape[-2:])
        self.whole_weight = sum(noise_weight(float(sigma)) for sigma in sigmas[:-1])
        self.mask: Tensor | None = None

    def at_step(self, step: int) -> Tensor:
        """The step's mask on the latent grid, [frames, 1, h, w] of 0 and 1. Called once a step, before the step's model call."""
        self.close_level()
        heat = self.source_heat
        if self.target_heat.total is not None:
            share = min(1.0, self.target_heat.weight / self.whole_weight)
            heat = torch.maximum(heat, share * self.target_heat.normalised())
        self.mask = threshold_mask(heat, grow=self.grow)
        self.recorder.begin(float(self.sigmas[step]))
        return to_latent_mask(self.mask, *self.latent_size)

    def close_level(self) -> None:
        seen = len(self.recorder.record.levels)
        self.recorder.finish()
        if len(self.recorder.record.levels) > seen:
            self.target_heat.add(self.recorder.record, seen, self.columns)
