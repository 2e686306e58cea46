"""How well masks that words draw fit the object, over clips that are hard in different ways.

Through the pack's own nodes, DDIM Invert and Cross-Attention Mask, with their defaults; the frames are connected. The ablation turns one
part after the other on, and each off in turn. Defaults were chosen on DEVELOPMENT_CLIPS, of which --quick measures one of each kind; figures are
of TEST_CLIPS, whose textures are others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.metrics.temporal import mask_flicker
from benchmarks.quality.bench import STEPS, Bench, prompt_to_prompt
from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS, FRAMES, KINDS, TEST_CLIPS, MaskClip
from benchmarks.quality.part import Columns, Figures, Part, Rows, figure_table, strip
from benchmarks.report import Goals, table
from demo.check import iou
from demo.scenes import SIZE

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
COLUMNS: Columns = {kind: (HEADS.get(kind, kind.replace("_", " ")), 1, "{:.2f}") for kind in ("all", *KINDS)}


def untouched(record: Any) -> Any:
    return record


def without_affinity(record: Any) -> Any:
    """The words' maps as they are."""
    return replace(record, spread={})


def levels_alike(record: Any) -> Any:
    """The mean of all levels' maps."""
    return replace(
        record, spread={size: torch.stack([level[size].float() for level in record.levels]).mean(0) for size in record.levels[0]}
    )


def level_alone(level: int) -> Callable[[Any], Any]:
    return lambda record: replace(record, spread=record.levels[level])


P2P, NO_EDGES, BARE, LEVELS = "p2p_0.3", {"edges": False}, {"edges": False, "smoothing": 0}, range(0, STEPS, 4)
RULES = {"otsu": "otsu", "hysteresis": "hysteresis", "fixed_0.3": "fixed"}
# Inputs of the node Cross-Attention Mask in place of its defaults (frames None: not connected), and what is left of the record for it to draw from.
WAYS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "default": ({}, untouched),
    "default_no_pixel_refinement": (NO_EDGES, untouched),
    "no_frames": ({"frames": None}, untouched),
    "ladder/flat": (BARE, levels_alike),
    "ladder/noise_weighted": (BARE, without_affinity),
    "ladder/affinity": (BARE, untouched),
    "ladder/smoothing": (NO_EDGES, untouched),
    "without/affinity": ({}, without_affinity),
    "without/affinity_and_noise_weights": ({}, levels_alike),
    "without/smoothing": ({"smoothing": 0}, untouched),
    **{f"{name}/with_edges": ({"threshold": rule}, untouched) for name, rule in RULES.items()},
    **{f"{name}/without_edges": ({"threshold": rule} | NO_EDGES, untouched) for name, rule in RULES.items()},
    **{f"level/{level}": ({"frames": None}, level_alone(level)) for level in LEVELS},
}


def figures(clip: MaskClip, mask: np.ndarray) -> dict[str, float]:
    truth, other = clip.truth(FRAMES), clip.other(FRAMES) > 0.5
    return {
        "iou": float(iou(mask, truth).mean()),
        "flicker": float(mask_flicker(mask, clip.flow(FRAMES)).mean()),
        "covered": float(((mask > 0.5) & other).sum() / max(1, other.sum())) if clip.kind == "two" else 0.0,
    }


@torch.inference_mode()
def measure(bench: Bench, clip: MaskClip) -> tuple[Figures, np.ndarray]:
    from blade.nodes.mask import CrossAttentionMask

    frames = clip.render(FRAMES)
    trajectory = bench.walk(bench.demo.model, clip.source_prompt, frames, STEPS)
    record, image = trajectory.record, {"frames": torch.from_numpy(frames).float() / 255}
    masks = {
        EXACT: clip.truth(FRAMES),
        P2P: prompt_to_prompt(record, record.words.choose(clip.words)[0].columns, trajectory.pixels).numpy(),
    }
    for name, (inputs, left) in WAYS.items():
        given = replace(trajectory, record=left(record))
        masks[name] = CrossAttentionMask.execute(given, clip.words, **image | inputs).result[0].numpy()
    return {name: figures(clip, mask) for name, mask in masks.items()}, picture(clip, frames, masks)


def picture(clip: MaskClip, frames: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """The middle frame under some masks, dimmed outside, with the exact outline in white. uint8 RGB"""
    middle, shown = FRAMES // 2, {}
    exact, frame = (cv2.resize(of[middle], None, fx=2, fy=2) for of in (masks[EXACT], frames))
    outline, _ = cv2.findContours((exact > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for name in (P2P, "ladder/flat", "default_no_pixel_refinement", "default"):
        dimmed = frame * (0.3 + 0.7 * cv2.resize(masks[name][middle], None, fx=2, fy=2)[..., None])
        shown[name] = cv2.drawContours(dimmed.astype(np.uint8), outline, -1, (255, 255, 255), 1)[None]
    return strip(shown, [0], 2 * SIZE, f"{clip.kind.replace('_', ' ')}: {clip.words}")


def summary(rows: Rows) -> dict[str, Any]:
    """The keys of `masks`."""
    iou = {name: rows.mean(name, "iou") for name in (*WAYS, P2P)}
    flicker = rows.means(("default", "without/smoothing", "ladder/smoothing", "ladder/affinity", EXACT), "flicker")
    edges = {"with_edges": iou["default"], "without_edges": iou["default_no_pixel_refinement"]}
    worst, key = min((of["default"]["iou"], key) for key, of in rows.clips.items())
    kind, number = key.split("/")
    return {
        "clips": len(rows.clips),
        "iou": {name: iou[name] for name in ROWS}
        | {"default_plain_clips": rows.mean("default", "iou", "plain"), "gain_over_p2p_0.3": iou["default"] - iou[P2P]},
        "iou_by_kind": {name: rows.by_kind(name, "iou") for name in ROWS},
        "worst": (worst, f"{kind} {int(number) + 1}"),
        "wrong_object_covered": rows.mean("default", "covered", "two"),
        "wrong_object_covered_by_p2p_0.3": rows.mean(P2P, "covered", "two"),
        "flicker": flicker,
        "flicker_ratio": flicker["default"] / flicker["without/smoothing"],
        "flicker_ratio_no_pixel_refinement": flicker["ladder/smoothing"] / flicker["ladder/affinity"],
        "ablation": {
            "ladder": {name: iou["default" if name == "default" else f"ladder/{name}"] for name in NAMES},
            "without": {name: iou[f"without/{name}"] for name in ("affinity", "affinity_and_noise_weights", "smoothing")}
            | {"edges": iou["default_no_pixel_refinement"]},
            "threshold": {rule: {name: iou[f"{rule}/{name}"] for name in edges} for rule in RULES} | {"half_height": edges},
            "single_level": {f"{level + 1} of {STEPS}": iou[f"level/{level}"] for level in LEVELS},
        },
    }


def tables(found: dict[str, Any]) -> list[str]:
    """IoU by kind of clip, and what each part brings."""
    rows = [([ROWS[name]], {"all": found["iou"][name]} | by_kind) for name, by_kind in found["iou_by_kind"].items()]
    ladder = [[NAMES[name], f"{value:.3f}"] for name, value in found["ablation"]["ladder"].items()]
    return [figure_table(["mask"], COLUMNS, rows), table(["turned on, one after the other", "IoU"], ladder)]


def goals(found: dict[str, Any]) -> Goals:
    iou = found["iou"]
    return {
        "IoU of the default": (iou["default"], "at least", 0.82),
        "IoU on plain clips": (iou["default_plain_clips"], "at least", 0.93),
        "IoU without *edges*": (iou["default_no_pixel_refinement"], "at least", 0.75),
        "IoU above prompt-to-prompt's rule": (iou["gain_over_p2p_0.3"], "at least", 0.2),
        "the wrong object covered": (found["wrong_object_covered"], "at most", 0.05),
        "flicker, of that without smoothing": (found["flicker_ratio"], "at most", 0.6),
    }


def draw(found: dict[str, Any], strips: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Another clip of each kind, since all begin with the same shape, two in a row."""
    count = len(strips) // len(KINDS)
    shown = [strips[count * place + place % count] for place in range(len(KINDS))]
    return {"masks.jpg": np.concatenate([np.concatenate(pair, 1) for pair in zip(shown[::2], shown[1::2], strict=True)])}


QUICK = {kind: listed[:1] for kind, listed in DEVELOPMENT_CLIPS.items()}
PART = Part("masks", TEST_CLIPS, QUICK, measure, summary, tables, goals, ("default", "iou"), 8, draw)
