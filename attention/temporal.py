"""Temporal-spatial self-attention: a frame's queries look at other frames' keys and values. No training, no new weights.

Clips of any length: frames pass in batches, one after the other, and each layer carries the keys and values that later batches need."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
KINDS = ("self", "first", "previous", "next", "middle", "all")
STAND_INS = 4  # frames, spread evenly over a long clip, that stand in for those which have not passed yet


@dataclass(frozen=True)
class KeyFrames:
    """Whose keys and values a frame sees: any of KINDS, and with `anchor_every` = n also the latest frame at a multiple of n.

    Peers' choices: first + previous is Tune-A-Video's sparse-causal attention and FateZero's default; self + middle FateZero's for
    attributes; first Text2Video-Zero's; anchor + previous Pix2Video's; all vid2vid-zero's. A frame before the first is the first, one
    after the last the last. Raises ValueError for an unknown kind and where nothing is chosen."""

    kinds: tuple[str, ...]
    anchor_every: int = 0

    def __post_init__(self):
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"a frame's keys cannot come from {unknown[0]!r}; choose from {', '.join(KINDS)}.")
        if self.anchor_every < 0:
            raise ValueError(f"anchor_every is {self.anchor_every}: give 0 for no anchors, or how many frames lie between two.")
        if not self.kinds and not self.anchor_every:
            raise ValueError(f"no frame is chosen to take keys and values from; choose at least one of {', '.join(KINDS)}.")

    def __str__(self) -> str:
        return ", ".join((*self.kinds, *([f"anchor every {self.anchor_every}"] if self.anchor_every else [])))

    @property
    def plain(self) -> bool:
        """Whether this is ordinary self-attention."""
        return self.kinds == ("self",) and not self.anchor_every

    def seen_by(self, frame: int, frames: int) -> tuple[int, ...]:
        """The frames that `frame` of a clip of `frames` sees. A frame named twice counts twice, as in the peers."""
        if "all" in self.kinds:
            return tuple(range(frames))
        places = {
            "self": frame,
            "first": 0,
            "previous": max(frame - 1, 0),
            "next": min(frame + 1, frames - 1),
            "middle": frames // 2,
        }
        anchor = (frame - frame % self.anchor_every,) if self.anchor_every else ()
        return tuple(places[kind] for kind in self.kinds) + anchor

    def pilots(self, frames: int) -> tuple[int, ...]:
        """Frames that a clip passing in batches sends ahead, since earlier frames look at them.

        `middle` sends the middle frame, `next` and `all` look at what cannot have passed: frames spread evenly over the clip stand in.
        With them go the first frame and the anchors that they see themselves."""
        ahead = {frames // 2} if "middle" in self.kinds else set()
        if {"next", "all"} & set(self.kinds):
            ahead |= {round(i * (frames - 1) / (STAND_INS - 1)) for i in range(STAND_INS)}
        if ahead and "first" in self.kinds:
            ahead |= {0}
        if self.anchor_every:
            ahead |= {frame - frame % self.anchor_every for frame in ahead}
        return tuple(sorted(ahead))


@dataclass(frozen=True)
class FrameBatch:
    """Frames that pass the model together.

    frames: their places in the clip, one a row. carried: the places whose keys and values every layer still holds from earlier
    batches. seen: for each row, the positions in carried + frames that it sees (None: each sees itself only). keep: the positions in
    carried + frames that later batches need. pilot: sent ahead for its keys only, its result is not used."""

    frames: tuple[int, ...]
    carried: tuple[int, ...] = ()
    seen: tuple[tuple[int, ...], ...] | None = None
    keep: tuple[int, ...] = ()
    pilot: bool = False


@lru_cache(maxsize=64)
def plan_batches(frames: int, keys: KeyFrames, size: int) -> tuple[FrameBatch, ...]:
    """How a clip of `frames` passes in batches of `size`, in order.

    Where every frame sees only itself, the first, the previous, the middle (without previous) and anchors, the batches together equal
    the whole clip at once; where a frame that is wanted has not passed, the nearest one that has stands in. Paper silent; ours."""
    whole = tuple(range(frames))
    if keys.plain:
        return tuple(FrameBatch(whole[start : start + size]) for start in range(0, frames, size))
    pilots = keys.pilots(frames)
    if size >= frames or len(pilots) == frames:  # all frames sent ahead are the whole clip already
        return (FrameBatch(whole, seen=tuple(keys.seen_by(frame, frames) for frame in whole)),)
    passes = ([pilots] if pilots else []) + [whole[start : start + size] for start in range(0, frames, size)]
    wanted = [{place for frame in batch for place in keys.seen_by(frame, frames)} for batch in passes]
    batches: list[FrameBatch] = []
    carried: tuple[int, ...] = ()
    for number, batch in enumerate(passes):
        places = {place: position for position, place in enumerate(carried + batch)}  # where a frame is there twice, the batch's own

        def nearest(place: int, places: dict[int, int] = places) -> int:
            return places[place] if place in places else places[min(places, key=lambda held: abs(held - place))]

        if "all" in keys.kinds:
            seen = (tuple(sorted(places.values())),) * len(batch)
        else:
            seen = tuple(tuple(nearest(place) for place in keys.seen_by(frame, frames)) for frame in batch)
        later = set(pilots).union(*wanted[number + 1 :]) if "all" not in keys.kinds else set(pilots)
        keep = {place: position for place, position in places.items() if place in later and number + 1 < len(passes)}
        batches.append(FrameBatch(batch, carried, seen, tuple(keep.values()), pilot=bool(pilots) and number == 0))
        carried = tuple(keep)
    return tuple(batches)


class CarriedKeys:
    """Keys and values that the layers hold between the batches of one model call, apart for each cond."""

    def __init__(self) -> None:
        self.held: dict[tuple[Hashable, Hashable], tuple[Tensor, Tensor]] = {}

    def take(self, layer: Hashable, conds: Sequence[Hashable], device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values of some conds, which may have passed on another device. Two tensors [conds, carried frames, cells, width]"""
        keys, values = zip(*((part.to(device) for part in self.held[layer, cond]) for cond in conds), strict=True)
        return torch.stack(keys), torch.stack(values)

    def put(self, layer: Hashable, conds: Sequence[Hashable], keys: Tensor, values: Tensor) -> None:
        for cond, key, value in zip(conds, keys, values, strict=True):
            self.held[layer, cond] = key.clone(), value.clone()  # a view would hold on to the whole batch's


def temporal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    conds: Sequence[Hashable],
    batch: FrameBatch,
    attend: Attend,
    carried: CarriedKeys | None = None,
    layer: Hashable = None,
    apart: bool = False,
) -> Tensor:
    """Self-attention across frames (paper, temporal-spatial attention; variants as in `KeyFrames`).

    q, k, v: [(conds frames), cells, width], already projected, so that each frame is projected once; attend: plain attention on such
    tensors. Frames never mix across conds. carried, layer: where keys and values of earlier batches are held, needed if the batch says so.
    apart: attend gets each frame's queries in a row of their own, [(conds frames), cells, width], also where all frames see the same.
    """
    frames = len(batch.frames)
    if batch.seen is None:
        return attend(q, k, v)
    k, v = (rearrange(t, "(c f) n d -> c f n d", f=frames) for t in (k, v))
    if batch.carried and carried is not None:
        k, v = (torch.cat(pair, 1) for pair in zip(carried.take(layer, conds, k.device), (k, v), strict=True))
    if batch.keep and carried is not None:
        carried.put(layer, conds, pick(k, batch.keep), pick(v, batch.keep))
    alike = all(seen == batch.seen[0] for seen in batch.seen)
    if alike and not apart:  # one long sequence of queries, and no copies of keys
        k, v = (rearrange(pick(t, batch.seen[0]), "c s n d -> c (s n) d") for t in (k, v))
        return rearrange(attend(rearrange(q, "(c f) n d -> c (f n) d", f=frames), k, v), "c (f n) d -> (c f) n d", f=frames)
    flat = tuple(position for seen in batch.seen for position in seen)
    k, v = (rearrange(pick(t, flat), "c (f s) n d -> (c f) (s n) d", f=frames) for t in (k, v))
    return attend(q, k, v)


def pick(held: Tensor, positions: tuple[int, ...]) -> Tensor:
    """held[:, positions], [conds, positions, cells, width]; a view where they are consecutive."""
    first, count = positions[0], len(positions)
    if positions == tuple(range(first, first + count)):
        return held[:, first : first + count]
    return held.index_select(1, torch.tensor(positions, device=held.device))
