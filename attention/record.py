"""Recording of cross-attention: per noise level one small map per token and frame, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .words import PromptWords

Size = tuple[int, int]
Maps = dict[Size, Tensor]


def recorded_sizes(height: int, width: int) -> frozenset[Size]:
    """Which attention resolutions to keep for a latent of this size: those of 180 to 1,300 cells.

    At 512 px with SD1.5 that is 32x32 and 16x16. Finer maps are noisy and large, coarser ones poor (FreeMask, section 3).
    A latent too small for the rule keeps its finest resolution."""
    sizes = [(height, width)]
    for _ in range(3):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    kept = frozenset(size for size in sizes if 180 <= size[0] * size[1] <= 1300)
    return kept or frozenset([next(size for size in sizes if size[0] * size[1] <= 1300 or size == sizes[-1])])


def token_maps(q: Tensor, k: Tensor, heads: int, columns: Tensor) -> Tensor:
    """Softmax cross-attention of the chosen columns, averaged over heads; a repeated context's copies are summed.

    q: [frames, cells, heads * dim]; k: [frames, context, heads * dim]; columns: [copies, tokens]. Returns [frames, tokens, cells] fp32.
    The softmax runs over the whole context; only the wanted columns are ever exponentiated and kept."""
    out = q.new_zeros((len(q), columns.shape[1], q.shape[1]), dtype=torch.float32)
    for frame in range(len(q)):  # one frame at a time bounds the memory of the full logits
        q_f = rearrange(q[frame], "n (h d) -> h n d", h=heads).float()
        k_f = rearrange(k[frame], "m (h d) -> h m d", h=heads).float()
        logits = q_f @ k_f.transpose(-1, -2) * q_f.shape[-1] ** -0.5
        normaliser = logits.logsumexp(-1, keepdim=True)
        for copy in columns:
            out[frame] += (logits[..., copy] - normaliser).exp().mean(0).T
    return out


@dataclass
class CrossAttentionRecord:
    """Maps of a prompt's tokens along a run. One entry a noise level: sigma, and per resolution a tensor
    [frames, tokens, h, w] fp16, averaged over heads and layers. Tokens are in the order of `words.columns`."""

    words: PromptWords
    sigmas: list[float] = field(default_factory=list)
    levels: list[Maps] = field(default_factory=list)
    stores: Maps = field(default_factory=dict)

    def add(self, sigma: float, maps: Maps, levels: int, empty: Callable[[tuple[int, ...], torch.dtype], Tensor]) -> None:
        """Keeps a level's maps, one of `levels` in all, in a tensor for each resolution that `empty(shape, dtype)` makes."""
        level = len(self.levels)
        for size, tokens in maps.items():
            if size not in self.stores:
                self.stores[size] = empty((levels, *tokens.shape), tokens.dtype)
            self.stores[size][level].copy_(tokens)
        self.levels.append({size: self.stores[size][level] for size in maps})
        self.sigmas.append(sigma)

    def pick(self, level: int, columns: tuple[int, ...]) -> Maps:
        """Maps of some columns at one level, summed over them: per resolution [frames, h, w] fp32."""
        return pick_columns(self.levels[level], self.words, columns)

    @property
    def nbytes(self) -> int:
        return sum(maps.nbytes for level in self.levels for maps in level.values())

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The maps as "height x width" -> [levels, frames, tokens, h, w], and what is no tensor, as JSON takes it: sigmas, words, and which
        levels each tensor holds. Nothing is copied where a resolution was seen at every level."""
        tensors, held = {}, {}
        for size in sorted({size for maps in self.levels for size in maps}):
            name = "{}x{}".format(*size)
            held[name] = [level for level, maps in enumerate(self.levels) if size in maps]
            from_the_first = size in self.stores and held[name] == list(range(len(held[name])))
            tensors[name] = (
                self.stores[size][: len(held[name])] if from_the_first else torch.stack([self.levels[level][size] for level in held[name]])
            )
        return tensors, {"sigmas": self.sigmas, "levels": held, "words": self.words.describe()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], description: Any) -> CrossAttentionRecord:
        """What `to_tensors` gave, as a record over the same tensors. Raises ValueError where it does not fit together."""
        try:
            sigmas, held = [float(sigma) for sigma in description["sigmas"]], dict(description["levels"])
            whole = all(isinstance(level, int) for levels in held.values() for level in levels)
            words = PromptWords.from_description(description["words"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"its record lacks a part or has one of another kind ({error!r})") from error
        if not whole or not all(0 < sigma < math.inf for sigma in sigmas):
            raise ValueError("its record has levels that are no whole numbers, or sigmas that are not positive")
        if held.keys() != tensors.keys():
            raise ValueError(f"its record has maps of {sorted(tensors)}, but should have {sorted(held)}")
        record = cls(words, sigmas, [{} for _ in sigmas])
        for name, maps in tensors.items():
            frames = next(iter(tensors.values())).shape[1:2]
            if (
                maps.ndim != 5
                or maps.shape[1:2] != frames
                or maps.shape[2] != len(words.columns)
                or name != "{}x{}".format(*maps.shape[3:])
            ):
                raise ValueError(
                    f"its record's maps {name!r} are {list(maps.shape)}, not [levels, frames, {len(words.columns)} tokens, height, width]"
                )
            if held[name] != sorted(set(held[name]) & set(range(len(sigmas)))) or len(held[name]) != len(maps):
                raise ValueError(f"its record's maps {name!r} are of {len(maps)} levels, {held[name]!r:.60} of {len(sigmas)}")
            size = (maps.shape[3], maps.shape[4])
            if held[name] == list(range(len(maps))):
                record.stores[size] = maps
            for level, of_level in zip(held[name], maps, strict=True):
                record.levels[level][size] = of_level
        if not all(record.levels):
            raise ValueError("its record has a level without maps")
        return record


def pick_columns(maps: Maps, words: PromptWords, columns: tuple[int, ...]) -> Maps:
    """Token maps summed over some of the prompt's columns: per resolution [frames, h, w] fp32."""
    rows = [words.columns.index(column) for column in columns]
    return {size: tokens[:, rows].float().sum(1) for size, tokens in maps.items()}


class MapRecorder:
    """Collects token maps while a model runs. `begin` opens a noise level, `add` is called from every cross-attention layer,
    for all frames or for one batch of them after the other, `finish` gives the level's maps, averaged over the layers."""

    def __init__(self, words: PromptWords, sizes: frozenset[Size], frames: int):
        self.words, self.sizes, self.frames = words, sizes, frames
        self.sigma: float | None = None
        self.sums: Maps = {}
        self.layers: dict[Size, Tensor] = {}  # how many layers have shown each frame

    def begin(self, sigma: float) -> None:
        self.sigma, self.sums, self.layers = float(sigma), {}, {}

    def add(self, q: Tensor, k: Tensor, heads: int, size: Size, sigma: float, clip: Sequence[int]) -> None:
        """q: [rows, cells, heads * dim] of the recorded prompt's rows only; k likewise; clip: which frame of the clip each row is.

        Ignored at other noise levels (a solver's corrector calls), at other resolutions, and where another patch has changed the number
        of cells or columns (HyperTile, token merging, prompt injection)."""
        length, columns = self.words.length, self.words.columns
        at_this_level = self.sigma is not None and abs(sigma - self.sigma) <= 1e-6 * self.sigma
        if not at_this_level or size not in self.sizes or q.shape[1] != size[0] * size[1] or k.shape[1] % length or not columns:
            return
        copies = torch.arange(0, k.shape[1], length, device=q.device)[:, None]
        maps = token_maps(q, k, heads, copies + torch.tensor(columns, device=q.device))
        if size not in self.sums:
            self.sums[size] = maps.new_zeros((self.frames, len(columns), *size))
            self.layers[size] = maps.new_zeros(self.frames)
        rows = torch.tensor(clip, device=q.device)
        self.sums[size].index_add_(0, rows, rearrange(maps, "f t (h w) -> f t h w", h=size[0]))
        self.layers[size].index_add_(0, rows, torch.ones_like(rows, dtype=maps.dtype))

    def finish(self) -> tuple[float, Maps] | None:
        """Sigma and maps of the level that `begin` opened, fp16 on the CPU; None where no layer has shown any."""
        found = None
        if self.sigma is not None and self.sums:
            layers = {size: rearrange(count.clamp(min=1), "f -> f 1 1 1") for size, count in self.layers.items()}
            found = self.sigma, {size: (total / layers[size]).half().cpu() for size, total in self.sums.items()}
        self.sigma, self.sums, self.layers = None, {}, {}
        return found
