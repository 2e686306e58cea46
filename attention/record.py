"""Recording of cross-attention: per noise level one small map per token and frame, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
