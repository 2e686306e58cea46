"""Running a sampler function inside ComfyUI's sampling chain, and what has to be known of a MODEL for it."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..attention.words import PromptWords
from .families import family_of
from .families.family import Family
from .layers import Cond
from .words import KEY


def check_prompt(model, conditioning: list, frames: int) -> None:
    """Raises ValueError for CONDITIONING that a MODEL cannot read for so many frames: none, of another family's text encoder, not finite, or with masks
    that core cannot repeat over the clip."""
    if not conditioning:
        raise ValueError("there is no prompt in it. Connect one, such as that of a Prompt (BLADE) node.")
    width = family_of(model).context_width(model)
    for embedding, options in conditioning:
        if embedding.ndim != 3 or 0 in embedding.shape or width not in (None, embedding.shape[-1]):
            raise ValueError(
                f"its embedding is {list(embedding.shape)}, but this model reads [1, tokens, {width}]. Encode the text with the CLIP of the "
                "model's own checkpoint."
            )
        if not torch.isfinite(embedding).all():
            raise ValueError("its embedding holds values that are not finite (NaN or infinity). Look at the weights of its words.")
        mask = options.get("mask")
        masks = len(mask) if mask is not None and mask.ndim > 2 else 1
        if masks == 0 or (masks < frames and frames % masks):  # what is more, core leaves out
            raise ValueError(f"its mask has {masks} frames, but the clip has {frames}. Give one mask, or one for each frame.")


def sigma_table(model) -> Tensor:
    """The model's sigmas by rising timestep. [timesteps]"""
    return model.get_model_object("model_sampling").sigmas


def schedule_names() -> list[str]:
    """Core's schedulers."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def core_sigmas(model, schedule: str, steps: int) -> Tensor:
    """The grid that core's samplers take under a scheduler's name. Falling, last value 0."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), schedule, steps).float().cpu()


def percent_to_sigma(model, percent: float) -> float:
    """The noise level at a share of the way from noise (0) to clip (1), as core counts it: by timesteps."""
    return float(model.get_model_object("model_sampling").percent_to_sigma(percent))


def solver_function(name: str) -> Callable[..., Tensor]:
    """Core's own sampler function of that name."""
    return comfy.samplers.sampler_object(name).sampler_function


def conds_where(model, wanted: Callable[[dict], bool]) -> list[tuple[dict, Cond]]:
    """This run's conds of a kind, other than negative ones, each with what it can be recognised by in a batch. `model` is what a sampler
    function is given; the dicts are this run's own."""
    listed = model.inner_model.conds
    # core's dual guidance asks for the negative cond first and calls its second positive "middle"
    places = {"middle": 1, "positive": 2} if "middle" in listed else {"positive": 0}
    return [(cond, (cond["uuid"], place)) for name, place in places.items() for cond in listed.get(name) or () if wanted(cond)]


def positive_conds(model, words: PromptWords) -> set[Cond]:
    """What this run's positive conds with these words can be recognised by in a batch."""
    return {known for _, known in conds_where(model, lambda cond: cond.get(KEY) == words)}


class ScheduledGuider(comfy.samplers.CFGGuider):
    """Core's classifier-free guidance, of a strength that changes evenly over the steps, from `cfg` at the first to `cfg_end` at the last."""

    def set_cfg(self, cfg: float, cfg_end: float | None = None) -> None:
        super().set_cfg(cfg)
        self.ends = cfg, cfg if cfg_end is None else cfg_end

    def predict_noise(self, x, timestep, model_options={}, seed=None):
        begin, end = self.ends
        if begin != end:
            levels = model_options["transformer_options"]["sample_sigmas"][:-1].tolist()
            strengths = np.linspace(begin, end, len(levels))[::-1]
            super().set_cfg(float(np.interp(float(timestep[0]), levels[::-1], strengths)))
        return super().predict_noise(x, timestep, model_options, seed)


def run_sampler(
    model, function: Callable[..., Tensor], sigmas: Tensor, positive, negative, cfg: float, latent: Tensor, cfg_end: float | None = None
) -> Tensor:
    """Runs a sampler function in ComfyUI's chain, with progress, preview and cancellation.

    function(model, x, sigmas, extra_args, callback, disable) gets the clip's own latent in model space as x (`as_sampler`); what it returns goes
    through process_latent_out, which changes last bits, so callers keep the model-space latent themselves.
    latent: as LATENT holds it. Returns the sampled latent, as LATENT holds it."""
    guider = ScheduledGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg, cfg_end)
    latent = latent.float()  # since 0.18 the host's VAE may give fp16
    samples = guider.sample(
        torch.zeros_like(latent), latent, as_sampler(model, function), sigmas,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1), disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=0,
    )  # fmt: skip
    return samples.to(comfy.model_management.intermediate_device())


def as_sampler(model, function: Callable[..., Tensor]):
    """A SAMPLER of a sampler function that sees [frames, channels, h, w], whatever the MODEL's family. Its x is the clip: where the noise is zero core
    hands over signal * clip, which for a flow model that begins at pure noise is 0."""
    family = family_of(model)

    def sampled(denoiser, x, sigmas, extra_args, callback, disable):
        shown = callback and (lambda state: callback({**state, **{name: family.model_first(state[name]) for name in ("x", "denoised")}}))
        clip = family.frames_first(denoiser.latent_image)
        return family.model_first(function(FramesFirst(denoiser, family), clip, sigmas, extra_args, shown, disable))

    return comfy.samplers.KSAMPLER(sampled)


class FramesFirst:
    """Core's denoiser, of [frames, channels, h, w] whatever its family."""

    def __init__(self, denoiser, family: Family):
        self.denoiser, self.family = denoiser, family

    def __getattr__(self, name: str):
        return getattr(self.denoiser, name)  # solvers look through to inner_model

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args) -> Tensor:
        latent = self.family.model_first(x)
        return self.family.frames_first(self.denoiser(latent, sigma[: len(latent)], **extra_args))


def latent_in(model, latent: Tensor) -> Tensor:
    """What LATENT holds, frames first: [frames, channels, h, w]."""
    return family_of(model).frames_first(latent)


def latent_out(model, latent: Tensor) -> Tensor:
    """From model space, [frames, channels, h, w], to what LATENT holds."""
    return model.model.process_latent_out(family_of(model).model_first(latent))
