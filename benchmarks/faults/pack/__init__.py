"""A custom-node pack that makes ComfyUI fail where it is told to, and tells what a run has left behind. For `benchmarks.faults` only.

Its doors stand in a graph before nodes of any pack and hand on a MODEL, VAE, CLIP or anything else with a hook, as other packs' patches hook
themselves in. A hook does nothing until POST /faults/arm names it; the fault then happens once, at one of its calls. So the prompt that failed
is, run again, the very same prompt. GET /faults/state tells what the process holds.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import hashlib
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import folder_paths
import psutil
import torch
from aiohttp import web
from comfy import model_management, model_patcher, sd
from comfy.comfy_types import IO
from server import PromptServer

HOST = ("comfy.", "comfy_extras.", "comfy_execution.", "execution", "folder_paths", "latent_preview", "nodes", "torch.nn.functional")
# Bytes that the server's log, and so any file, may still grow once the disk is "full": less than any of the edit's files takes
ROOM = 12 * 1024


@dataclass
class Fault:
    """The fault that is armed. place: a hook's name; kind: what happens; at: at which of its calls, from 0. calls: of each hook, so far."""

    place: str = ""
    kind: str = ""
    at: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    def here(self, place: str) -> str:
        """The kind of the fault, if it is this call that has it, else nothing. Raises, cancels or ends the process where that is the fault."""
        self.calls[place] += 1
        if place != self.place or self.calls[place] != self.at + 1:
            return ""
        if self.kind == "cancel":
            model_management.interrupt_current_processing()
        elif self.kind == "exception":
            raise RuntimeError("the fault of another pack")
        elif self.kind == "out of memory":
            raise model_management.OOM_EXCEPTION("the fault of a full device")
        elif self.kind == "killed":
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        elif self.kind == "disk full":
            limit_files(os.fstat(1).st_size + ROOM)
        return self.kind


ARMED = Fault()


def limit_files(most: int | None) -> None:
    """No file can grow beyond so many bytes, and writing further fails with an OSError, as on a full disk. None: as far as there is room."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if most is None else most, resource.RLIM_INFINITY))


def spoiled(value, place: str):
    """A tensor, or the conditioning of a prompt, as it passes a hook."""
    if ARMED.here(place) != "NaN":
        return value
    return [[embedding * float("nan"), options] for embedding, options in value] if isinstance(value, list) else value * float("nan")


def with_hook(call: Callable, place: str) -> Callable:
    return lambda *given, **named: spoiled(call(*given, **named), place)


def model_with_hooks(model, name: str):
    def unet(apply, given: dict) -> torch.Tensor:
        fault = ARMED.here(f"{name}.unet")
        if fault == "refused by us":  # an answer from a cache, without the model: what passes in batches of frames must not have it
            return given["input"]
        found = apply(given["input"], given["timestep"], **given["c"])
        return found * float("nan") if fault == "NaN" else found

    model = model.clone()
    model.set_model_unet_function_wrapper(unet)
    model.set_model_attn1_patch(lambda q, k, v, options: (spoiled(q, f"{name}.self-attention"), k, v))
    model.set_model_attn2_patch(lambda q, k, v, options: (spoiled(q, f"{name}.cross-attention"), k, v))
    model.set_model_sampler_post_cfg_function(lambda given: spoiled(given["denoised"], f"{name}.guidance"))
    OPENED[name] = model, structure(model.model_options)
    return model


METHODS = {sd.VAE: {"encode": "encode", "decode": "decode"}, sd.CLIP: {"encode": "encode_from_tokens_scheduled"}}


class Door:
    """Hands anything on. Hooks of a MODEL: `<name>.unet`, `<name>.self-attention`, `<name>.cross-attention` and `<name>.guidance`; of a VAE or CLIP
    those of METHODS; else `<name>.passing`, once in a run. nonce: another number makes what follows run anew."""

    RETURN_TYPES, FUNCTION, CATEGORY = (IO.ANY,), "open", "faults"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (IO.ANY,), "name": ("STRING", {"default": ""}), "nonce": ("INT", {"default": 0})}}

    def open(self, value, name: str, nonce: int) -> tuple:
        if isinstance(value, model_patcher.ModelPatcher):
            return (model_with_hooks(value, name),)
        if type(value) not in METHODS:
            ARMED.here(f"{name}.passing")
            return (value,)
        made = copy.copy(value)
        for hook, method in METHODS[type(value)].items():
            setattr(made, method, with_hook(getattr(value, method), f"{name}.{hook}"))
        return (made,)


class Digest:
    """SHA-256 of an IMAGE, MASK or LATENT, to the bit."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "digest", "faults", True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (IO.ANY,)}}

    def digest(self, value) -> dict:
        tensor = value["samples"] if isinstance(value, dict) else value
        return {"ui": {"sha256": [hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()]}}


NODE_CLASS_MAPPINGS = {"FaultDoor": Door, "FaultDigest": Digest}
OPENED: dict = {}  # the doors of MODELs, by name: each, and what its options were made of when it was opened


def packs_objects() -> dict[str, int]:
    """How many objects of the pack's own classes are alive, by class."""
    doors = (name for name, module in sys.modules.items() if "BladeExtension" in getattr(module, "__dict__", {}))
    package = next(doors).removesuffix(".nodes") + "."
    kinds = (type(found) for found in gc.get_objects())
    return dict(sorted(Counter(kind.__qualname__ for kind in kinds if str(getattr(kind, "__module__", "")).startswith(package)).items()))


def bytes_of_tensors() -> int:
    """What all tensors hold that Python can reach, weights too; on a GPU this would be its memory."""
    alive = (found.untyped_storage() for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values())


def structure(value: object, depth: int = 0) -> object:
    """What a MODEL's options are made of: keys, sizes and the very objects."""
    if isinstance(value, dict) and depth < 8:
        return {str(key): structure(inside, depth + 1) for key, inside in value.items()}
    if isinstance(value, (list, tuple)) and depth < 8:
        return [structure(inside, depth + 1) for inside in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else f"{type(value).__name__} {id(value)}"


def host_functions() -> list[str]:
    """Every function of the host's modules and classes, with the id of the object that stands there now."""
    found = []
    for name, module in sorted(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(HOST):
            classes = [held for held in list(vars(module).values()) if isinstance(held, type) and held.__module__ == name]
            holders: list[Any] = [module, *classes]
            for holder in holders:
                held_there = list(vars(holder).items())
                found += [f"{name}.{holder.__name__}.{key} {id(held)}" for key, held in held_there if isinstance(held, FunctionType)]
    return found


def hooks_of(network: torch.nn.Module) -> int:
    """Hooks and replaced forwards in a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(sum(len(getattr(part, kind)) for kind in kinds) + ("forward" in vars(part)) for part in network.modules())


def state() -> dict:
    """What would tell that a run left something behind. Ids hold within one process."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    process = psutil.Process()
    temp, *others = map(Path, (folder_paths.get_temp_directory(), folder_paths.get_output_directory(), folder_paths.get_input_directory()))
    pictures = ".png"  # of nodes' previews, which ComfyUI keeps in its temp folder until it ends
    now = {name: structure(model.model_options) for name, (model, _) in OPENED.items()}
    return {
        "fired": ARMED.calls[ARMED.place] > ARMED.at,
        "calls": ARMED.calls,
        "resident": process.memory_info().rss,
        "temp": sorted(path.name for path in temp.rglob("*") if path.is_file() and path.suffix != pictures),
        "open": sorted(file.path for file in process.open_files() if any(Path(file.path).is_relative_to(folder) for folder in (temp, *others))),
        "threads": sorted(re.sub(r"[-_\d]+", "", thread.name) for thread in threading.enumerate() if "asyncio" not in thread.name),
        "objects": packs_objects(),
        "tensors": bytes_of_tensors(),
        "options": {name: "as opened" if now[name] == then else f"{then} -> {now[name]}" for name, (_, then) in OPENED.items()},
        "injected": {name: [bool(model.patches), len(model.injections), len(model.callbacks)] for name, (model, _) in OPENED.items()},
        "hooks": {name: hooks_of(model.model) for name, (model, _) in OPENED.items()},
        "host": hashlib.sha256(repr(host_functions()).encode()).hexdigest(),
        # Networks whose MODELs ComfyUI has all lost: it then warns of a leak at each loading, until it is restarted
        "leaks": [sum(it.real_model is not None and it.is_dead() for it in model_management.current_loaded_models)],
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled()],
    }  # fmt: skip


@PromptServer.instance.routes.post("/faults/arm")
async def arm(request):
    global ARMED
    limit_files(None)
    ARMED = Fault(**await request.json())
    return web.json_response({})


@PromptServer.instance.routes.get("/faults/state")
async def tell(request):
    return web.json_response(state())
