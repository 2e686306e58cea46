"""A custom-node pack that makes ComfyUI fail where it is told to, and tells what a run has left behind. For `benchmarks.faults` only.

Its doors stand in a graph before nodes of any pack and hand on a MODEL, VAE, CLIP or LATENT with a hook, as other packs' patches hook
themselves in. A hook does nothing until POST /faults/arm names it; the fault then happens once, at one of its calls. So the prompt that failed
is, run again, the very same prompt. GET /faults/state tells what the process holds.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import hashlib
import logging
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FunctionType, ModuleType

import comfy.model_management
import folder_paths
import psutil
import torch
from aiohttp import web
from server import PromptServer

HOST = ("comfy.", "comfy_extras.", "comfy_execution.", "execution", "folder_paths", "latent_preview", "nodes", "torch.nn.functional")
# Bytes that the server's log, and so any file, may still grow once the disk is "full": less than any of the edit's files takes
ROOM = 12 * 1024


class Fault:
    """The fault that is armed. place: a hook's name; kind: what happens; at: at which of its calls, from 0."""

    def __init__(self) -> None:
        self.place, self.kind, self.left, self.fired = "", "", 0, False
        self.calls: Counter[str] = Counter()

    def arm(self, place: str, kind: str, at: int) -> None:
        self.place, self.kind, self.left, self.fired = place, kind, at, False
        self.calls.clear()

    def here(self, place: str) -> str:
        """The kind of the fault, if it is this call that has it, else nothing. Raises, cancels or ends the process where that is the fault."""
        self.calls[place] += 1
        if place != self.place or self.fired:
            return ""
        self.left -= 1
        if self.left >= 0:
            return ""
        self.fired = True
        if self.kind == "cancel":
            comfy.model_management.interrupt_current_processing()
        elif self.kind == "exception":
            raise RuntimeError("the fault of another pack")
        elif self.kind == "out of memory":
            raise comfy.model_management.OOM_EXCEPTION("the fault of a full device")
        elif self.kind == "killed":
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        elif self.kind == "disk full":
            fill_disk()
        return self.kind


FAULT = Fault()


class LeaksTold(logging.Handler):
    """Counts what ComfyUI logs of models that it takes for leaked, since the last fault was armed."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "memory leak" in record.getMessage()


LEAKS = LeaksTold()
logging.getLogger().addHandler(LEAKS)


def fill_disk() -> None:
    """No file can grow beyond what the log needs. Writing further fails with an OSError, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(1).st_size + ROOM, resource.RLIM_INFINITY))


def empty_disk() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def spoiled(value: torch.Tensor, place: str) -> torch.Tensor:
    return value * float("nan") if FAULT.here(place) == "NaN" else value


class ModelDoor:
    """MODEL: hooks `<name>.unet`, `<name>.self-attention`, `<name>.cross-attention` and `<name>.guidance`."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"model": ("MODEL",), "name": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "open", "faults"

    def open(self, model, name: str) -> tuple:
        def unet(apply, given: dict) -> torch.Tensor:
            fault = FAULT.here(f"{name}.unet")
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
        return (model,)


class VaeDoor:
    """VAE: hooks `<name>.encode` and `<name>.decode`."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"vae": ("VAE",), "name": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "open", "faults"

    def open(self, vae, name: str) -> tuple:
        made = copy.copy(vae)
        made.encode = lambda *given, **named: spoiled(vae.encode(*given, **named), f"{name}.encode")
        made.decode = lambda *given, **named: spoiled(vae.decode(*given, **named), f"{name}.decode")
        return (made,)


class ClipDoor:
    """CLIP: hook `<name>.encode`."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"clip": ("CLIP",), "name": ("STRING", {"default": ""})}}

    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "open", "faults"

    def open(self, clip, name: str) -> tuple:
        made = copy.copy(clip)

        def encode(tokens, **named):
            spoil = FAULT.here(f"{name}.encode") == "NaN"
            found = clip.encode_from_tokens_scheduled(tokens, **named)
            return [[embedding * float("nan") if spoil else embedding, options] for embedding, options in found]

        made.encode_from_tokens_scheduled = encode
        return (made,)


class Any(str):
    """A type that connects to all."""

    def __ne__(self, other: object) -> bool:
        return False


class Door:
    """Anything, handed on: hook `<name>.passing`, once in a run. nonce: another number makes what follows run anew."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (Any("*"),), "name": ("STRING", {"default": ""}), "nonce": ("INT", {"default": 0})}}

    RETURN_TYPES, FUNCTION, CATEGORY = (Any("*"),), "open", "faults"

    def open(self, value, name: str, nonce: int) -> tuple:
        FAULT.here(f"{name}.passing")
        return (value,)


class Digest:
    """SHA-256 of an IMAGE, MASK or LATENT, to the bit."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (Any("*"),)}}

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "digest", "faults", True

    def digest(self, value) -> dict:
        tensor = value["samples"] if isinstance(value, dict) else value
        return {"ui": {"sha256": [hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()]}}


OPENED: dict = {}  # the doors of MODELs, by name: each, and what its options were made of when it was opened


def packs_objects() -> dict[str, int]:
    """How many objects of the pack's own classes are alive, by class."""
    doors = (name for name, module in sys.modules.items() if "BladeExtension" in getattr(module, "__dict__", {}))
    package = next(doors).removesuffix(".nodes") + "."
    alive = Counter(
        type(found).__qualname__ for found in gc.get_objects() if str(getattr(type(found), "__module__", "")).startswith(package)
    )
    return dict(sorted(alive.items()))


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


def changed(before: object, now: object) -> object:
    return f"{before} -> {now}" if before != now else "as opened"


def host_functions() -> dict[str, int]:
    """Every function of the host's modules and classes, by the object that stands there now."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(HOST):
            for key, value in list(vars(module).items()):
                if isinstance(value, FunctionType):
                    found[f"{name}.{key}"] = id(value)
                elif isinstance(value, type) and value.__module__ == name:
                    found |= {
                        f"{name}.{key}.{part}": id(inside) for part, inside in vars(value).items() if isinstance(inside, FunctionType)
                    }
    return found


def dead(loaded) -> bool:
    """Whether ComfyUI has lost every MODEL of a network that it has loaded: it then warns of a leak at each loading, until it is restarted."""
    return loaded.real_model is not None and loaded.is_dead()


def hooks_of(module: torch.nn.Module) -> int:
    """Hooks and replaced forwards in a network."""
    count = 0
    for part in module.modules():
        count += len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) + ("forward" in vars(part))
    return count


def state() -> dict:
    """What would tell that a run left something behind. Ids hold within one process."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    process = psutil.Process()
    places = [
        Path(folder)
        for folder in (folder_paths.get_temp_directory(), folder_paths.get_output_directory(), folder_paths.get_input_directory())
    ]
    pictures = ".png"  # of nodes' previews, which ComfyUI keeps in its temp folder until it ends
    return {
        "fired": FAULT.fired,
        "calls": FAULT.calls,
        "resident": process.memory_info().rss,
        "temp": sorted(path.name for path in places[0].rglob("*") if path.is_file() and path.suffix != pictures),
        "open": sorted(file.path for file in process.open_files() if any(Path(file.path).is_relative_to(folder) for folder in places)),
        "threads": sorted(re.sub(r"[-_\d]+", "", thread.name) for thread in threading.enumerate() if "asyncio" not in thread.name),
        "objects": packs_objects(),
        "tensors": bytes_of_tensors(),
        "options": {name: changed(made_of, structure(model.model_options)) for name, (model, made_of) in OPENED.items()},
        "injected": {name: [bool(model.patches), len(model.injections), len(model.callbacks)] for name, (model, _) in OPENED.items()},
        "hooks": {name: hooks_of(model.model) for name, (model, _) in OPENED.items()},
        "host": hashlib.sha256(repr(host_functions()).encode()).hexdigest(),
        "leaks": [sum(dead(model) for model in comfy.model_management.current_loaded_models), LEAKS.count],
        "torch": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled()],
    }  # fmt: skip


@PromptServer.instance.routes.post("/faults/arm")
async def arm(request):
    told = await request.json()
    empty_disk()
    FAULT.arm(told["place"], told["kind"], told["at"])
    LEAKS.count = 0
    return web.json_response({})


@PromptServer.instance.routes.get("/faults/state")
async def tell(request):
    return web.json_response(state())


NODE_CLASS_MAPPINGS = {"FaultModel": ModelDoor, "FaultVae": VaeDoor, "FaultClip": ClipDoor, "FaultDoor": Door, "FaultDigest": Digest}
