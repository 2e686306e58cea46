"""How still an edited object holds, with each kind of temporal attention, against exact ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.clips import COLOUR_EDITS, SHAPE_EDITS, Edit
from benchmarks.quality.bench import FRAMES, Bench, Made, Variant, Way, objects
from benchmarks.quality.editing import STEADY, make
from benchmarks.quality.part import Columns, Figures, Part, Rows, figure_table, strip
from benchmarks.report import Goals, interval

EDITS = {"colour": COLOUR_EDITS[:8], "shape": SHAPE_EDITS[:8]}
KEYS = {
    "plain": ("self",),
    "first": ("first",),
    "first_previous": ("first", "previous"),
    "self_first_previous": ("self", "first", "previous"),
    "self_middle": ("self", "middle"),
    "all": ("all",),
}
FROM_NOISE = ("plain", "first_previous", "default")  # also made with an object that starts from noise instead of its own inverted latents


def copied(bench: Bench, edit: Edit, before: dict[str, Made]) -> Made:
    """The first frame of a perfect edit as a still."""
    return Made(np.repeat(before["perfect_edit"].frames[:1], FRAMES, 0))


NONE = {"consensus": 0.0}
VARIANTS = {name: Variant(keys=keys, inputs=NONE) for name, keys in KEYS.items()}
VARIANTS |= {"plain_with_consensus": Variant(keys=("self",)), "default": Variant()}  # what the nodes do when nothing is turned
NAMES = (*VARIANTS, *(f"{name}_from_noise" for name in FROM_NOISE), "vae_floor", "copied")


def ways(edit: Edit) -> dict[str, Way]:
    """By the name under which their figures stand."""
    noised = {f"{name}_from_noise": replace(VARIANTS[name], background=with_noise(object_cells(edit))) for name in FROM_NOISE}
    return {**VARIANTS, **noised, "vae_floor": lambda bench, edit, before: before["perfect_edit"], "copied": copied}


def object_cells(edit: Edit) -> torch.Tensor:
    """The latent cells that the old or the new object touches. [frames, 1, h, w] of 0 and 1"""
    return (torch.nn.functional.max_pool2d(torch.from_numpy(objects(edit))[:, None], 8) > 0.02).float()


def with_noise(cells: torch.Tensor) -> Callable[[Any, int], Any]:
    """Makes the highest level of a trajectory noise where the object is: only the edit inside the mask starts from there."""

    def noised(trajectory: Any, seed: int) -> Any:
        latents, sigma = trajectory.latents.clone(), float(trajectory.sigmas[-1])
        noise = torch.randn(latents[-1].shape, generator=torch.Generator().manual_seed(5))
        latents[-1] = torch.lerp(latents[-1], noise * sigma, cells)
        return replace(trajectory, latents=latents)

    return noised


def measure(bench: Bench, edit: Edit) -> tuple[Figures, np.ndarray]:
    """The picture is the paper's comparison with and without temporal attention: a column for each variant."""
    rows, made = make(bench, edit, ways(edit))
    shown = {name: made[name].frames for name in ("source", "plain", "first_previous", "all", "plain_with_consensus", "default")}
    return rows, strip(shown, [0, 1, 3, 4, 6, 7], 144, edit.target_words)


def summary(rows: Rows) -> dict[str, Any]:
    """{figure: {variant: mean}}, means over the edits of both kinds, success apart for each; and by how much `default` is below `plain`,
    over all edits and over those that both make right in at least three quarters of the frames, with 95 % intervals (bootstrap over edits)."""
    found: dict[str, Any] = {figure: rows.means(NAMES, figure) for figure in STEADY}
    found["success"] = {name: rows.by_kind(name, "success") for name in NAMES}
    found["background_psnr_db"] = rows.means(NAMES, "vs_vae_db")
    for suffix in ("", "_from_noise"):
        plain, default = "plain" + suffix, "default" + suffix
        both = (rows.column(plain, "success") >= 0.75) & (rows.column(default, "success") >= 0.75)
        for label, chosen in (("all_edits", np.ones_like(both)), ("edits_right_in_both", both)):
            found[f"reduction{suffix}.{label}"] = {"edits": int(chosen.sum())} | {
                figure: reduction(rows.column(plain, figure)[chosen], rows.column(default, figure)[chosen])
                for figure in STEADY
                if chosen.any()
            }
    return found


def reduction(plain: np.ndarray, default: np.ndarray) -> dict[str, float]:
    """How much lower the mean is, as a share, with its 95 % interval."""
    found = interval(plain, default, of=lambda before, after: 1 - after / before)
    return {"share": found["mean"], "low": found["low"], "high": found["high"]}


COLUMNS: Columns = {
    **STEADY,
    "colour": ("right colour", 1, "{:.0%}"),
    "shape": ("right shape", 1, "{:.0%}"),
    "background_psnr_db": ("background, dB", 1, "{:.1f}"),
}


def tables(found: dict[str, Any]) -> list[str]:
    """A line a variant."""
    rows = [([name.replace("_", " ")], {figure: found[figure][name] for figure in COLUMNS if figure in found} | right)
            for name, right in found["success"].items()]  # fmt: skip
    return [figure_table(["keys and values from"], COLUMNS, rows)]


def goals(found: dict[str, Any]) -> Goals:
    lower, warp = found["reduction.all_edits"], found["warp_error"]
    return {
        **{f"{figure} of plain less default ({lower[figure]['low']:.0%} to {lower[figure]['high']:.0%})": (lower[figure]["share"], "at least", 0.3)
           for figure in STEADY},
        "warp error of a copied object that does not move, in the default's": (warp["copied"] / warp["default"], "at least", 1.01),
    }  # fmt: skip


QUICK = {kind: listed[:2] for kind, listed in EDITS.items()}
PART = Part("temporal", EDITS, QUICK, measure, summary, tables, goals, ("default", "warp_error"))
