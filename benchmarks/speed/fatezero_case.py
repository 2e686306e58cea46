"""FateZero's case: what an edit of 8 frames of 512 pixels in 50 steps takes of memory above stock KSampler.

Run as a program by itself it measures one side, in a process of its own: `python -m benchmarks.speed.fatezero_case '{"side": "edit", ...}'`."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import ROOT, machine, merge
from benchmarks.speed.blending_cost import SOURCE, TARGET
from benchmarks.speed.inversion_cost import GIVE_BACK
from benchmarks.speed.long_clip import forget_peak, known_peak
from benchmarks.speed.stages import SAMPLING, Stages, with_default_attention
from benchmarks.speed.step_cost import SD15Bench, spelled, start_comfy

GB = 10**9
MOST_ABOVE = 0.2  # GB
WARM_UP = (1, 64)  # frames, pixels: what a process keeps for good after its first calls is no part of either side
SIDES = ("stock", "edit")
FATEZERO = {"gpu": "RTX 3090", "seconds_inversion": 60, "seconds_edit": 40, "gpu_gb": 12, "ram_gb": 100}
"""As published by Qi et al. (ICCV 2023): another card, with trained weights."""


@dataclass(frozen=True)
class Case:
    """steps: of the trajectory. calls: how many steps of each stage are run, since on a CPU 50 take hours. What a stage holds at its peak does
    not depend on how many calls it makes, but for the levels that it keeps, and the sampler holds all of those from its first call on."""

    frames: int = 8
    pixels: int = 512
    steps: int = 50
    calls: int = 2
    unet: dict | None = None


CASE, QUICK_CASE = Case(), Case(frames=4, pixels=256)


def case_of_machine(quick: bool) -> Case:
    """On a GPU all steps are run."""
    case = QUICK_CASE if quick else CASE
    return replace(case, calls=case.steps) if torch.cuda.is_available() else case


def stretched(trajectory: Any, steps: int) -> Any:
    """A trajectory of few steps with its levels repeated to `steps`, in tensors of the kind that DDIM Invert keeps; itself, if it has as many.

    Sigmas lie evenly by their logarithm, so that a sampler of two steps meets one of high noise and one at which maps are spread."""
    from blade.attention.record import CrossAttentionRecord, LevelMaps
    from blade.inversion.storage import Storage

    if trajectory.steps == steps:
        return trajectory
    room, record = Storage(), CrossAttentionRecord(trajectory.record.words)
    latents = room.empty((steps + 1, *trajectory.latents.shape[1:]), trajectory.latents.dtype)
    lowest, highest = (float(trajectory.sigmas[level].log10()) for level in (1, -1))
    sigmas = torch.cat([torch.zeros(1), torch.logspace(lowest, highest, steps)])
    sigmas[-1] = trajectory.sigmas[-1]  # to the last bit: it is checked against the model's highest
    for level in range(steps + 1):
        latents[level].copy_(trajectory.latents[min(level, trajectory.steps)])
        if level:
            maps = trajectory.record.levels[min(level, trajectory.steps) - 1]
            record.add(LevelMaps(float(sigmas[level]), maps, trajectory.record.spread or None if level == 1 else None), steps, room.empty)
    return replace(trajectory, sigmas=sigmas, latents=latents, record=record)


class Peak:
    """The most memory since it was made, in bytes above what was held then: of the GPU where there is one, else resident."""

    def __init__(self) -> None:
        gc.collect()
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.empty_cache()
            self.idle = torch.cuda.memory_allocated()
        else:
            self.idle = Path("/proc/self/statm").exists() and int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
        self.ram = known_peak(os.getpid())

    def during(self, work: Callable[[], float]) -> tuple[int, float]:
        """Bytes at the peak of the work alone, and its seconds."""
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak(os.getpid())
        seconds = work()
        return (torch.cuda.max_memory_allocated() if self.cuda else known_peak(os.getpid())) - self.idle, seconds


def measure_side(side: str, case: Case) -> dict:
    """Of this process: bytes at the peak of each stage above those of the loaded model, seconds, and bytes of the trajectory."""
    bench = SD15Bench(case.frames, case.pixels, case.unet)
    prompts = spelled(bench.words, SOURCE), spelled(bench.words, TARGET), bench.words

    def stages(frames: int, pixels: int, calls: int) -> Stages:
        clip = torch.randn(frames, 4, pixels // 8, pixels // 8)
        return Stages(bench.model, with_default_attention(bench.model), prompts, clip, calls, bench.clock)

    small, real = stages(*WARM_UP, 2), stages(case.frames, case.pixels, case.calls)
    if side == "stock":
        small.stock(SAMPLING)
        peak, seconds = Peak().during(lambda: real.stock(SAMPLING))
        return {"sample": peak, "sample_seconds": seconds}
    small.invert()
    small.sample()
    del small
    peaks = Peak()
    inverted, invert_seconds = peaks.during(real.invert)
    few = real.trajectory.nbytes
    real.trajectory = stretched(real.trajectory, case.steps)
    sampled, sample_seconds = peaks.during(real.sample)
    return {
        "invert": inverted,
        "sample": sampled,
        "levels_measured": few,
        "levels": real.trajectory.nbytes,
        "invert_seconds": invert_seconds,
        "sample_seconds": sample_seconds,
    }


def measure_apart(comfy: Path, side: str, case: Case) -> dict:
    """`measure_side` in a fresh process. Raises ValueError with its last words where it fails."""
    told = json.dumps({"side": side, **asdict(case)})
    environment = {**os.environ, **GIVE_BACK, "COMFYUI_PATH": str(comfy)}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.fatezero_case", told], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise ValueError(f"the process that measures {side} ended with {run.returncode}: {run.stderr.strip()[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def case_figures(stock: dict, edit: dict, case: Case) -> dict:
    """The keys of `memory` for this case, in bytes but for the figure itself, which is in GB.

    stock, edit: as `measure_side` gives them. To the inversion's peak come the levels that it would keep in all of the case's steps; the
    sampler held these already. The figure is the larger of the two stages' peaks, less KSampler's: most of it are keys and values of the finest
    layers, which ComfyUI's transformer block holds until its end where a patch handles attention, and at the peak, in its feed-forward, too."""
    needed = {"invert": edit["invert"] + edit["levels"] - edit["levels_measured"], "sample": edit["sample"]}
    above = {stage: peak - stock["sample"] for stage, peak in needed.items()}
    per_call = {
        "ksampler": stock["sample_seconds"] / case.calls,
        **{stage: edit[f"{stage}_seconds"] / case.calls for stage in ("invert", "sample")},
    }
    return {
        "fatezero_case_gb_above_stock": round(max(above.values()) / GB, 4),
        "fatezero_case": {
            "frames": case.frames,
            "pixels": case.pixels,
            "steps": case.steps,
            "calls": case.calls,
            "stock_peak": stock["sample"],
            "peak": needed,
            "above_stock": above,
            "trajectory": edit["levels"],
            "seconds_per_call": {stage: round(seconds, 3) for stage, seconds in per_call.items()},
            "fatezero_published_on_another_card": FATEZERO,
        },
    }


def run_fatezero(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    case, measured = case_of_machine(quick), {}
    for side in SIDES:
        print(f"  {side}: {case.frames} frames of {case.pixels} pixels, {case.calls} calls of {case.steps}", flush=True)
        begin = time.monotonic()
        measured[side] = measure_apart(comfy, side, case)
        print(f"    took {time.monotonic() - begin:.0f} s", flush=True)
    found = case_figures(measured["stock"], measured["edit"], case)
    named = {f"{name}_quick" if quick else name: value for name, value in found.items()}
    merge(out / "speed.json", {"machine": {"fatezero": machine(comfy)}, "memory": named})
    details, figure = found["fatezero_case"], found["fatezero_case_gb_above_stock"]
    print(f"\n{'peak above the loaded model, GB':<40}{'above KSampler':>16}")
    print(f"{'KSampler at CFG 7.5':<32}{details['stock_peak'] / GB:>8.3f}")
    for stage, peak in details["peak"].items():
        print(f"{stage:<32}{peak / GB:>8.3f}{details['above_stock'][stage] / GB:>16.3f}")
    print(f"of these the trajectory of {case.steps} steps with its record: {details['trajectory'] / GB:.3f} GB")
    print(f"FateZero on an RTX 3090, as published: {FATEZERO['gpu_gb']} GB of GPU memory and {FATEZERO['ram_gb']} GB of RAM")
    met = figure <= MOST_ABOVE
    print(f"{'met   ' if met else 'MISSED'} at most {MOST_ABOVE} GB above stock KSampler: {figure:.3f}")
    return met


def main() -> None:
    asked = json.loads(sys.argv[1])
    side = asked.pop("side")
    start_comfy(Path(os.environ["COMFYUI_PATH"]))
    print(json.dumps(measure_side(side, Case(**asked))))


if __name__ == "__main__":
    main()
