"""What a MODEL is made of, told so that it can be compared on another day: its weights, and what was patched onto it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .families import family_of
from .layers import TEMPORAL

VALUES = 2048  # of all these weights together, at least
SCALES = ("scale_weight", "weight_scale")  # beside a weight that means nothing without it
PRECISIONS = {
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}  # by the names that loaders have for them, the coarsest first
# How far two values lie apart, in steps of the coarser precision. Rounding moves a value by half a step, and by up to an eighth of half a step more where
# the file was rounded before; rounding twice may also end one step off.
ROUNDED, NEXT = 9 / 16, 3 / 2
# Shares of values beyond ROUNDED or NEXT that are too many. Measured on the demo's checkpoints, share beyond ROUNDED: one file in any two of PRECISIONS, 0;
# a file and its fp16 twin, both loaded as bf16, 0.06, and none beyond NEXT. A rank-4 LoRA of 1 % of a weight's size merged in, at strengths 0.1 to 1:
# 0.50 to 0.66 in fp16, 0.13 to 0.16 where it is in attn2's keys and values alone, 0.01 to 0.10 in fp8_e4m3fn. Another checkpoint: 0.999 in fp16, 0.68 to
# 0.99 in the others.
FEW, SOME = 0.005, 0.08


def weights_sample(model) -> Tensor:
    """Some of a MODEL's own weights, without LoRAs, in the precision that they are used in: its family's `ends`, then a run from the middle of each of
    its `blocks`, where a LoRA that was merged into a checkpoint's file shows.

    [n] fp32 on the CPU, a few KB; NaN where a weight cannot be read (quantized, or not in memory), empty where none can."""
    family, prefix = family_of(model), "diffusion_model."
    held = {name.removeprefix(prefix): kept[0] for name, kept in model.get_key_patches(prefix).items()}
    if not family.ends or not held.keys() >= set(family.ends):  # another pack's loader names its weights otherwise
        return torch.empty(0)
    blocks = sorted(filter(family.blocks.search, held))
    run, used_in = -(-VALUES // max(1, len(blocks))), model.model_dtype() or torch.float32
    parts = []
    for name in (*family.ends, *blocks):
        weight = held[name][0] if isinstance(held[name], tuple) else held[name]
        count = weight.shape.numel() if name in family.ends else run
        values = torch.full((count,), torch.nan)
        scaled = any(f"{name.rpartition('.')[0]}.{scale}" in held for scale in SCALES)
        if type(weight) in (Tensor, Parameter) and weight.is_floating_point() and not (weight.is_meta or scaled):
            found = weight.detach().flatten()[max(0, (weight.numel() - count) // 2) :][:count]
            values[: len(found)] = found.cpu().to(used_in).float()
        parts.append(values)
    sample = torch.cat(parts)
    return torch.empty(0) if sample.isnan().all() else sample


def precision(sample: Tensor) -> str:
    """The coarsest of PRECISIONS that holds every value of a sample as it is."""
    known = sample[sample.isfinite()]
    return next((name for name, kind in PRECISIONS.items() if torch.equal(known.to(kind).float(), known)), "fp32")


def shares_apart(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Of the values that both samples have, the share that lies farther apart than rounding to the coarser of their precisions can move them, and
    the share that lies farther apart than the next number of that precision. What is unknown is not counted."""
    kinds = [PRECISIONS[precision(sample)] for sample in (one, other)]
    shared = min(len(one), len(other))
    one, other = one[:shared], other[:shared]
    known = one.isfinite() & other.isfinite()
    if not known.any():
        return 0.0, 0.0
    one, other = one[known], other[known]
    step = torch.maximum(*(step_at(torch.maximum(one.abs(), other.abs()), kind) for kind in kinds))
    apart = (one - other).abs() / step
    return float((apart > ROUNDED).float().mean()), float((apart > NEXT).float().mean())


def same_weights(one: Tensor, other: Tensor) -> bool:
    """Whether two samples are of one checkpoint, whatever precision it was loaded in. What is unknown counts as the same."""
    moved, far = shares_apart(one, other)
    return moved <= SOME and far <= FEW


def weights_difference(there: Tensor, here: Tensor) -> str:
    """How two samples of one checkpoint differ, as a sentence's part; empty where they do not."""
    if not len(there) or not len(here):
        return ""
    told = []
    if precision(there) != precision(here):
        told.append(f"its weights are in {precision(here)}, and were in {precision(there)}")
    if shares_apart(there, here)[0] > FEW:
        told.append("its weights differ a little, as those of another file of the checkpoint, or with a weak LoRA merged in, do")
    return "; ".join(told)


def step_at(values: Tensor, kind: torch.dtype) -> Tensor:
    """How far apart the numbers of a precision lie at these values, which are not negative."""
    limits = torch.finfo(kind)
    return limits.eps * 2.0 ** (torch.frexp(values.clamp(min=limits.tiny)).exponent - 1)


def patches_of(model) -> dict[str, str]:
    """What was patched onto a MODEL and changes what it computes, name -> description. Guidance (CFG functions) is left out: an
    inversion has none. Functions of other packs are told by their names, so a change of their settings is not seen."""
    options = model.model_options
    inside = options.get("transformer_options", {})
    found = {"temporal attention": inside.get(TEMPORAL, "")}
    if model.patches:
        found["weights (LoRA)"] = f"{len(model.patches)} layers, {weight_digest(model.patches)}"
    for name, part in model.object_patches.items():
        found[name] = sampling_name(part) if name == "model_sampling" else type(part).__name__
    for name, listed in inside.get("patches", {}).items():
        found[name] = names(listed)
    for name, by_block in inside.get("patches_replace", {}).items():
        found[f"{name} replacement"] = names(by_block.values())
    if "optimized_attention_override" in inside:
        found["attention override"] = names([inside["optimized_attention_override"]])
    if "model_function_wrapper" in options:
        found["model function wrapper"] = names([options["model_function_wrapper"]])
    for kind, by_key in getattr(model, "wrappers", {}).items():
        others = [key for key, listed in by_key.items() if listed and not str(key).startswith("blade_")]
        if others:
            found[f"{kind} wrapper"] = ", ".join(sorted(map(str, others)))
    return {name: told for name, told in found.items() if told}


def sampling_name(sampling) -> str:
    """Kind of prediction and schedule of a model_sampling, with its highest sigma, by which a zero-terminal-SNR shows."""
    return f"{' '.join(kind.__name__ for kind in type(sampling).__bases__)}, sigma up to {float(sampling.sigma_max):.4g}"


def names(functions: Iterable[Any]) -> str:
    counted = Counter(getattr(function, "__qualname__", type(function).__qualname__) for function in functions)
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(counted.items()))


def weight_digest(patches: dict) -> str:
    """Changes with the layers that are patched, the strengths, and the first values of what is added."""
    digest = hashlib.sha256()
    for key in sorted(map(str, patches)):
        digest.update(key.encode())
    for key, listed in patches.items():
        for strength, added, *_ in listed:
            tensor = first_tensor(added)
            digest.update(f"{key} {strength} {'' if tensor is None else tensor.flatten()[:4].tolist()}".encode())
    return digest.hexdigest()[:8]


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor inside the tuples, lists or adapter objects that a weight patch may be."""
    if isinstance(value, Tensor):
        return value
    inner = getattr(value, "weights", value)
    return next((found for part in inner if (found := first_tensor(part)) is not None), None) if isinstance(inner, tuple | list) else None


def difference(there: dict[str, str], here: dict[str, str]) -> str:
    """Where two MODELs' patches differ, as a sentence's part; empty where they do not."""
    changed = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return "; ".join(f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in changed)
