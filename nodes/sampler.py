"""Blended Sampler: the edit inside the mask, the clip's own trajectory outside, at every step."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..attention.pictures import mask_strip
from ..blending.blend import SOLVERS, check_solver
from ..host.blended import blended_function
from ..host.frames import in_frame_batches
from ..host.job import Job
from ..host.sampling import latent_out, run_sampler
from ..inversion.trajectory import Trajectory
from .checks import check_model, check_run
from .common import CATEGORY, TrajectorySocket, checked, naming
from .edit import ALONE, Edit, EditsSocket, Pass, edit_inputs, mask_input

TITLE = "Blended Sampler (BLADE)"
PIXELS, CELLS = "pixels", "latent cells"
SAME = -1.0  # cfg_end: as cfg


def consensus_inputs() -> list:
    """How frames agree, and when masks hold; shared by both samplers."""
    return [
        io.Float.Input(
            "consensus",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Holds the object still over time: how far each frame agrees with its neighbours, along the object's own motion. "
            "0: every frame for itself, right for several objects that move apart in one edit. The motion is that of the words' place, or of your "
            "mask; a mask that does not move gives no consensus.",
        ),
        io.Float.Input(
            "consensus_until",
            default=0.8,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Share of the way from noise to clip during which frames agree. Lower leaves more of its details to each frame.",
        ),
        io.Float.Input(
            "blend_from",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps after which blending begins. Before, the whole picture is sampled freely: a new object may throw light and "
            "shadow around itself, but the background is only the clip's again from here on.",
        ),
        io.Float.Input(
            "blend_until",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps after which nothing is blended any more. Below 1 the model smooths over the mask's edge, and the background "
            "is no longer the clip's to the bit.",
        ),
    ]


def solver_input():
    return io.Combo.Input(
        "sampler_name",
        options=list(SOLVERS),
        default="euler",
        tooltip="Deterministic solvers of core's; euler is DDIM. Samplers that add noise cannot follow the clip's path and are left out.",
    )


def steps_input():
    return io.Int.Input(
        "steps", default=25, min=1, max=999, tooltip="Sampling steps: as many as the trajectory has, or fewer, of its own levels."
    )


def start_input():
    return io.Float.Input(
        "start",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="How far up the trajectory to begin. 1 changes most; lower values stay closer to the clip and take fewer steps.",
    )


def seed_input():
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,  # the page would draw another seed at every run, also where it changes nothing
        tooltip="Which fresh noise, where renoise is above 0: another variation of the edit. The background is the same for all.",
    )


def source_input():
    return io.Conditioning.Input("source", optional=True, tooltip="The source prompt that DDIM Invert has. Needed for structure only.")


class BlendedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_BlendedSampler",
            display_name=TITLE,
            category=CATEGORY,
            description="Samples the target prompt from the clip's inverted latents. Inside the mask the edit, outside it the clip's own trajectory "
            "at the very same noise level. Without a mask, the mask draws itself from the words that change.",
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted the clip, with the same Temporal-Spatial Attention."),
                io.Conditioning.Input("target", tooltip="What should be in the clip, from a Prompt (BLADE) node."),
                io.Conditioning.Input("negative", tooltip="What should not be; an empty prompt is fine."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE)."),
                steps_input(),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Classifier-free guidance of the edit."
                ),
                solver_input(),
                start_input(),
                *edit_inputs(),
                seed_input(),
                *consensus_inputs(),
                io.Float.Input(
                    "cfg_end",
                    default=SAME,
                    min=SAME,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance at the last step; from cfg it changes evenly. -1: the same as cfg. Lower keeps colours from burning.",
                ),
                io.Combo.Input(
                    "mask_size",
                    options=[PIXELS, CELLS],
                    default=PIXELS,
                    tooltip="Size of the mask that comes out: the clip's pixels, or the latent's cells (8x8 pixels each), which for clips of "
                    "thousands of frames saves 98 % of its memory.",
                ),
                mask_input(),
                source_input(),
                EditsSocket.Input(
                    "edits", optional=True, tooltip="More edits in the same pass, from Edit (BLADE) nodes. They lie over this node's own."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited clip, for VAE Decode."),
                io.Mask.Output(
                    display_name="mask", tooltip="The edits' mask at the last step, without its feather. [frames, height, width]"
                ),
                io.Image.Output(
                    display_name="mask_by_step",
                    tooltip="One picture: the mask that each step used, in latent cells, of the frame in the middle of the clip.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked("sampler_name")
    def execute(
        cls,
        model,
        target,
        negative,
        trajectory: Trajectory,
        steps: int,
        cfg: float,
        sampler_name: str,
        start: float,
        source_words: str,
        target_words: str,
        grow: int = 0,
        widen: int = 0,
        feather: float = 0.0,
        renoise: float = 0.0,
        structure: float = 0.0,
        confine: float = 0.0,
        mask_mode: str = ALONE,
        seed: int = 0,
        consensus: float = 1.0,
        consensus_until: float = 0.8,
        blend_from: float = 0.0,
        blend_until: float = 1.0,
        cfg_end: float = SAME,
        mask_size: str = PIXELS,
        mask: torch.Tensor | None = None,
        source=None,
        edits: tuple[Edit, ...] = (),
    ) -> io.NodeOutput:
        with naming(TITLE, "sampler_name"):
            check_solver(sampler_name)
        warning = check_model(TITLE, model, trajectory)
        with naming(TITLE, "steps"):
            sigmas = trajectory.sampling_sigmas(steps, start)
        own = Edit(TITLE, target, source_words, target_words, grow, widen, feather, renoise, structure, confine, mask_mode, mask)
        every = (own, *edits)
        window, guided = (blend_from, blend_until), {cfg, cfg if cfg_end < 0 else cfg_end} != {1.0}
        check_run(TITLE, model, trajectory, every, sigmas, window, source, negative if guided else None)
        run = Pass(model, trajectory, every, sigmas, consensus, consensus_until, window)
        warning = "\n".join(filter(None, [warning, *run.notes]))
        job = Job(model, trajectory.latents.shape[1:], SOLVERS[sampler_name] * (len(sigmas) - 1), warning=warning)
        with naming(TITLE, "trajectory"):
            job.check()

        watch = job.watch(cls.hidden.unique_id if cls.hidden else None)
        function = blended_function(trajectory, run.layers, run.prompted, sampler_name, seed, source, watch)
        positive = [entry for edit in every for entry in edit.positive]
        clip = latent_out(model, trajectory.clip)
        guidance_end = None if cfg_end < 0 else cfg_end
        with naming(TITLE, "model"):
            samples = run_sampler(in_frame_batches(model), function, sigmas, positive, negative, cfg, clip, guidance_end)
        run.finish(watch)
        used = run.cells() if mask_size == CELLS else run.pixels()
        return io.NodeOutput({"samples": samples}, used, mask_strip(run.layers.middle, sigmas.tolist(), *trajectory.pixels))
