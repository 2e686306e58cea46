"""The mask that draws itself while the edit is sampled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .heat import WordsHeat, add_level, histogram, spans
from .masks import ADD, grow_mask, half_height, inside, to_latent_mask, with_matte
from .record import MapRecorder, signal_share


def widened(pixels: int, step: int, steps: int) -> int:
    """By how much a mask is wider at a step: all of it at the first, falling evenly to none at the last.

    Blended Latent Diffusion (Avrahami et al. 2023, section 4.4) dilates thin masks so, since they hardly cover a latent cell."""
    return round(pixels * (1 - step / max(1, steps - 1)))


class OnlineMask:
    """One mask a step, from the source words' recorded heat and the target words' heat so far.

    Paper: masks come from cross-attention during the diffusion steps, noise-aware. FateZero: union of the source's and the target's
    map. Here the target's heat counts by the share of weight that its steps have gathered: its first maps, drawn in almost pure
    noise, would otherwise decide where the edit begins. The source's heat is that of all levels from the first step on: it is known by then,
    and of high noise alone it is poor.

    source: the source words' heat, whole. sigmas: the sampler's, falling. recorder: collects the target's maps, target those that
    count. grow: pixels. widen: pixels more at the first step (`widened`). matte: [frames, height, width] in 0..1, laid over each
    step's mask by `matte_mode`, one of masks.MATTES. Pixels are looked at a span of frames at a time, so a long clip's masks take no more
    memory than its cells.
    """

    def __init__(
        self,
        source: WordsHeat,
        recorder: MapRecorder,
        target: WordsHeat,
        sigmas: Tensor,
        latent_size: tuple[int, int],
        grow: int = 0,
        widen: int = 0,
        matte: Tensor | None = None,
        matte_mode: str = "",
    ):
        self.source, self.recorder, self.target = source, recorder, target
        self.sigmas, self.latent_size, self.grow, self.widen = sigmas, latent_size, grow, widen
        self.matte, self.matte_mode = matte, matte_mode
        self.whole_weight = sum(signal_share(float(sigma)) for sigma in sigmas[:-1])
        self.threshold, self.wider = 0.0, 0  # set by each step
        self.cells = torch.empty(0)

    def source_masks(self) -> Iterator[Tensor]:
        """Where the source words alone see the object, a span of frames at a time. [frames, height, width] of 0 and 1"""
        threshold = self.find_threshold()
        yield from (inside(self.heat(span), threshold) for span in spans(len(self.source)))

    def find_threshold(self) -> float:
        """Of the heat so far; what a matte keeps out has no say."""
        counts = np.zeros(256, int)
        for span in spans(len(self.source)):
            heat, allowed = self.heat(span), self.allowed(span)
            counts += histogram(heat if allowed is None else heat[allowed > 0.5])
        return half_height(counts) if counts.any() else 1.0

    def at_step(self, step: int) -> Tensor:
        """The step's mask on the latent grid, [frames, 1, h, w] of 0 and 1. Called once a step, before the step's model call."""
        found = self.recorder.finish()
        if found and self.target.phrases:
            add_level(self.target, self.recorder.words, found)
        self.threshold = self.find_threshold()
        self.wider = widened(self.widen, step, len(self.sigmas) - 1)
        self.cells = torch.cat([to_latent_mask(self.pixels(span), *self.latent_size) for span in spans(len(self.source))])
        self.recorder.begin(float(self.sigmas[step]))
        return self.cells

    def heat(self, frames: slice) -> Tensor:
        """Heat of some frames, 0..1. [frames, height, width]"""
        heat = self.source.at(frames)
        if len(self.target):
            share = min(1.0, self.target.weight / self.whole_weight)
            heat = torch.maximum(heat, share * self.target.at(frames))
        allowed = self.allowed(frames)
        return heat if allowed is None else heat * allowed

    def allowed(self, frames: slice) -> Tensor | None:
        """Where a matte that limits or subtracts leaves room; None where everything is allowed. [frames, height, width]"""
        if self.matte is None or self.matte_mode == ADD:
            return None
        return with_matte(torch.ones_like(self.matte[frames]), self.matte[frames], self.matte_mode)

    def pixels(self, frames: slice) -> Tensor:
        """The last step's mask of some frames, at pixel size. [frames, height, width] in 0..1"""
        mask = grow_mask(inside(self.heat(frames), self.threshold), self.grow + self.wider)
        return mask if self.matte is None else with_matte(mask, self.matte[frames], self.matte_mode)
