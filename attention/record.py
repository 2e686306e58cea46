"""Recording of cross-attention: per noise level one small map per token and frame, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from .words import PromptWords

Size = tuple[int, int]


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
    levels: list[dict[Size, Tensor]] = field(default_factory=list)

    def pick(self, level: int, columns: tuple[int, ...]) -> dict[Size, Tensor]:
        """Maps of some columns at one level, summed over them: per resolution [frames, h, w] fp32."""
        rows = [self.words.columns.index(column) for column in columns]
        return {size: maps[:, rows].float().sum(1) for size, maps in self.levels[level].items()}


class MapRecorder:
    """Collects token maps while a model runs. `begin` opens a noise level, `add` is called from every cross-attention layer,
    `finish` averages the layers into the record."""

    def __init__(self, words: PromptWords, sizes: frozenset[Size]):
        self.record, self.sizes = CrossAttentionRecord(words), sizes
        self.sigma: float | None = None
        self.sums: dict[Size, tuple[Tensor, int]] = {}

    def begin(self, sigma: float) -> None:
        self.sigma, self.sums = float(sigma), {}

    def add(self, q: Tensor, k: Tensor, heads: int, size: Size, sigma: float) -> None:
        """q: [frames, cells, heads * dim] of the recorded prompt's rows only; k likewise.

        Ignored at other noise levels (a solver's corrector calls), at other resolutions, and where another patch has changed the number
        of cells or columns (HyperTile, token merging, prompt injection)."""
        length, columns = self.record.words.length, self.record.words.columns
        at_this_level = self.sigma is not None and abs(sigma - self.sigma) <= 1e-6 * self.sigma
        if not at_this_level or size not in self.sizes or q.shape[1] != size[0] * size[1] or k.shape[1] % length or not columns:
            return
        copies = torch.arange(0, k.shape[1], length, device=q.device)[:, None]
        maps = token_maps(q, k, heads, copies + torch.tensor(columns, device=q.device))
        total, layers = self.sums.get(size, (0, 0))
        self.sums[size] = (total + rearrange(maps, "f t (h w) -> f t h w", h=size[0]), layers + 1)

    def finish(self) -> None:
        if self.sigma is not None and self.sums:
            self.record.sigmas.append(self.sigma)
            self.record.levels.append({size: (total / layers).half().cpu() for size, (total, layers) in self.sums.items()})
        self.sigma, self.sums = None, {}
