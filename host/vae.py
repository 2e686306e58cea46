"""Frames to latents and back through a VAE, a chunk at a time, with progress and cancellation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import comfy.model_management
import numpy as np
import torch
from comfy.utils import ProgressBar
from torch import Tensor

from ..inversion.grid import Grid
from .job import give_back

CHANNELS = 4  # of a latent of the SD family's VAEs
LARGEST_CHUNK = 16  # frames; more at once are hardly faster
LEAST = 0.25  # of what a VAE's estimate asks for; for 512x512 pixels in fp32 SD1.5's takes 0.30 of it to encode, 0.43 to decode (PyTorch 2.13, CPU)


def check_vae(vae) -> None:
    """Raises ValueError for a VAE that does not make one latent of 4 channels and 8x8-pixel cells a frame."""
    if vae is None or getattr(vae, "first_stage_model", vae) is None:
        raise ValueError("there is no VAE. The checkpoint holds none: load one that does, or use Load VAE.")
    channels, ratio = vae.latent_channels, vae.downscale_ratio
    if channels != CHANNELS or ratio != Grid.cell:
        in_time = isinstance(ratio, tuple)
        side = ratio[-1] if in_time else ratio
        raise ValueError(
            f"this {'video ' if in_time else ''}VAE makes latents of {channels} channels and {side}x{side} pixels a cell, not one of {CHANNELS} "
            "channels and 8x8 pixels for each frame. Take the VAE of an SD1.5, SD2.x or SDXL checkpoint."
        )


def grid_of(vae) -> Grid:
    """What the cells of a checked VAE's latents cover."""
    return Grid(vae.downscale_ratio)


def check_latent(samples: Tensor, channels: int = CHANNELS) -> None:
    """Raises ValueError for a LATENT that is no clip of that many channels: empty, of another kind, or not finite."""
    if samples.is_nested or samples.ndim != 4 or samples.shape[1] != channels or 0 in samples.shape:
        raise ValueError(
            f"its shape is {list(samples.shape)}, but a clip needs [frames, {channels}, height/8, width/8]. "
            "Encode the frames with the VAE of the model's checkpoint."
        )
    if not torch.isfinite(samples.float()).all():
        raise ValueError(
            "it holds values that are not finite (NaN or infinity). Make it again, with the model or the VAE that made it in fp32 if it overflows."
        )


def check_room(vae, step: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError where the CPU's memory cannot hold what one frame takes: the system would end the process. On a GPU core goes on in tiles.

    step, shape: as for `fitting_chunk`. Of several frames core takes no more at once than fit."""
    estimate = getattr(vae, f"memory_used_{step}", None)
    if estimate is None or vae.device.type != "cpu":
        return
    needed, free = estimate(shape, vae.vae_dtype) * LEAST, comfy.model_management.get_free_memory(vae.device)
    if needed > free:
        height, width = grid_of(vae).pixels(shape) if step == "decode" else shape[-2:]
        raise ValueError(
            f"to {step} one frame of {width}x{height} pixels on the CPU takes {needed / 2**30:.1f} GiB of memory or more, and "
            f"{free / 2**30:.1f} GiB are free. Make the frames smaller, or close other programs."
        )


def fitting_chunk(vae, step: str, shape: tuple[int, ...]) -> int:
    """How many frames of `shape` half of the VAE's free memory takes by its own estimate: 1 to 16; 1 if it has none.

    step: "encode" or "decode". shape: one frame's input to that step, [1, channels, height, width]."""
    estimate = getattr(vae, f"memory_used_{step}", None)
    if estimate is None:
        return 1
    free = comfy.model_management.get_free_memory(vae.device)
    return int(min(max(free / 2 / max(estimate(shape, vae.vae_dtype), 1), 1), LARGEST_CHUNK))


def encode_chunks(vae, frames: Iterable[np.ndarray], chunk: int, expected: int | None) -> Iterator[Tensor]:
    """Latents of `chunk` frames at a time, fp32 on the CPU. [chunk, 4, height/8, width/8]

    frames: uint8 RGB [height, width, 3], taken as they are needed. expected: about how many there are, for the progress bar.
    Raises ValueError where the VAE gives no numbers."""
    frames, first = iter(frames), 0
    progress = ProgressBar(expected or 1)
    while pictures := list(islice(frames, chunk)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = torch.from_numpy(np.stack(pictures)).float().div_(255)
        latent = encode_finite(vae, pixels, first)
        first += len(pictures)
        progress.update(len(pictures))
        yield latent


def decode_chunks(vae, samples: Tensor, chunk: int) -> Iterator[np.ndarray]:
    """Frames of `chunk` latents at a time, uint8 RGB. [chunk, height, width, 3]

    samples: [frames, 4, height/8, width/8] as LATENT holds it. Raises ValueError where the VAE gives no numbers."""
    give_back()
    progress = ProgressBar(len(samples))
    for first in range(0, len(samples), chunk):
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = decode_finite(vae, samples[first : first + chunk], first)
        progress.update(len(pixels))
        yield pixels.clamp(0, 1).mul_(255).round_().byte().numpy()


def encode_finite(vae, pixels: Tensor, first: int = 0) -> Tensor:
    """Latents of a few frames, fp32 on the CPU. pixels: [frames, height, width, 3] in 0..1. first: the number of their first, for errors.

    Raises ValueError where the VAE gives no numbers."""
    return finite(vae.encode(pixels), "encodes", first)


def decode_finite(vae, samples: Tensor, first: int = 0) -> Tensor:
    """Frames of a few latents, fp32 on the CPU, [frames, height, width, 3]. first: the number of their first, for errors.

    Raises ValueError where the VAE gives no numbers."""
    return finite(vae.decode(samples), "decodes", first)


def finite(found: Tensor, does: str, first: int) -> Tensor:
    found = found.float().cpu()
    if not torch.isfinite(found).all():
        last = first + len(found) - 1
        raise ValueError(
            f"it {does} frames {first} to {last} to values that are not finite (NaN or infinity). "
            "Start ComfyUI with --fp32-vae, or take another VAE."
        )
    return found
