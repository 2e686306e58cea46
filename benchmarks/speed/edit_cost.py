"""What a whole edit gets of the speed of stock ComfyUI: its seconds against those of the same U-Net calls alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.bench import node_defaults
from benchmarks.report import machine, merge
from benchmarks.speed.blending_cost import SOURCE, TARGET
from benchmarks.speed.stages import Stages, with_default_attention
from benchmarks.speed.step_cost import Seconds, StepBench, interleaved, quartiles, spelled, start_comfy

STEPS = 4  # of each stage: one of them at a level where maps are spread, about as in an edit of 25
LEAST_SHARE = 0.90


class EditBench(StepBench):
    """An edit through the nodes as a graph runs them, in each stage every frame seeing itself, the first and the one before it."""

    def __init__(self, frames: int = 0, pixels: int = 0, unet: dict | None = None, steps: int = STEPS) -> None:
        super().__init__(frames, pixels, unet)
        prompts = spelled(self.words, SOURCE), spelled(self.words, TARGET), self.words
        self.stages = Stages(self.model, with_default_attention(self.model), prompts, torch.randn_like(self.noise), steps, self.clock)

    @staticmethod
    def key_frames() -> int:
        """How many frames each sees by the node's defaults."""
        from blade.nodes.temporal import TemporalAttention

        defaults = node_defaults(TemporalAttention)
        return sum(defaults[f"{kind}_frame"] for kind in ("self", "first", "previous", "next", "middle"))


def measure_edit(rounds: int) -> tuple[EditBench, Seconds]:
    """Seconds by stage of stock and of the edit, and of stock's attention alone over the clip's frames, with "plain" and with "wide" keys."""
    bench = EditBench()
    attention = {"plain": partial(bench.attend, 1), "wide": partial(bench.attend, bench.key_frames())}
    return bench, interleaved({"edit": {**bench.stages.timed(), **attention}}, rounds)


def edit_figures(seconds: dict[str, list[float]], steps: int) -> dict:
    """The keys of `edit`. Ratios are taken within each round; their medians are the figures.

    The floor is what stock ComfyUI takes for the same calls: KSampler at the guidance of both stages, and what its own attention takes longer
    with as many keys as the edit's. A step of the inversion passes the clip's frames once, one of the sampler twice (CFG)."""
    stock_invert, invert, stock_sample, sample, plain, wide = (
        np.array(seconds[what]) for what in ("stock_invert", "invert", "stock_sample", "sample", "plain", "wide")
    )
    longer = steps * (wide - plain)
    shares = {
        "share_of_stock_throughput": (stock_invert + stock_sample + 3 * longer) / (invert + sample),
        "invert_share": (stock_invert + longer) / invert,
        "sample_share": (stock_sample + 2 * longer) / sample,
        "share_of_stock_without_wide_keys": (stock_invert + stock_sample) / (invert + sample),
    }
    return {
        "share_of_stock_throughput": quartiles(shares["share_of_stock_throughput"])[1],
        "details": {
            "rounds": len(sample),
            "steps": steps,
            "quartiles": {name: quartiles(share) for name, share in shares.items()},
            "seconds": {what: quartiles(np.array(values)) for what, values in seconds.items()},
        },
    }


def run_edit(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    start_comfy(comfy)
    bench, seconds = measure_edit(1 if quick else 3)
    found = edit_figures(seconds["edit"], STEPS)
    found["details"] |= {"frames": bench.frames, "pixels": bench.pixels, "dtype": str(bench.dtype).removeprefix("torch.")}
    merge(out / "speed.json", {"machine": {"edit": machine(comfy)}, "edit": found})
    whole = found["details"]["seconds"]
    print(
        f"\n{STEPS} steps of SD1.5's U-Net on {bench.frames} frames of {bench.pixels} pixels: DDIM Invert {whole['invert'][1]:.1f} s, "
        f"Blended Sampler {whole['sample'][1]:.1f} s; KSampler {whole['stock_invert'][1]:.1f} s and {whole['stock_sample'][1]:.1f} s"
    )
    for name, (low, middle, high) in found["details"]["quartiles"].items():
        print(f"{name.replace('_', ' '):<36}{middle:.3f} ({low:.3f}-{high:.3f})")
    met = found["share_of_stock_throughput"] >= LEAST_SHARE
    print(f"{'met   ' if met else 'MISSED'} a whole edit: at least {LEAST_SHARE:.0%} of stock's throughput")
    return met
