"""How well masks that words draw fit the object, over clips that are hard in different ways: keys `masks.*` of quality.json, the table
masks.md and the picture masks.jpg.

Through the pack's own nodes, DDIM Invert and Cross-Attention Mask, with their defaults; the frames are connected. The ablation turns one
part after the other on, and each off in turn. Defaults were chosen on DEVELOPMENT_CLIPS, of which --quick measures one of each kind; figures are
of TEST_CLIPS, whose textures are others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.metrics.temporal import mask_flicker
from benchmarks.pool import each
from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS, FRAMES, KINDS, TEST_CLIPS, MaskClip
from benchmarks.report import Kept, machine, merge
from demo.check import iou
from demo.figures import Demo, sheet

STEPS = 25
EXACT = "exact"  # the exact masks, as a row
NAMES = {  # of what the ablation turns on, one after the other
    "flat": "all noise levels alike, half height",
    "noise_weighted": "noise-aware weights",
    "affinity": "self-attention affinity",
    "smoothing": "smoothing along the motion",
    "default": "edges of colours: the default",
}
ROWS = {
    "default": "default",
    "default_no_pixel_refinement": "*edges* off",
    "no_frames": "*frames* not connected",
    "p2p_0.3": "prompt-to-prompt's rule (max-pool, fixed 0.3)",
}
HEADS = {"close": "close colours", "two": "two things", "leaving": "leaving the frame"}


@dataclass(frozen=True)
class Way:
    """A way to draw the mask. inputs: of the node Cross-Attention Mask, in place of its defaults; frames None: not connected.

    The others take away from the record what the node would draw from. levels_alike: the mean of all levels' maps is left; level: that one's;
    affinity: without it, the maps as they are. p2p: prompt-to-prompt's rule in place of the node."""

    inputs: dict[str, Any] = field(default_factory=dict)
    levels_alike: bool = False
    affinity: bool = True
    level: int | None = None
    p2p: bool = False


NO_EDGES, BARE = {"edges": False}, {"edges": False, "smoothing": 0}
WAYS = {
    "default": Way(),
    "default_no_pixel_refinement": Way(NO_EDGES),
    "no_frames": Way({"frames": None}),
    "p2p_0.3": Way(p2p=True),
    "ladder/flat": Way(BARE, levels_alike=True),
    "ladder/noise_weighted": Way(BARE, affinity=False),
    "ladder/affinity": Way(BARE),
    "ladder/smoothing": Way(NO_EDGES),
    "without/affinity": Way(affinity=False),
    "without/affinity_and_noise_weights": Way(levels_alike=True),
    "without/smoothing": Way({"smoothing": 0}),
}
RULES = {"otsu": {"threshold": "otsu"}, "hysteresis": {"threshold": "hysteresis"}, "fixed_0.3": {"threshold": "fixed"}}
for _name, _rule in RULES.items():
    WAYS |= {f"{_name}/with_edges": Way(_rule), f"{_name}/without_edges": Way(_rule | NO_EDGES)}
LEVELS = range(0, STEPS, 4)
WAYS |= {f"level/{level}": Way({"frames": None}, level=level) for level in LEVELS}

GOALS = {  # figure -> (least or most, bound)
    "iou.default": ("at least", 0.82),
    "iou.default_plain_clips": ("at least", 0.93),
    "iou.default_no_pixel_refinement": ("at least", 0.75),
    "iou.gain_over_p2p_0.3": ("at least", 0.2),
    "wrong_object_covered": ("at most", 0.05),
    "flicker_ratio": ("at most", 0.6),
}


@dataclass(frozen=True)
class Seen:
    """What a clip's inversion left to draw masks from. frames: IMAGE."""

    clip: MaskClip
    trajectory: Any
    frames: Tensor


class Bench:
    """Inverts clips in this process and draws masks."""

    def __init__(self, checkpoint: Path):
        self.demo = Demo(checkpoint)
        self.demo.parts  # noqa: B018 - puts ComfyUI on the import path
        import blade.nodes.invert
        import blade.nodes.mask
        import blade.nodes.prompt

        self.nodes = blade.nodes

    @torch.inference_mode()
    def invert(self, clip: MaskClip) -> Seen:
        pictures = clip.render(FRAMES)
        prompt = self.nodes.prompt.Prompt.execute(self.demo.clip, clip.source_prompt).result[0]
        samples = {"samples": self.demo.encode(pictures)}
        trajectory = self.nodes.invert.DDIMInvert.execute(self.demo.model, prompt, samples, STEPS).result[0]
        return Seen(clip, trajectory, torch.from_numpy(pictures).float() / 255)

    def mask(self, seen: Seen, way: Way) -> Tensor:
        """[frames, height, width]"""
        record, size = seen.trajectory.record, seen.frames.shape[1:3]
        phrases = record.words.choose(seen.clip.words)
        if way.p2p:
            return prompt_to_prompt(record, phrases[0].columns, size)
        if way.levels_alike:
            alike = {size: torch.stack([level[size].float() for level in record.levels]).mean(0) for size in record.levels[0]}
            record = replace(record, spread=alike)
        elif way.level is not None:
            record = replace(record, spread=record.levels[way.level])
        elif not way.affinity:
            record = replace(record, spread={})
        trajectory = replace(seen.trajectory, record=record)
        return self.nodes.mask.CrossAttentionMask.execute(trajectory, seen.clip.words, **{"frames": seen.frames, **way.inputs}).result[0]


def prompt_to_prompt(record, columns: tuple[int, ...], size: Sequence[int], threshold: float = 0.3) -> Tensor:
    """The rule of prompt-to-prompt's and FateZero's local blend: the words' maps summed over all levels, 3x3 max-pool, resized, divided by
    each frame's maximum, above a threshold. On the maps that are recorded here. [frames, *size]"""
    maps = [list(record.pick(level, columns).values()) for level in range(len(record.levels))]
    mean = torch.stack([torch.stack([F.interpolate(of[:, None], (16, 16), mode="area") for of in level]).mean(0) for level in maps]).mean(0)
    heat = F.interpolate(F.max_pool2d(mean, 3, 1, 1), tuple(size), mode="bilinear")[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True) > threshold).float()


def figures(clip: MaskClip, mask: np.ndarray) -> dict[str, float]:
    truth, other = clip.truth(FRAMES), clip.other(FRAMES) > 0.5
    return {
        "iou": float(iou(mask, truth).mean()),
        "flicker": float(mask_flicker(mask, clip.flow(FRAMES)).mean()),
        "covered": float(((mask > 0.5) & other).sum() / max(1, other.sum())) if clip.kind == "two" else 0.0,
    }


@dataclass(frozen=True)
class Task:
    """A clip to draw every mask of. shown: whether the picture shows it."""

    kind: str
    number: int
    clip: MaskClip
    shown: bool

    def key(self, name: str) -> str:
        return f"{name}/{self.kind}/{self.number}/{self.clip.seed}"


def measured(bench: Bench, task: Task) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray], float]:
    """Figures by mask, the masks that the picture shows, of their middle frame, and seconds."""
    begin, rows, shown = time.monotonic(), {EXACT: figures(task.clip, task.clip.truth(FRAMES))}, {}
    seen = bench.invert(task.clip)
    for name, way in WAYS.items():
        mask = bench.mask(seen, way).numpy()
        rows[name] = figures(task.clip, mask)
        if task.shown and name in PANELS:
            shown[name] = mask[FRAMES // 2]
    return rows, shown, time.monotonic() - begin


def measure(checkpoint: Path, clips: dict[str, tuple[MaskClip, ...]], out: Path, picture: str) -> dict:
    """Figures by mask, kind and number of the clip, as name/kind/number."""
    done = Kept(out / "masks.json")
    shown: dict[tuple[str, str], np.ndarray] = {}
    tasks = [
        Task(kind, number, clip, number == pictured(kind, listed)) for kind, listed in clips.items() for number, clip in enumerate(listed)
    ]
    left = [task for task in tasks if task.shown or any(task.key(name) not in done.rows for name in (*WAYS, EXACT))]
    for task, (rows, masks, seconds) in each(Bench, checkpoint, measured, left):
        done.rows |= {task.key(name): row for name, row in rows.items()}
        done.write()
        shown |= {(task.kind, name): mask for name, mask in masks.items()}
        print(f"{task.kind} {task.number + 1}/{len(clips[task.kind])} {task.clip.words}: IoU {rows['default']['iou']:.3f}, {seconds:.1f} s",
              flush=True)  # fmt: skip
    draw(clips, shown, out / picture)
    return {f"{name}/{task.kind}/{task.number}": done.rows[task.key(name)] for task in tasks for name in (*WAYS, EXACT)}


def summary(rows: dict, clips: dict[str, tuple[MaskClip, ...]]) -> dict:
    """The keys of `masks`."""

    def mean(name: str, figure: str = "iou", kinds: tuple[str, ...] = KINDS) -> float:
        return float(np.mean([rows[f"{name}/{kind}/{number}"][figure] for kind in kinds for number in range(len(clips[kind]))]))

    named = tuple(ROWS)
    found: dict = {
        "clips": sum(map(len, clips.values())),
        "iou": {name: mean(name) for name in named} | {"default_plain_clips": mean("default", kinds=("plain",))},
        "iou_by_kind": {name: {kind: mean(name, kinds=(kind,)) for kind in clips} for name in named},
        "worst": min(
            (rows[f"default/{kind}/{number}"]["iou"], f"{kind} {number + 1}") for kind in clips for number in range(len(clips[kind]))
        ),
        "wrong_object_covered": mean("default", "covered", ("two",)),
        "wrong_object_covered_by_p2p_0.3": mean("p2p_0.3", "covered", ("two",)),
        "flicker": {
            name: mean(name, "flicker") for name in ("default", "without/smoothing", "ladder/smoothing", "ladder/affinity", "exact")
        },
    }
    flicker = found["flicker"]
    found["flicker_ratio"] = flicker["default"] / flicker["without/smoothing"]
    found["flicker_ratio_no_pixel_refinement"] = flicker["ladder/smoothing"] / flicker["ladder/affinity"]
    found["iou"]["gain_over_p2p_0.3"] = found["iou"]["default"] - found["iou"]["p2p_0.3"]
    found["ablation"] = {
        "ladder": {name: mean(f"ladder/{name}") for name in list(NAMES)[:-1]} | {"default": mean("default")},
        "without": {name: mean(f"without/{name}") for name in ("affinity", "affinity_and_noise_weights", "smoothing")}
        | {"edges": mean("default_no_pixel_refinement")},
        "threshold": {rule: {edges: mean(f"{rule}/{edges}") for edges in ("with_edges", "without_edges")} for rule in RULES}
        | {"half_height": {"with_edges": mean("default"), "without_edges": mean("default_no_pixel_refinement")}},
        "single_level": {f"{level + 1} of {STEPS}": mean(f"level/{level}") for level in LEVELS},
    }
    return found


def table(found: dict) -> str:
    """Markdown: IoU by kind of clip, and what each part brings."""
    kinds = list(next(iter(found["iou_by_kind"].values())))
    lines = [
        "| mask | all | " + " | ".join(HEADS.get(kind, kind.replace("_", " ")) for kind in kinds) + " |",
        "|---" * (len(kinds) + 2) + "|",
    ]
    for name, by_kind in found["iou_by_kind"].items():
        cells = [found["iou"][name], *by_kind.values()]
        lines.append(f"| {ROWS[name]} | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    lines += ["", "| turned on, one after the other | IoU |", "|---|---|"]
    lines += [f"| {NAMES[name]} | {value:.3f} |" for name, value in found["ablation"]["ladder"].items()]
    return "\n".join(lines) + "\n"


def pictured(kind: str, listed: tuple[MaskClip, ...]) -> int:
    """Which clip of a kind the picture shows: another one for each kind, since all begin with the same shape."""
    return KINDS.index(kind) % len(listed)


PANELS = ("p2p_0.3", "ladder/flat", "default_no_pixel_refinement", "default")
TITLES = {"p2p_0.3": "p2p, 0.3", "ladder/flat": "attention alone", "default_no_pixel_refinement": "without edges", "default": "default"}


def draw(clips: dict[str, tuple[MaskClip, ...]], shown: dict[tuple[str, str], np.ndarray], target: Path) -> None:
    """For each kind, the middle frame of one clip under each mask, dimmed outside, with the exact outline in white."""
    tiles, texts = [], []
    for kind, listed in clips.items():
        clip = listed[pictured(kind, listed)]
        frame, exact = clip.render(FRAMES)[FRAMES // 2], cv2.resize(clip.truth(FRAMES)[FRAMES // 2], None, fx=2, fy=2)
        outline, _ = cv2.findContours((exact > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for name in PANELS:
            mask = shown[kind, name][..., None]
            tile = cv2.resize((frame * (0.3 + 0.7 * mask)).astype(np.uint8), None, fx=2, fy=2)
            tiles.append(cv2.drawContours(tile, outline, -1, (255, 255, 255), 1))
            texts.append([f"{kind.replace('_', ' ')}: {clip.words}", TITLES[name]])
    picture = sheet(tiles, texts, 2 * len(PANELS))
    cv2.imwrite(str(target), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def run_masks(checkpoint: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goals are met."""
    own = out / "quick" if quick else out
    own.mkdir(parents=True, exist_ok=True)
    clips = {kind: listed[:1] for kind, listed in DEVELOPMENT_CLIPS.items()} if quick else TEST_CLIPS
    found = summary(measure(checkpoint, clips, own, "masks.jpg"), clips)
    found["machine"] = machine(Path(os.environ["COMFYUI_PATH"]))
    merge(out / "quality.json", {"masks_quick" if quick else "masks": found})
    (own / "masks.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    reached = []
    for name, (which, bound) in GOALS.items():
        group, _, key = name.partition(".")
        value = found[group][key] if key else found[group]
        reached.append(value >= bound if which == "at least" else value <= bound)
        print(f"{'met   ' if reached[-1] else 'MISSED'} {name}: {value:.3f}, {which} {bound}")
    return all(reached)
