"""What others do with the same model, frames, prompts, steps and guidance, each with one main knob: the table's other rows.

All sample inside ComfyUI's own chain. Where a method makes one picture at a time, every frame gets the same seed, which holds still best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.clips import Edit
from benchmarks.quality.bench import CFG, FATEZERO, FRAMES, STEPS, Bench, Made, Variant, exact_mask, fixed_mask, one_level_off

WHOLE = "whole"  # the whole method, whose mask another may be given
Mask = Tensor  # [frames, size, size]


@dataclass(frozen=True)
class Baseline:
    """run(bench, edit, value of the knob, the whole method's own mask): the latents, as LATENT holds them, and the mask that was used, or None.

    chosen: the best of the values of the knob that were tried on eight other edits, DEVELOPMENT_COLOUR_EDITS and DEVELOPMENT_SHAPE_EDITS: of those whose
    success comes within 5 points of the best that any reaches, the one that keeps the background best. So each is shown where it makes the edit, not
    where it leaves the clip as it was. All that were tried are under `tuning` of benchmarks/results/quality.json."""

    title: str
    knob: str
    chosen: float
    run: Callable[[Bench, Edit, float, Any], tuple[Tensor, Mask | None]]

    def __call__(self, bench: Bench, edit: Edit, before: dict[str, Made]) -> Made:
        latents, mask = self.run(bench, edit, self.chosen, before[WHOLE].mask)
        return Made(bench.demo.decode(latents), latents, mask)


def img2img(bench: Bench, edit: Edit, denoise: float, own: Mask) -> tuple[Tensor, None]:
    """Stock KSampler on each frame alone."""
    return ksampler(bench, edit, denoise, bench.demo.model), None


def differential_diffusion(bench: Bench, edit: Edit, denoise: float, own: Mask) -> tuple[Tensor, Mask]:
    """Core's Differential Diffusion with the mask that our method drew, as an artist would wire it: Set Latent Noise Mask, KSampler."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    model = DifferentialDiffusion.execute(bench.demo.model).result[0]
    return ksampler(bench, edit, denoise, model, own[:, None]), own


def ksampler(bench: Bench, edit: Edit, denoise: float, model: Any, noise_mask: Tensor | None = None) -> Tensor:
    import comfy.sample

    latent = bench.demo.encode(edit.clip.render(FRAMES))
    noise = comfy.sample.prepare_noise(latent[:1], edit.clip.seed).repeat(FRAMES, 1, 1, 1)
    return comfy.sample.sample(
        model, noise, STEPS, CFG, "euler", "normal", *bench.stock_prompts(edit), latent,
        denoise=denoise, noise_mask=noise_mask, disable_pbar=True, seed=edit.clip.seed,
    )  # fmt: skip


def blended_latent_diffusion(bench: Bench, edit: Edit, skipped: float, own: Mask) -> tuple[Tensor, Mask]:
    """The loop of blended-latent-diffusion: from fresh noise at the level that is left after `skipped` of the steps, after each DDIM step the ground
    is the clip under fresh noise of the level that the step left, and so is the last latent's. It wants a mask by hand: it gets the exact one."""
    from blade.host.sampling import run_sampler

    mask = exact_mask(edit, None)
    clip = bench.demo.encode(edit.clip.render(FRAMES))
    cells = torch.nn.functional.interpolate(mask[:, None], clip.shape[-2:], mode="nearest")
    levels = bench.invert(edit, ("self",))[1].sampling_sigmas(STEPS)[int(STEPS * skipped) :]
    generator = torch.Generator().manual_seed(edit.clip.seed)

    def noise() -> Tensor:
        return torch.randn(clip[:1].shape, generator=generator)

    def loop(model, x, sigmas, extra_args, callback, disable):
        behind = x  # the clip, in model space
        x = (noise() * (1 + sigmas[0] ** 2).sqrt()).repeat(FRAMES, 1, 1, 1)
        for sigma, following in pairwise(sigmas):
            denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
            x = denoised + following / sigma * (x - denoised)
            # At alpha_bar = 1 / (1 + sigma^2): their variance-preserving latent of the level above, read as the level of the next call.
            ground = (behind + sigma * noise()) * ((1 + following**2) / (1 + sigma**2)).sqrt()
            x = cells * x + (1 - cells) * ground
        return x

    return run_sampler(bench.demo.model, loop, levels, *bench.stock_prompts(edit), CFG, clip), mask


def inversion_and_sampling(bench: Bench, edit: Edit, start: float, own: Mask) -> tuple[Tensor, None]:
    """DDIM inversion, and the target prompt sampled from its latents with no mask at all."""

    def everywhere(edit: Edit, trajectory: Any) -> Mask:
        return torch.ones(trajectory.frames, *trajectory.pixels)

    return bench.blend(edit, Variant(mask=everywhere, keys=("self",), inputs={"start": start, "consensus": 0.0}))[0], None


def fatezero_blend(bench: Bench, edit: Edit, threshold: float, own: Mask) -> tuple[Tensor, Mask]:
    """FateZero's blending: its background one level off, to 80 % of the steps, its mask of the words at a fixed threshold, and its self-attention
    across the first and the previous frame. Its fusing of attention is not here."""
    return bench.blend(edit, Variant(one_level_off, fixed_mask(threshold), ("first", "previous"), FATEZERO | {"consensus": 0.0}))


BASELINES = {
    "img2img": Baseline("img2img, each frame (stock KSampler)", "denoise", 0.9, img2img),
    "blended_latent_diffusion": Baseline("blended latent diffusion, with the exact mask", "steps skipped", 0.0, blended_latent_diffusion),
    "fatezero": Baseline("FateZero's blending", "threshold", 0.9, fatezero_blend),
    "inversion": Baseline("inversion and sampling, no mask", "start", 0.2, inversion_and_sampling),
    "differential_diffusion": Baseline("differential diffusion (core), with our mask", "denoise", 1.0, differential_diffusion),
}
