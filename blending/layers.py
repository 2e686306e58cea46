"""Several edits of one clip in one pass: each with its own mask, later ones over earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .consensus import Consensus


@dataclass(frozen=True)
class Layer:
    """One edit. mask(step): its mask, [frames, 1, h, w] in 0..1, asked once a step. renoise: how much fresh noise it begins with, 0..1.
    consensus: how its frames agree; None leaves each alone."""

    mask: Callable[[int], Tensor]
    renoise: float = 0.0
    consensus: Consensus | None = None


class Layers:
    """What the edits draw together. Where masks overlap, the last edit's is seen, as in a painter's layers.

    window: the first step at which masks hold, and the one from which they do no more. Outside it the whole picture is sampled freely,
    as if nothing were blended (FateZero stops blending so at 80 % of the steps)."""

    def __init__(self, layers: Sequence[Layer], window: tuple[int, int]):
        self.layers, self.window = tuple(layers), window
        self.shares: list[Tensor] = []  # of the step under way: what each edit covers and no later one does
        self.blends = True  # whether masks hold in the step under way
        self.middle: list[Tensor] = []  # of each step so far: the whole mask of the frame in the middle of the clip, to look at. [h, w]

    def at_step(self, step: int) -> Tensor:
        """The mask of all edits together, [frames, 1, h, w] in 0..1."""
        left: Tensor | None = None
        self.shares = []
        for layer in reversed(self.layers):
            mask = layer.mask(step)
            left = torch.ones_like(mask) if left is None else left
            self.shares.insert(0, mask * left)
            left = left * (1 - mask)
        if left is None:
            raise ValueError("there is no edit to make. Connect an Edit (BLADE) node.")
        self.blends = self.window[0] <= step < self.window[1]
        found = 1 - left if self.blends else torch.ones_like(left)
        self.middle.append(found[len(found) // 2, 0].clone())  # a view would keep the whole clip's masks of every step
        return found

    def prompt_shares(self) -> list[Tensor]:
        """Where each edit's prompt speaks: the first's everywhere but under later edits. Each [frames, 1, h, w]; they sum to 1."""
        return [1 - sum(self.shares[1:], torch.zeros_like(self.shares[0])), *self.shares[1:]]

    def places(self) -> list[Tensor]:
        """Where what each edit draws is seen, for one that is confined to it: its share, or, where no mask holds, the whole picture.
        Each [frames or 1, 1, h, w], above 0 there."""
        return self.shares if self.blends else [torch.ones_like(share) for share in self.shares]

    def renoised(self) -> Tensor:
        """How much fresh noise each cell begins with, [frames, 1, h, w]."""
        return sum((layer.renoise * share for layer, share in zip(self.layers, self.shares, strict=True)), torch.zeros_like(self.shares[0]))

    def agree(self, denoised: Tensor, sigma: float) -> Tensor:
        """Each edit's frames agree along its own object's motion. denoised: [frames, channels, h, w]; returns the same."""
        found = denoised
        for layer, share in zip(self.layers, self.prompt_shares(), strict=True):
            if layer.consensus is not None:
                found = torch.where(share.to(found) > 0, layer.consensus(denoised, sigma), found)
        return found
