"""DDIM Invert: a clip's latents to the trajectory that every later edit is blended into."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..attention.record import CrossAttentionRecord, MapRecorder, recorded_sizes
from ..host.attention import record_cross_attention
from ..host.conditioning import why_unheard
from ..host.families import coordinates_of, family_of
from ..host.fingerprint import patches_of, weights_sample
from ..host.frames import in_frame_batches
from ..host.job import Job
from ..host.sampling import core_sigmas, latent_in, positive_conds, run_sampler, schedule_names, sigma_table
from ..host.vae import check_latent
from ..host.words import words_of
from ..inversion.ddim import invert_ddim
from ..inversion.schedule import check_grid, ddim_sigmas
from ..inversion.storage import Storage
from ..inversion.trajectory import Origin, Trajectory
from .checks import check_prompts, check_whole_way
from .common import CATEGORY, TrajectorySocket, checked, naming

TITLE = "DDIM Invert (BLADE)"
MEMORY, FILE = "memory", "mapped file"
DDIM = "ddim"  # diffusers' grid; core's ddim_uniform differs by its last point
DDIM_METHOD, PREDICTED, REFINED = METHODS = ("DDIM", "predicted", "refined")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


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
                io.Int.Input("steps", default=25, min=2, max=999, tooltip="Levels between clip and noise. 25 to 50 is usual."),
                io.Combo.Input(
                    "schedule",
                    options=[DDIM, *schedule_names()],
                    default=DDIM,
                    tooltip="Where the levels lie. ddim is diffusers' DDIM grid; the others are core's schedulers. Not used where sigmas are connected.",
                ),
                io.Float.Input(
                    "depth",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How far up to noise, counted as a KSampler's denoise: 1 is the whole way, 0.6 stops at the level where a KSampler with "
                    "denoise 0.6 begins. All the steps are spent on that part. For edits that should stay close to the clip.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=DDIM_METHOD,
                    tooltip="DDIM: the usual inversion, as diffusers computes it. predicted: leads back to the clip more closely at the same cost. "
                    "refined: leads back almost exactly, for the further calls that refine allows. Reconstruction Check shows what a clip needs.",
                ),
                io.Int.Input(
                    "refine",
                    default=1,
                    min=1,
                    max=10,
                    tooltip="For the method refined: further model calls a step, at most. 1 doubles the time and gains the most.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=1e-4,
                    min=0.0,
                    max=0.1,
                    step=1e-5,
                    round=1e-6,
                    tooltip="For the method refined: a step is refined no further once sampling it back would miss by less than this share of a latent's usual size.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp32",
                    tooltip="In which the levels are kept. fp16 halves the memory; the clip itself stays in fp32.",
                ),
                io.Combo.Input(
                    "storage",
                    options=[MEMORY, FILE],
                    default=MEMORY,
                    tooltip="Where the trajectory lies: 64 KiB a frame and step at 512x512 in fp32. A mapped file in ComfyUI's temp folder takes what "
                    "does not fit into memory.",
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="A grid of your own, falling to 0, in place of steps, schedule and depth."
                ),
                io.Conditioning.Input(
                    "null_prompt",
                    optional=True,
                    tooltip="An empty prompt. The clip then follows this one up to noise, and the source prompt only tells where its words look. "
                    "Twice the time.",
                ),
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="All levels of the clip, for masks and for the sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model,
        source,
        latent,
        steps: int,
        schedule: str = DDIM,
        depth: float = 1.0,
        method: str = DDIM_METHOD,
        refine: int = 1,
        tolerance: float = 1e-4,
        precision: str = "fp32",
        storage: str = MEMORY,
        sigmas: torch.Tensor | None = None,
        null_prompt=None,
    ) -> io.NodeOutput:
        with naming(TITLE, "model"):
            coordinates = coordinates_of(model)
        samples = latent_in(model, latent["samples"])
        with naming(TITLE, "latent"):
            check_latent(samples, model.model.latent_format.latent_channels)
        check_prompts(TITLE, model, len(samples), source=source, null_prompt=null_prompt)
        samples = samples.float()
        sigmas, schedule = (grid_to_walk(model, steps, schedule, depth), schedule) if sigmas is None else (sigmas.float().cpu(), "sigmas")
        with naming(TITLE, "sigmas" if schedule == "sigmas" else "steps"):
            check_grid(sigmas, float(sigma_table(model)[-1]))
        steps, dtype = len(sigmas) - 1, PRECISIONS[precision]
        path = {"source": source} if null_prompt is None else {"null_prompt": null_prompt}
        check_whole_way(TITLE, model, sigmas[:-1], tuple(samples.shape), **path)

        words, recorder, record = words_of(source), None, None
        kept = dtype.itemsize * (steps + 1) * samples.numel() + (4 * samples.numel() if dtype != torch.float32 else 0)
        if words is not None:
            recorder, record = (
                MapRecorder(words, recorded_sizes(*samples.shape[-2:]), len(samples), coordinates),
                CrossAttentionRecord(words, coordinates=coordinates),
            )
            cells = sum(rows * columns * (2 * steps + 4 * recorder.spreads_at((rows, columns))) for rows, columns in recorder.sizes)
            kept += len(samples) * len(words.columns) * cells
        refine = refine if method == REFINED else 0
        job = Job(model, samples.shape, steps * (1 + refine), kept, in_memory=storage == MEMORY)
        with naming(TITLE, "latent"):
            job.check()
        room = Storage(Path(folder_paths.get_temp_directory()) if storage == FILE else None)
        with naming(TITLE, "storage"):
            latents = room.empty((steps + 1, *samples.shape), dtype)
        exact_clip = None if dtype == torch.float32 else torch.empty_like(samples, dtype=torch.float32, device="cpu")
        rising, residuals = sigmas.flip(0), list[float]()

        def keep(level: int, x: torch.Tensor) -> None:
            latents[level].copy_(x)
            if level == 0 and exact_clip is not None:
                exact_clip.copy_(x)
            if recorder is not None and record is not None:
                if found := recorder.finish():
                    record.add(found, steps, room.empty)
                if level < steps:
                    recorder.begin(float(rising[level + 1]))

        conds: set = set()

        def function(model, x, sigmas, extra_args, callback, disable):
            if words is not None:
                conds.update(positive_conds(model, words))
            with naming(TITLE, "model"):
                return invert_ddim(
                    model, x, sigmas, extra_args, callback, disable,
                    coordinates=coordinates, keep=keep, refine=None if method == DDIM_METHOD else refine, tolerance=tolerance, residuals=residuals,
                )  # fmt: skip

        watch = job.watch(cls.hidden.unique_id if cls.hidden else None)
        patched = watch.on(record_cross_attention(in_frame_batches(model), recorder, conds))
        if null_prompt is None:
            run_sampler(patched, function, sigmas, source, source, 1.0, latent["samples"])
        else:  # guidance of 0 follows the negative prompt alone, and the positive one is still asked, which the recorder watches
            run_sampler(patched, function, sigmas, source, null_prompt, 0.0, latent["samples"])
        if words is not None and words.columns and record is not None and len(record.levels) < steps:
            unheard, why = why_unheard(model, source, words, sigmas[:-1])
            watch.warn(
                f"words were recorded at {len(record.levels)} of {steps} levels", why if len(record.levels) == steps - unheard else ""
            )
        watch.done(f"every step leads back to within {max(residuals):.0e} of a latent's size" if method == REFINED else "")
        path_words = words if null_prompt is None else words_of(null_prompt)
        origin = Origin(
            weights_sample(model),
            patches_of(model),
            path_words.text if path_words else None,
            schedule,
            method,
            refine,
            tolerance,
            tuple(residuals),
        )
        if record is not None and not record.levels:
            record = None  # no layer has the resolutions that are kept, so no mask could be drawn
        return io.NodeOutput(Trajectory(rising, latents, record, coordinates, exact_clip, origin, family_of(model).grid))


def grid_to_walk(model, steps: int, schedule: str, depth: float) -> torch.Tensor:
    """Sigmas by a schedule's name, of which the lower `steps` reach up to the share `depth`, as core's denoise counts it."""
    whole = steps if depth == 1 else int(steps / depth)
    if schedule != DDIM:
        sigmas = core_sigmas(model, schedule, whole)
    else:
        with naming(TITLE, "steps" if depth == 1 else "depth"):
            sigmas = ddim_sigmas(sigma_table(model), whole)
    return sigmas if depth == 1 else sigmas[-(steps + 1) :]
