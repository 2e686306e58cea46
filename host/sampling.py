"""Running a sampler function inside ComfyUI's sampling chain, and what has to be known of a MODEL for it."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete
from torch import Tensor

from ..attention.words import PromptWords
from .words import KEY


def unet_family(model) -> str:
    """ "eps" or "v". Raises ValueError for a MODEL that is no image U-Net predicting either."""
    inner = model.model
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"the model is a {type(inner).__name__} ({type(unet).__name__}), not a U-Net. Load an SD1.5, SD2.x or SDXL checkpoint: flow and transformer models have no DDIM trajectory."
        )
    channels, latent = unet.in_channels, inner.latent_format.latent_channels
    if channels != latent:
        raise ValueError(
            f"the model takes {channels} channels instead of {latent}, as inpainting checkpoints do. Load the ordinary checkpoint."
        )
    sampling = model.get_model_object("model_sampling")  # a node such as core's ModelSamplingDiscrete may have replaced it
    if isinstance(sampling, ModelSamplingDiscrete):
        for prediction, family in ((EPS, "eps"), (V_PREDICTION, "v")):
            if type(sampling).calculate_denoised is prediction.calculate_denoised:
                return family
    raise ValueError(
        f"the model samples by {' and '.join(kind.__name__ for kind in type(sampling).__bases__)}; only noise (eps) and v-prediction on a "
        "discrete schedule can be inverted. Load an ordinary SD1.5, SD2.x or SDXL checkpoint, without LCM or other sampling patches."
    )


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


def positive_uuids(model, words: PromptWords) -> set:
    """Ids by which this run's positive conds with these words can be recognised in a batch. `model` is what a sampler function is given."""
    return {cond["uuid"] for cond in model.inner_model.conds["positive"] if cond.get(KEY) == words}


def run_sampler(model, function: Callable[..., Tensor], sigmas: Tensor, positive, negative, cfg: float, latent: Tensor) -> Tensor:
    """Runs a sampler function in ComfyUI's chain, with progress, preview and cancellation.

    function(model, x, sigmas, extra_args, callback, disable) gets the clip's own latent in model space as x, since the noise is zero;
    what it returns goes through process_latent_out, which changes last bits, so callers keep the model-space latent themselves.
    latent: [frames, channels, h, w] as LATENT holds it. Returns the sampled latent, as LATENT holds it."""
    callback = latent_preview.prepare_callback(model, len(sigmas) - 1)
    sampler = comfy.samplers.KSAMPLER(function)
    return comfy.sample.sample_custom(
        model, torch.zeros_like(latent), cfg, sampler, sigmas, positive, negative, latent, callback=callback, disable_pbar=False, seed=0
    )


def latent_out(model, latent: Tensor) -> Tensor:
    """From model space to the scale of LATENT."""
    return model.model.process_latent_out(latent)
