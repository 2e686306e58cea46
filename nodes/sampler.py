"""Blended Sampler: the edit inside the mask, the clip's own trajectory outside, at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy_api.latest import io

from ..attention.heat import WordsHeat, record_heat, spans
from ..attention.masks import MATTES, grow_mask, to_latent_mask
from ..attention.online import OnlineMask, widened
from ..attention.pictures import mask_strip
from ..attention.record import MapRecorder, recorded_sizes
from ..attention.words import Phrase, PromptWords, changed_columns
from ..blending.blend import CALLS_PER_STEP, check_solver, sample_blended
from ..blending.consensus import Consensus, object_places
from ..host.attention import record_cross_attention
from ..host.frames import in_frame_batches
from ..host.job import Job
from ..host.sampling import latent_out, percent_to_sigma, positive_uuids, run_sampler, solver_function
from ..host.words import words_of
from ..inversion.trajectory import Trajectory
from .common import CATEGORY, CELL, TrajectorySocket, check_model, clip_mask, naming

TITLE = "Blended Sampler (BLADE)"
PIXELS, CELLS = "pixels", "latent cells"
ALONE = "alone"


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
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=999,
                    tooltip="Sampling steps: as many as the trajectory has, or fewer, of its own levels.",
                ),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Classifier-free guidance of the edit."
                ),
                io.Combo.Input(
                    "sampler_name", options=list(CALLS_PER_STEP), default="euler", tooltip="Deterministic solvers; euler is DDIM."
                ),
                io.Float.Input(
                    "start",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How far up the trajectory to begin. 1 changes most; lower values stay closer to the clip and take fewer steps.",
                ),
                io.String.Input(
                    "source_words",
                    default="",
                    tooltip='Words of the source prompt whose place is edited, written as in Cross-Attention Mask: "red car, -road, wheels:0.5, car#2". '
                    "Empty: the words that change.",
                ),
                io.String.Input(
                    "target_words",
                    default="",
                    tooltip="Words of the target prompt that may widen the mask, written the same way. Empty: the words that change.",
                ),
                io.Int.Input("grow", default=0, min=-256, max=256, tooltip="Widens the mask by so many pixels; negative values shrink it."),
                io.Int.Input(
                    "widen",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Widens the mask by so many pixels more at the first step, falling to none at the last. For thin things, which hardly "
                    "cover a latent cell of 8x8 pixels: try 8.",
                ),
                io.Float.Input(
                    "consensus",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Holds the object still over time: how far each frame agrees with its neighbours, along the object's own motion. "
                    "0: every frame for itself, right for several objects that move apart. The motion is that of the words' place, or of your mask; "
                    "a mask that does not move gives no consensus.",
                ),
                io.Float.Input(
                    "consensus_until",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the way from noise to clip during which frames agree. Lower leaves more of its details to each frame.",
                ),
                io.Combo.Input(
                    "mask_size",
                    options=[PIXELS, CELLS],
                    default=PIXELS,
                    tooltip="Size of the mask that comes out: the clip's pixels, or the latent's cells (8x8 pixels each), which for clips of "
                    "thousands of frames saves 98 % of its memory.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=[ALONE, *MATTES],
                    default=ALONE,
                    tooltip="What a connected mask does. alone: it is the mask, and the words are not used. limit, add, subtract: the words draw the "
                    "mask, which stays inside it, is joined with it, or keeps out of it.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="A mask of your own, or Cross-Attention Mask's: one for the clip or one a frame."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited clip, for VAE Decode."),
                io.Mask.Output(display_name="mask", tooltip="The last step's mask, [frames, height, width]."),
                io.Image.Output(
                    display_name="mask_by_step",
                    tooltip="One picture: the mask that each step used, in latent cells, of the frame in the middle of the clip.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
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
        grow: int,
        widen: int = 0,
        consensus: float = 1.0,
        consensus_until: float = 0.8,
        mask_size: str = PIXELS,
        mask_mode: str = ALONE,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        with naming(TITLE, "sampler_name"):
            check_solver(sampler_name)
        warning = check_model(TITLE, model, trajectory)
        with naming(TITLE, "steps"):
            sigmas = trajectory.grid(steps)[-(max(1, round(steps * start)) + 1) :]
        latent_size = (trajectory.latents.shape[-2], trajectory.latents.shape[-1])
        height, width = (side * CELL for side in latent_size)

        conds: set = set()
        used_by_step: list[torch.Tensor] = []
        recorder = online = None
        if mask is not None:
            with naming(TITLE, "mask"):
                mask = clip_mask(mask, trajectory.frames, height, width)
        if mask is not None and mask_mode == ALONE:
            pixel_mask = grow_mask(mask, grow)
            mask_at = widening(pixel_mask, widen, len(sigmas) - 1, latent_size)
            # A mask that stands still says nothing of how the object in it moves.
            places = None if torch.equal(pixel_mask, pixel_mask[:1].expand_as(pixel_mask)) else object_places([pixel_mask])
        else:
            source, words, aim = words_to_edit(trajectory, target, source_words, target_words)
            recorder = MapRecorder(words, recorded_sizes(*latent_size), trajectory.frames)
            with naming(TITLE, "trajectory"):
                heat = record_heat(trajectory.record, source, height, width)
            online = OnlineMask(heat, recorder, WordsHeat(aim, height, width), sigmas, latent_size, grow, widen, mask, mask_mode)
            mask_at = online.at_step
            places = object_places(online.source_masks())
        agree = Consensus(places, consensus, percent_to_sigma(model, consensus_until)) if consensus and places is not None else None

        def used_mask(step: int) -> torch.Tensor:
            cells = mask_at(step)
            used_by_step.append(cells[len(cells) // 2, 0].clone())  # a view would keep the whole clip's cells of every step
            return cells

        def function(model, x, sigmas, extra_args, callback, disable):
            if recorder is not None:
                conds.update(positive_uuids(model, recorder.words))
            return sample_blended(
                model,
                trajectory.at(sigmas[0]).to(x, copy=True),  # a solver may write into its latent
                sigmas,
                extra_args,
                callback,
                disable,
                solver=solver_function(sampler_name),
                calls_per_step=CALLS_PER_STEP[sampler_name],
                background=lambda sigma: trajectory.at(sigma).to(x.device),
                mask=used_mask,
                agree=agree,
            )

        job = Job(model, trajectory.latents.shape[1:], CALLS_PER_STEP[sampler_name] * (len(sigmas) - 1), warning=warning)
        with naming(TITLE, "trajectory"):
            job.check()
        patched = job.watch(cls.hidden.unique_id if cls.hidden else None).on(
            record_cross_attention(in_frame_batches(model), recorder, conds)
        )
        samples = run_sampler(patched, function, sigmas, target, negative, cfg, latent_out(model, trajectory.clip))
        if online is None:
            used = to_latent_mask(pixel_mask, *latent_size)[:, 0] if mask_size == CELLS else pixel_mask
        elif mask_size == CELLS:
            used = online.cells[:, 0]
        else:
            used = torch.cat([online.pixels(span) for span in spans(trajectory.frames)])
        by_step = mask_strip(used_by_step, sigmas.tolist(), height, width)
        return io.NodeOutput({"samples": samples}, used, by_step)


def widening(mask: torch.Tensor, pixels: int, steps: int, latent_size: tuple[int, int]) -> Callable[[int], torch.Tensor]:
    """A fixed mask by step, on the latent grid."""
    if not pixels:
        cells = to_latent_mask(mask, *latent_size)
        return lambda step: cells
    return lambda step: to_latent_mask(grow_mask(mask, widened(pixels, step, steps)), *latent_size)


def words_to_edit(
    trajectory: Trajectory, target, source_words: str, target_words: str
) -> tuple[tuple[Phrase, ...], PromptWords, tuple[Phrase, ...]]:
    """The words that say where to edit: phrases of the source prompt; the target prompt's words, and phrases of those."""
    record, goal = trajectory.record, words_of(target)
    if record is None:
        raise ValueError(
            f"{TITLE}, input trajectory: no words were recorded with it, so no mask can draw itself. "
            "Make the source prompt of DDIM Invert with a Prompt (BLADE) node, or connect a mask."
        )
    if goal is None:
        raise ValueError(
            f"{TITLE}, input target: its words are not known, so no mask can draw itself. Make it with a Prompt (BLADE) node, or connect a mask."
        )
    if source_words.strip():
        with naming(TITLE, "source_words"):
            source = record.words.choose(source_words)
    if target_words.strip():
        with naming(TITLE, "target_words"):
            aim = goal.choose(target_words)
    if not source_words.strip() or not target_words.strip():
        with naming(TITLE, "target"):
            changed = [(Phrase("the words that change", columns),) if columns else () for columns in changed_columns(record.words, goal)]
        source = source if source_words.strip() else changed[0]
        aim = aim if target_words.strip() else changed[1]
    if not source:
        raise ValueError(
            f"{TITLE}, input source_words: the target prompt only adds words, so none of the source prompt says where to edit. "
            f"Name words of the source prompt {record.words.text!r}."
        )
    return source, goal, aim
