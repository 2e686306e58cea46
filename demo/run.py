"""The main job: edits the demo clips in a real ComfyUI, and measures what came out against the exact masks.

    python -m demo.run --comfy FOLDER --out out/demo

Runs the graphs of workflows/, as an artist would, and writes for the change of colour edited.mp4, comparison.mp4
(source | mask on source | edited), contact_sheet.png and report.json into the output folder; the same for the change of shape
into its folder shape/. Ends with 1 and ComfyUI's own sentence if a graph fails, with 2 if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from demo import pictures
from demo.base import prepare_base
from demo.check import colour_in, find_object, iou
from demo.clips import FPS, truth, write_mp4
from metrics.background import dilate, psnr_outside, psnr_outside_five
from runner.fetch import comfy_version, find_comfy
from runner.graphs import to_prompt
from runner.host import REPOSITORY, ComfyHost, HostError, Outcome
from video.pictures import contact_sheet, panels, picked, side_by_side, thumbnail_size

RESULTS = ("edited.mp4", "comparison.mp4", "contact_sheet.png", "report.json")
SHEET = 3  # frames on the contact sheet
MARGIN = 8  # pixels around the exact mask that belong to neither object nor background: one latent cell
LEAST = {"mask_iou": 0.7, "object_colour_ok": 0.9, "object_shape_ok": 0.9}  # shares to reach; the last where the shape is to change
MEASURE = "measure_"  # ids of the nodes that this program adds to a graph


@dataclass(frozen=True)
class Edit:
    """A workflow and what it should make of its clip's object. folder: within the output folder"""

    workflow: str
    colour: str
    shape: str
    folder: str


EDITS = {
    "colour": Edit("blade_change_colour", "blue", "circle", "."),
    "shape": Edit("blade_change_shape", "yellow", "circle", "shape"),
}


class RunFailed(Exception):
    """A graph did not run to its end; the message is the host's."""


class Progress:
    """Prints what a prompt is doing: a line for each node, and its steps, in place where the output is a terminal."""

    def __init__(self, prompt: dict):
        self.titles = {node: entry["_meta"]["title"] for node, entry in prompt.items() if not node.startswith(MEASURE)}
        self.node, self.since, self.told = "", time.monotonic(), 0.0
        self.begin, self.end = ("\r", "") if sys.stdout.isatty() else ("", "\n")

    def __call__(self, event: dict) -> None:
        data = event["data"]
        if event["type"] == "executing":
            if self.node:
                print(f"{self.begin}  {self.node}: {time.monotonic() - self.since:.1f} s   ", flush=True)
            self.node, self.since, self.told = self.titles.get(data["node"] or "", ""), time.monotonic(), 0.0
        elif event["type"] == "progress" and self.node and data.get("max", 0) > 1:
            share = data["value"] / data["max"]
            if self.begin or (share - self.told >= 0.25 and share < 1):
                self.told = share
                print(f"{self.begin}  {self.node}: {data['value']}/{data['max']}", end=self.end, flush=True)


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Of a process, looked at ten times a second as long as the block runs: a list of one number, its most resident bytes so far."""
    process, most, ended = psutil.Process(pid), [0], threading.Event()

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):  # the host says so itself
            while not ended.wait(0.1):
                most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def only(prompt: dict, class_type: str) -> str:
    """The id of a prompt's one node of a type."""
    found = [node for node, entry in prompt.items() if entry["class_type"] == class_type]
    if len(found) != 1:
        raise ValueError(f"the workflow has {len(found)} nodes of type {class_type}, the demo measures graphs with one.")
    return found[0]


def add_measuring(prompt: dict, run: str) -> dict:
    """A copy of the prompt that also saves, without loss, what the figures compare; the workflow itself is not about measuring.

    Saved as PNG: the clip as loaded (so that H.264 is no part of the figures), the same after the VAE's round trip, the edited frames
    as the VAE decodes them and laid over the clip, and the masks of the sampler and of the composite."""
    load, encode = only(prompt, "BLADE_LoadVideo"), only(prompt, "VAEEncode")
    sampler, decode, composite = (only(prompt, kind) for kind in ("BLADE_BlendedSampler", "VAEDecode", "BLADE_PixelComposite"))
    extra = {
        "decoded": ("VAEDecode", {"samples": [encode, 0], "vae": prompt[encode]["inputs"]["vae"]}),
        "drawn": ("MaskToImage", {"mask": [sampler, 1]}),
        "laid": ("MaskToImage", {"mask": [composite, 1]}),
    }
    shown = {
        "source": [load, 0],
        "round_trip": [MEASURE + "decoded", 0],
        "edited": [decode, 0],
        "mask": [MEASURE + "drawn", 0],
        "composite": [composite, 0],
        "composite_mask": [MEASURE + "laid", 0],
    }
    extra |= {name: ("SaveImage", {"images": link, "filename_prefix": f"{run}/{name}"}) for name, link in shown.items()}
    added = {MEASURE + name: {"class_type": kind, "inputs": inputs, "_meta": {"title": name}} for name, (kind, inputs) in extra.items()}
    return {**prompt, **added}


def collect(outcome: Outcome, output: Path) -> dict[str, np.ndarray]:
    """The saved frames by name. uint8 RGB [frames, height, width, 3]; masks: float 0..1 [frames, height, width]"""
    clips = {}
    for node, shown in outcome.outputs.items():
        if node.startswith(MEASURE):
            files = [output / file["subfolder"] / file["filename"] for file in shown["images"]]
            clips[node.removeprefix(MEASURE)] = np.stack([pictures.load(file) for file in files])
    for name in ("mask", "composite_mask"):
        clips[name] = clips[name][..., 0] / 255
    return clips


def measure(clips: dict[str, np.ndarray], clip: str, edit: Edit) -> dict:
    """The figures of the report. Where the shape changes, the object is the old outline and the new one together."""
    source, round_trip, edited = clips["source"], clips["round_trip"], clips["edited"]
    goal = truth(clip, edit.shape)
    exact = np.maximum(truth(clip), goal)
    outside = dilate(exact, MARGIN)
    pairs = {
        "vae_round_trip": (source, round_trip),
        "latent_blend": (source, edited),
        "latent_blend_vs_vae": (round_trip, edited),
        "composite": (source, clips["composite"]),
    }
    figures = {
        "background_psnr_db": {name: mean(psnr_outside(*pair, outside)) for name, pair in pairs.items()},
        "background_psnr_db_five_convention": {name: mean(psnr_outside_five(*pair, outside)) for name, pair in pairs.items()},
        "mask_iou": mean(iou(clips["mask"], exact)),
        "composite_pixels_changed_outside": int(((source != clips["composite"]).any(-1) & (clips["composite_mask"] == 0)).sum()),
        "object_colour_ok": mean([colour_in(frame, mask) == edit.colour for frame, mask in zip(clips["composite"], goal, strict=True)]),
    }
    if not np.array_equal(goal, truth(clip)):
        found = [find_object(frame) for frame in clips["composite"]]
        figures["object_shape_ok"] = mean([thing is not None and thing.shape == edit.shape for thing in found])
    return figures


def mean(values) -> float:
    return round(float(np.mean(values)), 4)


def goals(figures: dict) -> dict[str, bool]:
    """What an edit of the demo clip has to reach."""
    background = figures["background_psnr_db"]
    found = {
        "latent_blend within 0.5 dB of vae_round_trip": background["latent_blend"] >= background["vae_round_trip"] - 0.5,
        "latent_blend_vs_vae at least 35 dB": background["latent_blend_vs_vae"] >= 35,
        "composite changes no pixel outside its mask": figures["composite_pixels_changed_outside"] == 0,
    }
    return found | {f"{name} at least {least}": figures[name] >= least for name, least in LEAST.items() if name in figures}


def seconds_by_stage(prompt: dict, outcome: Outcome) -> dict[str, float]:
    """Seconds by the node's title; the nodes that measure are one stage, what came from the cache is left out."""
    stages: dict[str, float] = {}
    for node, seconds in outcome.seconds.items():
        stage = "measuring" if node.startswith(MEASURE) else prompt[node]["_meta"]["title"]
        stages[stage] = round(stages.get(stage, 0) + seconds, 2)
    return stages


def versions(comfy: Path) -> dict[str, str]:
    """Of all that the figures depend on. comfy: the folder of the ComfyUI that was used."""
    version = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "blade": version[1] if version else "unknown",
        "comfyui": comfy_version(comfy),
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def run_edit(host: ComfyHost, name: str, target: Path) -> dict:
    """Queues one edit, follows it and writes its results into a folder. Returns the report. Raises RunFailed with the host's sentence."""
    edit = EDITS[name]
    workflow = json.loads((REPOSITORY / "workflows" / f"{edit.workflow}.json").read_text(encoding="utf-8"))
    graph = to_prompt(workflow, host.object_info())
    run = f"blade_demo_{name}"
    shutil.rmtree(host.base / "output" / run, ignore_errors=True)  # frames of an earlier run
    prompt = add_measuring(graph, run)
    print(f"{workflow_title(graph)}:", flush=True)
    begin = time.monotonic()
    with peak_memory(host.pid) as memory:
        outcome = host.run(prompt, on_event=Progress(prompt))
    if outcome.error:
        title = prompt[outcome.error_node]["_meta"]["title"] if outcome.error_node in prompt else ""
        raise RunFailed(outcome.error if title in outcome.error else f"{title}: {outcome.error}")
    clips = collect(outcome, host.base / "output")
    clip = Path(prompt[only(prompt, "BLADE_LoadVideo")]["inputs"]["video"]).stem
    report = {
        "edit": workflow_title(graph),
        "frames": len(clips["edited"]),
        "size": [clips["edited"].shape[2], clips["edited"].shape[1]],
        "steps": prompt[only(prompt, "BLADE_BlendedSampler")]["inputs"]["steps"],
        **measure(clips, clip, edit),
        "seconds": {**seconds_by_stage(prompt, outcome), "total": round(time.monotonic() - begin, 2)},
        "peak_memory_mib": round(memory[0] / 2**20),
        "versions": versions(host.comfy),
    }
    video = outcome.outputs[only(prompt, "BLADE_SaveVideo")]["images"][0]
    frames = zip(clips["source"], clips["composite"], clips["mask"], strict=True)
    shown = [panels(source, edited, mask, thumbnail_size(*mask.shape)) for source, edited, mask in frames]
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(host.base / "output" / video["subfolder"] / video["filename"], target / "edited.mp4")
    write_mp4(target / "comparison.mp4", np.stack([side_by_side(frame, number) for number, frame in enumerate(shown)]), FPS)
    pictures.save(target / "contact_sheet.png", contact_sheet({number: shown[number] for number in picked(len(shown), SHEET)}, 1))
    (target / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def workflow_title(prompt: dict) -> str:
    """Source and target prompt of a graph: "a red circle on grass -> a blue circle on grass"."""
    source = prompt[only(prompt, "BLADE_DDIMInvert")]["inputs"]["source"][0]
    target = prompt[only(prompt, "BLADE_BlendedSampler")]["inputs"]["target"][0]
    return " -> ".join(prompt[node]["inputs"]["text"] for node in (source, target))


def print_goals(report: dict) -> bool:
    """Prints which goals are met; whether all are."""
    print("  " + ", ".join(f"{name} {value:.1f} dB" for name, value in report["background_psnr_db"].items()))
    print("  " + ", ".join(f"{name} {report[name]:.2f}" for name in LEAST if name in report))
    checked = goals(report)
    for goal, met in checked.items():
        print(f"  {'met   ' if met else 'MISSED'} {goal}")
    return all(checked.values())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--comfy", type=Path, help="folder of ComfyUI (default: COMFYUI_PATH, or the pinned download)")
    arguments.add_argument("--out", type=Path, default=Path("out/demo"), help="where the results go (default: out/demo)")
    arguments.add_argument("--edits", default=",".join(EDITS), help=f"which, separated by commas (default: {','.join(EDITS)})")
    arguments.add_argument("--checkpoint", type=Path, help="another checkpoint than the demo's own")
    options = arguments.parse_args()
    names = options.edits.split(",")
    if unknown := [name for name in names if name not in EDITS]:
        arguments.error(f"--edits: there is no edit {unknown[0]!r}: take from {', '.join(EDITS)}.")
    if options.checkpoint and not options.checkpoint.is_file():
        arguments.error(f"--checkpoint: {options.checkpoint} is not a file.")
    out = options.out.resolve()
    for name in names:  # what lies there afterwards belongs to this run
        for result in RESULTS:
            (out / EDITS[name].folder / result).unlink(missing_ok=True)
    begin, reports = time.monotonic(), {}
    try:
        base = prepare_base(out.parent / "base", options.checkpoint)
        print("Starting ComfyUI", flush=True)
        with ComfyHost(options.comfy or find_comfy(), base, log=base / "host.log") as host:
            print(f"  {host.address} after {time.monotonic() - begin:.1f} s", flush=True)
            for name in names:
                reports[name] = run_edit(host, name, out / EDITS[name].folder)
    except (HostError, RunFailed, ValueError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    reached = True
    for name, report in reports.items():
        print(f"{report['edit']} ({out / EDITS[name].folder}):")
        reached &= print_goals(report)
    print(f"{time.monotonic() - begin:.0f} s in all")
    return 0 if reached else 2


if __name__ == "__main__":
    sys.exit(main())
