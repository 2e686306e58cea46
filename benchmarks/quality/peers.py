"""The whole method against itself with a part removed, and against what others do with the same model: rows by edit.

On clips that no setting was chosen on; every row is the same model, frames, steps and guidance. Tables, plot and goals are in
benchmarks.quality.peers_report, the choice of the others' knobs in benchmarks.quality.tuning.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.clips import Edit
from benchmarks.metrics.similarity import ssim_outside, ssim_outside_five
from benchmarks.pool import each
from benchmarks.quality import editing
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.editing import AS_GRAPHS, MARGIN, kind_of, right
from benchmarks.quality.stillness import FRAMES, STEPS
from benchmarks.quality.variants import Variant, fixed_mask, objects, random_noise
from benchmarks.report import Kept
from demo import pictures
from demo.check import iou
from demo.figures import sheet
from metrics.background import dilate

PUBLISHED_THRESHOLD = 0.3
SHOWN, TILE = 3, 150  # edits of each kind in the picture; pixels
WHOLE = "whole"
REMOVED = {  # row -> (what it stands for, the claim of the paper that it is held against)
    "random_noise": ("random noise in the background", "1. background latents by DDIM inversion"),
    "fixed_mask": ("mask at a fixed 0.3 (prompt-to-prompt's rule)", "2. autonomous, noise-aware masks"),
    "plain_attention": ("plain self-attention, frames alone", "3. temporal-spatial attention"),
}
COMPOSITE, FLOOR = "composite", "vae_round_trip"
ROWS = (WHOLE, COMPOSITE, *REMOVED, *BASELINES, FLOOR)


def removed(kind: str) -> dict[str, Variant]:
    """The whole method, set as the graph for a kind of edit, and with each part removed in turn."""
    inputs = editing.VARIANTS[AS_GRAPHS[kind]].inputs
    return {
        WHOLE: Variant(inputs=inputs),
        "random_noise": Variant(random_noise, inputs=inputs),
        "fixed_mask": Variant(mask=fixed_mask(PUBLISHED_THRESHOLD), inputs=inputs),
        "plain_attention": Variant(keys=("self",), inputs=inputs | {"consensus": 0.0}),
    }


def figures(edit: Edit, clips: editing.Clips, edited: np.ndarray, mask: torch.Tensor | None) -> dict[str, float]:
    """mask: what the edit was confined to, [frames, size, size]; None: nothing."""
    outside = dilate(objects(edit), MARGIN)
    found = editing.figures(edit, clips, edited)
    found["background_ssim"] = float(ssim_outside(clips.source, edited, outside).mean())
    found["background_ssim_five_convention"] = float(ssim_outside_five(clips.source, edited, outside).mean())
    if mask is not None:
        found["mask_iou"] = float(iou(mask.numpy(), edit.clip.truth(FRAMES)).mean())
    return found


@torch.inference_mode()
def measure_edit(bench: editing.Bench, edit: Edit) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Figures by row, and the frames of each."""
    clips = bench.judges(edit)
    rows = {"stock_sampling": {"right": right(edit, bench.stock(edit))}, FLOOR: figures(edit, clips, clips.reference, None)}
    made, own = {"source": clips.source}, torch.empty(0)
    for name, variant in removed(kind_of(edit)).items():
        latents, mask = bench.blend(edit, variant)
        made[name] = bench.demo.decode(latents)
        rows[name] = figures(edit, clips, made[name], mask)
        own = mask if name == WHOLE else own
    for name, baseline in BASELINES.items():
        latents, used = baseline.run(bench, edit, baseline.chosen, own)
        made[name] = bench.demo.decode(latents)
        rows[name] = figures(edit, clips, made[name], used)
    source, edited = (clip.astype(np.float32) / 255 for clip in (clips.source, made[WHOLE]))
    pasted, _ = bench.composite(source, edited, own)
    made[COMPOSITE] = (pasted.clip(0, 1) * 255).round().astype(np.uint8)
    rows[COMPOSITE] = figures(edit, clips, made[COMPOSITE], own)
    return rows, made


PANELS = {
    "source": "source",
    WHOLE: "BLADE",
    "random_noise": "random noise",
    "fixed_mask": "mask at 0.3",
    "plain_attention": "frames alone",
    "img2img": "img2img",
    "blended_latent_diffusion": "BLD, exact mask",
    "fatezero": "FateZero's blend",
    "inversion": "no mask",
    "differential_diffusion": "differential",
}


def strip(edit: Edit, made: dict[str, np.ndarray]) -> np.ndarray:
    """A frame near either end of each panel, one over the other. uint8 RGB"""
    tiles, texts = [], []
    for frame in (1, FRAMES - 2):
        for name, title in PANELS.items():
            tiles.append(cv2.resize(made[name][frame], (TILE, TILE), interpolation=cv2.INTER_CUBIC))
            texts.append([edit.target_words if name != "source" else edit.source_words, title] if frame == 1 else [])
    return sheet(tiles, texts, len(PANELS))


@dataclass(frozen=True)
class Task:
    """An edit to measure. picture: where its strip of the picture goes, if it is shown."""

    key: str
    edit: Edit
    picture: Path | None


def measured(bench: editing.Bench, task: Task) -> tuple[dict[str, dict[str, float]], float]:
    """Figures by row, and the seconds that they took."""
    begin = time.monotonic()
    rows, made = measure_edit(bench, task.edit)
    if task.picture:
        pictures.save(task.picture, strip(task.edit, made))
    return rows, time.monotonic() - begin


def measure(checkpoint: Path, edits: dict[str, tuple[Edit, ...]], out: Path) -> dict[str, list[dict[str, Any]]]:
    """Figures by kind, number of the edit and row. Also draws peers.jpg."""
    done = Kept(out / "peers_rows.json")
    tasks, strips = [], []
    keys = {kind: [f"{kind}/{number}/{FRAMES}/{STEPS}" for number in range(len(listed))] for kind, listed in edits.items()}
    for kind, listed in edits.items():
        for number, (key, edit) in enumerate(zip(keys[kind], listed, strict=True)):
            picture = out / f"peers_{kind}_{number}.png" if number < SHOWN else None
            strips += [picture] if picture else []
            if key not in done.rows or (picture and not picture.exists()):
                tasks.append(Task(key, edit, picture))
    for task, (rows, seconds) in each(editing.Bench, checkpoint, measured, tasks):
        done.rows[task.key] = rows
        done.write()
        told = ", ".join(f"{name} {rows[name]['background_psnr_db']:.1f} dB {rows[name]['success']:.0%}" for name in (WHOLE, *BASELINES))
        print(f"{task.key} {task.edit.source_words} -> {task.edit.target_words}: {told}, {seconds:.0f} s", flush=True)
    pictures.save(out / "peers.jpg", np.concatenate([pictures.load(picture) for picture in strips]))
    return {kind: [done.rows[key] for key in listed] for kind, listed in keys.items()}
