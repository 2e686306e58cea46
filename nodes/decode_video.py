"""Decode Video: latents straight to a video file, whatever their number."""

from __future__ import annotations

from comfy_api.latest import InputImpl, io

from ..host.vae import decode_chunks, fitting_chunk, grid_of
from ..video.load import Stretch
from ..video.save import FFV1, GIF, H264, PRORES, VP9
from ..video.source import Source
from .common import CATEGORY, checked, naming
from .inputs import chunk_input, samples_to_decode
from .save_video import GRAPH, audio_input, file_inputs, fit_input, graph_of, write_video

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
                *file_inputs(H264, FFV1, VP9, PRORES, GIF),
                chunk_input("decoded"),
                audio_input(),
                fit_input(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written.")],
            hidden=list(GRAPH),
            is_output_node=True,
        )

    @classmethod
    @checked("fps")
    def execute(
        cls,
        latent,
        vae,
        fps: float,
        filename_prefix: str,
        format: str,
        crf: int,
        chunk_frames: int,
        audio: dict | None = None,
        fit: tuple[Source, Stretch] | None = None,
    ) -> io.NodeOutput:
        samples = samples_to_decode(TITLE, latent, vae)
        chunk = chunk_frames or fitting_chunk(vae, "decode", (1, *samples.shape[1:]))

        def pictures():
            with naming(TITLE, "vae"):
                yield from decode_chunks(vae, samples, chunk)

        path, shown = write_video(
            TITLE, pictures(), grid_of(vae).pixels(samples.shape), fps, filename_prefix, format, crf, audio, fit, graph_of(cls.hidden)
        )
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=shown)
