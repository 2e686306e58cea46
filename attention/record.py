"""Recording of cross-attention: per noise level one small map per token and frame, nothing else."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..inversion.coordinates import EPS, Coordinates
from .words import PromptWords

Size = tuple[int, int]
Maps = dict[Size, Tensor]
SPREAD = "spread "  # before the names of such tensors
MOST_SPREAD = 512  # positions: beyond, what waits for the maps would show in the peak of memory, and the time fourfold


def recorded_sizes(height: int, width: int) -> frozenset[Size]:
    """Which attention resolutions to keep for a latent of this size: those of 180 to 1,300 positions.

    At 512 px with SD1.5 that is 32x32 and 16x16. Finer maps are noisy and large, coarser ones poor (FreeMask, section 3).
    A latent too small for the rule keeps its finest resolution."""
    sizes = [(height, width)]
    for _ in range(3):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    kept = frozenset(size for size in sizes if 180 <= size[0] * size[1] <= 1300)
    return kept or frozenset([next(size for size in sizes if size[0] * size[1] <= 1300 or size == sizes[-1])])


def token_maps(q: Tensor, k: Tensor, heads: int, columns: Tensor) -> Tensor:
    """Softmax cross-attention of the chosen columns, averaged over heads; a repeated context's copies are summed.

    q: [frames, positions, heads * dim]; k: [frames, context, heads * dim]; columns: [copies, tokens]. Returns [frames, tokens, positions] fp32.
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


def spread_maps(q: Tensor, k: Tensor, heads: int, maps: Tensor) -> Tensor:
    """Maps spread along self-attention: A @ maps, averaged over heads, without ever holding A.

    q, k: of the self-attention, [frames, positions, heads * dim]; maps: [frames, tokens, positions] fp32. Returns the same shape and type.
    Positions of one object attend to each other, so its map fills up and ends at its outline (affinity; paper silent, after DiffSeg, Tian et al.
    2023, and its kin, who store A)."""
    dim, out = q.shape[-1] // heads, torch.empty_like(maps)
    for frame in range(len(q)):
        q_f, k_f = (rearrange(t[frame], "n (h d) -> 1 h n d", h=heads).float() for t in (q, k))
        for first in range(0, maps.shape[1], dim):  # torch's fused attention wants values as wide as keys
            part = maps[frame, first : first + dim]
            values = F.pad(part.T, (0, dim - len(part))).expand(1, heads, -1, -1)
            out[frame, first : first + dim] = F.scaled_dot_product_attention(q_f, k_f, values)[0].mean(0)[:, : len(part)].T
    return out


def clear(sigma: float, coordinates: Coordinates = EPS) -> bool:
    """Whether a level is among those with little noise, a fifth of SD's, at which maps are spread: there self-attention knows best what belongs together,
    and at all levels it would cost five times as much and gain nothing."""
    return coordinates.share(sigma) >= 0.8


@dataclass(frozen=True)
class LevelMaps:
    """What a recorder saw at one noise level: per resolution [frames, tokens, h, w], fp16, averaged over heads and layers.

    maps: the cross-attention itself. spread: the same, spread along the layers' self-attention (`spread_maps`), at resolutions of up to
    MOST_SPREAD positions; None where there are none, and at levels that are not `clear`."""

    sigma: float
    maps: Maps
    spread: Maps | None = None


@dataclass
class CrossAttentionRecord:
    """Maps of a prompt's tokens along a run. One entry a noise level: sigma, and per resolution a tensor
    [frames, tokens, h, w] fp16, averaged over heads and layers. Tokens are in the order of `words.columns`.

    spread: the mean over the clear levels of LevelMaps.spread, each level by its `share`. [frames, tokens, h, w] fp32. coordinates: of the model that ran."""

    words: PromptWords
    sigmas: list[float] = field(default_factory=list)
    levels: list[Maps] = field(default_factory=list)
    stores: Maps = field(default_factory=dict)
    spread: Maps = field(default_factory=dict)
    spread_weights: dict[Size, float] = field(default_factory=dict)
    coordinates: Coordinates = EPS

    def share(self, sigma: float) -> float:
        """How much a noise level's maps count: the signal's share of the variance.

        Paper: masks are "noise-aware"; the weighting is ours, after FreeMask's finding that maps at high noise are poor."""
        return self.coordinates.share(sigma)

    def add(self, found: LevelMaps, levels: int, empty: Callable[[tuple[int, ...], torch.dtype], Tensor]) -> None:
        """Keeps a level's maps, one of `levels` in all, in a tensor for each resolution that `empty(shape, dtype)` makes."""
        level = len(self.levels)
        for size, tokens in found.maps.items():
            if size not in self.stores:
                self.stores[size] = empty((levels, *tokens.shape), tokens.dtype)
            self.stores[size][level].copy_(tokens)
        self.levels.append({size: self.stores[size][level] for size in found.maps})
        self.sigmas.append(found.sigma)
        for size, tokens in (found.spread or {}).items():
            self.spread_weights[size] = self.spread_weights.get(size, 0.0) + self.share(found.sigma)
            mean = self.spread.setdefault(size, tokens.new_zeros(tokens.shape, dtype=torch.float32))
            mean.lerp_(tokens.float(), self.share(found.sigma) / self.spread_weights[size])

    def pick(self, level: int, columns: tuple[int, ...]) -> Maps:
        """Maps of some columns at one level, summed over them: per resolution [frames, h, w] fp32."""
        return pick_columns(self.levels[level], self.words, columns)

    @property
    def nbytes(self) -> int:
        return sum(maps.nbytes for level in (*self.levels, self.spread) for maps in level.values())

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The maps as "height x width" -> [levels, frames, tokens, h, w], their spread as "spread height x width" with one level, and what is
        no tensor, as JSON takes it: sigmas, words, and which levels each tensor holds. Nothing is copied where a resolution was seen at
        every level."""
        tensors, held = {}, {}
        for size in sorted({size for maps in self.levels for size in maps}):
            name = "{}x{}".format(*size)
            held[name] = [level for level, maps in enumerate(self.levels) if size in maps]
            from_the_first = size in self.stores and held[name] == list(range(len(held[name])))
            tensors[name] = (
                self.stores[size][: len(held[name])] if from_the_first else torch.stack([self.levels[level][size] for level in held[name]])
            )
        tensors |= {"{}{}x{}".format(SPREAD, *size): maps[None] for size, maps in self.spread.items()}
        return tensors, {"sigmas": self.sigmas, "levels": held, "words": self.words.describe()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], description: Any, coordinates: Coordinates = EPS) -> CrossAttentionRecord:
        """What `to_tensors` gave, as a record over the same tensors. Raises ValueError where it does not fit together."""
        try:
            sigmas, held = [float(sigma) for sigma in description["sigmas"]], dict(description["levels"])
            whole = all(isinstance(level, int) for levels in held.values() for level in levels)
            words = PromptWords.from_description(description["words"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"its record lacks a part or has one of another kind ({error!r})") from error
        if not whole or not all(0 < sigma < math.inf for sigma in sigmas):
            raise ValueError("its record has levels that are no whole numbers, or sigmas that are not positive")
        of_levels = {name for name in tensors if not name.startswith(SPREAD)}
        if held.keys() != of_levels:
            raise ValueError(f"its record has maps of {sorted(of_levels)}, but should have {sorted(held)}")
        record = cls(words, sigmas, [{} for _ in sigmas], coordinates=coordinates)
        for name, maps in tensors.items():
            frames = next(iter(tensors.values())).shape[1:2]
            if (
                maps.ndim != 5
                or maps.shape[1:2] != frames
                or maps.shape[2] != len(words.columns)
                or name.removeprefix(SPREAD) != "{}x{}".format(*maps.shape[3:])
                or (name.startswith(SPREAD) and len(maps) != 1)
            ):
                raise ValueError(
                    f"its record's maps {name!r} are {list(maps.shape)}, not [levels, frames, {len(words.columns)} tokens, height, width]"
                )
            if name.startswith(SPREAD):
                record.spread[maps.shape[3], maps.shape[4]] = maps[0]
                continue
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
    """Collects token maps while a model runs. `begin` opens a noise level, `look` is called from every self-attention and `add` from every
    cross-attention layer, for all frames or for one batch of them after the other, `finish` gives the level's maps, averaged over the layers.

    Calls may come from several threads with tensors of several devices, though not at once."""

    def __init__(self, words: PromptWords, sizes: frozenset[Size], frames: int, coordinates: Coordinates = EPS):
        self.words, self.sizes, self.frames, self.coordinates = words, sizes, frames, coordinates
        self.sigma: float | None = None
        self.forget()

    def forget(self) -> None:
        self.sums: dict[bool, Maps] = {False: {}, True: {}}  # of the maps, and of what has been spread
        self.layers: dict[Size, Tensor] = {}  # how many layers have shown each frame
        # Of each thread that runs the model, the self-attention of the block under way
        self.before: dict[int, tuple[Size, tuple[int, ...], Tensor, Tensor, int]] = {}

    def begin(self, sigma: float) -> None:
        self.sigma = float(sigma)
        self.forget()

    def watches(self, q: Tensor, size: Size, sigma: float) -> bool:
        """Whether a layer is looked at: not at other noise levels (a solver's corrector calls), at other resolutions, and where another patch
        has changed the number of positions (HyperTile, token merging)."""
        at_this_level = self.sigma is not None and abs(sigma - self.sigma) <= 1e-6 * self.sigma
        return at_this_level and size in self.sizes and q.shape[1] == size[0] * size[1] and bool(self.words.columns)

    def spreads_at(self, size: Size) -> bool:
        """Whether maps of that resolution are spread."""
        return size in self.sizes and size[0] * size[1] <= MOST_SPREAD

    def look(self, q: Tensor, k: Tensor, heads: int, size: Size, sigma: float, clip: Sequence[int]) -> None:
        """The self-attention that the next `add` may spread its maps along. Arguments as there; kept until then."""
        self.before.pop(threading.get_ident(), None)
        if self.watches(q, size, sigma) and clear(sigma, self.coordinates) and q.shape == k.shape and self.spreads_at(size):
            self.before[threading.get_ident()] = size, tuple(clip), q, k, heads

    def add(self, q: Tensor, k: Tensor, heads: int, size: Size, sigma: float, clip: Sequence[int]) -> None:
        """q: [rows, positions, heads * dim] of the recorded prompt's rows only; k likewise; clip: which frame of the clip each row is.

        Ignored where `watches` says so, and where another patch has changed the number of columns (prompt injection)."""
        before = self.before.pop(threading.get_ident(), None)
        length, columns = self.words.length, self.words.columns
        if not self.watches(q, size, sigma) or k.shape[1] % length:
            return
        copies = torch.arange(0, k.shape[1], length, device=q.device)[:, None]
        maps = token_maps(q, k, heads, copies + torch.tensor(columns, device=q.device))
        rows = torch.tensor(clip, device=q.device)
        self.sum_up(False, size, rows, maps)
        if clear(sigma, self.coordinates) and self.spreads_at(size):
            spread = before is not None and before[:2] == (size, tuple(clip))
            self.sum_up(True, size, rows, spread_maps(*before[2:], maps) if spread and before else maps)
        layers = self.layers.setdefault(size, maps.new_zeros(self.frames))
        layers.index_add_(0, rows.to(layers.device), torch.ones_like(rows, dtype=layers.dtype, device=layers.device))

    def sum_up(self, spread: bool, size: Size, rows: Tensor, maps: Tensor) -> None:
        sums = self.sums[spread].setdefault(size, maps.new_zeros((self.frames, maps.shape[1], *size)))
        sums.index_add_(0, rows.to(sums.device), rearrange(maps.to(sums.device), "f t (h w) -> f t h w", h=size[0]))

    def finish(self) -> LevelMaps | None:
        """The maps of the level that `begin` opened, on the CPU; None where no layer has shown any."""
        found = None
        if self.sigma is not None and self.layers:
            layers = {size: rearrange(count.clamp(min=1), "f -> f 1 1 1") for size, count in self.layers.items()}
            maps, spread = ({size: (total / layers[size]).half().cpu() for size, total in sums.items()} for sums in self.sums.values())
            found = LevelMaps(self.sigma, maps, spread or None)
        self.sigma = None
        self.forget()
        return found
