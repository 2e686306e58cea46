"""The questions of memory, each answered in fresh processes: by a clip's length, of DDIM Invert beside KSampler, and of FateZero's case."""

from __future__ import annotations

import gc
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import safetensors.torch
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, Edit
from benchmarks.metrics.temporal import warp_error
from benchmarks.speed.bench import CFG, Seconds, interleaved, random_bench, start_comfy
from benchmarks.speed.overheads import grid, made_up
from demo.base import CHECKPOINT_NAME, prepare_base
from demo.clips import read_mp4, write_mp4
from demo.run import RunFailed
from runner.graphs import with_defaults
from runner.host import ComfyHost, Outcome

MIB, GB = 2**20, 10**9
EDIT: Edit = DEVELOPMENT_COLOUR_EDITS[0]
SETTLING = 15  # seconds: ComfyUI collects garbage up to ten seconds after a prompt
STEADY = {"MALLOC_ARENA_MAX": "1"}
"""For glibc: one heap for all threads. Else each keeps freed memory of its own, and two runs of one clip differ by 50 MiB."""
GIVE_BACK = {**STEADY, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""For glibc: freed memory goes back to the system at once, so that what is resident is what is in use. Without it, two runs of one kind
differ by ten times the trajectory."""
STAGES = {"encode": "Encode Video", "invert": "DDIM Invert", "sample": "Blended Sampler", "decode": "Decode Video"}
Held = tuple[int, int]  # bytes in use, and how many of them are no pages of files (all, where the system does not say)


class MemoryWatch:
    """Context manager: the most bytes that a process holds meanwhile, looked at 25 times a second, and on Linux as the system itself knows.

    pid: of a server, whose resident memory counts; None: this process, on its GPU where it has one. idle: what was held at the beginning;
    stages: the most of each node of a prompt, where `on_event` is told what the server runs; peak: the most of all."""

    def __init__(self, pid: int | None = None):
        self.process, self.gpu = psutil.Process(pid), pid is None and torch.cuda.is_available()
        self.stages, self.node, self.ended = dict[str, Held](), "", threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def held(self) -> Held:
        if self.gpu:
            return torch.cuda.memory_allocated(), torch.cuda.memory_allocated()
        found = self.process.memory_info()
        return found.rss, found.rss - getattr(found, "shared", 0)

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):  # the host says so itself
            while not self.ended.wait(0.04):
                node, held = self.node, self.held()
                most, private = self.stages.get(node, held)
                self.stages[node] = max(most, held[0]), max(private, held[1])

    def on_event(self, event: dict) -> None:
        if event["type"] == "executing":
            self.node = event["data"]["node"] or ""

    def __enter__(self) -> MemoryWatch:
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.idle = self.stages[""] = self.held()
        with suppress(OSError):  # Linux: the process's peak begins anew. Elsewhere what is looked at in time has to do
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        status = Path(f"/proc/{self.process.pid}/status")
        known = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
        most = torch.cuda.max_memory_allocated() if self.gpu else int(known[1]) * 1024 if known else 0
        self.peak = max(most, *(most for most, _ in self.stages.values()))


def watch_prompt(comfy: Path, base: Path, name: str, warm_up: dict, prompt: dict, malloc: dict[str, str]) -> tuple[MemoryWatch, Outcome]:
    """Runs a prompt in a fresh server, after a smaller one and a pause in which its garbage goes. name: of the server's log. What a
    prompt leaves out is as the page has it. malloc: variables of glibc.

    Raises HostError, and RunFailed with ComfyUI's sentence where a prompt fails."""
    with patch.dict(os.environ, malloc), ComfyHost(comfy, base, log=base / f"host_{name}.log", cpu=True) as host:
        types = host.object_info()
        if failed := host.run(with_defaults(warm_up, types)).error:
            raise RunFailed(failed)
        time.sleep(SETTLING)
        with MemoryWatch(host.pid) as watch:
            outcome = host.run(with_defaults(prompt, types), on_event=watch.on_event, timeout=6 * 3600)
    if outcome.error:
        raise RunFailed(outcome.error)
    return watch, outcome


def prompt_of(nodes: dict[str, tuple[str, dict]]) -> dict:
    """Nodes by id, each its class and inputs, beside the demo's checkpoint, as POST /prompt takes them."""
    nodes = {"checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT_NAME})} | nodes
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def trajectory_bytes(frames: int, steps: int, side: int) -> int:
    """What DDIM Invert keeps of a clip with this prompt: latents of every level in fp32, and for each word and step a map in fp16 at
    every resolution that is recorded, and for each word one in fp32 (of affinity).

    side: latent cells. The words of these prompts are one token each, and the demo's U-Net has layers at all of these resolutions."""
    from blade.attention.record import recorded_sizes

    words, cells = len(EDIT.clip.source_prompt.split()), sum(rows * columns for rows, columns in recorded_sizes(side, side))
    return 4 * (steps + 1) * frames * 4 * side**2 + (2 * steps + 4) * frames * words * cells


SIDE = 16  # latent cells a side of that clip
BATCH = 16  # frames that pass the model at once where memory is free (host.frames)
WARM_UP = (16, 2)  # frames, steps


def edit_prompt(video: str, frames: int, steps: int) -> dict:
    """The edit from file to file. frames: how many of the file's."""
    texts = {"source": EDIT.clip.source_prompt, "target": EDIT.target_prompt, "negative": ""}
    inverted = {"model": ["temporal", 0], "source": ["source", 0], "latent": ["encode", 0], "steps": steps, "storage": "mapped file"}
    edited = {"model": ["temporal", 0], "target": ["target", 0], "negative": ["negative", 0], "trajectory": ["invert", 0], "steps": steps}
    edited |= {"source_words": EDIT.source_words, "target_words": EDIT.target_words, "consensus_until": 0.6, "mask_size": "latent cells"}
    file = {"fps": ["encode", 1], "filename_prefix": "speed/edited", "format": "mkv (FFV1, lossless)"}
    return prompt_of(
        {name: ("BLADE_Prompt", {"clip": ["checkpoint", 1], "text": text}) for name, text in texts.items()}
        | {
            "encode": ("BLADE_EncodeVideo", {"vae": ["checkpoint", 2], "video": video, "frame_count": frames}),
            "temporal": ("BLADE_TemporalAttention", {"model": ["checkpoint", 0]}),
            "invert": ("BLADE_DDIMInvert", inverted),
            "sample": ("BLADE_BlendedSampler", edited),
            "decode": ("BLADE_DecodeVideo", {"latent": ["sample", 0], "vae": ["checkpoint", 2], **file}),
        }
    )


def memory(comfy: Path, out: Path, quick: bool) -> dict:
    """An edit of a short and of a long clip: what it takes above the idle server and the trajectory, and whether batches show."""
    (short, long), steps = ((24, 96), 4) if quick else ((100, 1000), 8)
    base, runs, written = prepare_base(out / "base"), dict[str, dict](), dict[str, str]()
    for frames in (short, long):
        print(f"  editing {frames} frames in {steps} steps", flush=True)
        video = base / "input" / f"moving_{frames}.mp4"
        write_mp4(video, EDIT.clip.render(max(frames, WARM_UP[0])))
        prompts = edit_prompt(video.name, *WARM_UP), edit_prompt(video.name, frames, steps)
        watch, outcome = watch_prompt(comfy, base, str(frames), *prompts, STEADY)
        runs[f"{frames}_frames_{steps}_steps"] = length_figures(watch, outcome.seconds, frames, steps)
        written = outcome.outputs["decode"]["images"][0]
    edited = read_mp4(base / written["type"] / written["subfolder"] / written["filename"])
    borders = seam(warp_error(edited, EDIT.clip.flow(long), EDIT.clip.truth(long)), BATCH)
    few, many = (run["above"] for run in runs.values())
    ratio = {f"{long}_to_{short}": round(many / few, 4)}
    return {"temporal": {"peak_memory_ratio": ratio, "memory": runs, "seam": {f"{long}_frames_{steps}_steps": borders}}}


def length_figures(watch: MemoryWatch, seconds: dict[str, float], frames: int, steps: int) -> dict:
    """Of an edit's memory in bytes, and of its pace. seconds: by node."""
    (idle, idle_private), kept, stages = watch.idle, trajectory_bytes(frames, steps, SIDE), watch.stages
    above = {node: {"resident": most - idle, "private": private - idle_private} for node, (most, private) in stages.items()}
    return {
        "frames": frames,
        "steps": steps,
        "idle": idle,
        "peak": watch.peak,
        "trajectory": kept,
        "above": watch.peak - idle - kept,
        "peak_stage": max(filter(None, stages), key=lambda node: stages[node]),
        "above_private": max(held["private"] for held in above.values()),
        "seconds_per_frame_and_step": {node: round(seconds[node] / frames / steps, 5) for node in ("invert", "sample")},
        "seconds_per_frame": {node: round(seconds[node] / frames, 5) for node in ("encode", "decode")},
        "above_idle_by_stage": {node: held for node, held in above.items() if node in STAGES},
    }


def seam(errors: np.ndarray, batch: int) -> dict[str, float | int]:
    """Whether a border between two batches shows: mean warp error over it and elsewhere, with standard errors.

    errors: of each pair of neighbouring frames, [frames - 1]; the pair i crosses a border where i + 1 is a multiple of `batch`."""
    over = (np.arange(len(errors)) + 1) % batch == 0
    found: dict[str, float | int] = {"borders": int(over.sum())}
    for name, values in (("across", errors[over]), ("inside", errors[~over])):
        found |= {name: float(values.mean()), f"{name}_standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))}
    error = math.hypot(found["across_standard_error"], found["inside_standard_error"])
    return found | {"difference": found["across"] - found["inside"], "difference_standard_error": error}


LATENT_SIDE = 32  # latent cells: 256 pixels
LENGTHS = (8, BATCH, 64)  # frames; between the last two no batch of an inversion grows, so that only the clip itself does
LATENT_WARM_UP = (2, 2)  # frames, steps: few, since buffers that the warm-up leaves to the process are missing in what is measured
REPEATS = 2  # servers for each kind and length
OVER_PREDICTION = 1.05
ALLOWANCE = MIB // 2  # a server's own peaks differ by as much from run to run


def sampling_prompt(kind: str, latent: str, steps: int) -> dict:
    """Stock KSampler ("stock") or DDIM Invert ("inversion") on a file of latents."""
    given, words, clip = {"model": ["checkpoint", 0], "steps": steps}, ["source", 0], ["latent", 0]
    stock = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "positive": words, "negative": words, "latent_image": clip}
    samplers = {"stock": ("KSampler", given | stock), "inversion": ("BLADE_DDIMInvert", given | {"source": words, "latent": clip})}
    encode = {"stock": "CLIPTextEncode", "inversion": "BLADE_Prompt"}[kind]
    source = encode, {"clip": ["checkpoint", 1], "text": EDIT.clip.source_prompt}
    end = "PreviewAny", {"source": ["sample", 0]}
    return prompt_of({"source": source, "latent": ("LoadLatent", {"latent": latent}), "sample": samplers[kind], "end": end})


def write_latents(base: Path, frames: int) -> str:
    """A clip of random latents in the server's input folder, without a VAE whose buffers would stay. Returns the file's name."""
    name = f"random_{frames}.latent"
    samples = torch.randn(frames, 4, LATENT_SIDE, LATENT_SIDE, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file({"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}, base / "input" / name)
    return name


def inversion_memory(comfy: Path, out: Path, quick: bool) -> dict:
    """DDIM Invert and KSampler on clips of several lengths, of which only the sampling takes any memory, in a fresh server each."""
    lengths, steps = ((4, 16), 4) if quick else (LENGTHS, 10)
    base = prepare_base(out / "base")

    def above(kind: str, frames: int) -> int:
        warm_up = sampling_prompt(kind, write_latents(base, LATENT_WARM_UP[0]), LATENT_WARM_UP[1])
        prompt = sampling_prompt(kind, write_latents(base, frames), steps)
        watch, _ = watch_prompt(comfy, base, f"{kind}_{frames}", warm_up, prompt, GIVE_BACK)
        print(f"  {kind}, {frames} frames, {steps} steps: {(watch.peak - watch.idle[0]) / MIB:.1f} MiB", flush=True)
        return watch.peak - watch.idle[0]

    servers = {frames: {kind: partial(above, kind, frames) for kind in ("stock", "inversion")} for frames in lengths}
    predicted = {frames: trajectory_bytes(frames, steps, LATENT_SIDE) for frames in lengths}
    return {"inversion": inversion_figures(interleaved(servers, REPEATS, warm_up=0), predicted, steps)}


def inversion_figures(above: Mapping[int, Seconds], predicted: dict[int, int], steps: int) -> dict:
    """The keys of `inversion` for its memory, in bytes.

    above: by frames, rising, and by kind ("stock", "inversion") the peaks above the idle server, a value a server; their medians are
    compared, and what a frame adds is told between each two lengths. predicted: what the trajectory holds, by frames.
    An inversion may take what stock takes, OVER_PREDICTION times the trajectory, and an allowance: the range of stock's own peaks on as
    many frames, which is nothing that the inversion does, and at least ALLOWANCE."""
    runs: dict[int, dict[str, Any]] = {}
    for frames, kinds in above.items():
        stock, inversion = (int(np.median(kinds[kind])) for kind in ("stock", "inversion"))
        allowance = max(ALLOWANCE, max(kinds["stock"]) - min(kinds["stock"]))
        limit = int(stock + OVER_PREDICTION * predicted[frames] + allowance)
        run = {"stock": stock, "inversion": inversion, "difference": inversion - stock, "predicted": predicted[frames]}
        runs[frames] = run | {"allowance": allowance, "limit": limit, "within": inversion <= limit, "peaks": kinds}
    added = {
        f"{short}_to_{long}_frames_{steps}_steps": {
            name: round((runs[long][name] - runs[short][name]) / (long - short)) for name in ("stock", "inversion", "predicted")
        }
        for short, long in combinations(runs, 2)
    }
    return {"memory": {f"{frames}_frames_{steps}_steps": run for frames, run in runs.items()}, "memory_per_frame": added}


CASE = {"frames": 8, "pixels": 512, "steps": 50, "calls": 2}
"""Steps of the trajectory, and how many of them each stage runs, since on a CPU 50 take hours. What a stage holds at its peak does not depend
on how many it runs, but for the levels that it keeps, and the sampler holds all of those from its first call on."""
FATEZERO = {"gpu": "RTX 3090", "seconds_inversion": 60, "seconds_edit": 40, "gpu_gb": 12, "ram_gb": 100}
"""As published by Qi et al. (ICCV 2023): another card, with trained weights."""


def measure_side(comfy: Path, side: str, frames: int, pixels: int, steps: int, calls: int, unet: dict | None = None) -> dict:
    """Of this process, which is to be a fresh one, and of the stages of a side ("stock" has "sample", "edit" has "invert" too): bytes at the
    peak above those of the loaded model, and seconds; of an edit's trajectory its bytes, and by how much its measured part falls short."""
    start_comfy(comfy)
    bench, found, idle = random_bench(calls, frames, pixels, unet), dict[str, int | float](), list[int]()
    bench.patch_as_default()
    small = replace(
        bench, clip=torch.randn(1, 4, 8, 8), steps=2
    )  # what a process keeps for good after its first calls is no part of either side

    def measure(stage: str, work: Callable[[], float]) -> None:
        with MemoryWatch() as watch:
            found[f"{stage}_seconds"] = work()
        idle.append(watch.idle[0])
        found[stage] = watch.peak - idle[0]

    if side == "stock":
        small.stock(CFG)
        measure("sample", partial(bench.stock, CFG))
        return found
    small.invert()
    small.sample()
    del small
    measure("invert", bench.invert)
    few = bench.trajectory.nbytes
    if calls < steps:  # even by their logarithm, so that a sampler of two steps meets one of high noise and one at which maps are spread
        lowest, *_, highest = grid(bench, steps)[-2::-1]
        sigmas = torch.logspace(math.log10(lowest), math.log10(highest), steps).tolist()
        bench.trajectory = made_up(bench, [0.0, *sigmas[:-1], highest])
    measure("sample", bench.sample)
    return {**found, "levels": bench.trajectory.nbytes, "further": bench.trajectory.nbytes - few}


def fatezero(comfy: Path, out: Path, quick: bool) -> dict:
    """Both sides of FateZero's case, each in a process of its own; on a GPU with all steps. The keys of a quick run have names of their own."""
    case: dict[str, Any] = CASE | ({"frames": 4, "pixels": 256} if quick else {})
    sides: dict[str, dict] = {}
    case["calls"] = case["steps"] if torch.cuda.is_available() else case["calls"]
    for side in ("stock", "edit"):
        print(f"  {side}: {case}", flush=True)
        with patch.dict(os.environ, GIVE_BACK), ProcessPoolExecutor(1, get_context("spawn")) as process:
            sides[side] = process.submit(measure_side, comfy, side, **case).result()
    return {"memory": {f"{name}_quick" if quick else name: value for name, value in case_figures(**sides, case=case).items()}}


def case_figures(stock: dict, edit: dict, case: dict[str, int]) -> dict:
    """The keys of `memory` for this case, in bytes but for the figure itself, which is in GB.

    stock, edit: as `measure_side` gives them. To the inversion's peak come the levels that it would keep in all of the case's steps; the
    sampler held these already. The figure is the larger of the two stages' peaks, less KSampler's: most of it are keys and values of the finest
    layers, which ComfyUI's transformer block holds until its end where a patch handles attention, and at the peak, in its feed-forward, too."""
    peaks = {"invert": edit["invert"] + edit["further"], "sample": edit["sample"]}
    above = {stage: peak - stock["sample"] for stage, peak in peaks.items()}
    seconds = {"ksampler": stock["sample_seconds"], "invert": edit["invert_seconds"], "sample": edit["sample_seconds"]}
    found = case | {"stock_peak": stock["sample"], "peak": peaks, "above_stock": above, "trajectory": edit["levels"]}
    found |= {"seconds_per_call": {stage: round(whole / case["calls"], 3) for stage, whole in seconds.items()}}
    found |= {"fatezero_published_on_another_card": FATEZERO}
    return {"fatezero_case_gb_above_stock": round(max(above.values()) / GB, 4), "fatezero_case": found}
