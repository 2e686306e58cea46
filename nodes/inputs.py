"""Inputs that several nodes have, and what checks them."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host.vae import check_latent, check_room, check_vae
from .common import naming


def fps_input() -> io.Input:
    return io.Float.Input(
        "fps", default=24.0, min=0.01, max=1000.0, step=0.001, tooltip="Frames a second: that of Encode Video or Load Video."
    )


def chunk_input(done: str) -> io.Input:
    """How many frames the VAE takes at once; `done` says what it does with them."""
    return io.Int.Input(
        "chunk_frames",
        default=0,
        min=0,
        max=1024,
        tooltip=f"Frames that are {done} at once. 0 takes as many as fit in half of the free memory, at most 16. The result is the same.",
    )


def grow_input(default: int = 0, advice: str = "") -> io.Input:
    """Pixels by which a mask is widened. advice: when to turn it, behind what it does."""
    tooltip = f"Widens the mask by so many pixels; negative values shrink it. {advice}".rstrip()
    return io.Int.Input("grow", default=default, min=-256, max=256, tooltip=tooltip)


def composite_inputs(grow_advice: str) -> list[io.Input]:
    """What an edit is laid over, and where."""
    return [
        io.Image.Input("source", tooltip="The frames that were encoded, from Load Video (BLADE)."),
        io.Mask.Input("mask", tooltip="Where the edit shows: Blended Sampler's, or your own; one for the clip or one a frame."),
        grow_input(2, grow_advice),
    ]


def check_pictures(frames: torch.Tensor) -> None:
    """Raises ValueError for an IMAGE that is no clip of RGB frames: none, of another kind, or not finite."""
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(f"its shape is {list(frames.shape)}; give at least one frame, [frames, height, width, 3].")
    if frames.shape[3] != 3:
        raise ValueError(f"it has {frames.shape[3]} channels, but RGB has 3. Take the alpha off with Split Image with Alpha.")
    for number, frame in enumerate(frames):  # one at a time: the whole clip's answer would be a quarter of its memory
        if not torch.isfinite(frame.float()).all():
            raise ValueError(
                f"frame {number} holds values that are not finite (NaN or infinity). Make it again; if a VAE made it, start ComfyUI with --fp32-vae."
            )


def samples_to_decode(title: str, latent: dict, vae) -> torch.Tensor:
    """A LATENT's samples, fp32 [frames, 4, height/8, width/8]. Raises ValueError, naming node and input, for one that this VAE cannot decode."""
    samples = latent["samples"]
    with naming(title, "latent"):
        check_latent(samples)
    with naming(title, "vae"):
        check_vae(vae)
    with naming(title, "latent"):
        check_room(vae, "decode", (1, *samples.shape[1:]))
    return samples.float()
