"""What a clip's length costs in memory: an edit from file to file in a real server, of a short and of a long clip."""

from __future__ import annotations

import bisect
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, Edit
from benchmarks.metrics.temporal import warp_error
from benchmarks.pack import import_pack
from benchmarks.report import machine, merge
from demo.base import CHECKPOINT_NAME, prepare_base
from demo.clips import read_mp4, write_mp4
from demo.run import RunFailed
from runner.graphs import with_defaults
from runner.host import ComfyHost, Outcome

MIB = 2**20
EDIT: Edit = DEVELOPMENT_COLOUR_EDITS[0]
SIDE = 16  # latent cells a side of that clip
BATCH = 16  # frames that pass the model at once where memory is free (host.frames)
WARM_UP = (16, 2)  # frames, steps
LONGEST_GROWTH = 1.10
PLAIN_INVERSION = {"schedule": "ddim", "depth": 1.0, "method": "DDIM", "refine": 1, "tolerance": 1e-4, "precision": "fp32"}
SETTLING = 15  # seconds: ComfyUI collects garbage up to ten seconds after a prompt
STEADY = {"MALLOC_ARENA_MAX": "1"}
"""For glibc: one heap for all threads. Else each keeps freed memory of its own, and two runs of one clip differ by 50 MiB."""
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
                **PLAIN_INVERSION,
                "storage": "mapped file",
            },
        },
        "sample": {"class_type": "BLADE_BlendedSampler", "inputs": {**links, **edit}},
        "decode": {"class_type": "BLADE_DecodeVideo", "inputs": {"latent": ["sample", 0], "vae": ["checkpoint", 2], **file}},
    }


def trajectory_bytes(frames: int, steps: int, side: int = SIDE) -> int:
    """What DDIM Invert keeps of a clip with this prompt: latents of every level in fp32, and for each word and step a map in fp16 at
    every resolution that is recorded, and for each word one in fp32 (of affinity).

    side: latent cells. The words of these prompts are one token each, and the demo's U-Net has layers at all of these resolutions."""
    words = len(EDIT.clip.source_prompt.split())
    import_pack()
    from blade.attention.record import recorded_sizes

    cells = sum(rows * columns for rows, columns in recorded_sizes(side, side))
    return 4 * (steps + 1) * frames * 4 * side**2 + (2 * steps + 4) * frames * words * cells


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


@dataclass(frozen=True)
class Traced:
    """A prompt's memory, in bytes: of the idle server, in all and of these in pages of files; over time; by node (by_stage); at its peak."""

    outcome: Outcome
    idle: int
    idle_files: int
    samples: list[tuple[float, int, int]]
    stages: dict[str, dict[str, float]]
    peak: int


def trace_prompt(comfy: Path, base: Path, name: str, warm_up: dict, prompt: dict) -> Traced:
    """Runs a prompt in a fresh server, after a smaller one and a pause in which its garbage goes. name: of the server's log. What a
    prompt leaves out is as the page has it.

    Raises HostError, and RunFailed with ComfyUI's sentence where a prompt fails."""
    with ComfyHost(comfy, base, log=base / f"host_{name}.log", cpu=True) as host:
        types = host.object_info()
        failed = host.run(with_defaults(warm_up, types)).error
        if failed:
            raise RunFailed(failed)
        time.sleep(SETTLING)
        idle, idle_files = resident(psutil.Process(host.pid))
        forget_peak(host.pid)
        with MemoryTrace(host.pid) as trace:
            outcome = host.run(with_defaults(prompt, types), on_event=trace.on_event, timeout=6 * 3600)
        peak = max(known_peak(host.pid), max(whole for _, whole, _ in trace.samples))
    if outcome.error:
        raise RunFailed(outcome.error)
    return Traced(outcome, idle, idle_files, trace.samples, by_stage(trace.samples, trace.events), peak)


def forget_peak(pid: int) -> None:
    """Linux: the process's peak begins anew from what is resident now."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:  # elsewhere there is no such file, and what was looked at in time has to do
        pass


def known_peak(pid: int) -> int:
    """Linux: the most bytes that were resident since `forget_peak`, however shortly. 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def measure_memory(comfy: Path, base: Path, frames: int, steps: int) -> tuple[dict, np.ndarray]:
    """Edits the clip of so many frames in a fresh server. Returns its figures, in bytes and seconds, and the edited frames.

    Raises HostError, and RunFailed with ComfyUI's sentence where the edit fails."""
    video = base / "input" / f"moving_{frames}.mp4"
    write_mp4(video, EDIT.clip.render(max(frames, WARM_UP[0])))
    with patch.dict(os.environ, STEADY):
        traced = trace_prompt(comfy, base, str(frames), edit_prompt(video.name, *WARM_UP), edit_prompt(video.name, frames, steps))
    idle, idle_files, stages = traced.idle, traced.idle_files, traced.stages
    kept, peak = (
        trajectory_bytes(frames, steps),
        traced.peak,
    )  # what is looked at 25 times a second misses the top of a decoder's short peaks
    written = traced.outcome.outputs["decode"]["images"][0]
    figures = {
        "frames": frames,
        "steps": steps,
        "idle": idle,
        "peak": peak,
        "trajectory": kept,
        "above": peak - idle - kept,
        "peak_stage": max(stages, key=lambda node: stages[node]["peak"]),
        "above_private": max(whole - shared for _, whole, shared in traced.samples) - (idle - idle_files),
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
    (long, short), steps = ((96, 24), 4) if quick else ((1000, 100), 8)
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
