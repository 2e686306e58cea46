"""DDIM Invert: a clip's latents to the trajectory that every later edit is blended into."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..attention.record import CrossAttentionRecord, MapRecorder, recorded_sizes
from ..host.attention import record_cross_attention
from ..host.frames import in_frame_batches
from ..host.job import Job
from ..host.sampling import positive_uuids, run_sampler, sigma_table, unet_family
from ..host.vae import check_latent
from ..host.words import words_of
from ..inversion.ddim import invert_ddim
from ..inversion.schedule import ddim_sigmas
from ..inversion.storage import Storage
from ..inversion.trajectory import Trajectory
from .common import CATEGORY, TrajectorySocket, naming

TITLE = "DDIM Invert (BLADE)"
MEMORY, FILE = "memory", "mapped file"


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_DDIMInvert",
            display_name=TITLE,
            category=CATEGORY,
            description="Walks the clip up to noise, step by step and without chance (DDIM inversion at CFG 1), and keeps every level. "
            "Where the words of the source prompt look is recorded on the way.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample too, with the same Temporal-Spatial Attention."),
                io.Conditioning.Input("source", tooltip="What is in the clip, from a Prompt (BLADE) node."),
                io.Latent.Input("latent", tooltip="The clip, encoded by VAE Encode: one latent a frame."),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=999,
                    tooltip="Levels between clip and noise, on diffusers' DDIM grid. 25 to 50 is usual.",
                ),
                io.Combo.Input(
                    "storage",
                    options=[MEMORY, FILE],
                    default=MEMORY,
                    tooltip="Where the trajectory lies: 64 KiB a frame and step at 512x512. A mapped file in ComfyUI's temp folder takes what does "
                    "not fit into memory.",
                ),
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="All levels of the clip, for masks and for the sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, source, latent, steps: int, storage: str = MEMORY) -> io.NodeOutput:
        with naming(TITLE, "model"):
            family = unet_family(model)
        samples = latent["samples"]
        with naming(TITLE, "latent"):
            check_latent(samples, model.model.latent_format.latent_channels)
        with naming(TITLE, "steps"):
            sigmas = ddim_sigmas(sigma_table(model), steps)
        words, recorder, record = words_of(source), None, None
        kept = 4 * (steps + 1) * samples.numel()
        if words is not None:
            recorder, record = MapRecorder(words, recorded_sizes(*samples.shape[-2:]), len(samples)), CrossAttentionRecord(words)
            kept += 2 * steps * len(samples) * len(words.columns) * sum(rows * columns for rows, columns in recorder.sizes)
        job = Job(model, samples.shape, steps, kept, in_memory=storage == MEMORY)
        with naming(TITLE, "latent"):
            job.check()
        room = Storage(Path(folder_paths.get_temp_directory()) if storage == FILE else None)
        with naming(TITLE, "storage"):
            latents = room.empty((steps + 1, *samples.shape), torch.float32)
        rising = sigmas.flip(0)

        def keep(level: int, x: torch.Tensor) -> None:
            latents[level].copy_(x)
            if recorder is not None and record is not None:
                if found := recorder.finish():
                    record.add(*found, steps, room.empty)
                if level < steps:
                    recorder.begin(float(rising[level + 1]))

        conds: set = set()

        def function(model, x, sigmas, extra_args, callback, disable):
            conds.update(positive_uuids(model))
            return invert_ddim(model, x, sigmas, extra_args, callback, disable, family=family, keep=keep)

        patched = job.watch(cls.hidden.unique_id if cls.hidden else None).on(
            record_cross_attention(in_frame_batches(model), recorder, conds)
        )
        run_sampler(patched, function, sigmas, source, source, 1.0, samples)
        return io.NodeOutput(Trajectory(rising, latents, record, family))
