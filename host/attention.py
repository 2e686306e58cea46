"""Polite attention patches: they live for one call of the model, chain with other packs' patches and leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import comfy.patcher_extension
import torch
from torch import Tensor

from ..attention.temporal import KeyFrames, plan_batches, temporal_attention
from .families import family_of
from .frames import SELF, rows_of, with_frame_batches
from .layers import CONFINE, TEMPORAL, Attend, Cond, Handler, Layer, Size

DIFFUSION_MODEL = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


def with_attention(model, key: str, **handlers):
    """A clone of a MODEL whose attention layers go through handlers (Family.attention_wrapper). The given MODEL is not changed. A second patch
    under the same key replaces the first."""
    model = model.clone()
    model.remove_wrappers_with_key(DIFFUSION_MODEL, key)
    model.add_wrapper_with_key(
        DIFFUSION_MODEL, key, family_of(model).attention_wrapper(model.get_model_object("diffusion_model"), **handlers)
    )
    return model


def with_temporal_attention(
    model,
    keys: KeyFrames,
    size: int = 0,
    strength: float = 1.0,
    scales: tuple[int, int] = (1, 8),
    percent: tuple[float, float] = (0.0, 1.0),
):
    """A clone of a MODEL whose self-attention looks across frames (attention.temporal), passing them in batches of `size` (host.frames).

    strength: 0 is plain self-attention, 1 temporal attention, a mixture of their results between. scales: finest and coarsest
    feature maps that take part, as divisors of the latent's height. percent: of the way from noise to clip, as core counts it."""

    def across_frames(q: Tensor, k: Tensor, v: Tensor, attend: Attend, layer: Layer) -> Tensor:
        finest, coarsest = (-(-layer.call.shown[0] // scale) for scale in scales)
        active, passing = coarsest <= layer.size[0] <= finest, layer.passing
        if active and percent != (0.0, 1.0):
            sampling = passing.model_sampling if passing else model.get_model_object("model_sampling")
            begin, end = (float(sampling.percent_to_sigma(share)) for share in percent)
            active = end <= layer.call.sigma <= begin
            if not active:
                layer.note(TEMPORAL, idle=True)
        # Where another patch has changed what this layer attends to (HyperTile, token merging) or which rows it gets (tiles in one batch),
        # it is left to that one.
        if not active or k.shape != q.shape or q.shape[:2] != (layer.batch, layer.cells) or (layer.in_batches and passing is None):
            return attend(q, k, v)
        conds = layer.call.conds
        batch = passing.batch if passing else plan_batches(layer.rows // len(conds), keys, layer.rows)[0]
        name: Hashable = layer.name
        if passing:
            name = (name, passing.turn(name, conds))
            for place, cond in enumerate(conds if batch.carried else ()):
                if (name, cond) not in passing.carried.held:  # core had no use for this default cond before: its first frame stands in
                    stand_in = [place * len(batch.frames)] * len(batch.carried)
                    passing.carried.put(name, [cond], k[None, stand_in], v[None, stand_in])
        # What another pack has put in the attention's place may read the layer's grid off the queries: each frame's stay in a row of their own.
        mixed = temporal_attention(q, k, v, conds, batch, attend, passing.carried if passing else None, name, apart=attend.replaced)
        if mixed.shape != q.shape:  # it does not attend, but hands values through (PAG): then its own frame's
            return attend(q, k, v)
        layer.note(TEMPORAL)
        return mixed if strength == 1 else torch.lerp(attend(q, k, v), mixed, strength)

    model = with_frame_batches(model, keys if strength else SELF, size)
    options = model.model_options.setdefault("transformer_options", {})
    if not strength or keys.plain:
        model.remove_wrappers_with_key(DIFFUSION_MODEL, TEMPORAL)  # an earlier node's
        options.pop(TEMPORAL, None)
        return model
    options[TEMPORAL] = f"{keys}, strength {strength:g}, scales {scales[0]} to {scales[1]}, from {percent[0]:g} to {percent[1]:g}"
    return with_attention(model, TEMPORAL, self_attention=across_frames)


def confining(heard: Callable[[tuple[int, ...], Size], Tensor | None], conds: set[Cond]) -> Handler:
    """A handler of cross-attention that lets some conds' prompts be heard in a place only. Elsewhere a cell sees their silent column alone, for CLIP the
    start token, which knows no word since its text encoders look back only; attention to one column is its value, so nothing is computed.

    heard(clip, size): whether a layer's cells of that height and width hear the prompts, for the frames of the clip with these numbers, bool
    [frames, height * width]; None: all do. Rows that show not the whole picture (an area, a tile) and layers whose cells another patch has
    changed (HyperTile, token merging) are left alone.

    Paper: "under attention control", silent on how; ours. DenseDiffusion (Kim et al. 2023) bends the scores by a layout instead."""

    def confined(q: Tensor, k: Tensor, v: Tensor, attend: Attend, layer: Layer) -> Tensor:
        out = attend(q, k, v)
        rows, passing = layer.rows_of(conds), layer.passing
        if passing is None or out.shape[1] != layer.cells:
            return out
        layer.note(CONFINE)
        if not rows or not layer.whole:
            return out
        inside = heard(passing.clip, layer.size)
        if inside is None:
            return out
        hears = torch.ones(out.shape[:2], dtype=torch.bool, device=out.device)
        hears[rows] = inside.to(out.device).repeat(len(rows) // len(inside), 1)
        return torch.where(hears[..., None], out, v[:, layer.silent : layer.silent + 1])

    return confined


def recording(recorder, conds: set[Cond]) -> dict:
    """What Family.attention_wrapper takes to show cross-attention, and the self-attention of the same blocks, to a recorder
    (attention.record.MapRecorder), for the conds that are in `conds` by the time the model runs (host.sampling.conds_where).
    Frames must pass in the batches of host.frames."""

    one_at_a_time = threading.Lock()  # since 0.23 core may run conds in threads, on devices of their own

    def shown_to(see: Callable[..., None]) -> Handler:
        def watch(q: Tensor, k: Tensor, v: Tensor, attend: Attend, layer: Layer) -> Tensor:
            rows, passing = layer.rows_of(conds), layer.passing
            # What shows not the whole picture (an area, a tile) may have the size of a coarser layer.
            if rows and passing and not passing.batch.pilot and layer.whole:
                clip = passing.clip * (len(rows) // len(passing.clip))
                with one_at_a_time:
                    see(rows_of(q, rows), rows_of(k, rows), layer.heads, layer.size, layer.call.sigma, clip)
            return attend(q, k, v)

        return watch

    return {"self_attention": shown_to(recorder.look), "cross_attention": shown_to(recorder.add), "self_where": recorder.spreads_at}


def record_cross_attention(model, recorder, conds: set[Cond]):
    """A clone of a MODEL that shows its attention to a recorder (`recording`). Without a recorder, the MODEL as it is."""
    return model if recorder is None else with_attention(model, "blade_record", **recording(recorder, conds))
