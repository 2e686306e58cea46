"""What blending and masks cost in time: a step of the blended sampler against the same model calls in stock sampling."""

from __future__ import annotations

import gc
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.editing import AS_GRAPHS, VARIANTS
from benchmarks.quality.stillness import node_defaults
from benchmarks.report import machine, merge
from benchmarks.speed.step_cost import SD15Bench, quartiles, spelled, start_comfy

STEPS, QUICK_STEPS = 16, 8
CFG = 7.5
MOST_OVERHEAD = 0.03
SOURCE, TARGET = "a red car on grass", "a blue car on grass"  # in CLIP's vocabulary a token each
THING = ("red", "car")  # of the source prompt
GRAPH = VARIANTS[AS_GRAPHS["colour"]].inputs  # which sets both
CONFINE, STRUCTURE = GRAPH["confine"], GRAPH["structure"]
SETTINGS: dict[str, dict[str, float]] = {"masks": {}, "confine": {"confine": CONFINE}, "structure": {"structure": STRUCTURE}}
STRUCTURE_STEPS = 5  # that are timed: its figure has no goal
Pair = dict[str, float]  # sigma, and seconds of "stock" and "ours", and the rows that passed the U-Net in each
Pairs = dict[str, list[Pair]]


class BlendingBench(SD15Bench):
    """Steps of an edit at CFG 7.5, all frames in one batch. Its trajectory and its words' maps are made up: a disc that moves."""

    def __init__(self, frames: int = 0, pixels: int = 0, unet: dict | None = None, steps: int = STEPS) -> None:
        from blade.host.frames import with_frame_batches
        from blade.host.sampling import sigma_table
        from blade.inversion.schedule import ddim_sigmas

        super().__init__(frames, pixels, unet)
        self.model = with_frame_batches(self.model, size=self.frames)  # a size of its own: the automatic one may change between two calls
        self.source, self.target = spelled(self.words, SOURCE), spelled(self.words, TARGET)
        self.steps, self.rows = steps, 0
        self.trajectory = self.made_up(ddim_sigmas(sigma_table(self.model), steps).flip(0))
        self.model.get_model_object("diffusion_model").register_forward_pre_hook(self.count)

    def count(self, unet, inputs: tuple) -> None:
        self.rows += len(inputs[0])

    def made_up(self, rising: Tensor) -> Any:
        """A trajectory on these levels with a record of the source prompt's words, of which "red car" is a disc moving over a dark ground."""
        from blade.attention.record import CrossAttentionRecord, LevelMaps, clear, recorded_sizes
        from blade.host.words import KEY
        from blade.inversion.trajectory import Trajectory

        latents = torch.stack([torch.randn_like(self.noise) * (1 + float(sigma) ** 2) ** 0.5 for sigma in rising])
        words = self.source[0][1][KEY]
        record = CrossAttentionRecord(words)
        bright = torch.tensor([word.text in THING for word in words.words])
        for sigma in rising[1:].tolist():
            maps = {}
            for size in recorded_sizes(*self.noise.shape[-2:]):
                maps[size] = (0.1 + 0.8 * disc(self.frames, size)[:, None] * bright[:, None, None]).half()
            record.add(
                LevelMaps(sigma, maps, maps if clear(sigma) else None),
                len(rising) - 1,
                lambda shape, dtype: torch.empty(shape, dtype=dtype),
            )
        return Trajectory(rising, latents, record)

    @torch.inference_mode()
    def pairs(self, setting: str, most: int = 0) -> list[Pair]:
        """Runs the first `most` steps of an edit (0: all), and times each against the same call in stock sampling right before or after it.

        Steps are compared one by one, not whole runs, since the machine's own pace changes within a run by more than the overhead. An edit's
        step is all that happens between two levels: mask, background, blend, record and consensus; what happens once an edit is left out."""
        from blade.host import blended
        from blade.host.sampling import latent_out, run_sampler
        from blade.nodes.edit import Edit, Pass
        from blade.nodes.sampler import BlendedSampler

        defaults = node_defaults(BlendedSampler)
        edit = Edit("edit", self.target, **SETTINGS[setting])  # type: ignore[arg-type]
        sigmas = self.trajectory.grid(self.steps)
        run = Pass(self.model, self.trajectory, (edit,), sigmas, defaults["consensus"], defaults["consensus_until"], (0.0, 1.0))
        source = self.source if edit.structure else None
        function = blended.blended_function(self.trajectory, run.layers, run.prompted, "euler", 0, source)
        stock_args: dict = {}
        found: list[Pair] = []

        def noting(model, x, sigmas, extra_args, callback, disable):
            stock_args.update(extra_args)  # before the edit adds its own wrappers
            return function(model, x, sigmas, extra_args, None, disable)

        def solver(model, x, sigmas, extra_args, callback, disable):
            for step, (sigma, following) in enumerate(pairwise(sigmas[: most + 1] if most else sigmas)):
                sides = {"stock": (model.model, stock_args), "ours": (model, extra_args)}
                pair, denoised = {"sigma": float(sigma)}, x
                for side, (called, arguments) in list(sides.items())[:: -1 if step % 2 else 1]:
                    gc.collect()  # else a measurement pays for what the one before has left
                    self.rows, begin = 0, self.clock()
                    given = called(x, sigma.expand(len(x)), **arguments)
                    pair[side], pair[f"{side}_rows"] = self.clock() - begin, self.rows
                    denoised = given if side == "ours" else denoised
                found.append(pair)
                x = x + (x - denoised) / sigma * (following - sigma)
            return x

        with patch.object(blended, "solver_function", lambda name: solver):
            clip = latent_out(self.model, self.trajectory.clip)
            run_sampler(self.model, noting, sigmas, edit.positive, self.words, CFG, clip)
        return found

    def acting(self, setting: str) -> list[bool]:
        """For each level, from noise to clip, whether what the setting adds acts there."""
        from blade.host.sampling import percent_to_sigma

        lowest = percent_to_sigma(self.model, SETTINGS[setting][setting])
        return [sigma >= lowest for sigma in self.trajectory.grid(self.steps)[:-1].tolist()]


def disc(frames: int, size: tuple[int, int]) -> Tensor:
    """A disc that moves from left to right, [frames, h, w] of 0 and 1."""
    y, x = (torch.linspace(0, 1, side) for side in size)
    across = torch.linspace(0.4, 0.6, frames)[:, None, None]
    return (((x - across) ** 2 + (y[:, None] - 0.5) ** 2) < 0.2**2).float()


def measure_blending(steps: int) -> tuple[BlendingBench, Pairs]:
    """The pairs of each of SETTINGS, at the levels where it acts, and the bench."""
    bench = BlendingBench(steps=steps)
    bench.pairs("masks", 1)  # a warm-up
    pairs: Pairs = {}
    for setting in SETTINGS:
        acting = steps if setting == "masks" else sum(bench.acting(setting))
        most = min(acting, STRUCTURE_STEPS) if setting == "structure" else acting
        print(f"  {setting}: {most} of {steps} steps", flush=True)
        pairs[setting] = bench.pairs(setting, most)
    return bench, pairs


def blending_figures(pairs: Pairs, clear: list[bool], shares: dict[str, float]) -> dict:
    """The keys of `overhead` for blending. Ratios are taken within each pair, so that what else the machine does counts for both sides.

    clear: for each level, from noise to clip, whether the target words' maps are spread there, which costs more: `blending_and_masks` is the
    median overhead of each kind of level by its share of the levels. shares: of `confine` and `structure`, the share of the levels at which
    it acts: what it adds to the same steps without it, times that share, is what it adds to an edit."""
    over = {setting: np.array([pair["ours"] / pair["stock"] - 1 for pair in listed]) for setting, listed in pairs.items()}
    kinds = {name: np.array(clear) == wanted for name, wanted in (("noisy", False), ("clear", True))}
    of_kinds = {name: quartiles(over["masks"][chosen]) for name, chosen in kinds.items() if chosen.any()}
    added = {
        setting: share * float(np.median(over[setting]) - np.median(over["masks"][: len(over[setting])]))
        for setting, share in shares.items()
    }
    return {
        "blending_and_masks": round(sum(float(kinds[name].mean()) * found[1] for name, found in of_kinds.items()), 5),
        **{setting: round(value, 5) for setting, value in added.items()},
        "blending_details": {
            "steps": len(clear),
            "shares": {name: float(chosen.mean()) for name, chosen in kinds.items()} | shares,
            "quartiles": of_kinds | {setting: quartiles(over[setting]) for setting in shares},
            "seconds": {side: quartiles(np.array([pair[side] for pair in pairs["masks"]])) for side in ("stock", "ours")},
            "rows_ratio": {setting: listed[0]["ours_rows"] / listed[0]["stock_rows"] for setting, listed in pairs.items()},
        },
    }


def run_blending(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    start_comfy(comfy)
    from blade.attention.record import clear

    bench, pairs = measure_blending(QUICK_STEPS if quick else STEPS)
    shares = {setting: sum(bench.acting(setting)) / bench.steps for setting in SETTINGS if setting != "masks"}
    found = blending_figures(pairs, [clear(pair["sigma"]) for pair in pairs["masks"]], shares)
    details = found["blending_details"]
    details |= {"frames": bench.frames, "pixels": bench.pixels, "dtype": str(bench.dtype).removeprefix("torch."), "cfg": CFG}
    merge(out / "speed.json", {"machine": {"blending": machine(comfy)}, "overhead": found})
    low, middle, high = details["seconds"]["stock"]
    print(
        f"\nA step of SD1.5's U-Net at CFG {CFG} on {bench.frames} frames of {bench.pixels} pixels takes {middle:.2f} s ({low:.2f} to {high:.2f})"
    )
    for name, quarters in details["quartiles"].items():
        low, middle, high = (100 * overhead for overhead in quarters)
        where = f"{name}, {details['shares'][name]:.0%} of the levels"
        print(f"{where:<36}{middle:.2f} % ({low:.2f} to {high:.2f})")
    print(f"blending and masks add {100 * found['blending_and_masks']:.2f} % to an edit's model calls; confine {CONFINE} further "
          f"{100 * found['confine']:.2f} %, structure {STRUCTURE} {100 * found['structure']:.1f} %")  # fmt: skip
    met = found["blending_and_masks"] <= MOST_OVERHEAD
    print(f"{'met   ' if met else 'MISSED'} blending and masks: at most {MOST_OVERHEAD:.0%}")
    return met
