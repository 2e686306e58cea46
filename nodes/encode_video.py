"""Encode Video: a file of ComfyUI's input folder straight to latents, whatever its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from comfy_api.latest import io

from ..host.job import check_cancelled
from ..host.vae import check_room, check_vae, encode_chunks, fitting_chunk
from ..video.fit import CROP
from ..video.load import Stretch, decode_frames, load_sound
from .common import CATEGORY, checked, naming
from .inputs import chunk_input
from .load_video import ReadsClip, clip_source, reading, show_clip, stretch_inputs, stretch_outputs, to_audio, video_input

TITLE = "Encode Video (BLADE)"


class EncodeVideo(ReadsClip):
    title = TITLE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_EncodeVideo",
            display_name=TITLE,
            category=CATEGORY,
            description="Load Video and VAE Encode in one, a few frames at a time: a long clip fits in memory, because its pixels never lie "
            "there together.",
            inputs=[
                io.Vae.Input("vae", tooltip="The checkpoint's VAE: SD1.5, SD2.x or SDXL."),
                video_input(),
                *stretch_inputs(),
                chunk_input("encoded"),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The clip, one latent a frame, for DDIM Invert (BLADE)."),
                *stretch_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked("video")
    def execute(
        cls,
        vae,
        video: str,
        start_frame: int,
        frame_count: int,
        every_nth: int,
        longest_side: int,
        force_fps: float = 0.0,
        sides: str = CROP,
        chunk_frames: int = 0,
        deinterlace: bool = True,
    ) -> io.NodeOutput:
        with naming(TITLE, "vae"):
            check_vae(vae)
        stretch = Stretch(start_frame, frame_count, every_nth, longest_side, force_fps, sides)
        source = clip_source(TITLE, video, deinterlace)
        with reading(TITLE, video):
            size = stretch.fit(source).size
        with naming(TITLE, "longest_side"):
            check_room(vae, "encode", (1, 3, *size))

        def frames() -> Iterator[np.ndarray]:
            with reading(TITLE, video):
                yield from decode_frames(source, stretch, check_cancelled)

        chunk = chunk_frames or fitting_chunk(vae, "encode", (1, 3, *size))
        with naming(TITLE, "vae"):
            samples = joined(encode_chunks(vae, frames(), chunk, stretch.expected(source)))
        with reading(TITLE, video):
            audio = to_audio(*load_sound(source, stretch, len(samples), check_cancelled))
        show_clip(cls, source, len(samples), stretch, audio)
        return io.NodeOutput({"samples": samples}, stretch.rate(source), audio, len(samples), (source, stretch))


def joined(chunks: Iterable[torch.Tensor]) -> torch.Tensor:
    """All chunks one after another. The chunks themselves do not stay: kept until the end, they would lie scattered among the frames that come
    and go, and hold on to the memory in between."""
    whole, count = torch.empty(0), 0
    for chunk in chunks:
        if count + len(chunk) > len(whole):
            whole = torch.cat((whole[:count], torch.empty(max(count, len(chunk)), *chunk.shape[1:]))) if count else torch.empty_like(chunk)
        whole[count : count + len(chunk)] = chunk
        count += len(chunk)
    return whole[:count].clone()
