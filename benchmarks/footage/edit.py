"""The edits of benchmarks.footage, made by the pack's own nodes in this process, and their figures."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from attention.masks import SUBTRACT
from benchmarks.footage.clips import MARGIN, Edit, require, told
from benchmarks.metrics.perceptual import BackgroundLpips, ClipFigures
from benchmarks.metrics.similarity import ssim_outside, ssim_outside_five
from benchmarks.quality import bench as quality
from benchmarks.quality.bench import Made, Variant, random_noise
from benchmarks.quality.editing import TILE
from benchmarks.quality.part import Figures, strip
from demo import pictures
from demo.check import iou
from metrics.background import dilate, psnr_outside, psnr_outside_five

METHOD, COMPOSITE, VAE = "method", "composite", "vae_round_trip"
VARIANTS = {
    METHOD: Variant(),
    "random_noise": Variant(random_noise),
    "plain_attention": Variant(keys=("self",), inputs={"consensus": 0.0}),
}
PANELS = ("source", "mask", METHOD, COMPOSITE, *list(VARIANTS)[1:])


class Judges(NamedTuple):
    """The judges that need weights of their own, where they were given."""

    clip: ClipFigures | None = None
    lpips: BackgroundLpips | None = None


class Bench(quality.Bench):
    """Edits clips with any SD1.5-like checkpoint that ComfyUI loads. Raises ValueError where it is none."""

    def __init__(self, checkpoint: Path, steps: int, cfg: float):
        with told(f"--checkpoint: ComfyUI cannot load {checkpoint}", Exception):  # whatever it says of a file that it does not know
            super().__init__(checkpoint, cpu=not torch.accelerator.is_available())
        lacking = f"--checkpoint: {checkpoint} lacks its U-Net, text encoder or VAE. Give a whole checkpoint."
        require(all(part is not None for part in self.demo.parts), lacking)
        from blade.host.families import coordinates_of

        with told(f"--checkpoint: {checkpoint}"):
            coordinates_of(self.demo.model)
        self.steps, self.cfg, self.seconds = steps, cfg, dict[tuple[str, ...], float]()

    def check_words(self, edit: Edit) -> Edit:
        """Raises ValueError, as Blended Sampler would, where a prompt has not the words that are to be looked for, or none of them says where to edit."""
        from blade.host.words import words_of
        from blade.nodes.edit import Edit as Words

        recorded: Any = SimpleNamespace(record=SimpleNamespace(words=words_of(self.prompt(edit.source_prompt))))
        Words("Blended Sampler", self.prompt(edit.target_prompt), edit.source_words, edit.target_words).words(recorded, masked=False)
        return edit

    def invert(self, edit: Any, keys: tuple[str, ...]) -> tuple[Any, Any]:
        """As of any bench, for all edits of a clip and source prompt at once; `seconds` holds by keys how long it took."""
        model, place = self.patch(self.demo.model, self.keys(keys)), (edit.clip, edit.source_prompt, keys)
        if place not in self.trajectories:
            self.trajectories = {other: kept for other, kept in self.trajectories.items() if other[:2] == place[:2]}
            frames, begin = edit.load()[0], time.monotonic()
            self.trajectories[place] = self.walk(model, edit.source_prompt, frames, self.steps)
            self.seconds[keys] = time.monotonic() - begin
        return model, self.trajectories[place]

    def blend(self, edit: Any, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        model, trajectory = self.invert(edit, variant.keys or self.attention)
        if variant.background is not None:
            trajectory = variant.background(trajectory, edit.seed)
        inputs = {"steps": self.steps, "cfg": self.cfg} | edit.inputs | variant.inputs
        latents, mask = self.sample(model, trajectory, edit.source_prompt, edit.target_prompt, inputs)
        return latents, mask.float().cpu()

    @torch.inference_mode()
    def checks(self, edit: Edit) -> dict[str, Any]:
        """What must hold on any checkpoint: how well the trajectory leads back, and whether an empty mask gives the clip to the bit."""
        from blade.host.sampling import latent_out
        from blade.nodes.reconstruction import ReconstructionCheck

        model, trajectory = self.invert(edit, self.attention)
        _, _, report, back = ReconstructionCheck.execute(model, self.prompt(edit.source_prompt), trajectory).result
        # A mask that is empty itself is refused. The clip on the device where ComfyUI computes it: a GPU's division has other last bits than a CPU's.
        latents, _ = self.blend(edit, Variant(inputs={"mask": torch.ones(1, *trajectory.pixels), "mask_mode": SUBTRACT}))
        whole = torch.equal(latents.cpu(), latent_out(model, trajectory.clip.to(model.load_device)).cpu())
        return {"reconstruction_psnr_db": back, "advice": report.splitlines()[0], "empty_mask_is_the_clip": whole}


@torch.inference_mode()
def measure_edit(bench: Bench, edit: Any, judges: Judges) -> tuple[Figures, np.ndarray]:
    """Figures by row, and a picture of the middle frame, of a video also of the first and the last. Without masks of the object the background is what lies outside the sampler's own."""
    frames, masks = edit.load()
    made, rows = {"source": Made(frames), VAE: Made(bench.demo.decode(bench.demo.encode(frames)))}, Figures({VAE: {}})
    for name, variant in VARIANTS.items():
        keys = variant.keys or bench.attention
        bench.invert(edit, keys)
        begin = time.monotonic()
        made[name] = variant(bench, edit, made)
        rows[name] = {"seconds": time.monotonic() - begin, "inversion_seconds": bench.seconds[keys]}
    made[COMPOSITE] = bench.pixel_composite(edit, made, METHOD)
    rows[COMPOSITE] = made[COMPOSITE].figures
    own = {name: one.mask.numpy() for name, one in made.items() if one.mask is not None}
    drawn = dilate(own[METHOD], MARGIN)
    no_background = f"The sampler's own mask leaves no background of {edit.clip}. Name other words of {edit.source_prompt!r}."
    require(not drawn.all((1, 2)).any(), no_background)
    for name in rows:
        rows[name] |= figures(frames, made[name].frames, (own[METHOD] if masks is None else masks) > 0.5, judges, edit)
        if masks is not None and name in VARIANTS:
            rows[name]["mask_iou"] = float(iou(own[name], masks).mean())
    kept = {name: float(psnr_outside(frames, made[name].frames, drawn).mean()) for name in (VAE, METHOD)}
    rows[METHOD]["lost_outside_own_mask_db"] = kept[VAE] - kept[METHOD]  # whatever the given mask is: a new object may need more room
    made["mask"] = Made(pictures.outline_mask(frames, own[METHOD]))
    moments = [len(frames) // 2] if edit.video is None else [0, len(frames) // 2, len(frames) - 1]
    return rows, strip({name: made[name].frames for name in PANELS}, moments, TILE, edit.target_prompt)


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
