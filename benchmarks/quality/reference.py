"""DDIM inversion and sampling as the `diffusers` library computes them: what the pack is compared with. Needs no ComfyUI and no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.in_process import mend_companions

mend_companions()  # diffusers imports it
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: E402
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler  # noqa: E402

STABLE_DIFFUSION: dict[str, Any] = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE_DIFFUSION |= {"set_alpha_to_one": True, "clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1}


def diffusers_unet(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> UNet2DConditionModel:
    """The U-Net of a checkpoint in diffusers' own form, fp32 on the CPU.

    weights: the checkpoint's tensors in the original LDM layout, the U-Net's under "model.diffusion_model."; others are passed over.
    config: as demo.model_pack.architecture.UNET_CONFIG, of SD1.x's kind: cross-attention on every level, one block count and one number
    of heads for all. Raises RuntimeError where a tensor is missing, left over or of another shape.
    """
    levels, blocks = len(config["channel_mult"]), config["num_res_blocks"][0]
    translated = dict(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=tuple(config["model_channels"] * factor for factor in config["channel_mult"]),
        layers_per_block=blocks,
        transformer_layers_per_block=config["transformer_depth"][0],
        cross_attention_dim=config["context_dim"],
        attention_head_dim=config["num_heads"],  # diffusers' misnomer: it is the number of heads
        use_linear_projection=config["use_linear_in_transformer"],
    )
    weights = {key: value.float() for key, value in weights.items() if key.startswith("model.diffusion_model.")}
    converted = convert_ldm_unet_checkpoint(weights, translated)
    if len(converted) != len(weights):  # the conversion passes over what it does not know
        raise RuntimeError(
            f"Of the checkpoint's {len(weights)} U-Net tensors diffusers converts {len(converted)}: the config is of another kind."
        )
    unet = UNet2DConditionModel(**translated)
    unet.load_state_dict(converted)
    return unet.eval().requires_grad_(False)


def invert_with_diffusers(
    unet: UNet2DConditionModel, latents: Tensor, context: Tensor, steps: int, prediction: str, *, zero_snr: bool = False
) -> Tensor:
    """DDIMInverseScheduler's walk from a clip up to timestep 1 + (steps - 1) * (1000 // steps).

    latents: [frames, 4, h, w], clean, model space. context: [1 or frames, tokens, channels]. prediction: "epsilon" or "v_prediction".
    zero_snr: the betas rescaled to a zero terminal SNR. Returns [steps + 1, frames, 4, h, w] in ComfyUI's coordinates
    x = z / sqrt(alpha_bar) by rising noise, level 0 being the clip, as Trajectory.latents.
    """
    return walk(DDIMInverseScheduler, unet, latents, context, steps, prediction, zero_snr)


def sample_with_diffusers(
    unet: UNet2DConditionModel, latents: Tensor, context: Tensor, steps: int, prediction: str, *, zero_snr: bool = False
) -> Tensor:
    """DDIMScheduler's walk (eta 0) from the highest level that invert_with_diffusers reaches, `latents`, down to clean. All else as there."""
    return walk(DDIMScheduler, unet, latents, context, steps, prediction, zero_snr)


@torch.no_grad()
def walk(kind: type, unet: UNet2DConditionModel, latents: Tensor, context: Tensor, steps: int, prediction: str, zero_snr: bool) -> Tensor:
    """A scheduler's walk, as the two above give it."""
    scheduler = kind(**STABLE_DIFFUSION, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
    scheduler.set_timesteps(steps)
    # Both schedulers' step() moves between these alphas: set_alpha_to_one gives the clean end 1, each timestep of the grid the rest.
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps.sort().values]
    scale, down = torch.cat([torch.ones(1), alpha_bar]).sqrt().view(-1, 1, 1, 1, 1), kind is DDIMScheduler
    passed, context = [latents * scale[-1] if down else latents], context.expand(len(latents), -1, -1)
    for timestep in scheduler.timesteps:
        output = unet(passed[-1], timestep, encoder_hidden_states=context, return_dict=False)[0]
        passed.append(scheduler.step(output, timestep, passed[-1], return_dict=False)[0])
    walked = torch.stack(passed)
    return (walked.flip(0) if down else walked) / scale
