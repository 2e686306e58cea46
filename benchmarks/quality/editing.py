"""What an edit keeps outside its object and what it changes inside, against exact ground truth: the latent blend of this pack, and beside it the
backgrounds of blended latent diffusion and of FateZero.

Edits the clips of benchmarks.clips with the demo checkpoint through the pack's own nodes and their defaults, inside ComfyUI's loader and
sampler: the picture edit.jpg; what is said of the figures is in benchmarks.quality.editing_report. Each clip is inverted once for all variants.
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
from benchmarks.pool import each
from benchmarks.quality import stillness
from benchmarks.quality.stillness import CFG, FRAMES, STEPS, node_defaults
from benchmarks.quality.variants import FATEZERO_UNTIL, Variant, exact_mask, objects, one_level_off, random_noise
from benchmarks.report import Kept
from demo import pictures
from demo.check import COLOURS, border, find_object, label
from demo.figures import sheet
from metrics.background import dilate, psnr_outside, psnr_outside_five

MARGINS = (8, 12, 16)  # pixels around the exact objects that are no background; the figures' own is the first, one latent cell
MARGIN = MARGINS[0]
BORDER = (2, 12)  # pixels outside the exact objects between which masks end: past the anti-aliased rim, within a cell's diagonal
SHOWN, TILE = 6, 176  # edits of each kind in the picture; pixels

CONFINED = {"confine": 0.3}  # as the graphs are set
VARIANTS = {
    "latent_blend": Variant(inputs=CONFINED),
    "latent_blend_exact_mask": Variant(mask=exact_mask, inputs=CONFINED),
    "random_noise_blend": Variant(random_noise, inputs=CONFINED),
    "one_level_off_blend": Variant(one_level_off, inputs=CONFINED | {"blend_until": FATEZERO_UNTIL}),
    "heard_everywhere": Variant(),
    "structure": Variant(inputs=CONFINED | {"structure": 0.5}),
    "fresh_noise": Variant(inputs=CONFINED | {"renoise": 1.0}),
}
STARTS = {"latent_blend": "inverted", "structure": "inverted, *structure* 0.5", "fresh_noise": "fresh noise (*renoise* 1)"}
OPPOSED = ("random_noise_blend", "one_level_off_blend")  # other backgrounds, to compare the inverted one with
AGAINST_VAE = {
    "latent_blend": "automatic",
    "latent_blend_exact_mask": "exact_mask",
    "random_noise_blend": "random_noise",
    "one_level_off_blend": "one_level_off",
}
COMPOSED = {  # by Latent Composite
    "latent_blend": "latent_composite",
    "structure": "latent_composite_structure",
    "latent_blend_exact_mask": "latent_composite_exact_mask",
}
OTHERS = (*COMPOSED.values(), "composite", "vae_round_trip", "perfect_edit", "perfect_edit_blended")
NAMES = (*VARIANTS, *OTHERS)
AS_GRAPHS = {"colour": "structure", "shape": "latent_blend"}  # by kind of edit the variant that is set as that kind's graph in workflows/


def kind_of(edit: Edit) -> str:
    return "colour" if edit.shape == edit.clip.thing.shape else "shape"


@dataclass(frozen=True)
class Clips:
    """What an edit is judged by, uint8 RGB [frames, size, size, 3] each: the clip; then, out of the VAE, the clip, the edit as it should be, and
    that edit's latent in the clip's under the exact mask, which is all that a latent blend can be."""

    source: np.ndarray
    reference: np.ndarray
    perfect: np.ndarray
    perfect_blended: np.ndarray


class Bench(stillness.Bench):
    """Edits clips in this process."""

    def __init__(self, checkpoint: Path, cpu: bool = True):
        super().__init__(checkpoint, cpu)
        self.inputs = node_defaults(self.nodes.sampler.BlendedSampler)
        self.attention = stillness.variants()["default"].keys

    @torch.inference_mode()
    def blend(self, edit: Edit, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents, as LATENT holds them, and the mask that was used, [frames, size, size]"""
        model, trajectory = self.invert(edit, variant.keys or self.attention)
        own: dict[str, Any] = {"steps": STEPS, "cfg": CFG, "source_words": edit.source_words, "target_words": edit.target_words}
        if variant.mask is not None:
            own |= {"mask": variant.mask(edit, trajectory), "mask_mode": self.nodes.sampler.ALONE}
        if variant.background is not None:
            trajectory = variant.background(trajectory, edit.clip.seed)
        return self.sample(model, trajectory, edit.clip.source_prompt, edit.target_prompt, own | variant.inputs)

    def sample(
        self, model, trajectory, source_prompt: str, target_prompt: str, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the node Blended Sampler gives: latents, as LATENT holds them, and mask. inputs: in place of its defaults."""
        latent, mask, *_ = self.nodes.sampler.BlendedSampler.execute(
            model=model,
            source=self.prompt(source_prompt),
            target=self.prompt(target_prompt),
            negative=self.prompt(""),
            trajectory=trajectory,
            **self.inputs | inputs,
        ).result
        return latent["samples"], mask

    @torch.inference_mode()
    def judges(self, edit: Edit) -> Clips:
        from blade.attention.masks import to_latent_mask

        source, perfect = edit.clip.render(FRAMES), edit.perfect.render(FRAMES)
        latent, wanted = self.demo.encode(source), self.demo.encode(perfect)
        cells = to_latent_mask(torch.from_numpy(objects(edit)), *latent.shape[-2:])
        return Clips(source, *map(self.demo.decode, (latent, wanted, torch.lerp(latent, wanted, cells))))

    @torch.inference_mode()
    def stock(self, edit: Edit) -> np.ndarray:
        """The target prompt sampled from noise by ComfyUI alone, a seed a frame, on the inversion's grid. uint8 RGB [frames, size, size, 3]"""
        import comfy.sample
        import comfy.samplers

        _, trajectory = self.invert(edit, self.attention)
        empty = torch.zeros_like(trajectory.clip)
        noise = torch.cat([comfy.sample.prepare_noise(empty[:1], edit.clip.seed * FRAMES + frame) for frame in range(FRAMES)])
        positive, negative = ([[self.demo.encode_text([text]), {}]] for text in (edit.target_prompt, ""))
        sampled = comfy.sample.sample_custom(
            self.demo.model, noise, CFG, comfy.samplers.sampler_object("euler"), trajectory.grid(STEPS), positive, negative, empty,
            disable_pbar=True, seed=edit.clip.seed,
        )  # fmt: skip
        return self.demo.decode(sampled)

    @torch.inference_mode()
    def latent_composite(self, source: np.ndarray, latents: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        """What the node Latent Composite makes of a clip uint8 [frames, size, size, 3] and an edit of it: uint8 RGB of that shape."""
        from blade.nodes.latent_composite import LatentComposite

        given = {"latent": {"samples": latents}, "vae": self.demo.vae, "source": torch.from_numpy(source).float() / 255, "mask": mask}
        return self.demo.decode(LatentComposite.execute(**node_defaults(LatentComposite) | given).result[0]["samples"])

    def composite(self, source: np.ndarray, edited: np.ndarray, mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What the node Pixel Composite makes of clips [frames, size, size, 3] in 0..1: its frames and its mask."""
        from blade.nodes.composite import PixelComposite

        given = {"source": torch.from_numpy(source), "edited": torch.from_numpy(edited), "mask": mask}
        frames, used = PixelComposite.execute(**node_defaults(PixelComposite) | given).result[:2]
        return frames.numpy(), used.numpy()


def changed_outside(source: np.ndarray, composite: np.ndarray, mask: np.ndarray) -> dict[str, int]:
    """How many pixels are not the source's to the bit where the mask is 0, and how many lie there.

    source, composite: float [frames, height, width, 3]; mask: [frames, height, width]"""
    outside = mask == 0
    return {"changed": int(((source != composite).any(-1) & outside).sum()), "compared": int(outside.sum())}


def leak(reference: np.ndarray, edited: np.ndarray, background: np.ndarray, colour: str) -> float:
    """Share of the background's pixels that took a palette colour which they did not have. By demo.check's colours, for both clips against the
    ground that surrounds the unedited one.

    reference, edited: uint8 RGB [frames, height, width, 3]; background: bool [frames, height, width]"""
    index, took = list(COLOURS).index(colour), 0
    for before, after, inside in zip(reference, edited, background, strict=True):
        ground = border(before.astype(np.float32))
        had, has = (label(frame.astype(np.float32), ground) == index for frame in (before, after))
        took += int((has & ~had & inside).sum())
    return took / int(background.sum())


def right(edit: Edit, frames: np.ndarray) -> float:
    """Share of frames whose largest object has the colour, or the shape, that the edit asks for, wherever it is."""
    found = [find_object(frame) for frame in frames]
    colours = kind_of(edit) == "colour"
    return float(np.mean([one is not None and (one.colour == edit.colour if colours else one.shape == edit.shape) for one in found]))


def figures(edit: Edit, clips: Clips, edited: np.ndarray) -> dict[str, float]:
    still = stillness.figures(edit, edited, clips.reference)
    exact = objects(edit)
    outside, band = dilate(exact, MARGIN), dilate(exact, BORDER[1]) & ~dilate(exact, BORDER[0])
    return {
        "background_psnr_db": float(psnr_outside(clips.source, edited, outside).mean()),
        "background_psnr_db_five_convention": float(psnr_outside_five(clips.source, edited, outside).mean()),
        "vs_vae_db": still.pop("background_psnr_db"),
        **{
            f"background_psnr_db_{margin}_px": float(psnr_outside(clips.source, edited, dilate(exact, margin)).mean()) for margin in MARGINS
        },
        "border_psnr_vs_vae_db": float(psnr_outside(clips.reference, edited, ~band).mean()),
        "border_psnr_vs_perfect_db": float(psnr_outside(clips.perfect, edited, ~band).mean()),
        "leak": leak(clips.reference, edited, ~outside, edit.colour),
        "right": right(edit, edited),
        **still,
    }


def measure_edit(bench: Bench, edit: Edit) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Figures by variant, and what the picture shows of each."""
    clips = bench.judges(edit)
    rows: dict[str, dict[str, Any]] = {"stock_sampling": {"right": right(edit, bench.stock(edit))}}
    made = {
        "source": clips.source,
        "vae_round_trip": clips.reference,
        "perfect_edit": clips.perfect,
        "perfect_edit_blended": clips.perfect_blended,
    }
    seconds, mask = {}, torch.empty(0)
    for name, variant in VARIANTS.items():
        begin = time.monotonic()
        latents, used = bench.blend(edit, variant)
        made[name] = bench.demo.decode(latents)
        seconds[name] = time.monotonic() - begin
        if name == "latent_blend":
            mask = used
        if name in COMPOSED:
            made[COMPOSED[name]] = bench.latent_composite(clips.source, latents, used)
    exact, drawn = (clip.astype(np.float32) / 255 for clip in (clips.source, made["latent_blend"]))
    composite, composite_mask = bench.composite(exact, drawn, mask)
    made["composite"] = (composite.clip(0, 1) * 255).round().astype(np.uint8)
    for name in NAMES:
        rows[name] = figures(edit, clips, made[name]) | ({"seconds": seconds[name]} if name in seconds else {})
    rows["composite"] |= changed_outside(exact, composite, composite_mask)
    made["mask"] = pictures.outline_mask(clips.source, mask.numpy())
    return rows, made


PANELS = {
    "source": "source",
    "mask": "mask",
    "latent_blend": "latent blend",
    "latent_blend_exact_mask": "with the exact mask",
    "random_noise_blend": "random noise",
    "one_level_off_blend": "one level off, to 80 %",
    "latent_composite": "latent composite",
    "composite": "pixel composite",
}


def strip(edit: Edit, made: dict[str, np.ndarray]) -> np.ndarray:
    """The middle frame of each panel side by side. uint8 RGB"""
    tiles = [
        cv2.resize(made[name][FRAMES // 2], (TILE, TILE), interpolation=cv2.INTER_AREA if name == "mask" else cv2.INTER_CUBIC)
        for name in PANELS
    ]
    texts = [[edit.clip.source_prompt if name in ("source", "mask") else edit.target_prompt, title] for name, title in PANELS.items()]
    return sheet(tiles, texts, len(PANELS))


@dataclass(frozen=True)
class Task:
    """An edit to measure. picture: where its strip of the picture goes, if it is shown."""

    key: str
    kind: str
    number: int
    edit: Edit
    picture: Path | None


def measured(bench: Bench, task: Task) -> tuple[dict[str, dict[str, Any]], float]:
    """Figures by variant, and the seconds that they took."""
    begin = time.monotonic()
    rows, made = measure_edit(bench, task.edit)
    if task.picture:
        pictures.save(task.picture, strip(task.edit, made))
    return rows, time.monotonic() - begin


def measure(checkpoint: Path, edits: dict[str, tuple[Edit, ...]], out: Path) -> dict[str, list[dict]]:
    """Figures by kind, number of the edit and variant. Also draws edit.jpg."""
    done = Kept(out / "edit_rows.json")
    tasks, strips = [], []
    for kind, listed in edits.items():
        for number, edit in enumerate(listed):
            picture = out / f"edit_{kind}_{number}.png" if number < SHOWN else None
            strips += [picture] if picture else []
            task = Task(f"{kind}/{number}/{FRAMES}/{STEPS}", kind, number, edit, picture)
            if task.key not in done.rows or (picture and not picture.exists()):
                tasks.append(task)
    for task, (rows, seconds) in each(Bench, checkpoint, measured, tasks):
        done.rows[task.key] = rows
        done.write()
        blend, edit = rows["latent_blend"], task.edit
        print(f"{task.kind} {task.number + 1}/{len(edits[task.kind])} {edit.source_words} -> {edit.target_words}: background "
              f"{blend['background_psnr_db']:.2f} dB (VAE {rows['vae_round_trip']['background_psnr_db']:.2f}), right {blend['success']:.0%}, "
              f"leak {blend['leak']:.2%}, {seconds:.0f} s", flush=True)  # fmt: skip
    pictures.save(out / "edit.jpg", np.concatenate([pictures.load(picture) for picture in strips]))
    return {kind: [done.rows[f"{kind}/{number}/{FRAMES}/{STEPS}"] for number in range(len(listed))] for kind, listed in edits.items()}
