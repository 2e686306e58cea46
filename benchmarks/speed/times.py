"""The questions of time: each names what is timed in turn, the ratios that answer it, and its keys in speed.json."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil
import torch

from benchmarks.report import ROOT
from benchmarks.speed.bench import Bench, Ratios, Timed, compare, compared, interleaved, random_bench
from benchmarks.speed.memory import EDIT
from demo.base import CHECKPOINT_NAME
from demo.figures import Demo

KEY_FRAMES = {
    "first_previous": ("first", "previous"),
    "self_first_previous": ("self", "first", "previous"),
    "self_middle": ("self", "middle"),
    "first": ("first",),
    "all": ("all",),
}
STEP: Ratios = {  # predicted: stock's step, and what stock's own attention takes longer with that many more keys
    "ratio": lambda t: t.temporal / t.stock,
    "predicted": lambda t: 1 + (t.wide - t.plain) / t.stock,
    "over_predicted": lambda t: t.temporal / (t.stock + t.wide - t.plain),
}


def steps(comfy: Path, out: Path, quick: bool) -> dict:
    """A step with and without temporal attention, and stock's attention alone with as many keys as queries and with those of the frames."""
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    bench, rounds = random_bench(), 3 if quick else 6
    timed = {
        name: {
            "stock": partial(bench.call, bench.model),
            "temporal": partial(bench.call, with_temporal_attention(bench.model, KeyFrames(kinds), size=len(bench.clip))),
            "plain": partial(bench.attend, 1),
            "wide": partial(bench.attend, len(bench.clip) if kinds == ("all",) else len(kinds)),
        }
        for name, kinds in KEY_FRAMES.items()
    }
    found = {name: compared(seconds, STEP) for name, seconds in interleaved(timed, rounds).items()}
    ratio, predicted = ({name: one["quartiles"][kind][1] for name, one in found.items()} for kind in ("ratio", "predicted"))
    details = {kind: {name: one[kind] for name, one in found.items()} for kind in ("quartiles", "seconds")}
    return {"temporal": {"step_ratio": ratio, "step_ratio_predicted": predicted, "step": {"rounds": rounds, **details}}}


INVERSION: Ratios = {"ratio_to_stock": lambda t: t.record / t.stock, "ratio_to_stock_without_record": lambda t: t.without / t.stock}


def inversion(comfy: Path, out: Path, quick: bool) -> dict:
    """DDIM Invert with a record of the prompt's words and without words, and KSampler at CFG 1. More steps change no ratio."""
    bench = random_bench(steps=3)
    timed: Timed = {"stock": partial(bench.stock, 1.0), "record": bench.invert, "without": partial(bench.invert, bench.negative)}
    found = compare(timed, INVERSION, 2 if quick else 6)
    medians = {name: middle for name, (_, middle, _) in found["quartiles"].items()}
    return {"inversion": {**medians, "time": {"steps": bench.steps, **found, **bench.about}}}


EDIT_STEPS = 4  # of each stage: one of them at a level where maps are spread, about as in an edit of 25
WHOLE_EDIT: Ratios = {  # stock's attention takes longer with the edit's keys; a step of the inversion passes the frames once, one of the sampler twice
    "share_of_stock_throughput": lambda t: (t.stock_invert + t.stock_sample + 3 * EDIT_STEPS * (t.wide - t.plain)) / (t.invert + t.sample),
    "invert_share": lambda t: (t.stock_invert + EDIT_STEPS * (t.wide - t.plain)) / t.invert,
    "sample_share": lambda t: (t.stock_sample + 2 * EDIT_STEPS * (t.wide - t.plain)) / t.sample,
    "share_of_stock_without_wide_keys": lambda t: (t.stock_invert + t.stock_sample) / (t.invert + t.sample),
}


def edit(comfy: Path, out: Path, quick: bool) -> dict:
    """A whole edit through the nodes, in which each frame sees itself, the first and the one before it, and the same calls of stock."""
    bench = random_bench(EDIT_STEPS)
    keys = bench.patch_as_default()
    timed: Timed = {**bench.stages(), "plain": partial(bench.attend, 1), "wide": partial(bench.attend, keys)}
    found = compare(timed, WHOLE_EDIT, 1 if quick else 3)
    share = found["quartiles"]["share_of_stock_throughput"][1]
    return {"edit": {"share_of_stock_throughput": share, "details": {"steps": EDIT_STEPS, **found, **bench.about}}}


LENGTHS, QUICK_LENGTHS = (8, 32, 128), (8,)  # frames; a clip of 1,000 is the part `memory`
STAGE: Ratios = {"invert": lambda t: t.invert / t.stock_invert, "sample": lambda t: t.sample / t.stock_sample}
SDXL_WEIGHTS = 2.6e9
ROOM = 6 * 2**30  # bytes beside them: the frames' own, and what else the machine does


def lengths(comfy: Path, out: Path, quick: bool) -> dict:
    """Both stages of an edit by the clip's length with the demo checkpoint, and, not if quick, with SDXL's U-Net where memory holds it."""
    from blade.nodes.prompt import Prompt

    demo, frames = Demo(ROOT / "demo" / CHECKPOINT_NAME, cpu=not torch.cuda.is_available()), QUICK_LENGTHS if quick else LENGTHS
    model, clip = demo.model, demo.encode(EDIT.clip.render(max(frames)))
    source, target, negative = (Prompt.execute(demo.clip, text).result[0] for text in (EDIT.clip.source_prompt, EDIT.target_prompt, ""))
    found = {
        f"demo_{count}_frames": by_frame(Bench(model, clip[:count], source, target, negative, 2), 1 if quick else 2) for count in frames
    }
    if not quick and (dtype := sdxl_dtype()):
        found["sdxl_shape"] = by_frame(random_bench(2, 2, 256, family="SDXL", dtype=dtype), 1)
    elif not quick:
        print("SDXL's shape is left out: its weights do not fit into the free memory.")
    return {"stages": found}


def by_frame(bench: Bench, rounds: int) -> dict:
    """Of each stage the ratio to KSampler at the same guidance, and both sides' seconds a frame and step."""
    found = compare(bench.stages(), STAGE, rounds)
    pace = {side: round(middle / len(bench.clip) / bench.steps, 5) for side, (_, middle, _) in found["seconds"].items()}
    stages = {
        stage: {
            "ratio_to_stock": ratio,
            "seconds_per_frame_and_step": pace[stage],
            "stock_seconds_per_frame_and_step": pace[f"stock_{stage}"],
        }
        for stage, ratio in found["quartiles"].items()
    }
    return {**bench.about, "steps": bench.steps, **stages}


def sdxl_dtype() -> torch.dtype | None:
    """Of SDXL's weights: fp16 on CUDA, else fp32 or, where memory does not hold that, bf16. None where it holds neither."""
    free = psutil.virtual_memory().available
    kinds = [torch.float16] if torch.cuda.is_available() else [torch.float32, torch.bfloat16]
    return next((kind for kind in kinds if kind.itemsize * SDXL_WEIGHTS + ROOM < free), None)
