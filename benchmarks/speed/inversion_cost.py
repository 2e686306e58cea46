"""What DDIM Invert costs in time and in memory, against stock KSampler on the same frames and steps."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch

from benchmarks.report import machine, merge
from benchmarks.speed.long_clip import BATCH, EDIT, MIB, PLAIN_INVERSION, trace_prompt, trajectory_bytes
from benchmarks.speed.step_cost import SD15Bench, Seconds, interleaved, quartiles, spelled, start_comfy
from demo.base import CHECKPOINT_NAME, prepare_base

STEPS = 3  # of each timed run: more change no ratio
MOST_OF_STOCK = 1.05
PROMPT = "a red car on grass"  # in CLIP's vocabulary a token each


class InversionBench(SD15Bench):
    """Whole calls of stock KSampler and of DDIM Invert, as ComfyUI makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.spelled = spelled(self.words, PROMPT)
        self.clip = torch.randn_like(self.noise)

    @torch.inference_mode()
    def stock(self) -> float:
        """Seconds of what KSampler does: euler at CFG 1."""
        import comfy.sample
        import latent_preview

        gc.collect()  # else a run pays for what the one before has left
        begin = self.clock()
        noise = comfy.sample.prepare_noise(self.clip, 0)
        callback = latent_preview.prepare_callback(self.model, STEPS)
        comfy.sample.sample(self.model, noise, STEPS, 1.0, "euler", "normal", self.words, self.words, self.clip, callback=callback, seed=0)
        return self.clock() - begin

    @torch.inference_mode()
    def invert(self, source: list) -> float:
        """Seconds of DDIM Invert."""
        from blade.nodes.invert import DDIMInvert

        gc.collect()
        begin = self.clock()
        DDIMInvert.execute(model=self.model, source=source, latent={"samples": self.clip}, steps=STEPS)
        return self.clock() - begin


def measure_inversion(rounds: int) -> tuple[InversionBench, Seconds]:
    """Seconds of "stock", of the inversion with a "record" of the prompt's words, and of the one "without" words."""
    bench = InversionBench()
    runs: dict[str, Callable[[], float]] = {
        "stock": bench.stock,
        "record": partial(bench.invert, bench.spelled),
        "without": partial(bench.invert, bench.words),
    }
    return bench, interleaved({"inversion": runs}, rounds)


def ratio_figures(seconds: dict[str, list[float]]) -> dict:
    """The keys of `inversion` for its time. Ratios are taken within each round, so that what else the machine does counts for both sides;
    their medians are the figures."""
    stock, record, without = (np.array(seconds[run]) for run in ("stock", "record", "without"))
    ratios = {"ratio_to_stock": quartiles(record / stock), "ratio_to_stock_without_record": quartiles(without / stock)}
    return {
        **{name: found[1] for name, found in ratios.items()},
        "time": {
            "rounds": len(stock),
            "steps": STEPS,
            "quartiles": ratios,
            "seconds": {run: quartiles(np.array(values)) for run, values in seconds.items()},
        },
    }


def run_inversion(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    start_comfy(comfy)
    bench, seconds = measure_inversion(2 if quick else 6)
    found = ratio_figures(seconds["inversion"])
    found["time"] |= {"frames": bench.frames, "pixels": bench.pixels, "dtype": str(bench.dtype).removeprefix("torch.")}
    merge(out / "speed.json", {"machine": {"inversion": machine(comfy)}, "inversion": found})
    stock, rounds = found["time"]["seconds"]["stock"], found["time"]["rounds"]
    print(
        f"\n{STEPS} steps of stock KSampler on {bench.frames} frames of {bench.pixels} pixels take {stock[1]:.2f} s "
        f"({stock[0]:.2f} to {stock[2]:.2f}); quartiles of {rounds} rounds"
    )
    for name, (low, middle, high) in found["time"]["quartiles"].items():
        print(f"{name.replace('_', ' '):<32}{middle:.3f} ({low:.3f}-{high:.3f})")
    met = found["ratio_to_stock"] <= MOST_OF_STOCK
    print(f"{'met   ' if met else 'MISSED'} DDIM Invert with its record: at most {MOST_OF_STOCK} times stock KSampler")
    return met


SIDE = 32  # latent cells: 256 pixels
LENGTHS = (8, BATCH, 64)  # frames; between the last two no batch of an inversion grows, so that only the clip itself does
WARM_UP = (2, 2)  # frames, steps: few, since buffers that the warm-up leaves to the process are missing in what is measured
REPEATS = 2  # servers for each kind and length
GIVE_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""For glibc: freed memory goes back to the system at once, so that what is resident is what is in use. Without it, two runs of one kind
differ by ten times the trajectory."""
OVER_PREDICTION = 1.05
ALLOWANCE = MIB // 2  # a server's own peaks differ by as much from run to run


def sampling_prompt(kind: str, latent: str, steps: int) -> dict:
    """A prompt of stock KSampler ("stock") or DDIM Invert ("inversion") on a file of latents, as POST /prompt takes it. The node that
    counts is "sample"."""
    model, source, clip = ["checkpoint", 0], ["source", 0], ["latent", 0]
    stock = {"seed": 0, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    kept = {**PLAIN_INVERSION, "storage": "memory"}
    samplers = {
        "stock": ("KSampler", {"model": model, "positive": source, "negative": source, "latent_image": clip, **stock}),
        "inversion": ("BLADE_DDIMInvert", {"model": model, "source": source, "latent": clip, "steps": steps, **kept}),
    }
    node, inputs = samplers[kind]
    encode = {"stock": "CLIPTextEncode", "inversion": "BLADE_Prompt"}[kind]
    return {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT_NAME}},
        "source": {"class_type": encode, "inputs": {"clip": ["checkpoint", 1], "text": EDIT.clip.source_prompt}},
        "latent": {"class_type": "LoadLatent", "inputs": {"latent": latent}},
        "sample": {"class_type": node, "inputs": inputs},
        "end": {"class_type": "PreviewAny", "inputs": {"source": ["sample", 0]}},
    }


def write_latents(base: Path, frames: int) -> str:
    """A clip of random latents in the server's input folder, without a VAE whose buffers would stay. Returns the file's name."""
    name = f"random_{frames}.latent"
    samples = torch.randn(frames, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file({"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}, base / "input" / name)
    return name


def measure_above(comfy: Path, base: Path, kind: str, frames: int, steps: int) -> int:
    """Bytes above those of the idle server, at the peak of the prompt, of which only the sampling takes any, in a fresh server."""
    warm_up = sampling_prompt(kind, write_latents(base, WARM_UP[0]), WARM_UP[1])
    prompt = sampling_prompt(kind, write_latents(base, frames), steps)
    with patch.dict(os.environ, GIVE_BACK):
        traced = trace_prompt(comfy, base, f"{kind}_{frames}", warm_up, prompt)
    return traced.peak - traced.idle


def memory_figures(above: dict[int, dict[str, list[int]]], predicted: dict[int, int], steps: int) -> dict:
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
        runs[frames] = {
            "stock": stock,
            "inversion": inversion,
            "difference": inversion - stock,
            "predicted": predicted[frames],
            "allowance": allowance,
            "limit": limit,
            "within": inversion <= limit,
            "peaks": kinds,
        }
    return {
        "memory": {f"{frames}_frames_{steps}_steps": run for frames, run in runs.items()},
        "memory_per_frame": {
            f"{short}_to_{long}_frames_{steps}_steps": {
                name: round((runs[long][name] - runs[short][name]) / (long - short)) for name in ("stock", "inversion", "predicted")
            }
            for short, long in combinations(runs, 2)
        },
    }


def run_inversion_memory(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    lengths, steps, repeats = ((4, 16), 4, 2) if quick else (LENGTHS, 10, REPEATS)
    base = prepare_base(out / "base")
    above: dict[int, dict[str, list[int]]] = {frames: {"stock": [], "inversion": []} for frames in lengths}
    for repeat in range(repeats):
        for frames, kinds in above.items():
            for kind, peaks in kinds.items():
                peaks.append(measure_above(comfy, base, kind, frames, steps))
                print(f"  {kind}, {frames} frames, {steps} steps: {peaks[-1] / MIB:.1f} MiB ({repeat + 1} of {repeats})", flush=True)
    found = memory_figures(above, {frames: trajectory_bytes(frames, steps, SIDE) for frames in lengths}, steps)
    merge(out / "speed.json", {"machine": {"inversion_memory": machine(comfy)}, "inversion": found})
    runs, slopes = found["memory"].values(), found["memory_per_frame"]
    print(f"\n{'MiB above the idle server':<28}" + "".join(f"{f'{frames} frames':>16}" for frames in lengths))
    for name in ("stock", "inversion", "difference", "predicted", "allowance", "limit"):
        print(f"{name:<28}" + "".join(f"{run[name] / MIB:>16.2f}" for run in runs))
    for stretch, slope in slopes.items():
        row = ", ".join(f"{name} {size / 1024:.1f}" for name, size in slope.items())
        print(f"KiB a frame, {stretch.replace('_', ' ')}: {row}")
    met = all(run["within"] for run in runs)
    print(f"{'met   ' if met else 'MISSED'} at most stock's peak, {OVER_PREDICTION} times the trajectory, and the allowance")
    return met
