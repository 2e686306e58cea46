"""Decode Video: latents straight to a video file, whatever their number."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import InputImpl, io, ui

from ..host.vae import check_latent, check_vae, decode_chunks, fitting_chunk
from ..video.save import SUFFIX, check_fps, check_sound, save_video
from .common import CATEGORY, CELL, naming
from .encode_video import chunk_input

TITLE = "Decode Video (BLADE)"


class DecodeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_DecodeVideo",
            display_name=TITLE,
            category=CATEGORY,
            description="VAE Decode and Save Video in one, a few frames at a time: a long clip fits in memory, because its pixels never lie "
            "there together.",
            inputs=[
                io.Latent.Input("latent", tooltip="The clip, one latent a frame."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE: SD1.5, SD2.x or SDXL."),
                io.Float.Input(
                    "fps", default=24.0, min=0.01, max=1000.0, step=0.001, tooltip="Frames a second: that of Encode Video or Load Video."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/blade",
                    tooltip="The file's place and name in ComfyUI's output folder; a number is added.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(SUFFIX),
                    tooltip="mp4 plays everywhere. mkv keeps every bit of the decoded frames, for further work; browsers do not show it.",
                ),
                io.Int.Input(
                    "crf",
                    default=16,
                    min=0,
                    max=51,
                    tooltip="Quality of H.264 only: lower is better and larger, 16 looks like the original. Not used by FFV1.",
                ),
                chunk_input("decoded"),
                io.Audio.Input("audio", optional=True, tooltip="Sound for the file; what lasts longer than the frames is cut."),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, latent, vae, fps: float, filename_prefix: str, format: str, crf: int, chunk_frames: int, audio: dict | None = None
    ) -> io.NodeOutput:
        samples = latent["samples"]
        with naming(TITLE, "latent"):
            check_latent(samples)
        with naming(TITLE, "vae"):
            check_vae(vae)
        with naming(TITLE, "fps"):
            check_fps(fps)
        waveform, sample_rate = (audio["waveform"][0], audio["sample_rate"]) if audio else (None, 0)
        with naming(TITLE, "audio"):
            check_sound(waveform, sample_rate)
        height, width = (side * CELL for side in samples.shape[-2:])
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        file = f"{name}_{counter:05}_{SUFFIX[format]}"
        path = os.path.join(folder, file)
        chunk = chunk_frames or fitting_chunk(vae, "decode", (1, *samples.shape[1:]))

        def pictures():
            with naming(TITLE, "vae"):
                yield from decode_chunks(vae, samples, chunk)

        save_video(path, pictures(), fps, format, crf, waveform, sample_rate)
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(path), ui=shown)
