"""Whether a run can begin: model, trajectory, prompts and edits are held against each other once, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..host.conditioning import check_asked, check_whole_picture
from ..host.families import coordinates_of
from ..host.fingerprint import difference, patches_of, same_weights, weights_difference, weights_sample
from ..host.sampling import check_prompt, percent_to_sigma, sigma_table
from ..inversion.file import check_form
from ..inversion.trajectory import Trajectory
from .common import naming

if TYPE_CHECKING:
    from .edit import Edit


def check_trajectory(node: str, trajectory: Trajectory) -> None:
    """Raises ValueError for a trajectory whose parts do not fit together, or whose file was changed. Reads none of its levels."""
    with naming(node, "trajectory"):
        trajectory.check_file()
        try:
            check_form(trajectory)
        except ValueError as error:
            raise ValueError(f"{error}. Invert the clip again.") from error


def check_prompts(node: str, model, frames: int, **prompts: list | None) -> None:
    """Raises ValueError for CONDITIONING, by its input's name, that this MODEL cannot read for so many frames. None is left out."""
    for name, conditioning in prompts.items():
        if conditioning is not None:
            with naming(node, name):
                check_prompt(model, conditioning, frames)


def check_whole_way(node: str, model, levels: torch.Tensor, shape: tuple[int, ...] | None = None, **prompts: list | None) -> None:
    """Raises ValueError, as check_asked does, for CONDITIONING, by its input's name, without a prompt at one of these sigmas or in a part of the
    picture. None is left out."""
    for name, conditioning in prompts.items():
        if conditioning is not None:
            with naming(node, name):
                check_asked(model, conditioning, levels, shape)


def check_model(node: str, model, trajectory: Trajectory) -> str:
    """Raises ValueError for a MODEL that cannot walk this trajectory back. Returns a warning where it is patched otherwise, or in another precision, or
    nothing."""
    check_trajectory(node, trajectory)
    with naming(node, "model"):
        coordinates, channels = coordinates_of(model), model.model.latent_format.latent_channels
    highest, reach, width = float(sigma_table(model)[-1]), float(trajectory.sigmas[-1]), trajectory.latents.shape[2]
    with naming(node, "trajectory"):
        if coordinates.prediction != trajectory.coordinates.prediction:  # those of a second copy of the pack are of another class
            raise ValueError(
                f"it was inverted by a model that predicts {trajectory.coordinates.prediction}, but the model here predicts {coordinates.prediction}. "
                "Use the model that inverted the clip."
            )
        if channels != width:
            raise ValueError(f"its latents have {width} channels, but the model takes {channels}. Use the model that inverted the clip.")
        if reach > highest * (1 + 1e-4):
            raise ValueError(
                f"it reaches up to sigma {reach:.4g}, but the model here knows noise up to {highest:.4g}. "
                "Give it the ModelSamplingDiscrete settings of the model that inverted the clip."
            )
        there, here = trajectory.origin.weights, weights_sample(model)
        if not same_weights(there, here):
            raise ValueError(
                "it was inverted by another checkpoint than the model here, whose path from noise to the clip is not the same. "
                "Load the checkpoint that inverted the clip, or invert again."
            )
    told = []
    if len(there) and (changed := difference(trajectory.origin.patches, patches_of(model))):
        told.append(f"Warning: the model is not patched as the one that inverted the clip ({changed}), so the edit may drift from it.")
    if changed := weights_difference(there, here):
        told.append(f"Warning: the model is not quite the one that inverted the clip ({changed}), so the edit may drift from it.")
    return "\n".join(told)


def check_run(
    title: str,
    model,
    trajectory: Trajectory,
    edits: Sequence[Edit],
    sigmas: torch.Tensor,
    window: tuple[float, float],
    source: list | None = None,
    negative: list | None = None,
) -> None:
    """Raises ValueError where these edits cannot be sampled on these sigmas, with whose node and input is to blame; for MODEL and trajectory
    check_model has been asked. window: shares of the steps between which masks hold. negative: left out where guidance does not ask for it."""
    check_prompts(title, model, trajectory.frames, source=source, negative=negative)
    check_structure(title, model, edits, source, sigmas)
    check_whole_way(title, model, sigmas[:-1], negative=negative)
    check_window(title, *window)
    for edit in edits:
        check_prompts(edit.title, model, trajectory.frames, target=edit.target)
        check_whole_way(edit.title, model, sigmas[:-1], target=edit.target)


def check_structure(title: str, model, edits: Sequence[Edit], source, sigmas: torch.Tensor) -> None:
    """Raises ValueError where structure is to be kept and no source prompt says what the clip shows, at each of these sigmas at which it is kept."""
    longest = max(edit.structure for edit in edits)
    if not longest:
        return
    with naming(title, "source"):
        if source is None:
            raise ValueError(
                f"structure is {longest}, which needs the source prompt. Connect the one that DDIM Invert has, or set structure to 0."
            )
        check_whole_picture(model, source, sigmas[:-1][sigmas[:-1] >= percent_to_sigma(model, longest)])


def check_window(title: str, begin: float, end: float) -> None:
    """Raises ValueError where masks would never hold."""
    if begin >= end:
        raise ValueError(f"{title}, input blend_from: it is {begin}, not before blend_until, which is {end}. Give a begin before the end.")
