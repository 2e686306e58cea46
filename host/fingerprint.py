"""What a MODEL is made of, told so that it can be compared on another day: its weights, and what was patched onto it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

TEMPORAL = "blade_temporal"  # in transformer_options: how temporal attention was set
SAMPLED = ("time_embed.2.bias", "out.0.weight", "out.0.bias", "out.2.bias")  # small, in every U-Net, and no LoRA's business
ROUNDING = 2**-7  # of bf16, twice: the same checkpoint may be loaded in another precision


def weights_sample(model) -> Tensor:
    """Some of the U-Net's own weights, as they are without LoRAs. [n] fp32 on the CPU; empty where they cannot be read."""
    prefix = "diffusion_model."
    try:
        held = model.get_key_patches(prefix)
        parts = [held[prefix + name][0] for name in SAMPLED]
    except KeyError:  # another pack's loader names its weights otherwise
        return torch.empty(0)
    weights = [part[0] if isinstance(part, tuple) else part for part in parts]
    if any(weight.is_meta for weight in weights):
        return torch.empty(0)
    return torch.cat([weight.detach().flatten().float().cpu() for weight in weights])


def same_weights(one: Tensor, other: Tensor) -> bool:
    """Whether two samples are of one checkpoint, whatever precision it was loaded in. What is unknown counts as the same."""
    if not len(one) or not len(other):
        return True
    return one.shape == other.shape and torch.allclose(one, other, rtol=ROUNDING, atol=1e-6)


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
