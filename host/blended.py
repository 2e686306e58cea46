"""The blended sampler as a sampler function: it runs under any guider, and patches nothing but its own run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import comfy.patcher_extension
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..attention.record import MapRecorder
from ..blending.blend import foreground_start, sample_blended
from ..blending.layers import Layers
from ..inversion.trajectory import Trajectory
from .attention import DIFFUSION_MODEL, confining, recording
from .conditioning import check_asked
from .families import family_of
from .frames import frame_batches
from .layers import CONFINE, FRAMES, STRUCTURE, WATCH, Cond, Size
from .sampling import conds_where, solver_function
from .structure import asking_the_source, source_conds
from .words import KEY as WORDS

EDIT = "blade_edit"  # in a cond's dict: which edit's target prompt it is
CALC_COND_BATCH = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
SHOWN = 9  # frames of a preview


@dataclass(frozen=True)
class PromptedEdit:
    """What an edit needs of the model. tag: what its target prompt's conds are marked with (`tagged`). recorder: collects the target words' maps,
    if they may widen the mask. structure: the lowest sigma at which the clip's own structure is kept; confine: the lowest at which its target prompt
    speaks inside its mask only; infinite for never."""

    tag: str
    recorder: MapRecorder | None = None
    structure: float = math.inf
    confine: float = math.inf


class HearingPlaces:
    """Where each edit's prompt is heard in the step under way, on the grids of the layers that ask."""

    def __init__(self) -> None:
        self.places: list[Tensor | None] = []
        self.known: dict[tuple, Tensor | None] = {}

    def hold(self, places: Sequence[Tensor | None]) -> None:
        """places: for each edit [frames or 1, 1, h, w], above 0 where it is seen; None: it is heard everywhere."""
        self.places, self.known = list(places), {}

    def heard(self, edit: int, clip: tuple[int, ...], size: Size) -> Tensor | None:
        """As `confining` asks: bool [frames, height * width] on the device of the places, or None where all cells hear."""
        place, asked = self.places[edit], (edit, clip, size)
        if place is not None and asked not in self.known:
            inside = (
                F.adaptive_max_pool2d(place[list(clip)] if len(place) > 1 else place.expand(len(clip), -1, -1, -1), size).flatten(1) > 0
            )
            self.known[asked] = None if inside.all() else inside
        return self.known.get(asked)


def tagged(conditioning: list, tag: str) -> list:
    """CONDITIONING that a sampler function can recognise."""
    return [[embedding, {**options, EDIT: tag}] for embedding, options in conditioning]


def with_wrapper(model_options: dict, kind: str, key: str, wrapper: Callable, first: bool = False) -> dict:
    """A run's model_options with a wrapper more, innermost or, as `first`, outermost. The given ones are not changed."""
    inside = model_options.get("transformer_options", {})
    wrappers = inside.get("wrappers", {})
    own, others = {key: [wrapper]}, {name: listed for name, listed in wrappers.get(kind, {}).items() if name != key}
    wrappers = {**wrappers, kind: {**own, **others} if first else {**others, **own}}
    return {**model_options, "transformer_options": {**inside, "wrappers": wrappers}}


def blended_function(
    trajectory: Trajectory,
    layers: Layers,
    edits: Sequence[PromptedEdit],
    solver: str,
    seed: int,
    source: list | None = None,
    watch: Callable[[int, dict[str, bool]], None] | None = None,
) -> Callable[..., Tensor]:
    """A sampler function with the arguments of every k-diffusion sampler; what it is given as x counts by its device only, since the
    edit begins on the trajectory.

    edits: as many as layers. source: the source prompt's CONDITIONING, where structure is kept. watch: is told how many frames have passed.
    Raises ValueError where the model gives values that are not finite."""

    def function(model, x, sigmas, extra_args, callback, disable):
        prompts = prompts_of(model, edits)
        options, network = extra_args["model_options"], model.inner_model.inner_model.diffusion_model
        family = family_of(model.inner_model.model_patcher)
        places, levels = HearingPlaces(), sigmas.tolist()
        if FRAMES not in options["transformer_options"].get("wrappers", {}).get(CALC_COND_BATCH, {}):
            options = with_wrapper(options, CALC_COND_BATCH, FRAMES, frame_batches(family), first=True)
        for number, (edit, conds) in enumerate(zip(edits, prompts, strict=True)):
            if edit.recorder is not None:
                known = {name for cond, name in conds if cond.get(WORDS) == edit.recorder.words}
                shown = family.attention_wrapper(network, **recording(edit.recorder, known))
                options = with_wrapper(options, DIFFUSION_MODEL, f"blade_record_{number}", shown)
            if edit.confine < math.inf:
                confined = family.attention_wrapper(
                    network, cross_attention=confining(partial(places.heard, number), {name for _, name in conds})
                )
                options = with_wrapper(options, DIFFUSION_MODEL, f"{CONFINE}_{number}", confined)

        def behind(sigma: Tensor) -> Tensor:
            return trajectory.at(sigma).to(x)

        if source is not None and any(edit.structure < math.inf for edit in edits):
            calc, handlers = asking_the_source(
                source_conds(model, family, source, x), behind, lambda sigma: kept_structure(layers, edits, sigma)
            )
            options = with_wrapper(options, CALC_COND_BATCH, STRUCTURE, calc)
            options = with_wrapper(options, DIFFUSION_MODEL, STRUCTURE, family.attention_wrapper(network, **handlers))
        if watch is not None:
            options = {**options, "transformer_options": {**options["transformer_options"], WATCH: watch}}
        own_masks = [[cond.get("mask") for cond, _ in conds] for conds in prompts]

        def mask_of(step: int) -> Tensor:
            found = layers.at_step(step)
            places.hold([place.to(x) if levels[step] >= edit.confine else None for place, edit in zip(layers.places(), edits, strict=True)])
            if len(edits) > 1:
                speak_in(prompts, own_masks, layers.prompt_shares(), x)
            return found

        first, level = mask_of(0), sigmas[0]
        renoised = layers.renoised().to(x)
        start = behind(level)
        if renoised.any():
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
            start = foreground_start(start, behind(torch.zeros_like(level)), level, noise, renoised, trajectory.coordinates)
        return sample_blended(
            model,
            start,
            sigmas,
            {**extra_args, "model_options": options},
            callback and in_a_grid(callback, len(sigmas) - 1),
            disable,
            solver=solver_function(solver),
            background=behind,
            mask=lambda step: mask_of(step) if step else first,
            agree=layers.agree,
        )

    return function


def prompts_of(model, edits: Sequence[PromptedEdit]) -> list[list[tuple[dict, Cond]]]:
    """This run's conds of each edit's target prompt. `model` is what a sampler function is given.

    For a negative cond on an area core adds a positive one there, with the embedding of one that it finds: that is its prompt's too."""
    found = [conds_where(model, partial(is_of, edit.tag)) for edit in edits]
    own = [{id(cond["model_conds"].get("c_crossattn")) for cond, _ in conds} for conds in found]
    for cond, known in conds_where(model, lambda cond: EDIT not in cond):
        for conds, embeddings in zip(found, own, strict=True):
            if id(cond["model_conds"].get("c_crossattn")) in embeddings:
                conds.append((cond, known))
    return found


def is_of(tag: str, cond: dict) -> bool:
    """Whether a cond is of the target prompt that was marked so."""
    return cond.get(EDIT) == tag


def check_guider(model, x: Tensor, extra_args: dict, trajectory: Trajectory, edits: Sequence[PromptedEdit]) -> None:
    """Raises ValueError for what a guider and a latent of the artist's own may lack. Arguments as a sampler function gets them."""
    if x.shape != trajectory.clip.shape:
        raise ValueError(
            f"the latent to sample is {list(x.shape)}, but the trajectory's clip is {list(trajectory.clip.shape)}. "
            "Give SamplerCustomAdvanced the latent_image of this node."
        )
    if extra_args.get("denoise_mask") is not None:
        raise ValueError("the latent has a noise mask, which would paste over the blend. Give that mask to an Edit (BLADE) node instead.")
    for number, conds in enumerate(prompts_of(model, edits)):
        if not conds:
            raise ValueError(
                f"the guider lacks the target prompt of edit {number + 1} of {len(edits)}. Give the guider the positive output of this node."
            )
        levels = extra_args["model_options"]["transformer_options"]["sample_sigmas"][:-1]
        check_asked(model.inner_model.model_patcher, [(None, cond) for cond, _ in conds], levels)


def kept_structure(layers: Layers, edits: Sequence[PromptedEdit], sigma: float) -> Tensor | None:
    """Where the clip's own structure is kept at a level, [frames, 1, h, w]; None where nowhere."""
    kept = [share for share, edit in zip(layers.shares, edits, strict=True) if sigma >= edit.structure]
    return sum(kept[1:], kept[0]) if kept else None


def speak_in(prompts: list, own_masks: list, shares: list[Tensor], x: Tensor) -> None:
    """Lets each edit's prompt speak where its mask is, by the masks that core gives regional prompts; a prompt's own mask stays in force."""
    for conds, masks, share in zip(prompts, own_masks, shares, strict=True):
        share = share[:, 0].to(x).expand(len(x), -1, -1)
        for (cond, _), own in zip(conds, masks, strict=True):
            if own is not None:  # core leaves out and repeats rows so, too
                own = own[: len(x)].to(x)
                own = own.repeat(len(x) // len(own), 1, 1)
            cond["mask"] = share if own is None else share * own


def in_a_grid(callback: Callable[[dict], None], steps: int) -> Callable[[dict], None]:
    """A callback whose preview shows frames of the whole clip, not the first alone. The last step's is the clip itself: core hands it on as the
    denoised output."""

    def shown(state: dict) -> None:
        callback(state if state["i"] == steps - 1 else {**state, "denoised": frame_grid(state["denoised"])})

    return shown


def frame_grid(latents: Tensor) -> Tensor:
    """Frames spread evenly over a clip, side by side in one latent of about one frame's size, since a previewer with a VAE of its own takes
    memory by size. [frames, channels, h, w] to [1, channels, about h, about w]"""
    count = min(len(latents), SHOWN)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shown = latents[torch.linspace(0, len(latents) - 1, count).round().long()]
    small = F.interpolate(shown, [max(1, side // columns) for side in shown.shape[-2:]], mode="area")
    grid = small.new_zeros(rows * columns, *small.shape[1:])
    grid[:count] = small
    return rearrange(grid, "(r c) d h w -> 1 d (r h) (c w)", r=rows)
