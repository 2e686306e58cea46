"""Blended Sampler Select: the blended sampler as a SAMPLER, for any guider and any sigmas."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..blending.blend import SOLVERS, check_solver
from ..host.blended import blended_function, check_guider
from ..host.job import Job
from ..host.leaks import collected_after_errors
from ..host.sampling import as_sampler, latent_out
from ..inversion.trajectory import Trajectory
from .checks import check_model, check_prompts, check_run, check_structure, check_window
from .common import CATEGORY, TrajectorySocket, checked, naming
from .edit import Edit, EditsSocket, Pass, check_places
from .sampler import consensus_inputs, seed_input, solver_input, source_input, start_input, steps_input

TITLE = "Blended Sampler Select (BLADE)"


class BlendedSamplerSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_BlendedSamplerSelect",
            display_name=TITLE,
            category=CATEGORY,
            description="The blended sampler for core's SamplerCustomAdvanced: any guider, any sigmas. Give the guider this node's positive, "
            "and SamplerCustomAdvanced its sampler, sigmas and latent_image. The noise there does not matter: an edit begins on the trajectory. "
            "For long clips give the guider a model with Temporal-Spatial Attention, so that room is made for a batch of frames only.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that inverted the clip, with the same Temporal-Spatial Attention: the guider's."
                ),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE)."),
                EditsSocket.Input("edits", tooltip="What should change and where, from one or more Edit (BLADE) nodes."),
                steps_input(),
                solver_input(),
                start_input(),
                seed_input(),
                *consensus_inputs(),
                source_input(),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Conditioning.Output(display_name="positive", tooltip="The target prompts of all edits, for the guider."),
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="The trajectory's own noise levels, by steps and start. Other sigmas work too; the trajectory is then taken "
                    "linearly between its levels.",
                ),
                io.Latent.Output(display_name="latent_image", tooltip="The clip as it was inverted."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked("sampler_name")
    def execute(
        cls,
        model,
        trajectory: Trajectory,
        edits: tuple[Edit, ...],
        steps: int,
        sampler_name: str,
        start: float,
        seed: int = 0,
        consensus: float = 1.0,
        consensus_until: float = 0.8,
        blend_from: float = 0.0,
        blend_until: float = 1.0,
        source=None,
    ) -> io.NodeOutput:
        with naming(TITLE, "sampler_name"):
            check_solver(sampler_name)
        check_model(TITLE, model, trajectory)
        check_prompts(TITLE, model, trajectory.frames, source=source)
        if not edits:
            raise ValueError(f"{TITLE}, input edits: there is none. Connect an Edit (BLADE) node.")
        check_window(TITLE, blend_from, blend_until)
        with naming(TITLE, "steps"):
            own_sigmas = trajectory.sampling_sigmas(steps, start)
        check_structure(TITLE, model, edits, source, own_sigmas)
        owns = [edit.own_mask(trajectory) for edit in edits]
        fixed = [edit.fixed_mask(trajectory, len(own_sigmas) - 1, own) for edit, own in zip(edits, owns, strict=True)]
        check_places(edits, owns, fixed, trajectory)
        window = (blend_from, blend_until)
        node_id = cls.hidden.unique_id if cls.hidden else None

        @collected_after_errors()  # which ends core's sampler, not this node
        def function(model, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict, callback, disable) -> torch.Tensor:
            patcher = model.inner_model.model_patcher
            warning = check_model(TITLE, patcher, trajectory)
            with naming(TITLE, "sigmas"):
                if not len(sigmas) or not (sigmas.diff() <= 0).all():
                    raise ValueError(
                        "they do not fall from step to step. Give falling sigmas, as this node and core's schedulers make them."
                    )
                trajectory.at(sigmas[0])  # what lies too high is refused before anything is sampled
            grid = sigmas.cpu()
            check_run(TITLE, patcher, trajectory, edits, grid, window, source)
            run = Pass(patcher, trajectory, edits, grid, consensus, consensus_until, window)
            warning = "\n".join(filter(None, [warning, *run.notes]))
            job = Job(patcher, trajectory.latents.shape[1:], SOLVERS[sampler_name] * (len(grid) - 1), warning=warning)
            with naming(TITLE, "trajectory"):
                job.check()
            with naming(TITLE):
                check_guider(model, x, extra_args, trajectory, run.prompted)
            watch = job.watch(node_id)
            sampled = blended_function(trajectory, run.layers, run.prompted, sampler_name, seed, source, watch)
            with naming(TITLE, "model"):
                samples = sampled(model, x, sigmas, extra_args, callback, disable)
            run.finish(watch)
            return samples

        positive = [entry for edit in edits for entry in edit.positive]
        return io.NodeOutput(as_sampler(model, function), positive, own_sigmas, {"samples": latent_out(model, trajectory.clip)})
