"""The mask that draws itself while the edit is sampled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .masks import HeatMap, half_height, histogram, noise_weight, spans, threshold_mask, to_latent_mask
from .record import MapRecorder, pick_columns


class OnlineMask:
    """One mask a step, from the source words' recorded heat and the target words' heat so far.

    Paper: masks come from cross-attention during the diffusion steps, noise-aware. FateZero: union of the source's and the target's
    map. Here the target's heat counts by the share of noise weight that its steps have gathered: its first maps, drawn in almost pure
    noise, would otherwise decide where the edit begins.

    source: the source words' heat, whole. sigmas: the sampler's, falling. recorder: collects the target's maps, of which the columns
    are wanted. Pixels are looked at a span of frames at a time, so a long clip's masks take no more memory than its cells.
    """

    def __init__(
        self,
        source: HeatMap,
        recorder: MapRecorder,
        columns: tuple[int, ...],
        sigmas: Tensor,
        latent_size: tuple[int, int],
        grow: int = 0,
    ):
        self.source, self.recorder, self.columns = source, recorder, columns
        self.sigmas, self.latent_size, self.grow = sigmas, latent_size, grow
        self.target = HeatMap(*source.size)
        self.whole_weight = sum(noise_weight(float(sigma)) for sigma in sigmas[:-1])
        self.source_scale, self.target_scale = source.scale(), (0.0, 1.0)
        self.threshold = 0.0  # set by each step
        self.cells = torch.empty(0)

    def source_masks(self) -> Iterator[Tensor]:
        """Where the source words alone see the object, a span of frames at a time. [frames, height, width] of 0 and 1"""
        parts = spans(len(self.source))
        threshold = half_height(np.sum([histogram(self.heat(span)) for span in parts], 0))
        yield from (threshold_mask(self.heat(span), threshold) for span in parts)

    def at_step(self, step: int) -> Tensor:
        """The step's mask on the latent grid, [frames, 1, h, w] of 0 and 1. Called once a step, before the step's model call."""
        found = self.recorder.finish()
        if found and self.columns:
            self.target.add(found[0], pick_columns(found[1], self.recorder.words, self.columns))
        if self.target.totals:
            self.target_scale = self.target.scale()
        parts = spans(len(self.source))
        self.threshold = half_height(np.sum([histogram(self.heat(span)) for span in parts], 0))
        self.cells = torch.cat([to_latent_mask(self.pixels(span), *self.latent_size) for span in parts])
        self.recorder.begin(float(self.sigmas[step]))
        return self.cells

    def heat(self, frames: slice) -> Tensor:
        """Heat of some frames, 0..1. [frames, height, width]"""
        heat = self.source.normalised(frames, self.source_scale)
        if self.target.totals:
            share = min(1.0, self.target.weight / self.whole_weight)
            heat = torch.maximum(heat, share * self.target.normalised(frames, self.target_scale))
        return heat

    def pixels(self, frames: slice) -> Tensor:
        """The last step's mask of some frames, at pixel size. [frames, height, width] of 0 and 1"""
        return threshold_mask(self.heat(frames), self.threshold, self.grow)
