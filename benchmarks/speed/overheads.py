"""What recording, blending and masks add to the time of the same model calls, by the kind of level at which they act."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.bench import CFG, Bench, Seconds, clock, compared, interleaved, quartiles, random_bench, seconds_of, spelled

RECORDING_STEPS = 25
PROMPT = "a red sports car on a mountain road"  # in CLIP's vocabulary a token each
CLIP_WORDS = ("red", "car")  # of the source prompt
SETTINGS = {"masks": {}, "confine": {"confine": 0.3}, "structure": {"structure": 0.5}}  # as the graph that changes the colour has both
STRUCTURE_STEPS = 5  # that are timed: its figure has no goal
Denoised = dict[str, list[Tensor]]  # by kind of level, what the model gave in all measurements of either side
Pair = dict[str, float]  # sigma, and seconds of "stock" and "ours", and the rows that passed the U-Net in each


def grid(bench: Bench, steps: int) -> list[float]:
    """The sigmas of an inversion, from noise to 0."""
    from blade.host.sampling import sigma_table
    from blade.inversion.schedule import ddim_sigmas

    return ddim_sigmas(sigma_table(bench.model), steps).tolist()


def recording(comfy: Path, out: Path, quick: bool) -> dict:
    """Steps with the recorder on and off, of one cond row a frame (CFG 1, where what is recorded is the largest share).

    Levels differ in cost: the middle one of each kind stands for all of its kind on the grid."""
    from blade.attention.record import CrossAttentionRecord, MapRecorder, clear, recorded_sizes
    from blade.host.attention import record_cross_attention
    from blade.host.frames import with_frame_batches
    from blade.host.sampling import positive_conds
    from blade.host.words import KEY

    bench, conds, denoised = random_bench(), set[Any](), defaultdict[str, list[Tensor]](list)
    off = with_frame_batches(bench.model, size=len(bench.clip))  # a size of its own: the automatic one may change between two calls
    prompt = spelled(bench.negative, PROMPT)
    words = prompt[0][1][KEY]
    recorder = MapRecorder(words, recorded_sizes(*bench.clip.shape[-2:]), len(bench.clip))
    models = {"off": off, "on": record_cross_attention(off, recorder, conds)}
    kinds: dict[str, list[float]] = {"noisy": [], "clear": []}
    for sigma in grid(bench, RECORDING_STEPS)[:-1]:
        kinds["clear" if clear(sigma) else "noisy"].append(sigma)
    sigmas = {kind: of_kind[len(of_kind) // 2] for kind, of_kind in kinds.items()}

    def step(kind: str, side: str, model: Any, x: Tensor, sigma: Tensor, extra_args: dict) -> float:
        """A call; on the side "on" with all that DDIM Invert does: a level is begun, shown by the layers, averaged and kept on the CPU."""
        conds.update(positive_conds(model, words))
        record, begin = CrossAttentionRecord(words), clock()
        if side == "on":
            recorder.begin(float(sigma))
        found = model(x, sigma.expand(len(x)), **extra_args)
        if side == "on":
            level = recorder.finish()
            assert level, "no layer has shown the recorder anything"
            record.add(level, 1, lambda shape, dtype: torch.empty(shape, dtype=dtype))
        seconds = clock() - begin
        denoised[kind].append(found.cpu())
        gc.collect()  # else the next measurement pays for what this one leaves
        return seconds

    timed = {
        kind: {side: partial(bench.in_chain, model, sigmas[kind], partial(step, kind, side), prompt) for side, model in models.items()}
        for kind in kinds
    }
    shares = {kind: len(of_kind) / RECORDING_STEPS for kind, of_kind in kinds.items()}
    found = recording_figures(interleaved(timed, 5 if quick else 11), shares, denoised)
    found["recording_details"] |= {"sigmas": sigmas, "prompt": PROMPT, **bench.about}
    return {"overhead": found}


def recording_figures(seconds: dict[str, Seconds], shares: dict[str, float], denoised: Denoised) -> dict:
    """The keys of `overhead` for recording: the median of what it adds to each kind of level, by that kind's share of a run's levels, and
    whether what was denoised is the same to the bit."""
    found = {kind: compared(sides, {"added": lambda t: t.on / t.off - 1}) for kind, sides in seconds.items()}
    added = {kind: one["quartiles"]["added"] for kind, one in found.items()}
    return {
        "recording": round(sum(shares[kind] * middle for kind, (_, middle, _) in added.items()), 5),
        "recording_latents_identical": all(torch.equal(one, of_level[0]) for of_level in denoised.values() for one in of_level),
        "recording_details": {
            "rounds": min(one["rounds"] for one in found.values()),
            "quartiles": added,
            "seconds": {kind: one["seconds"] for kind, one in found.items()},
            "shares": shares,
        },
    }


def made_up(bench: Bench, rising: list[float]) -> Any:
    """A trajectory on these levels with a record of the source prompt's words, of which "red car" is a disc moving over a dark ground."""
    from blade.attention.record import MOST_SPREAD, CrossAttentionRecord, LevelMaps, clear, recorded_sizes
    from blade.host.words import KEY
    from blade.inversion.storage import Storage
    from blade.inversion.trajectory import Trajectory

    words, room, sizes = bench.source[0][1][KEY], Storage(), recorded_sizes(*bench.clip.shape[-2:])
    record, bright = CrossAttentionRecord(words), torch.tensor([word.text in CLIP_WORDS for word in words.words])
    maps = {size: (0.1 + 0.8 * disc(len(bench.clip), size)[:, None] * bright[:, None, None]).half() for size in sizes}
    spread = {size: of_size for size, of_size in maps.items() if size[0] * size[1] <= MOST_SPREAD}
    latents = room.empty((len(rising), *bench.clip.shape), torch.float32)
    for level, sigma in zip(latents, rising, strict=True):
        level.normal_(std=(1 + sigma**2) ** 0.5)
        if sigma:
            record.add(LevelMaps(sigma, maps, spread if clear(sigma) else None), len(rising) - 1, room.empty)
    return Trajectory(torch.tensor(rising), latents, record)


def disc(frames: int, size: tuple[int, int]) -> Tensor:
    """A disc that moves from left to right, [frames, h, w] of 0 and 1."""
    y, x = (torch.linspace(0, 1, side) for side in size)
    across = torch.linspace(0.4, 0.6, frames)[:, None, None]
    return (((x - across) ** 2 + (y[:, None] - 0.5) ** 2) < 0.2**2).float()


def pairs_of(bench: Bench, setting: str, most: int) -> list[Pair]:
    """Runs the first `most` steps of Blended Sampler, and times each against the same call in stock sampling right before or after it.

    Steps are compared one by one, not whole runs, since the machine's own pace changes within a run by more than the overhead. An edit's
    step is all that happens between two levels: mask, background, blend, record and consensus; what happens once an edit is left out."""
    from blade.host import blended
    from blade.nodes import sampler

    found, stock, rows, denoised = list[Pair](), dict[str, Any](), list[int](), dict[str, Tensor]()
    blended_function = sampler.blended_function

    def noting(*arguments):
        function = blended_function(*arguments)

        def noted(model, x, sigmas, extra_args, callback, disable):
            stock.update(extra_args)  # before the edit adds its own wrappers
            return function(model, x, sigmas, extra_args, callback, disable)

        return noted

    def keep(side: str, call: Callable[[], Tensor]) -> None:
        denoised[side] = call()

    def solver(model, x, sigmas, extra_args, callback, disable):
        for step, (sigma, following) in enumerate(pairwise(sigmas[: most + 1])):
            calls = {"stock": partial(model.model, **stock), "ours": partial(model, **extra_args)}
            found.append({"sigma": float(sigma)})
            for side in list(calls)[:: -1 if step % 2 else 1]:
                rows.clear()
                found[-1][side] = seconds_of(partial(keep, side, partial(calls[side], x, sigma.expand(len(x)))))
                found[-1][f"{side}_rows"] = sum(rows)
            x = x + (x - denoised["ours"]) / sigma * (following - sigma)
        return x

    network = bench.model.get_model_object("diffusion_model")
    with (
        network.register_forward_pre_hook(lambda network, inputs: rows.append(len(inputs[0]))),
        patch.object(blended, "solver_function", lambda name: solver),
        patch.object(sampler, "blended_function", noting),
    ):
        bench.sample(**SETTINGS[setting], source=bench.source if setting == "structure" else None)
    return found


def blending(comfy: Path, out: Path, quick: bool) -> dict:
    """Steps of an edit at CFG 7.5 beside stock's, with each of SETTINGS at the levels where it acts."""
    from blade.attention.record import clear
    from blade.host.frames import with_frame_batches
    from blade.host.sampling import percent_to_sigma

    bench = random_bench(8 if quick else 16)
    bench.patched, bench.trajectory = with_frame_batches(bench.model, size=len(bench.clip)), made_up(bench, grid(bench, bench.steps)[::-1])
    sigmas = bench.trajectory.sampling_sigmas(bench.steps)[:-1].tolist()
    lowest = {setting: percent_to_sigma(bench.model, inputs.get(setting, 1.0)) for setting, inputs in SETTINGS.items()}
    acting = {setting: sum(sigma >= least for sigma in sigmas) for setting, least in lowest.items()}
    pairs_of(bench, "masks", 2)  # a warm-up
    pairs = {}
    for setting, count in acting.items():
        most = min(count, STRUCTURE_STEPS) if setting == "structure" else count
        print(f"  {setting}: {most} of {bench.steps} steps", flush=True)
        pairs[setting] = pairs_of(bench, setting, most)
    shares = {setting: acting[setting] / bench.steps for setting in ("confine", "structure")}
    found = blending_figures(pairs, [clear(sigma) for sigma in sigmas], shares)
    found["blending_details"] |= {**bench.about, "cfg": CFG}
    return {"overhead": found}


def blending_figures(pairs: dict[str, list[Pair]], clear: list[bool], shares: dict[str, float]) -> dict:
    """The keys of `overhead` for blending. Ratios are taken within each pair, so that what else the machine does counts for both sides.

    clear: for each level, from noise to clip, whether the target words' maps are spread there, which costs more: `blending_and_masks` is the
    median overhead of each kind of level by its share of the levels. shares: of `confine` and `structure`, the share of the levels at which
    it acts: what it adds to the same steps without it, times that share, is what it adds to an edit."""
    over = {setting: np.array([pair["ours"] / pair["stock"] - 1 for pair in listed]) for setting, listed in pairs.items()}
    kinds = {name: np.array(clear) == wanted for name, wanted in (("noisy", False), ("clear", True)) if wanted in clear}
    of_levels = {name: float(chosen.mean()) for name, chosen in kinds.items()}
    quarters = {name: quartiles(over["masks"][chosen]) for name, chosen in kinds.items()}
    without = {setting: np.median(over["masks"][: len(over[setting])]) for setting in shares}
    added = {setting: share * (np.median(over[setting]) - without[setting]) for setting, share in shares.items()}
    added = {"blending_and_masks": sum(share * quarters[name][1] for name, share in of_levels.items()), **added}
    return {
        **{name: round(float(value), 5) for name, value in added.items()},
        "blending_details": {
            "steps": len(clear),
            "shares": of_levels | shares,
            "quartiles": quarters | {setting: quartiles(over[setting]) for setting in shares},
            "seconds": {side: quartiles([pair[side] for pair in pairs["masks"]]) for side in ("stock", "ours")},
            "rows_ratio": {setting: listed[0]["ours_rows"] / listed[0]["stock_rows"] for setting, listed in pairs.items()},
        },
    }
