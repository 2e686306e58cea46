"""What temporal attention costs in time, and what a clip's length costs in memory. Ratios, so that they mean the same on any machine.

    python -m benchmarks.speed [--out out/bench] [--only steps,memory] [--quick]

Writes the keys `temporal.*` of speed.json and prints them as tables. Ends with 1 and ComfyUI's own sentence if an edit fails, with 2 if
a goal is missed. The memory part edits a clip of 1,000 frames, on two cores in about half an hour; with --quick 96 frames.
"""

from __future__ import annotations

import argparse
import bisect
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, Edit
from benchmarks.pack import import_pack
from benchmarks.report import machine, merge
from demo.clips import read_mp4, write_mp4
from demo.comfy_env import import_comfy
from demo.comfy_source import find_comfy
from demo.host import CHECKPOINT_NAME, ComfyHost, HostError, prepare_base
from demo.run import RunFailed
from metrics.temporal import warp_error

REPOSITORY = Path(__file__).resolve().parents[1]
MIB = 2**20

VARIANTS = {
    "first_previous": ("first", "previous"),
    "self_first_previous": ("self", "first", "previous"),
    "self_middle": ("self", "middle"),
    "first": ("first",),
    "all": ("all",),
}
MOST_OVER_PREDICTION = 1.05
SD15_UNET = {  # the rest is in comfy.supported_models.SD15
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}


class StepBench:
    """One model call of SD1.5's U-Net on a clip, timed inside ComfyUI's sampling chain.

    Random weights, as their values cost no time. On the CPU fp32, 4 frames of 256 pixels; on CUDA fp16, 16 frames of 512 pixels."""

    def __init__(self) -> None:
        import comfy.ldm.modules.attention
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        cuda = torch.cuda.is_available()
        self.frames, self.pixels, self.dtype = (16, 512, torch.float16) if cuda else (4, 256, torch.float32)
        self.device = comfy.model_management.get_torch_device()
        self.attention = comfy.ldm.modules.attention.optimized_attention
        config = comfy.supported_models.SD15(SD15_UNET)
        config.set_inference_dtype(self.dtype, None)
        inner = config.get_model({}, device=self.device)
        self.rng = torch.Generator(self.device).manual_seed(0)
        for parameter in inner.parameters():  # its memory is whatever was there before
            fan_in = math.prod(parameter.shape[1:])
            parameter.data.normal_(0, fan_in**-0.5, generator=self.rng) if parameter.ndim > 1 else parameter.data.fill_(1)
        self.model = comfy.model_patcher.ModelPatcher(inner, self.device, torch.device("cpu"))
        self.noise = torch.randn(self.frames, 4, self.pixels // 8, self.pixels // 8)
        self.words = [[torch.randn(1, 77, 768), {}]]
        self.layers = self.self_attention_layers()

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.inference_mode()
    def step(self, model) -> float:
        """Seconds of one call with one cond row a frame (CFG 1)."""
        import comfy.sample
        import comfy.samplers

        seconds = math.nan

        def call_once(model, x, sigmas, extra_args, callback, disable):
            nonlocal seconds
            begin = self.clock()
            model(x, sigmas[0].expand(len(x)), **extra_args)
            seconds = self.clock() - begin
            return x

        sigmas = torch.tensor([5.0, 0.0])
        sampler = comfy.samplers.KSAMPLER(call_once)
        comfy.sample.sample_custom(
            model, self.noise, 1.0, sampler, sigmas, self.words, self.words, torch.zeros_like(self.noise), disable_pbar=True, seed=0
        )
        return seconds

    def self_attention_layers(self) -> list[tuple[torch.Size, int]]:
        """Of each self-attention layer in one call: the shape of its input, [frames, cells, width], and its heads."""
        layers: list[tuple[torch.Size, int]] = []
        unet = self.model.get_model_object("diffusion_model")
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs: layers.append((inputs[0].shape, module.heads)))
            for name, module in unet.named_modules()
            if name.endswith("attn1")
        ]
        self.step(self.model)
        for hook in hooks:
            hook.remove()
        return layers

    @torch.inference_mode()
    def attend(self, times: int) -> float:
        """Seconds of the attention alone, over all self-attention layers, with `times` as many keys and values as queries."""

        def tensor(shape: torch.Size, cells: int) -> torch.Tensor:
            drawn = torch.randn(shape[0], cells, shape[2], device=self.device, generator=self.rng)
            return drawn.to(self.dtype)

        seconds = 0.0
        for shape, heads in self.layers:
            q, k, v = (tensor(shape, cells) for cells in (shape[1], times * shape[1], times * shape[1]))
            begin = self.clock()
            self.attention(q, k, v, heads)
            seconds += self.clock() - begin
        return seconds


def measure_steps(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by variant, a value a round: "stock" and "temporal", a step without and with it; "plain" and "wide", stock's attention
    alone with as many keys as queries and with the variant's. The four follow each other, forwards and backwards in turn; the first
    round is dropped."""
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    bench = StepBench()
    timed: dict[str, dict[str, Callable[[], float]]] = {}
    for name, kinds in VARIANTS.items():
        model = with_temporal_attention(bench.model, KeyFrames(kinds), size=bench.frames)
        times = bench.frames if kinds == ("all",) else len(kinds)
        timed[name] = {
            "stock": partial(bench.step, bench.model),
            "temporal": partial(bench.step, model),
            "plain": partial(bench.attend, 1),
            "wide": partial(bench.attend, times),
        }
    seconds: dict[str, dict[str, list[float]]] = {name: {what: [] for what in four} for name, four in timed.items()}
    for number in range(rounds + 1):
        for name, four in timed.items():
            for what, measure in list(four.items())[:: -1 if number % 2 else 1]:
                taken = measure()
                if number:
                    seconds[name][what].append(taken)
        print(f"  round {number} of {rounds}{'' if number else ' (warm-up)'}", flush=True)
    return seconds


def step_figures(seconds: dict[str, dict[str, list[float]]]) -> dict:
    """The keys of `temporal` for the time of a step, from what `measure_steps` gives.

    Ratios are taken within each round, so that what else the machine does counts for both sides; their medians are the figures.
    Predicted is stock's step plus what stock's own attention takes longer with that many more keys."""
    details = {}
    for name, four in seconds.items():
        stock, temporal, plain, wide = (np.array(four[what]) for what in ("stock", "temporal", "plain", "wide"))
        ratio, predicted = temporal / stock, 1 + (wide - plain) / stock
        details[name] = {"ratio": quartiles(ratio), "predicted": quartiles(predicted), "over_predicted": quartiles(ratio / predicted)}
    return {
        "step_ratio": {name: found["ratio"][1] for name, found in details.items()},
        "step_ratio_predicted": {name: found["predicted"][1] for name, found in details.items()},
        "step": {
            "rounds": min(len(four["stock"]) for four in seconds.values()),
            "quartiles": details,
            "seconds": {name: {what: quartiles(np.array(values)) for what, values in four.items()} for name, four in seconds.items()},
        },
    }


def quartiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in np.quantile(values, [0.25, 0.5, 0.75])]


def run_steps(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    os.environ["COMFYUI_PATH"] = str(comfy)
    import_comfy()
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import_pack()
    found = step_figures(measure_steps(3 if quick else 10))
    merge(out / "speed.json", {"machine": {"steps": machine(comfy)}, "temporal": found})
    stock = found["step"]["seconds"]["first_previous"]["stock"]
    print(
        f"\nA step of SD1.5's U-Net takes {stock[1]:.2f} s ({stock[0]:.2f} to {stock[2]:.2f}); quartiles of {found['step']['rounds']} rounds"
    )
    print(f"{'keys and values from':<22}{'measured':>20}{'predicted':>20}{'over predicted':>20}")
    for name, detail in found["step"]["quartiles"].items():
        columns = (f"{middle:.3f} ({low:.3f}-{high:.3f})" for low, middle, high in detail.values())
        print(f"{name.replace('_', ' '):<22}" + "".join(f"{column:>20}" for column in columns))
    met = found["step_ratio"]["first_previous"] <= MOST_OVER_PREDICTION * found["step_ratio_predicted"]["first_previous"]
    print(f"{'met   ' if met else 'MISSED'} first and previous: at most {MOST_OVER_PREDICTION} times what is predicted")
    return met


EDIT: Edit = DEVELOPMENT_COLOUR_EDITS[0]
SIDE = 16  # latent cells a side of that clip
BATCH = 16  # frames that pass the model at once where memory is free (host.frames)
WARM_UP = (16, 2)  # frames, steps
LONGEST_GROWTH = 1.10
SETTLING = 15  # seconds: ComfyUI collects garbage up to ten seconds after a prompt
STAGES = {
    "encode": "Encode Video",
    "temporal": "Temporal-Spatial Attention",
    "invert": "DDIM Invert",
    "sample": "Blended Sampler",
    "decode": "Decode Video",
}


def edit_prompt(video: str, frames: int, steps: int) -> dict:
    """The edit from file to file, as POST /prompt takes it. frames: how many of the file's."""

    def prompt(text: str) -> dict:
        return {"class_type": "BLADE_Prompt", "inputs": {"clip": ["checkpoint", 1], "text": text}}

    stretch = {"video": video, "start_frame": 0, "frame_count": frames, "every_nth": 1, "longest_side": 0, "chunk_frames": 0}
    keys = {"self": True, "first": True, "previous": True, "next": False, "middle": False}
    temporal: dict[str, object] = {f"{kind}_frame": wanted for kind, wanted in keys.items()}
    temporal |= {"all_frames": False, "anchor_every": 0, "strength": 1.0}
    temporal |= {"blocks": "all", "start_percent": 0.0, "end_percent": 1.0, "batch_frames": 0}
    edit = {"steps": steps, "cfg": 7.5, "sampler_name": "euler", "start": 1.0, "grow": 0, "consensus": 1.0, "consensus_until": 0.6}
    edit |= {"source_words": EDIT.source_words, "target_words": EDIT.target_words, "mask_size": "latent cells"}
    links = {"model": ["temporal", 0], "target": ["target", 0], "negative": ["negative", 0], "trajectory": ["invert", 0]}
    file = {"fps": ["encode", 1], "filename_prefix": "speed/edited", "format": "mkv (FFV1, lossless)", "crf": 16, "chunk_frames": 0}
    return {
        "checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT_NAME}},
        "source": prompt(EDIT.clip.source_prompt),
        "target": prompt(EDIT.target_prompt),
        "negative": prompt(""),
        "encode": {"class_type": "BLADE_EncodeVideo", "inputs": {"vae": ["checkpoint", 2], **stretch}},
        "temporal": {"class_type": "BLADE_TemporalAttention", "inputs": {"model": ["checkpoint", 0], **temporal}},
        "invert": {
            "class_type": "BLADE_DDIMInvert",
            "inputs": {
                "model": ["temporal", 0],
                "source": ["source", 0],
                "latent": ["encode", 0],
                "steps": steps,
                "storage": "mapped file",
            },
        },
        "sample": {"class_type": "BLADE_BlendedSampler", "inputs": {**links, **edit}},
        "decode": {"class_type": "BLADE_DecodeVideo", "inputs": {"latent": ["sample", 0], "vae": ["checkpoint", 2], **file}},
    }


def trajectory_bytes(frames: int, steps: int) -> int:
    """What DDIM Invert maps for this clip: latents of every level in fp32, and one 16x16 map in fp16 for each word and step.

    The words of these prompts are one token each, and 16x16 is the one resolution that is recorded for a latent of 16x16."""
    words = len(EDIT.clip.source_prompt.split())
    return 4 * (steps + 1) * frames * 4 * SIDE**2 + 2 * steps * frames * words * SIDE**2


class MemoryTrace:
    """Context manager: resident memory of a process over time, looked at 25 times a second, and what it was doing then.

    samples: (seconds, resident bytes, of these shared with files). events: (seconds, node id), added by `on_event`."""

    def __init__(self, pid: int):
        self.process, self.ended = psutil.Process(pid), threading.Event()
        self.samples: list[tuple[float, int, int]] = []
        self.events: list[tuple[float, str]] = []
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        try:
            while not self.ended.is_set():
                self.samples.append((time.monotonic(), *resident(self.process)))
                self.ended.wait(0.04)
        except psutil.NoSuchProcess:  # the host says so itself
            pass

    def on_event(self, event: dict) -> None:
        if event["type"] == "executing":
            self.events.append((time.monotonic(), event["data"]["node"] or ""))

    def __enter__(self) -> MemoryTrace:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def resident(process: psutil.Process) -> tuple[int, int]:
    """Resident bytes, and how many of them are pages of files (0 where the system does not say)."""
    found = process.memory_info()
    return found.rss, getattr(found, "shared", 0)


def by_stage(samples: Sequence[tuple[float, int, int]], events: Sequence[tuple[float, str]]) -> dict[str, dict[str, float]]:
    """For each node that ran: seconds, peak of resident bytes, and peak of those that are no pages of files. Events end with ""."""
    begins = [begin for begin, _ in events]
    stages: dict[str, dict[str, float]] = {}
    for (begin, node), (end, _) in pairwise(events):
        if node:
            known = stages.setdefault(node, {"seconds": 0.0, "peak": 0, "peak_private": 0})
            known["seconds"] += end - begin
    for moment, whole, shared in samples:
        running = bisect.bisect_right(begins, moment) - 1
        if running >= 0 and events[running][1] in stages:
            known = stages[events[running][1]]
            known["peak"], known["peak_private"] = max(known["peak"], whole), max(known["peak_private"], whole - shared)
    return stages


def measure_memory(comfy: Path, base: Path, frames: int, steps: int) -> tuple[dict, np.ndarray]:
    """Edits the clip of so many frames in a fresh server. Returns its figures, in bytes and seconds, and the edited frames.

    Raises HostError, and RunFailed with ComfyUI's sentence where the edit fails."""
    video = base / "input" / f"moving_{frames}.mp4"
    write_mp4(video, EDIT.clip.render(max(frames, WARM_UP[0])))
    with ComfyHost(comfy, base, log=base / f"host_{frames}.log", cpu=True) as host:
        failed = host.run(edit_prompt(video.name, *WARM_UP)).error
        if failed:
            raise RunFailed(failed)
        time.sleep(SETTLING)
        idle, idle_files = resident(psutil.Process(host.pid))
        with MemoryTrace(host.pid) as trace:
            outcome = host.run(edit_prompt(video.name, frames, steps), on_event=trace.on_event, timeout=6 * 3600)
    if outcome.error:
        raise RunFailed(outcome.error)
    stages = by_stage(trace.samples, trace.events)
    kept, peak = trajectory_bytes(frames, steps), max(whole for _, whole, _ in trace.samples)
    written = outcome.outputs["decode"]["images"][0]
    figures = {
        "frames": frames,
        "steps": steps,
        "idle": idle,
        "peak": peak,
        "trajectory": kept,
        "above": peak - idle - kept,
        "peak_stage": max(stages, key=lambda node: stages[node]["peak"]),
        "above_private": max(whole - shared for _, whole, shared in trace.samples) - (idle - idle_files),
        "seconds_per_frame_and_step": {node: round(stages[node]["seconds"] / frames / steps, 5) for node in ("invert", "sample")},
        "seconds_per_frame": {node: round(stages[node]["seconds"] / frames, 5) for node in ("encode", "decode")},
        "above_idle_by_stage": {
            node: {"resident": int(found["peak"]) - idle, "private": int(found["peak_private"]) - (idle - idle_files)}
            for node, found in stages.items()
            if node in STAGES
        },
    }
    return figures, read_mp4(base / written["type"] / written["subfolder"] / written["filename"])


def seam(errors: np.ndarray, batch: int) -> dict[str, float | int]:
    """Whether a border between two batches shows: mean warp error over it and elsewhere, with standard errors.

    errors: of each pair of neighbouring frames, [frames - 1]; the pair i crosses a border where i + 1 is a multiple of `batch`."""
    over = (np.arange(len(errors)) + 1) % batch == 0
    found: dict[str, float | int] = {"borders": int(over.sum())}
    for name, values in (("across", errors[over]), ("inside", errors[~over])):
        found[name] = float(values.mean())
        found[f"{name}_standard_error"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    found["difference"] = found["across"] - found["inside"]
    found["difference_standard_error"] = math.hypot(found["across_standard_error"], found["inside_standard_error"])
    return found


def run_memory(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    (long, short), steps = ((96, 24), 4) if quick else ((1000, 100), 20)
    base = prepare_base(out / "base")
    runs = {}
    for frames in (short, long):
        print(f"Editing {frames} frames in {steps} steps", flush=True)
        runs[frames], edited = measure_memory(comfy, base, frames, steps)
    borders = seam(warp_error(edited, EDIT.clip.flow(long), EDIT.clip.truth(long)), BATCH)
    ratio = runs[long]["above"] / runs[short]["above"]
    found = {
        "peak_memory_ratio": {f"{long}_to_{short}": round(ratio, 4)},
        "memory": {f"{frames}_frames_{steps}_steps": run for frames, run in runs.items()},
        "seam": {f"{long}_frames_{steps}_steps": borders},
    }
    merge(out / "speed.json", {"machine": {"memory": machine(comfy)}, "temporal": found})
    print(f"\n{'MiB above the idle server':<28}" + "".join(f"{f'{frames} frames':>16}" for frames in runs) + f"{'a frame, KiB':>16}")
    for node, title in STAGES.items():
        row = [run["above_idle_by_stage"][node]["resident"] if node in run["above_idle_by_stage"] else 0 for run in runs.values()]
        print(f"{title:<28}" + "".join(f"{size / MIB:>16.1f}" for size in row) + f"{(row[1] - row[0]) / (long - short) / 1024:>16.1f}")
    for name in ("trajectory", "above", "above_private"):
        row = [run[name] for run in runs.values()]
        print(f"{name:<28}" + "".join(f"{size / MIB:>16.1f}" for size in row) + f"{(row[1] - row[0]) / (long - short) / 1024:>16.1f}")
    for run in runs.values():
        pace = run["seconds_per_frame_and_step"]
        print(f"{run['frames']} frames: {pace['invert']:.4f} s a frame and step to invert, {pace['sample']:.4f} s to sample; "
              f"peak in {STAGES[run['peak_stage']]}")  # fmt: skip
    print(f"warp error across batches {borders['across']:.6f}, inside {borders['inside']:.6f}, "
          f"difference {borders['difference']:+.6f} +- {borders['difference_standard_error']:.6f}")  # fmt: skip
    print(f"peak above idle and trajectory, {long} to {short} frames: {ratio:.3f}")
    met = ratio <= LONGEST_GROWTH
    print(f"{'met   ' if met else 'MISSED'} at most {LONGEST_GROWTH}")
    return met


PARTS = {"steps": run_steps, "memory": run_memory}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/bench"), help="where the results go (default: out/bench)")
    arguments.add_argument("--only", default=",".join(PARTS), help=f"which parts, separated by commas (default: {','.join(PARTS)})")
    arguments.add_argument("--quick", action="store_true", help="fewer rounds, and shorter clips under keys of their own")
    options = arguments.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        arguments.error(f"--only: there is no part {unknown[0]!r}: take from {', '.join(PARTS)}.")
    try:
        comfy = find_comfy(REPOSITORY / ".cache")
        reached = [PARTS[name](comfy, options.out.resolve(), options.quick) for name in chosen]
    except (HostError, RunFailed, ValueError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 1
    return 0 if all(reached) else 2


if __name__ == "__main__":
    sys.exit(main())
