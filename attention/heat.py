"""From recorded maps of words to one heat map a frame, at pixel size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..inversion.coordinates import EPS, Coordinates
from .record import CrossAttentionRecord, LevelMaps, Maps, clear, pick_columns
from .words import Phrase, PromptWords, means_all_but

SPAN = 32  # frames whose heat is looked at together at pixel size: a whole long clip's would not fit


def spans(frames: int) -> list[slice]:
    return [slice(start, min(start + SPAN, frames)) for start in range(0, frames, SPAN)]


class HeatMap:
    """A running, weighted mean of one phrase's maps. Kept at the maps' own sizes; pixels are made for the frames that are asked for.

    Resolutions count equally."""

    def __init__(self, height: int, width: int):
        self.size, self.weight = (height, width), 0.0
        self.totals: Maps = {}

    def add(self, maps: Maps, weight: float) -> None:
        """Adds maps, per resolution [frames, h, w]."""
        for size, picked in maps.items():
            self.totals[size] = self.totals[size] + weight * picked if size in self.totals else weight * picked
        self.weight += weight

    def __len__(self) -> int:
        return len(next(iter(self.totals.values()), ()))

    def at(self, frames: slice) -> Tensor:
        """Unnormalised heat of some frames, a tensor of its own. [frames, height, width]

        Raises ValueError where nothing has been recorded."""
        if not self.totals:
            raise ValueError(
                "no cross-attention maps have been recorded for these words. Invert again, without HyperTile or token merging."
            )
        first, *others = (resize(total[frames], self.size) for total in self.totals.values())
        for other in others:  # in place: at pixel size, on a fast GPU, a mask would else take as long as the model
            first += other
        return first.div_(len(self.totals)) if others else first

    def scale(self, whole: Tensor | None = None) -> tuple[float, float]:
        """The least and the greatest heat of the clip. whole: `at` all of its frames, where that is known."""
        parts = [whole] if whole is not None else (self.at(span) for span in spans(len(self)))
        extremes = [torch.aminmax(part) for part in parts]
        return min(float(low) for low, _ in extremes), max(float(high) for _, high in extremes)


class WordsHeat:
    """The heat of several phrases as one, 0..1: the greatest of those that are wanted, less the greatest of those that are not.

    Each phrase is first brought to its own scale from 0 to 1, then times its weight. all_but: none is wanted; the heat is then that of those that are
    not, and the mask everything but them."""

    def __init__(self, phrases: Sequence[Phrase], height: int, width: int):
        self.phrases, self.size = tuple(phrases), (height, width)
        self.all_but = means_all_but(self.phrases)
        self.parts = [HeatMap(height, width) for _ in self.phrases]
        self.scales: list[tuple[float, float]] = []

    def add(self, words: PromptWords, maps: Maps, weight: float) -> None:
        """Adds the maps of all of a prompt's tokens, per resolution [frames, tokens, h, w]."""
        for phrase, part in zip(self.phrases, self.parts, strict=True):
            part.add(pick_columns(maps, words, phrase.columns), weight)
        self.scales = []

    @property
    def weight(self) -> float:
        return max((part.weight for part in self.parts), default=0.0)

    def __len__(self) -> int:
        return max(map(len, self.parts), default=0)

    def of_phrases(self, frames: slice) -> Tensor:
        """Each phrase's own heat in some frames, 0..1, without its weight. [phrases, frames, height, width]

        Raises ValueError where nothing has been recorded."""
        heats = [part.at(frames) for part in self.parts]
        if not self.scales:
            all_frames = frames.indices(len(self)) == (0, len(self), 1)
            self.scales = [part.scale(heat if all_frames else None) for part, heat in zip(self.parts, heats, strict=True)]
        for heat, scale in zip(heats, self.scales, strict=True):
            normalise(heat, scale)
        return torch.stack(heats) if len(heats) != 1 else heats[0][None]

    def at(self, frames: slice) -> Tensor:
        """Heat of some frames. [frames, height, width]"""
        heats = self.of_phrases(frames)
        for heat, phrase in zip(heats, self.phrases, strict=True):
            if phrase.weight != 1:
                heat *= abs(phrase.weight) if self.all_but else phrase.weight
        if len(heats) == 1:
            return heats[0].clamp_(0, 1)
        return (heats.clamp(min=0).amax(0) + heats.clamp(max=0).amin(0)).clamp_(0, 1)


def record_heat(record: CrossAttentionRecord, phrases: Sequence[Phrase], height: int, width: int) -> WordsHeat:
    """Heat of some phrases over a whole record: of the maps that were spread along self-attention and, at finer resolutions, those of the
    same levels; where nothing was spread, of every level's. Levels count by their share of signal."""
    heat = WordsHeat(phrases, height, width)
    levels = [
        (record.share(sigma), maps)
        for sigma, maps in zip(record.sigmas, record.levels, strict=True)
        if clear(sigma, record.coordinates) or not record.spread
    ]
    if record.spread:
        heat.add(record.words, record.spread, 1.0)
        whole = sum(share for share, _ in levels)
        levels = [(share / whole, {size: of for size, of in maps.items() if size not in record.spread}) for share, maps in levels]
    for share, maps in levels:
        heat.add(record.words, maps, share)
    if not heat.weight:
        raise ValueError("no cross-attention maps have been recorded for these words. Invert again, without HyperTile or token merging.")
    return heat


def level_heat(record: CrossAttentionRecord, level: int, phrases: Sequence[Phrase], height: int, width: int) -> WordsHeat:
    """Heat of some phrases at one noise level alone."""
    heat = WordsHeat(phrases, height, width)
    heat.add(record.words, record.levels[level], 1.0)
    return heat


def add_level(heat: WordsHeat, words: PromptWords, found: LevelMaps, coordinates: Coordinates = EPS) -> None:
    """Adds what a recorder saw at a level, spread where it was, by the level's share of signal."""
    heat.add(words, {**found.maps, **(found.spread or {})}, coordinates.share(found.sigma))


def normalise(heat: Tensor, scale: tuple[float, float]) -> None:
    """Brings heat, in place, to a scale from 0 to 1 that is the whole clip's, so that a frame without the object stays dark."""
    low, high = scale
    heat.sub_(low).div_(max(high - low, 1e-4 * high, 1e-12)).clamp_(0, 1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[frames, h, w] to [frames, *size], bicubic as DAAM does, never below zero."""
    return F.interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0].clamp_(min=0)


def histogram(heat: Tensor) -> np.ndarray:
    """How often each of 256 steps of heat occurs. heat: values in 0..1, of any shape; returns [256]."""
    return np.bincount((heat.flatten() * 255).byte().numpy(), minlength=256)
