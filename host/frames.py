"""Frames of a clip passing the model in batches, inside one call of the solver, so that length costs no memory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ..attention.temporal import CarriedKeys, FrameBatch, KeyFrames, plan_batches
from .families import family_of
from .families.family import Family
from .layers import EFFECTS, FRAMES, WATCH, FramePass
from .leaks import collected_after_errors

DIFFUSION_MODEL = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
AUTOMATIC_MOST = 16  # frames: a bound that does not depend on the free memory keeps the memory of long clips the same
SELF = KeyFrames(("self",))


def check_answered(passing: FramePass, inner) -> None:
    """Raises ValueError where something else than the whole network has answered for a batch."""
    if not passing.family.ran_whole(inner.diffusion_model, passing.ran):
        raise ValueError(
            "another pack's patch answers in the model's place, from a cache (as EasyCache and TeaCache do) or by a network of its own. What it "
            "holds is of other frames or of another prompt. Take that patch off the model."
        )


def hindered(lacking: str) -> str:
    """A warning of what another pack's patch has kept from happening."""
    return (
        f"Warning: {lacking}, since another pack's patch on the model splits the frames, changes what its layers attend to or answers in their place. "
        "Take that patch off to have it."
    )


def refuse_for_batches(options: dict, frames: int, size: int) -> None:
    """Raises ValueError where core's Self-Attention Guidance would take the attention of a batch for that of the whole clip."""
    for function in options.get("patches_replace", {}).get("attn1", {}).values():
        if "SelfAttentionGuidance" in getattr(function, "__qualname__", ""):
            raise ValueError(
                f"Self-Attention Guidance looks at the whole clip at once, but its {frames} frames pass in batches of {size or 'what memory holds'}. "
                f"Take it off the model, or let all pass at once: batch_frames {frames} in Temporal-Spatial Attention (BLADE)."
            )


def frame_batches(family: Family, keys: KeyFrames = SELF, size: int = 0) -> Callable:
    """A CALC_COND_BATCH wrapper through which the frames of a clip pass in batches of `size` (0: automatic, from free memory and at most 16).

    Under every sampler, with whatever conds, areas, hooks and ControlNets: the batches are made where core has not yet laid out conds and
    uncond, around AnimateDiff-style windows' own. keys: what temporal attention will ask for, so that it is carried along. A family whose frames
    are no rows passes them at once."""

    told: set[str] = set()

    @collected_after_errors()
    def calc_cond_batch(executor, inner, conds, x, timestep, model_options):
        options = model_options.get("transformer_options", {})
        keys_of_ours = [str(key) for key in options.get("wrappers", {}).get(DIFFUSION_MODEL, ())]
        wanted = {name for name in EFFECTS if any(key.startswith(name) for key in keys_of_ours)}
        frames, coupled = family.frames_of(x), family.frame_axis != 0
        window = clip_places(model_options, frames, family.frame_axis)
        order = sorted(range(frames), key=window.__getitem__)
        # A ControlNet's hints are of the whole clip, also in core's windows. AnimateDiff's tell Advanced-ControlNet of their rows themselves.
        hinted = window if "context_window" in options else tuple(range(frames))
        whole = coupled or bool(options.get("ad_params"))  # a motion module wants its window whole
        batches = plan_batches(frames, keys, frames if whole else size or automatic_size(inner, conds, x))
        if len(batches) > 1:
            refuse_for_batches(options, frames, size)
        else:
            batches = (in_order_of_rows(batches[0], order),)
        carried = CarriedKeys()
        results: list[Tensor] = []
        for batch in batches:
            comfy.model_management.throw_exception_if_processing_interrupted()
            rows = [order[frame] for frame in batch.frames]
            hints = [hinted[row] for row in rows]
            if coupled or rows == hints == list(range(frames)):
                part = (conds, x, timestep)
            else:
                part = (rows_of_all_conds(conds, rows, hints, max(hinted) + 1), rows_of(x, rows), repeated_rows(timestep, rows))
            passing = FramePass(batch, tuple(window[row] for row in rows), tuple(x.shape[-2:]), inner.model_sampling, family, carried)
            batch_options = family.watched({**options, FRAMES: passing}, passing.ran)
            if len(batches) > 1:  # as AnimateDiff-Evolved tells of its windows: IPAdapter takes its frames' embeddings by sub_idxs
                batch_options["ad_params"] = {"sub_idxs": rows, "full_length": frames}
            outputs = executor(inner, *part, {**model_options, "transformer_options": batch_options})
            if len(batches) > 1:
                check_answered(passing, inner)
            if batch.pilot:
                continue
            if WATCH in options:
                options[WATCH](len(rows), {EFFECTS[name]: name in passing.effects for name in wanted - passing.idle})
            elif passing.ran:  # a sampler of core's
                for name in wanted - passing.effects - passing.idle - told:
                    told.add(name)
                    logging.warning("BLADE: %s", hindered(f"{EFFECTS[name]} had no effect"))
            if part[1] is x:
                return outputs
            results = results or [torch.empty_like(x, dtype=output.dtype) for output in outputs]
            for result, output in zip(results, outputs, strict=True):
                result[rows] = output
        return results

    return calc_cond_batch


def with_frame_batches(model, keys: KeyFrames = SELF, size: int = 0):
    """A clone of a MODEL through which the frames of a clip pass in batches (`frame_batches`)."""

    def prepare_sampling(executor, patcher, noise_shape, *args, **kwargs):
        """What is loaded leaves room for one batch, not for the clip."""
        shape = list(noise_shape)
        shape[0] = min(shape[0], size or AUTOMATIC_MOST)
        return executor(patcher, shape, *args, **kwargs)

    model = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.CALC_COND_BATCH, frame_batches(family_of(model), keys, size)), (kinds.PREPARE_SAMPLING, prepare_sampling)):
        model.remove_wrappers_with_key(kind, FRAMES)
        model.add_wrapper_with_key(kind, FRAMES, wrapper)
    return model


def in_frame_batches(model):
    """The MODEL, or, where nothing makes batches of its frames yet, a clone that does so by itself."""
    made = model.get_wrappers(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, FRAMES)
    return model if made else with_frame_batches(model)


def clip_places(model_options: dict, frames: int, axis: int = 0) -> tuple[int, ...]:
    """The place in the clip of each frame of a call: as a context window says (core's, or AnimateDiff-Evolved's), else simply its number. axis: along which
    frames lie.

    Raises ValueError for a window of core's that does not say it."""
    options = model_options.get("transformer_options", {})
    window = options.get("context_window")
    if window is None:
        places = (options.get("ad_params") or {}).get("sub_idxs")
        return tuple(places) if places is not None and len(places) == frames else tuple(range(frames))
    if getattr(window, "dim", 0) != axis:
        raise ValueError(
            f"Context Windows cuts the pictures, along dimension {window.dim}, and not the clip into frames. Set its dim to {axis}, or take it off the model: "
            "BLADE passes the frames of long clips in batches by itself."
        )
    places = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and anchor >= 0:  # since 0.21: the frame before the window goes ahead, and core drops what comes of it
        places.insert(0, anchor)
    if len(places) != frames:
        raise ValueError(
            f"a context window of another pack passes {frames} frames, but names {len(places)}: masks would land on the wrong ones. Take it off the model: "
            "BLADE passes the frames of long clips in batches by itself."
        )
    for row in getattr(model_options.get("context_handler"), "latent_retain_index_list", ()):
        places[row] = row if row >= 0 else window.total_frames + row  # since 0.21: these rows show the frame of their own number
    return tuple(places)


def in_order_of_rows(batch: FrameBatch, order: Sequence[int]) -> FrameBatch:
    """A batch of the whole clip for rows that stand as they come: place i of the clip is row order[i]. A looped window is not sorted, and
    a motion module knows its frames by their rows."""
    places = [order.index(row) for row in range(len(order))]
    seen = batch.seen and tuple(tuple(order[place] for place in batch.seen[own]) for own in places)
    return FrameBatch(tuple(places), seen=seen)


def automatic_size(inner, conds: list, x: Tensor) -> int:
    """How many frames of all conds half of the free memory holds, by the host's own estimate; 1 to 16."""
    rows = max(1, sum(len(cond) for cond in conds if cond))
    needed = inner.memory_required([rows, *x.shape[1:]])
    free = comfy.model_management.get_free_memory(x.device)
    return int(min(AUTOMATIC_MOST, max(1, free // (2 * needed))))


def rows_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of a tensor with one row a frame; a view where they are consecutive."""
    first, count = rows[0], len(rows)
    return tensor[first : first + count] if list(rows) == list(range(first, first + count)) else tensor[list(rows)]


def rows_of_all_conds(conds: list[list[dict] | None], rows: Sequence[int], hints: Sequence[int], frames: int) -> list[list[dict] | None]:
    """Conds for some rows of a call. What has a row a frame (embeddings, masks) follows them; what has fewer rows is repeated over the clip, as
    core does. hints: which of the clip's `frames` the rows show."""
    controls: dict = {}
    return [
        cond and [{name: part_of_cond(name, value, rows, hints, frames, controls) for name, value in part.items()} for part in cond]
        for cond in conds
    ]


def part_of_cond(name: str, value: Any, rows: Sequence[int], hints: Sequence[int], frames: int, controls: dict) -> Any:
    if name == "model_conds":
        return {key: rows_of_model_cond(cond, rows) for key, cond in value.items()}
    if name == "mask" and len(value) > 1:
        return repeated_rows(value, rows)
    if name == "control":
        return rows_of_control(value, hints, frames, controls)
    return value


def rows_of_model_cond(cond, rows: Sequence[int]):
    """A model cond (comfy.conds) with the rows of some frames. One of a single row stays as it is."""
    content = cond.cond
    if isinstance(content, Tensor) and content.ndim and len(content) > 1:
        return cond._copy_with(repeated_rows(content, rows))
    if isinstance(content, list) and all(isinstance(part, Tensor) for part in content):
        return cond._copy_with([repeated_rows(part, rows) if len(part) > 1 else part for part in content])
    return cond


def repeated_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Row i of the clip is row i modulo the tensor's length: where core repeats what is shorter than the batch."""
    return rows_of(tensor, [row % len(tensor) for row in rows])


def rows_of_control(control, rows: Sequence[int], frames: int, made: dict):
    """A ControlNet, and those chained before it, whose hint follows some frames. A copy without the scaled hint that the original
    keeps; the network itself is shared. Advanced-ControlNet's own ask for sub_idxs. made: the copies there are, since core lets only
    conds of the same ControlNet pass together."""
    if control in made:
        return made[control]
    part = made[control] = copy.copy(control)
    if part.previous_controlnet is not None:
        part.previous_controlnet = rows_of_control(part.previous_controlnet, rows, frames, made)
    if clones := getattr(control, "multigpu_clones", None):  # since 0.23: its like on other devices, with hints and chains of their own
        part.multigpu_clones = {device: rows_of_control(clone, rows, frames, made) for device, clone in clones.items()}
    if hasattr(part, "sub_idxs"):
        part.sub_idxs, part.full_latent_length, part.context_length = list(rows), frames, len(rows)
        return part
    hint = part.cond_hint_original
    if isinstance(hint, Tensor) and len(hint) > 1:
        rows = [row % len(hint) for row in rows]
        part.cond_hint_original, part.cond_hint = rows_of(hint, rows), None
        part.cond_hints, part.control_inputs = {}, {}  # what later hosts (after 0.33) keep of a hint, by its size alone
        part.extra_concat_orig = [repeated_rows(extra, rows) if len(extra) > 1 else extra for extra in part.extra_concat_orig]
    return part
