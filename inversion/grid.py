"""The grid of a latent: which pixels of which frames its cells cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """cell: pixels a side of a latent cell. time: frames that a latent frame covers; the first covers one alone, as in causal video VAEs.

    Everything inside the house is [frames, ...] by latent frames; what an artist connects or looks at is by the clip's frames."""

    cell: int = 8
    time: int = 1

    def pixels(self, cells: Sequence[int]) -> tuple[int, int]:
        """Height and width in pixels of what has so many cells along its last two axes."""
        return cells[-2] * self.cell, cells[-1] * self.cell

    def frames(self, latent_frames: int) -> int:
        """How many frames of the clip so many latent frames cover."""
        return 1 + (latent_frames - 1) * self.time

    def to_latent_frames(self, masks: Tensor) -> Tensor:
        """Masks of a clip's frames as masks of its latent frames, each the union of those that it covers: a mean would let a moving object through.

        [frames, height, width] to [latent frames, height, width]"""
        if self.time == 1:
            return masks
        return torch.cat([masks[:1], rearrange(masks[1:], "(l t) h w -> l t h w", t=self.time).amax(1)])

    def to_frames(self, masks: Tensor) -> Tensor:
        """Masks of latent frames as masks of the clip's frames. [latent frames, height, width] to [frames, height, width]"""
        return masks if self.time == 1 else torch.cat([masks[:1], masks[1:].repeat_interleave(self.time, 0)])
