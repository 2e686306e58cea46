"""The edits of benchmarks.footage, made by the pack's own nodes in this process, and their figures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from attention.masks import SUBTRACT
from benchmarks.footage.clips import MARGIN, Edit
from benchmarks.metrics.similarity import ssim_outside, ssim_outside_five
from benchmarks.quality import editing
from benchmarks.quality.editing import TILE, changed_outside
from benchmarks.quality.perceptual import BackgroundLpips, ClipFigures
from benchmarks.quality.variants import Variant, random_noise
from demo import pictures
from demo.check import iou
from demo.figures import sheet
from metrics.background import dilate, psnr_outside, psnr_outside_five

METHOD, COMPOSITE, VAE = "method", "composite", "vae_round_trip"


VARIANTS = {
    METHOD: Variant(),
    "random_noise": Variant(random_noise),
    "plain_attention": Variant(keys=("self",), inputs={"consensus": 0.0}),
}


@dataclass(frozen=True)
class Judges:
    """The judges that need weights of their own, where they were given."""

    clip: ClipFigures | None = None
    lpips: BackgroundLpips | None = None


class Bench(editing.Bench):
    """Edits clips with any SD1.5-like checkpoint that ComfyUI loads. Raises ValueError where it is none."""

    def __init__(self, checkpoint: Path, steps: int, cfg: float):
        try:
            super().__init__(checkpoint, cpu=not torch.accelerator.is_available())
        except RuntimeError as error:  # ComfyUI's, of a file that it does not know
            raise ValueError(f"--checkpoint: ComfyUI cannot load {checkpoint} ({error}).") from error
        if self.demo.model is None or self.demo.clip is None or self.demo.vae is None:
            raise ValueError(f"--checkpoint: {checkpoint} lacks its U-Net, text encoder or VAE. Give a whole checkpoint.")
        from blade.host.families import coordinates_of

        try:
            coordinates_of(self.demo.model)
        except ValueError as error:
            raise ValueError(f"--checkpoint: {checkpoint}: {error}") from error
        self.steps, self.cfg = steps, cfg
        self.walked: dict[tuple, tuple] = {}

    def check_words(self, edit: Edit) -> None:
        """Raises ValueError where a prompt has not the words that are to be looked for, or none of its words says where to edit."""
        from blade.attention.words import changed_columns
        from blade.host.words import tokenised_words

        clip = self.demo.clip
        source, target = (tokenised_words(clip, text, clip.tokenize(text)) for text in (edit.source_prompt, edit.target_prompt))
        for name, prompt, words in (("source_words", source, edit.source_words), ("target_words", target, edit.target_words)):
            try:
                if words.strip():
                    prompt.choose(words)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        if not (edit.source_words.strip() and edit.target_words.strip()):
            changed, _ = changed_columns(source, target)
            if not changed and not edit.source_words.strip():
                raise ValueError(
                    "source_words: the target prompt only adds words, so none of the source prompt says where to edit. "
                    f"Name words of {edit.source_prompt!r}."
                )

    @torch.inference_mode()
    def inverted(self, edit: Edit, frames: np.ndarray, variant: Variant) -> tuple:
        """The model with its attention, the clip's trajectory by it, and the seconds that took. Of one clip and prompt they are kept."""
        keys = variant.keys or self.attention
        model, clip = self.patch(self.demo.model, self.keys(keys)), (edit.clip, edit.source_prompt)
        place = (clip, keys)
        if place not in self.walked:
            self.walked = {other: walked for other, walked in self.walked.items() if other[0] == clip}
            begin = time.monotonic()
            self.walked[place] = self.walk(model, edit.source_prompt, frames, self.steps), time.monotonic() - begin
        return model, *self.walked[place]

    @torch.inference_mode()
    def edited(self, edit: Edit, frames: np.ndarray, variant: Variant, seed: int) -> tuple[np.ndarray, torch.Tensor]:
        """The edited clip, uint8 RGB as `frames`, and the sampler's own mask, 0..1 [frames, height, width]."""
        model, trajectory, _ = self.inverted(edit, frames, variant)
        if variant.background is not None:
            trajectory = variant.background(trajectory, seed)
        latents, mask = self.sample(model, trajectory, edit.source_prompt, edit.target_prompt, self.settings(edit) | variant.inputs)
        return self.demo.decode(latents), mask

    def settings(self, edit: Edit) -> dict[str, Any]:
        return {"steps": self.steps, "cfg": self.cfg} | edit.inputs

    @torch.inference_mode()
    def checks(self, edit: Edit, frames: np.ndarray) -> dict[str, Any]:
        """What must hold on any checkpoint: how well the trajectory leads back, and whether an empty mask gives the clip to the bit."""
        from blade.host.sampling import latent_out
        from blade.nodes.reconstruction import ReconstructionCheck

        model, trajectory, _ = self.inverted(edit, frames, VARIANTS[METHOD])
        _, _, report, back = ReconstructionCheck.execute(model, self.prompt(edit.source_prompt), trajectory).result
        empty = {"mask": torch.ones(1, *frames.shape[1:3]), "mask_mode": SUBTRACT}  # one that is empty itself is refused
        latents, _ = self.sample(model, trajectory, edit.source_prompt, edit.target_prompt, self.settings(edit) | empty)
        # On the device where ComfyUI computes it: a GPU's division has other last bits than a CPU's.
        clip = latent_out(model, trajectory.clip.to(model.load_device)).cpu()
        return {
            "reconstruction_psnr_db": back,
            "advice": report.splitlines()[0],
            "empty_mask_is_the_clip": bool(torch.equal(latents.cpu(), clip)),
        }


def measure_edit(
    bench: Bench, edit: Edit, frames: np.ndarray, masks: np.ndarray | None, judges: Judges, seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Figures by row, and the clips that were made. masks: of the object, or None; then the background is what lies outside the sampler's own.

    frames: uint8 RGB [frames, height, width, 3]; masks: 0..1 [frames, height, width]."""
    with torch.inference_mode():
        made, own, rows = {VAE: bench.demo.decode(bench.demo.encode(frames))}, dict[str, np.ndarray](), dict[str, dict[str, Any]]()
    for name, variant in VARIANTS.items():
        *_, inversion = bench.inverted(edit, frames, variant)
        begin = time.monotonic()
        made[name], mask = bench.edited(edit, frames, variant, seed)
        own[name] = mask.float().cpu().numpy()
        rows[name] = {"seconds": time.monotonic() - begin, "inversion_seconds": inversion}
    source, edited = (clip.astype(np.float32) / 255 for clip in (frames, made[METHOD]))
    composite, used = bench.composite(source, edited, torch.from_numpy(own[METHOD]))
    made[COMPOSITE] = (composite.clip(0, 1) * 255).round().astype(np.uint8)
    rows[COMPOSITE] = dict(changed_outside(source, composite, used))
    drawn = dilate(own[METHOD], MARGIN)
    if drawn.all((1, 2)).any():
        raise ValueError(f"The sampler's own mask leaves no background of {edit.clip}. Name other words of {edit.source_prompt!r}.")
    given = (own[METHOD] if masks is None else masks) > 0.5
    for name, clip in made.items():
        rows[name] = rows.get(name, {}) | figures(frames, clip, given, judges, edit)
        if masks is not None and name in own:
            rows[name]["mask_iou"] = float(iou(own[name], masks).mean())
    kept = {name: float(psnr_outside(frames, made[name], drawn).mean()) for name in (VAE, METHOD)}
    rows[METHOD]["lost_outside_own_mask_db"] = kept[VAE] - kept[METHOD]  # whatever the given mask is: a new thing may need more room
    made["mask"] = pictures.outline_mask(frames, own[METHOD])
    return rows, {"source": frames} | made


def figures(frames: np.ndarray, edited: np.ndarray, object_: np.ndarray, judges: Judges, edit: Edit) -> dict[str, float]:
    """Of the background, and of the whole clip by CLIP. The true masked means leave out MARGIN pixels around the object, which its latent cells
    reach; FiVE's convention takes the mask as it is, as FiVE-Bench does, so that its published figures can stand beside these.

    frames, edited: uint8 RGB [frames, height, width, 3]; object_: bool [frames, height, width]."""
    wide = dilate(object_, MARGIN)
    found = {
        "background_psnr_db": float(psnr_outside(frames, edited, wide).mean()),
        "background_psnr_db_five_convention": float(psnr_outside_five(frames, edited, object_).mean()),
        "background_ssim": float(ssim_outside(frames, edited, wide).mean()),
        "background_ssim_five_convention": float(ssim_outside_five(frames, edited, object_).mean()),
    }
    if judges.clip is not None:
        found |= judges.clip.figures(edited, edit.source_prompt, edit.target_prompt)
    if judges.lpips is not None:
        found["background_lpips_five_convention"] = judges.lpips.background(frames, edited, object_)
    return found


PANELS = {
    "source": "source",
    "mask": "the sampler's own mask",
    METHOD: "latent blend",
    COMPOSITE: "pixel composite",
    "random_noise": "random noise",
    "plain_attention": "plain self-attention",
}


def strip(edit: Edit, made: dict[str, np.ndarray], frame: int) -> np.ndarray:
    """One frame of each panel side by side, under each its name and the prompt. uint8 RGB"""
    height, width = made["source"].shape[1:3]
    size = (round(TILE * width / height), TILE)
    tiles = [cv2.resize(made[name][frame], size, interpolation=cv2.INTER_AREA) for name in PANELS]
    letters = max(8, size[0] // 6)  # that fit beneath a tile
    texts = [
        [title, (edit.source_prompt if name in ("source", "mask") else edit.target_prompt)[:letters]] for name, title in PANELS.items()
    ]
    return sheet(tiles, texts, len(PANELS))
