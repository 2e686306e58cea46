"""Polite attention patches: they live for one U-Net call, chain with other packs' patches and leave nothing behind."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from torch import Tensor

from ..attention.temporal import Attend, KeyFrames, plan_batches, temporal_attention
from .fingerprint import TEMPORAL
from .frames import CONFINE, KEY, SELF, frame_pass, note_effect, rows_of, with_frame_batches

Block = tuple[str, int]  # "input", "middle" or "output", and its number
Cond = tuple[Hashable, int]  # a cond's uuid, and its place among those that guidance asks for together
Handler = Callable[[Tensor, Tensor, Tensor, "Beneath", dict], Tensor]
"""handler(q, k, v, attend, options) -> out; q, k, v and out are [batch, tokens, heads * dim]."""
DIFFUSION_MODEL = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


@dataclass(frozen=True)
class Beneath:
    """Runs whatever would have run without our patch: another pack's replacement, or the host's attention of choice."""

    replacement: Callable | None
    options: dict
    more: dict  # what the host's call said besides
    preferred: dict  # what the layer would say to the host's attention

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.replacement is not None:
            return self.replacement(q, k, v, self.options, **self.more)
        told = {"attn_precision": self.options["attn_precision"], **self.preferred, **self.more}
        # By the module, since packs put another function there.
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, self.options["n_heads"], transformer_options=self.options, **told)


class _Everywhere(dict):
    """What a transformer block looks its replacement up in: answers for every block, or for those named, with the handler around the
    previous entry. preferred: `preferred_attention`."""

    def __init__(self, previous: dict, handler: Handler, preferred: dict, blocks: frozenset[Block] | None = None):
        super().__init__(previous)
        self.previous, self.handler, self.preferred, self.blocks = previous, handler, preferred, blocks

    def __contains__(self, block: object) -> bool:
        return self.handles(block) or block in self.previous

    def handles(self, block: object) -> bool:
        return isinstance(block, tuple) and (self.blocks is None or block[:2] in self.blocks)

    def __getitem__(self, block: tuple) -> Callable:
        if not self.handles(block):
            return self.previous[block]
        previous = self.previous[block] if block in self.previous else None
        if previous is None and block[:2] in self.previous:  # a key without the transformer's index covers all of a block's
            previous = self.previous[block[:2]]

        def replacement(q: Tensor, k: Tensor, v: Tensor, options: dict, **more) -> Tensor:
            return self.handler(q, k, v, Beneath(previous, options, more, self.preferred.get(block, {})), options)

        return replacement


def preferred_attention(unet: UNetModel, name: str) -> dict[tuple[str, int, int], dict]:
    """What each of the "attn1" or "attn2" layers says to core's attention function of its own choice of one (since 0.40; core does not say
    it to what replaces a layer), by block and number of the transformer in it."""
    blocks = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}
    return {
        (kind, number, index): {"preferred_attention": layer.comfy_attention}
        for kind, listed in blocks.items()
        for number, block in enumerate(listed)
        for part in block or ()
        for index, transformer in enumerate(getattr(part, "transformer_blocks", ()))
        if hasattr(layer := getattr(transformer, name), "comfy_attention")
    }


def attention_wrapper(
    unet: UNetModel,
    *,
    self_attention: Handler | None = None,
    cross_attention: Handler | None = None,
    self_where: Callable[[tuple[int, int]], bool] | None = None,
) -> Callable:
    """A DIFFUSION_MODEL wrapper that sends all self- or cross-attention layers through a handler.

    self_where: in which sizes of feature maps self-attention does; by default in all. Elsewhere a layer stays as it is: one that is handled
    holds its keys and values until the block ends, which a clip's peak of memory would show.

    The handlers are placed inside each call of the diffusion model, around whatever patches_replace holds by then, so the order in which
    packs patched does not matter and nothing outlives the call."""
    handlers = {"attn1": self_attention, "attn2": cross_attention}
    preferred = {name: preferred_attention(unet, name) for name, handler in handlers.items() if handler is not None}

    def wrapper(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        replace = dict(transformer_options.get("patches_replace", {}))
        for name, handler in handlers.items():
            if handler is not None:
                chosen = blocks_where(unet, tuple(x.shape[-2:]), self_where) if name == "attn1" and self_where else None
                replace[name] = _Everywhere(replace.get(name, {}), handler, preferred[name], chosen)
        return executor(x, timesteps, context, y, control, {**transformer_options, "patches_replace": replace}, **kwargs)

    return wrapper


def with_attention(model, key: str, **handlers):
    """A clone of a MODEL whose attention layers go through handlers (`attention_wrapper`). The given MODEL is not changed. A second patch
    under the same key replaces the first."""
    model = model.clone()
    model.remove_wrappers_with_key(DIFFUSION_MODEL, key)
    model.add_wrapper_with_key(DIFFUSION_MODEL, key, attention_wrapper(model.get_model_object("diffusion_model"), **handlers))
    return model


def blocks_where(unet: UNetModel, size: tuple[int, int], where: Callable[[tuple[int, int]], bool]) -> frozenset[Block]:
    """The U-Net's blocks whose feature maps have a size that passes, for a latent of that height and width."""
    found, skipped = [], []
    for number, block in enumerate(unet.input_blocks):
        if any(isinstance(layer, Downsample) for layer in block):
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        skipped.append(size)
        found += [("input", number)] if where(size) else []
    found += [("middle", 0)] if where(size) else []
    for number, size in enumerate(reversed(skipped)):  # each block takes up what one of the input's gave, of its size
        found += [("output", number)] if where(size) else []
    return frozenset(found)


def layer_size(options: dict) -> tuple[int, int]:
    """Height and width of the layer's feature map."""
    return tuple(options["activations_shape"][-2:])


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

    def across_frames(q: Tensor, k: Tensor, v: Tensor, attend: Beneath, options: dict) -> Tensor:
        rows, cells = options["activations_shape"][0], math.prod(layer_size(options))
        finest, coarsest = (-(-options["original_shape"][-2] // scale) for scale in scales)
        active = coarsest <= layer_size(options)[0] <= finest
        passing = frame_pass(options, rows)
        if active and percent != (0.0, 1.0):
            sampling = passing.model_sampling if passing else model.get_model_object("model_sampling")
            begin, end = (float(sampling.percent_to_sigma(share)) for share in percent)
            active = end <= float(options["sigmas"][0]) <= begin
            if not active:
                note_effect(options, TEMPORAL)
        # Where another patch has changed what this layer attends to (HyperTile, token merging) or which rows it gets (tiles in one batch),
        # it is left to that one.
        if not active or k.shape != q.shape or q.shape[:2] != (rows, cells) or (KEY in options and passing is None):
            return attend(q, k, v)
        signs = options.get("cond_or_uncond", [0])
        # With their signs, since where there are areas core gives a positive and a negative cond the same uuid.
        conds: list[Hashable] = list(zip(options.get("uuids") or range(len(signs)), signs, strict=True))
        batch = passing.batch if passing else plan_batches(rows // len(conds), keys, rows)[0]
        layer: Hashable = (options["block"], options["block_index"])
        if passing:
            layer = (layer, passing.turn(layer, conds))
            for place, cond in enumerate(conds if batch.carried else ()):
                if (layer, cond) not in passing.carried.held:  # core had no use for this default cond before: its first frame stands in
                    stand_in = [place * len(batch.frames)] * len(batch.carried)
                    passing.carried.put(layer, [cond], k[None, stand_in], v[None, stand_in])
        # What another pack has put in the attention's place may read the layer's grid off the queries: each frame's stay in a row of their own.
        mixed = temporal_attention(
            q, k, v, conds, batch, attend, passing.carried if passing else None, layer, apart=attend.replacement is not None
        )
        if mixed.shape != q.shape:  # it does not attend, but hands values through (PAG): then its own frame's
            return attend(q, k, v)
        note_effect(options, TEMPORAL)
        return mixed if strength == 1 else torch.lerp(attend(q, k, v), mixed, strength)

    model = with_frame_batches(model, keys if strength else SELF, size)
    told = model.model_options.setdefault("transformer_options", {})
    if not strength or keys.plain:
        model.remove_wrappers_with_key(DIFFUSION_MODEL, TEMPORAL)  # an earlier node's
        told.pop(TEMPORAL, None)
        return model
    told[TEMPORAL] = f"{keys}, strength {strength:g}, scales {scales[0]} to {scales[1]}, from {percent[0]:g} to {percent[1]:g}"
    return with_attention(model, TEMPORAL, self_attention=across_frames)


def rows_of_conds(options: dict, conds: set[Cond], batch: int) -> list[int]:
    """Rows of the batch that belong to these conds, cond after cond. Batches are cond-major.

    Under an area core gives the negative cond that it makes the positive's uuid, so the uuid alone does not tell."""
    present, signs = options.get("uuids", []), options.get("cond_or_uncond", [])
    frames = batch // max(len(present), 1)
    wanted = [place for place, cond in enumerate(zip(present, signs, strict=False)) if cond in conds]
    return [place * frames + frame for place in wanted for frame in range(frames)]


def confining(heard: Callable[[tuple[int, ...], tuple[int, int]], Tensor | None], conds: set[Cond]) -> Handler:
    """A handler of cross-attention that lets some conds' prompts be heard in a place only. Elsewhere a cell sees their first column, the start
    token, which knows no word since CLIP's text encoders look back only; attention to one column is its value, so nothing is computed.

    heard(clip, size): whether a layer's cells of that height and width hear the prompts, for the frames of the clip with these numbers, bool
    [frames, height * width]; None: all do. Rows that show not the whole picture (an area, a tile) and layers whose cells another patch has
    changed (HyperTile, token merging) are left alone.

    Paper: "under attention control", silent on how; ours. DenseDiffusion (Kim et al. 2023) bends the scores by a layout instead."""

    def confined(q: Tensor, k: Tensor, v: Tensor, attend: Attend, options: dict) -> Tensor:
        out = attend(q, k, v)
        rows, passing, size = rows_of_conds(options, conds, len(q)), frame_pass(options, len(q)), layer_size(options)
        if passing is None or out.shape[1] != math.prod(size):
            return out
        note_effect(options, CONFINE)
        if not rows or tuple(options["original_shape"][-2:]) != passing.size:
            return out
        inside = heard(passing.clip, size)
        if inside is None:
            return out
        hears = torch.ones(out.shape[:2], dtype=torch.bool, device=out.device)
        hears[rows] = inside.to(out.device).repeat(len(rows) // len(inside), 1)
        return torch.where(hears[..., None], out, v[:, :1])

    return confined


def recording(recorder, conds: set[Cond]) -> dict:
    """What `attention_wrapper` takes to show cross-attention, and the self-attention of the same blocks, to a recorder
    (attention.record.MapRecorder), for the conds that are in `conds` by the time the model runs (host.sampling.conds_where).
    Frames must pass in the batches of host.frames."""

    one_at_a_time = threading.Lock()  # since 0.23 core may run conds in threads, on devices of their own

    def shown_to(see: Callable[..., None]) -> Handler:
        def watch(q: Tensor, k: Tensor, v: Tensor, attend: Attend, options: dict) -> Tensor:
            rows, passing = rows_of_conds(options, conds, len(q)), frame_pass(options, len(q))
            # What shows not the whole picture (an area, a tile) may have the size of a coarser layer.
            if rows and passing and not passing.batch.pilot and tuple(options["original_shape"][-2:]) == passing.size:
                clip = passing.clip * (len(rows) // len(passing.clip))
                sigma = float(options["sigmas"][0])
                with one_at_a_time:
                    see(rows_of(q, rows), rows_of(k, rows), options["n_heads"], layer_size(options), sigma, clip)
            return attend(q, k, v)

        return watch

    return {"self_attention": shown_to(recorder.look), "cross_attention": shown_to(recorder.add), "self_where": recorder.spreads_at}


def record_cross_attention(model, recorder, conds: set[Cond]):
    """A clone of a MODEL that shows its attention to a recorder (`recording`). Without a recorder, the MODEL as it is."""
    return model if recorder is None else with_attention(model, "blade_record", **recording(recorder, conds))
