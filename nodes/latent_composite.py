"""Latent Composite: the edited latent, corrected at the mask's rim so that it decodes to the source's ground there."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..blending.composite import window
from ..blending.latent_composite import composite_latents
from ..host.job import frame_ticks
from ..host.vae import decode_finite, encode_finite, fitting_chunk, grid_of
from .common import CATEGORY, checked, empty_note, naming, tell
from .composite import mask_of_edit
from .inputs import check_pictures, chunk_input, composite_inputs, samples_to_decode

TITLE = "Latent Composite (BLADE)"


class LatentComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_LatentComposite",
            display_name=TITLE,
            category=CATEGORY,
            description="Corrects an edited latent at the rim of its mask, so that the ground there decodes to the source's. For work that goes on in "
            "latents (another pass, an upscaler, Decode Video), or before VAE Decode and Pixel Composite for a finer seam. Cells farther out stay the "
            "clip's to the bit. Takes two decodings and three encodings of the clip.",
            inputs=[
                io.Latent.Input("latent", tooltip="The edited clip, from Blended Sampler."),
                io.Vae.Input("vae", tooltip="The VAE that encoded the clip."),
                *composite_inputs("Higher leaves the new object whole where it reaches past the mask, lower keeps more of the ground."),
                io.Int.Input(
                    "reach",
                    default=1,
                    min=0,
                    max=16,
                    tooltip="Latent cells (8x8 pixels) around the mask that may change too. 0 keeps every cell outside the mask the clip's to the bit, and "
                    "leaves a little more of a seam.",
                ),
                io.Int.Input(
                    "rounds", default=2, min=1, max=8, tooltip="Corrections, one after the other. More than 3 change hardly anything."
                ),
                chunk_input("corrected"),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The corrected clip.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls, latent, vae, source: torch.Tensor, mask: torch.Tensor, grow: int = 2, reach: int = 1, rounds: int = 2, chunk_frames: int = 0
    ) -> io.NodeOutput:
        samples = samples_to_decode(TITLE, latent, vae)  # to decode takes more memory than to encode
        size = grid_of(vae).pixels(samples.shape)
        with naming(TITLE, "source"):
            check_pictures(source)
            if len(source) != len(samples):
                raise ValueError(f"it has {len(source)} frames, but latent has {len(samples)}. Connect the very frames that were encoded.")
        with naming(TITLE, "latent"):
            rows, columns = window(source.shape[1:3], size)
        with naming(TITLE, "mask"):
            mask, note = mask_of_edit(mask, source, size, (rows, columns))
        tell(cls, note, empty_note(mask.flatten(1).any(1), len(samples)))
        mask = mask.expand(len(samples), -1, -1)

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return encode_finite(vae, pixels, int(part[0])).to(samples)

        def decode(latents: torch.Tensor) -> torch.Tensor:
            return decode_finite(vae, latents, int(part[0]))

        chunk, tick, done = chunk_frames or fitting_chunk(vae, "decode", (1, *samples.shape[1:])), frame_ticks(len(samples)), []
        for part in torch.arange(len(samples)).split(chunk):
            with naming(TITLE, "vae"):
                done.append(composite_latents(samples[part], source[part, rows, columns], mask[part], encode, decode, grow, reach, rounds))
            for _ in part:
                tick()
        return io.NodeOutput({**latent, "samples": torch.cat(done)})
