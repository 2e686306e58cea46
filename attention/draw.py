"""One rule from heat to the finished mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .heat import WordsHeat, histogram, spans
from .masks import ADD, HALF_HEIGHT, LIMIT, blur_mask, fill_holes, find_thresholds, grow_mask, inside, keep_largest, with_matte
from .refine import Tick, along_motion, cut_along_edges


@dataclass(frozen=True)
class MaskRule:
    """How heat becomes a mask. What needs the clip's frames is left out where there are none.

    threshold: one of masks.THRESHOLDS; fixed: its value for "fixed". edges: whether the outline follows edges of colours. smoothing: frames
    to either side that a frame agrees with. objects: how many of the largest connected components stay, 0 all. holes: whether to fill them.
    grow: pixels. blur: sigma in pixels. matte: one of masks.MATTES, for the artist's matte."""

    threshold: str = HALF_HEIGHT
    fixed: float = 0.3
    edges: bool = True
    smoothing: int = 6
    objects: int = 0
    holes: bool = False
    grow: int = 0
    blur: float = 0.0
    matte: str = LIMIT


def draw_mask(
    heat: WordsHeat, rule: MaskRule, frames: Tensor | None = None, matte: Tensor | None = None, tick: Tick = lambda: None
) -> tuple[Tensor, float]:
    """The mask of a clip, [frames, height, width] in 0..1, soft only at outlines, and the threshold that was found.

    frames: RGB [frames, height, width, 3] in 0..1; matte: [frames, height, width] in 0..1. tick is called once a frame for each of edges
    and smoothing. A matte that limits or subtracts also keeps the heat outside it from having a say in the threshold; where the mask is everything but
    some words, it is laid over that mask only."""
    warmth = torch.cat([heat.at(span) for span in spans(len(heat))])
    counted = warmth
    if matte is not None and rule.matte != ADD and not heat.all_but:
        allowed = with_matte(torch.ones_like(warmth), matte, rule.matte)
        counted, warmth = warmth[allowed > 0.5], warmth * allowed
    if not counted.numel():
        return torch.zeros_like(warmth), 1.0
    if frames is not None and not rule.edges:
        warmth = along_motion(frames, warmth, rule.smoothing, tick)
    threshold, high = find_thresholds(histogram(counted), rule.threshold, rule.fixed)
    mask = inside(warmth, threshold, high)
    if frames is not None and rule.edges:
        mask = along_motion(frames, cut_along_edges(frames, warmth, mask, threshold, tick), rule.smoothing, tick)
        mask = (1.5 * mask - 0.25).clamp(0, 1)  # soft at the outline only: what one frame alone sees or misses is outvoted
    mask = keep_largest(mask, rule.objects)
    if rule.holes:
        mask = fill_holes(mask)
    mask = 1 - mask if heat.all_but else mask
    mask = blur_mask(grow_mask(mask, rule.grow), rule.blur)
    return mask if matte is None else with_matte(mask, matte, rule.matte), threshold
