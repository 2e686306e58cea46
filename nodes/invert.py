"""DDIM Invert: a clip's latents to the trajectory that every later edit is blended into."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..attention.record import MapRecorder, recorded_sizes
from ..host.attention import record_cross_attention
from ..host.sampling import check_latent, positive_uuids, run_sampler, sigma_table, unet_family
from ..host.words import words_of
from ..inversion.ddim import invert_ddim
from ..inversion.schedule import ddim_sigmas
from ..inversion.trajectory import Trajectory
from .common import CATEGORY, TrajectorySocket, naming

TITLE = "DDIM Invert (BLADE)"


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
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="All levels of the clip, for masks and for the sampler.")],
        )

    @classmethod
    def execute(cls, model, source, latent, steps: int) -> io.NodeOutput:
        with naming(TITLE, "model"):
            family = unet_family(model)
        samples = latent["samples"]
        with naming(TITLE, "latent"):
            check_latent(model, samples)
        with naming(TITLE, "steps"):
            sigmas = ddim_sigmas(sigma_table(model), steps)
        words, recorder = words_of(source), None
        if words is not None:
            recorder = MapRecorder(words, recorded_sizes(*samples.shape[-2:]))
        levels: list[torch.Tensor] = []
        rising = sigmas.flip(0)

        def keep(level: int, x: torch.Tensor) -> None:
            levels.append(x.float().cpu())
            if recorder is not None:
                recorder.finish()
                if level < steps:
                    recorder.begin(float(rising[level + 1]))

        conds: set = set()

        def function(model, x, sigmas, extra_args, callback, disable):
            conds.update(positive_uuids(model))
            return invert_ddim(model, x, sigmas, extra_args, callback, disable, family=family, keep=keep)

        run_sampler(record_cross_attention(model, recorder, conds), function, sigmas, source, source, 1.0, samples)
        return io.NodeOutput(Trajectory(rising, torch.stack(levels), recorder and recorder.record, family))
