"""What a handler of attention sees of a model: the batch of frames under way, the call, and the layer before it. Alike in every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from ..attention.temporal import CarriedKeys, FrameBatch

# In transformer_options
FRAMES = "blade_frames"  # the batch of frames under way
WATCH = "blade_watch"  # is told how many frames have passed, and which of EFFECTS were wanted and had
TEMPORAL = "blade_temporal"  # how temporal attention was set
CONFINE, STRUCTURE = "blade_confine", "blade_structure"
EFFECTS = {TEMPORAL: "Temporal-Spatial Attention", CONFINE: "confine", STRUCTURE: "structure"}  # by what our wrappers' keys begin with

Size = tuple[int, int]
Cond = tuple[Hashable, int]  # a cond's uuid, and its place among those that guidance asks for together


class Attend(Protocol):
    """Runs whatever would have run without our patch. q, k, v: [rows, tokens, heads * dim]; returns the shape of q.

    replaced: whether that is another pack's replacement, which may read the layer's grid off the queries."""

    @property
    def replaced(self) -> bool: ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


Handler = Callable[[Tensor, Tensor, Tensor, Attend, "Layer"], Tensor]
"""handler(q, k, v, attend, layer) -> out; q, k, v and out are [rows, tokens, heads * dim], a row for each frame of each cond, cond after cond."""


@dataclass(frozen=True)
class FramePass:
    """A batch of frames on its way through the model. clip: the place of each frame in the clip. size: height and width of the whole latent, of which a
    row may show a part (an area, a tile)."""

    batch: FrameBatch
    clip: tuple[int, ...]
    size: tuple[int, ...]
    model_sampling: Any
    family: Any  # host.families.Family
    carried: CarriedKeys
    turns: Counter = field(default_factory=Counter)
    ran: set[int] = field(default_factory=set)  # which parts of the network have run, as its family counts them
    effects: set[str] = field(default_factory=set)  # those of EFFECTS that found a layer to work on
    idle: set[str] = field(default_factory=set)  # those that have nothing to do in this call

    def turn(self, layer: Hashable, conds: list[Cond]) -> int:
        """How often in this batch the layer has already seen these conds: more than once where another pack passes the frame in tiles."""
        turn = self.turns[layer, conds[0]]
        self.turns[layer, conds[0]] += 1
        return turn


@dataclass(frozen=True)
class ModelCall:
    """One call of the model, made before its first layer. options: the host's transformer_options. shown: height and width of the latent that the call
    is given, which may be a part of the clip's."""

    options: dict
    shown: Size

    @cached_property
    def sigma(self) -> float:
        """The noise level, read from the device once."""
        return float(self.options["sigmas"][0])

    @cached_property
    def conds(self) -> list[Cond]:
        """The conds of the batch, in the order of its rows.

        Where there are areas core gives a positive and a negative cond the same uuid, so the uuid alone does not tell."""
        signs = self.options.get("cond_or_uncond", [0])
        return list(zip(self.options.get("uuids") or range(len(signs)), signs, strict=False))


@dataclass(frozen=True)
class Layer:
    """One attention layer in a call. name: which of the model's. size: height and width of its feature map. heads: of attention. batch: rows of the
    feature map; rows: those of the queries, others where another patch has changed them. silent: the column of a prompt's context that knows no word."""

    call: ModelCall
    name: Hashable
    size: Size
    heads: int
    batch: int
    rows: int
    silent: int = 0

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def in_batches(self) -> bool:
        """Whether frames pass the model in batches of ours."""
        return FRAMES in self.call.options

    @cached_property
    def passing(self) -> FramePass | None:
        """The batch of frames that the rows are of; None where something else has called the model, or has changed its batch."""
        found = self.call.options.get(FRAMES)
        return found if found is not None and self.rows == len(self.call.conds) * len(found.clip) else None

    @property
    def whole(self) -> bool:
        """Whether the rows show the whole picture."""
        return self.passing is not None and self.call.shown == self.passing.size

    def rows_of(self, conds: set[Cond]) -> list[int]:
        """Rows that belong to these conds, cond after cond."""
        frames = self.rows // max(len(self.call.conds), 1)
        wanted = [place for place, cond in enumerate(self.call.conds) if cond in conds]
        return [place * frames + frame for place in wanted for frame in range(frames)]

    def note(self, effect: str, idle: bool = False) -> None:
        """One of EFFECTS has found a layer to work on; idle: or has nothing to do in this call."""
        if self.in_batches:
            passing = self.call.options[FRAMES]
            (passing.idle if idle else passing.effects).add(effect)
