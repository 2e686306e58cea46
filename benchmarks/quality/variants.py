"""Ways to make an edit with the pack's own sampler: its defaults with one thing replaced, some of them by what peers have in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.clips import Edit
from benchmarks.quality.mask_quality import prompt_to_prompt
from benchmarks.quality.stillness import FRAMES

FATEZERO_UNTIL = 0.8  # of the steps are blended there


def random_noise(trajectory: Any, seed: int) -> Any:
    """The trajectory with the background of blended latent diffusion: at each level the clip under fresh noise; level 0 is the clip itself,
    where their loop leaves its last noise in. The record of the words stays."""
    generator, latents = torch.Generator().manual_seed(seed), torch.empty(trajectory.latents.shape)
    latents[0] = trajectory.clip
    for level in range(1, len(latents)):
        latents[level] = trajectory.clip + trajectory.sigmas[level] * torch.randn(trajectory.clip.shape, generator=generator)
    return replace(trajectory, latents=latents, exact_clip=None)


def one_level_off(trajectory: Any, seed: int) -> Any:
    """The trajectory as FateZero's loop reads it, each level's latent being the next noisier one's; the highest stays. Level 0 stays the clip,
    which that loop never blends in, since it stops before."""
    levels = torch.arange(1, len(trajectory.sigmas) + 1).clamp(max=len(trajectory.sigmas) - 1)
    levels[0] = 0
    return replace(trajectory, latents=trajectory.latents[levels])


@dataclass(frozen=True)
class Variant:
    """background: what the inverted trajectory is replaced by, from it and a seed; None: it stays. mask: from edit and trajectory the mask that
    takes the place of the one that draws itself, [frames, size, size]. keys: whose keys and values a frame sees; None: as the node's defaults.
    inputs: of the node Blended Sampler, in place of its defaults."""

    background: Callable[[Any, int], Any] | None = None
    mask: Callable[[Edit, Any], torch.Tensor] | None = None
    keys: tuple[str, ...] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


def exact_mask(edit: Edit, trajectory: Any) -> torch.Tensor:
    """The exact old and new object."""
    return torch.from_numpy(objects(edit))


def fixed_mask(threshold: float) -> Callable[[Edit, Any], torch.Tensor]:
    """Prompt-to-prompt's and FateZero's mask of the source words, at a threshold that is the same for all clips."""

    def mask(edit: Edit, trajectory: Any) -> torch.Tensor:
        (phrase,) = trajectory.record.words.choose(edit.source_words)
        height, width = (8 * side for side in trajectory.latents.shape[-2:])
        return prompt_to_prompt(trajectory.record, phrase.columns, (height, width), threshold)

    return mask


def objects(edit: Edit) -> np.ndarray:
    """How much of each pixel the old or the new object covers. float32 0..1 [frames, size, size]"""
    return np.maximum(edit.clip.truth(FRAMES), edit.clip.truth(FRAMES, edit.shape))
