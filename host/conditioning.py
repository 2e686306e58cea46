"""When and where the prompts of a CONDITIONING are asked. Where none is, core's answer is zero: that is no inversion, and no edit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.words import PromptWords
from .words import KEY


def way_of(options: dict) -> tuple[float, float]:
    """The stretch of the way from noise (0) to clip (1) on which core asks a prompt: its own, and that of a text encoder's scheduled hooks."""
    begins, ends = ([options.get(f"{of}{end}_percent", other) for of in ("", "clip_")] for end, other in (("start", 0.0), ("end", 1.0)))
    return max(begins), min(ends)


def on_area(options: dict) -> bool:
    """Whether the model is shown a part of the picture only."""
    return "area" in options or ("mask" in options and bool(options.get("set_area_to_bounds")))


def asked_at(model, conditioning: list, levels: Tensor) -> Tensor:
    """Which prompts are asked at which sigmas, as core's get_area_and_mult decides. bool [prompts, levels]"""
    sampling = model.get_model_object("model_sampling")
    ways = [[sampling.percent_to_sigma(share) for share in way_of(options)] for _, options in conditioning]
    return torch.stack([(levels <= begin) & (levels >= end) for begin, end in ways])


def place_of(options: dict, frames: int, height: int, width: int) -> Tensor:
    """The latent's cells that a prompt is asked for. bool [frames, height, width]"""
    found, size = torch.ones(frames, height, width, dtype=torch.bool), (height, width)
    if (mask := options.get("mask")) is not None:
        parts = mask.reshape(-1, 1, *mask.shape[-2:])[:frames].split(32)  # a long clip's masks would not fit twice
        mask = torch.cat([F.interpolate(part.float().cpu(), size, mode="bilinear")[:, 0] != 0 for part in parts])
        found &= mask.repeat(frames // len(mask), 1, 1)
    if (area := options.get("area")) is not None:
        half, shares = len(area) // 2, area[0] == "percentage"  # of more sides than two core takes the first two
        rows, columns, top, left = (area[place + shares] for place in (0, 1, half, half + 1))
        if shares:
            rows, columns, top, left = (
                max(1, round(rows * height)),
                max(1, round(columns * width)),
                round(top * height),
                round(left * width),
            )
        inside = torch.zeros_like(found)
        inside[:, top : top + rows, left : left + columns] = True
        found &= inside
    return found


def check_asked(model, conditioning: list, levels: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError where no prompt is asked at one of these sigmas or, for latents of this shape [frames, channels, h, w], for one of
    their cells."""
    heard = [entry for entry in conditioning if entry[1].get("strength", 1.0) and entry[1].get("mask_strength", 1.0)]
    if not heard:
        raise ValueError("its strength is 0, so that the model would be asked without a prompt. Give it a strength above 0.")
    asked = asked_at(model, heard, levels)
    if silent := int((~asked.any(0)).sum()):
        raise ValueError(
            f"it holds {told_ways(heard)} only, so that at {silent} of {len(levels)} noise levels the model would be asked without a prompt. Take "
            "ConditioningSetTimestepRange away, or add a prompt for the rest of the way by Conditioning (Combine)."
        )
    if shape is None or not any("area" in options or "mask" in options for _, options in heard):
        return
    places = torch.stack([place_of(options, shape[0], *shape[-2:]) | bool(options.get("default")) for _, options in heard])
    for together in asked.T.unique(dim=0):
        if not places[together].any(0).all():
            raise ValueError(
                "its areas and masks leave a part of the picture for which the model would be asked without a prompt. Add a prompt for the whole "
                "picture by Conditioning (Combine)."
            )


def check_whole_picture(model, conditioning: list, levels: Tensor) -> None:
    """Raises ValueError where no prompt is asked for the whole picture at one of these sigmas."""
    whole = [entry for entry in conditioning if not on_area(entry[1])]
    if not whole:
        raise ValueError(
            "it is given an area, but structure is read from the whole picture. Add a prompt for the whole picture by Conditioning (Combine)."
        )
    check_asked(model, whole, levels)


def told_ways(conditioning: list) -> str:
    """The stretches of the way that prompts hold for, in words."""
    ways = sorted({way_of(options) for _, options in conditioning})
    return " and ".join(f"from {begin:g} to {end:g}" for begin, end in ways) + " of the way from noise (0) to clip (1)"


def why_unheard(model, conditioning: list, words: PromptWords | None, levels: Tensor) -> tuple[int, str]:
    """At how many of these sigmas the prompt with these words is not asked for the whole picture, so that nothing can record where its words
    look; and why, if so."""
    own = [entry for entry in conditioning if words is not None and entry[1].get(KEY) == words]
    whole = [entry for entry in own if not on_area(entry[1])]
    if not whole:
        return len(levels), "their prompt is given an area, and words are recorded on the whole picture only"
    silent = int((~asked_at(model, whole, levels).any(0)).sum())
    return silent, f"their prompt holds {told_ways(whole)} only" if silent else ""
