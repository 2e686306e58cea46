"""Temporal-spatial self-attention: a frame's queries look at other frames' keys and values. No training, no new weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

KEYS_FROM = ("first_previous", "self_middle", "all")


def key_frames(frames: int, keys_from: str) -> Tensor:
    """Which frames' keys each frame sees. [frames, seen]

    first_previous: Tune-A-Video's sparse-causal attention, FateZero's default. self_middle: FateZero's attribute edits."""
    own = torch.arange(frames)
    if keys_from == "first_previous":
        return torch.stack([torch.zeros_like(own), (own - 1).clamp(min=0)], 1)
    if keys_from == "self_middle":
        return torch.stack([own, torch.full_like(own, frames // 2)], 1)
    raise ValueError(f"keys_from is {keys_from!r}; choose one of {', '.join(KEYS_FROM)}.")


def temporal_attention(
    q: Tensor, k: Tensor, v: Tensor, frames: int, keys_from: str, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Self-attention across frames (paper, temporal-spatial attention; variants as in `key_frames`, and "all" as in vid2vid-zero).

    q, k, v: [(conds frames), cells, heads * dim], already projected; attend: plain attention on such tensors. Frames never mix
    across conds: the batch is cond-major. Keys are gathered after projection, so each frame is projected once."""
    if keys_from == "all":
        joined = [rearrange(t, "(c f) n d -> c (f n) d", f=frames) for t in (q, k, v)]
        return rearrange(attend(*joined), "c (f n) d -> (c f) n d", f=frames)
    seen = key_frames(frames, keys_from).to(k.device)
    k, v = (rearrange(rearrange(t, "(c f) n d -> c f n d", f=frames)[:, seen], "c f s n d -> (c f) (s n) d") for t in (k, v))
    return attend(q, k, v)
