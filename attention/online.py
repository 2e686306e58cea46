"""The masks of an edit, step by step while it is sampled: one that draws itself from words, or an artist's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .heat import SPAN, WordsHeat, add_level, histogram, spans
from .masks import ADD, fade_out, grow_mask, half_height, inside, to_latent_mask, with_matte
from .record import MapRecorder

Cells = tuple[int, int]


def widened(pixels: int, step: int, steps: int) -> int:
    """By how much a mask is wider at a step: all of it at the first, falling evenly to none at the last.

    Blended Latent Diffusion (Avrahami et al. 2023, section 4.4) dilates thin masks so, since they hardly cover a latent cell."""
    return round(pixels * (1 - step / max(1, steps - 1)))


class StepMask(ABC):
    """One mask a step, on the latent grid.

    grow: pixels. widen: pixels more at the first step (`widened`). soft: pixels over which it fades out (masks.fade_out). Pixels are
    looked at a span of frames at a time, so a long clip's masks take no more memory than its cells.

    recorder: what collects the maps of words that draw it; None where none do."""

    recorder: MapRecorder | None = None

    def __init__(self, frames: int, steps: int, latent_size: Cells, grow: int = 0, widen: int = 0, soft: float = 0.0):
        self.frames, self.steps, self.latent_size = frames, steps, latent_size
        self.grow, self.widen, self.soft = grow, widen, soft
        self.wider = 0  # set by each step
        self.cells = torch.empty(0)

    @property
    @abstractmethod
    def still(self) -> bool:
        """Whether it is known not to move, so that it says nothing of how the object in it does."""

    @property
    def unseen(self) -> bool:
        """Whether words of the target prompt were to widen it, and the model has shown none of their maps."""
        return False

    @abstractmethod
    def outline(self, frames: slice) -> Tensor:
        """Where the object is, in some frames, before its outline is moved. [frames, height, width] in 0..1"""

    def source_masks(self) -> Iterator[Tensor]:
        """Where the object is before anything has been sampled, a span of frames at a time. [frames, height, width] of 0 and 1"""
        yield from (self.outline(span) for span in spans(self.frames))

    def at_step(self, step: int) -> Tensor:
        """The step's mask, [frames, 1, h, w] in 0..1, without `soft` of 0 and 1 only. Called once a step, before the step's model call."""
        self.wider = widened(self.widen, step, self.steps)
        self.cells = torch.cat([self.on_grid(self.pixels(span)) for span in spans(self.frames)])
        return self.cells

    def on_grid(self, pixels: Tensor) -> Tensor:
        """A mask at pixel size on the latent grid, faded out beyond its outline; what it covers stays whole, however thin. [frames, 1, h, w]"""
        cells = to_latent_mask(pixels, *self.latent_size)
        if not self.soft:
            return cells
        return torch.maximum(cells, F.interpolate(fade_out(pixels, self.soft)[:, None], self.latent_size, mode="area"))

    def filled(self) -> Tensor:
        """In which frames the last step's mask has anything inside, by what is known so far. [frames] of bool"""
        self.wider = widened(self.widen, self.steps - 1, self.steps)
        return torch.cat([self.on_grid(self.pixels(span)).flatten(1).any(1) for span in spans(self.frames)])

    def pixels(self, frames: slice) -> Tensor:
        """The last step's mask of some frames, at pixel size, not yet soft. [frames, height, width] in 0..1"""
        return grow_mask(self.outline(frames), self.grow + self.wider)


class FixedMask(StepMask):
    """An artist's mask. mask: [frames, height, width] in 0..1"""

    def __init__(self, mask: Tensor, steps: int, latent_size: Cells, grow: int = 0, widen: int = 0, soft: float = 0.0):
        super().__init__(len(mask), steps, latent_size, grow, widen, soft)
        self.mask = mask

    @property
    def still(self) -> bool:
        return stands_still(self.mask)

    def outline(self, frames: slice) -> Tensor:
        return self.mask[frames]

    def at_step(self, step: int) -> Tensor:
        return super().at_step(step) if self.widen or not len(self.cells) else self.cells


def stands_still(mask: Tensor) -> bool:
    return torch.equal(mask, mask[:1].expand_as(mask))


class MaskHeat:
    """A mask in the place of the source words' heat. mask: [frames, height, width] in 0..1"""

    all_but = False

    def __init__(self, mask: Tensor):
        self.mask = mask

    def __len__(self) -> int:
        return len(self.mask)

    def at(self, frames: slice) -> Tensor:
        return self.mask[frames]


class OnlineMask(StepMask):
    """From the source words' recorded heat and the target words' heat so far.

    Paper: masks come from cross-attention during the diffusion steps, noise-aware. FateZero: union of the source's and the target's
    map. Here the target's heat counts by the share of weight that its steps have gathered: its first maps, drawn in almost pure
    noise, would otherwise decide where the edit begins. The source's heat is that of all levels from the first step on: it is known by then,
    and of high noise alone it is poor.

    source: the source words' heat, whole, or a mask in its place; where it is that of what is kept, the mask is everything else. sigmas: the sampler's, falling. recorder: collects the target's maps, target
    those that count. matte: [frames, height, width] in 0..1, laid over each step's mask by `matte_mode`, one of masks.MATTES."""

    recorder: MapRecorder

    def __init__(
        self,
        source: WordsHeat | MaskHeat,
        recorder: MapRecorder,
        target: WordsHeat,
        sigmas: Tensor,
        latent_size: Cells,
        grow: int = 0,
        widen: int = 0,
        matte: Tensor | None = None,
        matte_mode: str = "",
        soft: float = 0.0,
    ):
        super().__init__(len(source), len(sigmas) - 1, latent_size, grow, widen, soft)
        self.source, self.recorder, self.target, self.sigmas = source, recorder, target, sigmas
        self.matte, self.matte_mode = matte, matte_mode
        self.whole_weight = sum(recorder.coordinates.share(float(sigma)) for sigma in sigmas[:-1])
        self.seen = False  # whether the model has shown any of the target's maps
        self.heat_of_step: Tensor | None = None  # of a clip of one span, while a step's mask is drawn
        self.threshold = self.find_threshold()

    @property
    def still(self) -> bool:
        return isinstance(self.source, MaskHeat) and stands_still(self.source.mask)

    @property
    def unseen(self) -> bool:
        return bool(self.target.phrases) and not self.seen

    def find_threshold(self) -> float:
        """Of the heat so far; what a matte keeps out has no say."""
        self.heat_of_step = None
        if self.frames <= SPAN:
            self.heat_of_step = self.heat(slice(0, self.frames))
        counts = np.zeros(256, int)
        for span in spans(self.frames):
            heat, allowed = self.heat(span), self.allowed(span)
            counts += histogram(heat if allowed is None else heat[allowed > 0.5])
        return half_height(counts) if counts.any() else 1.0

    def at_step(self, step: int) -> Tensor:
        found = self.recorder.finish()
        self.seen |= found is not None
        if found and self.target.phrases:
            add_level(self.target, self.recorder.words, found, self.recorder.coordinates)
            self.threshold = self.find_threshold()
        cells = super().at_step(step)
        self.heat_of_step = None  # it need not wait in memory while the model runs
        self.recorder.begin(float(self.sigmas[step]))
        return cells

    def heat(self, frames: slice) -> Tensor:
        """Heat of some frames, 0..1. [frames, height, width]"""
        if self.heat_of_step is not None:
            return self.heat_of_step[frames]
        heat = self.source.at(frames)
        if len(self.target):
            share = min(1.0, self.target.weight / self.whole_weight)
            heat = torch.maximum(heat, share * self.target.at(frames))
        allowed = self.allowed(frames)
        return heat if allowed is None else heat * allowed

    def allowed(self, frames: slice) -> Tensor | None:
        """Where a matte that limits or subtracts leaves room for heat; None where everything is allowed. [frames, height, width]"""
        if self.matte is None or self.matte_mode == ADD or self.source.all_but:
            return None
        return with_matte(torch.ones_like(self.matte[frames]), self.matte[frames], self.matte_mode)

    def outline(self, frames: slice) -> Tensor:
        found = inside(self.heat(frames), self.threshold)
        return 1 - found if self.source.all_but else found

    def pixels(self, frames: slice) -> Tensor:
        mask = super().pixels(frames)
        return mask if self.matte is None else with_matte(mask, self.matte[frames], self.matte_mode)
