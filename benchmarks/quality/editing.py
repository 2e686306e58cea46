"""What an edit keeps outside its object and what it changes inside, against exact ground truth: the latent blend of this pack, and beside it the
backgrounds of blended latent diffusion and of FateZero."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.clips import UNSEEN_COLOUR_EDITS, UNSEEN_SHAPE_EDITS, Edit
from benchmarks.metrics.similarity import ssim_outside, ssim_outside_five
from benchmarks.metrics.temporal import colour_flicker, outline_flicker, warp_error
from benchmarks.quality.bench import FATEZERO, FRAMES, Bench, Made, Variant, Way, exact_mask, kind_of, objects, one_level_off, random_noise
from benchmarks.quality.part import Columns, Figures, Part, Rows, figure_table, strip
from benchmarks.report import Goals
from demo import pictures
from demo.check import COLOURS, border, colour_in, find_object, iou, label
from metrics.background import dilate, psnr_outside, psnr_outside_five

EDITS = {"colour": UNSEEN_COLOUR_EDITS, "shape": UNSEEN_SHAPE_EDITS}  # on which no setting was chosen
MARGINS = (8, 12, 16)  # pixels around the exact objects that are no background; the figures' own is the first, one latent cell
MARGIN = MARGINS[0]
BORDER = (2, 12)  # pixels outside the exact objects between which masks end: past the anti-aliased rim, within a cell's diagonal
SHOWN, TILE = 6, 176  # edits of each kind in the picture; pixels

CONFINED = {"confine": 0.3}  # as the graphs are set
VARIANTS = {
    "latent_blend": Variant(inputs=CONFINED),
    "latent_blend_exact_mask": Variant(mask=exact_mask, inputs=CONFINED),
    "random_noise_blend": Variant(random_noise, inputs=CONFINED),
    "one_level_off_blend": Variant(one_level_off, inputs=CONFINED | FATEZERO),
    "heard_everywhere": Variant(),
    "structure": Variant(inputs=CONFINED | {"structure": 0.5}),
    "fresh_noise": Variant(inputs=CONFINED | {"renoise": 1.0}),
}
COMPOSED = {"latent_blend": "latent_composite", "structure": "latent_composite_structure"}  # by Latent Composite
COMPOSED |= {"latent_blend_exact_mask": "latent_composite_exact_mask"}
WAYS: dict[str, Way] = {
    "stock_sampling": Bench.stock_sampling,
    **VARIANTS,
    **{name: partial(Bench.latent_composite, of=of) for of, name in COMPOSED.items()},
    "composite": partial(Bench.pixel_composite, of="latent_blend"),
}
AS_GRAPHS = {"colour": "structure", "shape": "latent_blend"}  # by kind of edit the variant that is set as that kind's graph in workflows/
GRAPHS, GRAPHS_COMPOSED = "as_graphs", "as_graphs_composed"
# Rows that take each kind of edit from a variant of its own: the graph's settings, and these with Latent Composite after them
BY_KIND = {GRAPHS: AS_GRAPHS, GRAPHS_COMPOSED: {kind: COMPOSED[name] for kind, name in AS_GRAPHS.items()}}
NAMES = (*[name for name in WAYS if name != "stock_sampling"], "vae_round_trip", "perfect_edit", "perfect_edit_blended", *BY_KIND)
STARTS = {"latent_blend": "inverted", "structure": "inverted, *structure* 0.5", "fresh_noise": "fresh noise (*renoise* 1)"}
OPPOSED = ("random_noise_blend", "one_level_off_blend")  # other backgrounds, to compare the inverted one with
AGAINST_VAE = dict(zip(("automatic", "exact_mask", "random_noise", "one_level_off"), VARIANTS, strict=False))  # as they are published
STEADY: Columns = {
    "warp_error": ("warp error", 1e3, "{:.2f}e-3"),
    "colour_flicker": ("colour flicker", 1e5, "{:.1f}e-5"),
    "outline_flicker": ("outline flicker", 1, "{:.3f}"),
}
COMPARED = ("background_psnr_db", "vs_vae_db", "border_psnr_vs_vae_db", "border_psnr_vs_perfect_db", "success", "leak", *STEADY)


def figures(edit: Edit, made: Mapping[str, Made], one: Made) -> dict[str, float]:
    """Of one edited clip; made: what Bench.judges gives. success: share of frames that have the colour where the object should be, or the shape; right:
    whose largest object has it, wherever it is."""
    source, reference, perfect = (made[name].frames for name in ("source", "vae_round_trip", "perfect_edit"))
    goal, flow, exact, edited = edit.clip.truth(FRAMES, edit.shape), edit.clip.flow(FRAMES), objects(edit), one.frames
    found = [find_object(frame) for frame in edited]
    outlines = np.stack([np.zeros(goal.shape[1:], bool) if one is None else one.mask for one in found])
    outside, band = dilate(exact, MARGIN), dilate(exact, BORDER[1]) & ~dilate(exact, BORDER[0])
    if kind_of(edit) == "colour":
        success = [colour_in(frame, mask) == edit.colour for frame, mask in zip(edited, goal, strict=True)]
        right = [one is not None and one.colour == edit.colour for one in found]
    else:
        success = right = [one is not None and one.shape == edit.shape for one in found]
    margins = {f"background_psnr_db_{margin}_px": psnr_outside(source, edited, dilate(exact, margin)).mean() for margin in MARGINS}
    measured = {
        "background_psnr_db": psnr_outside(source, edited, outside).mean(),
        "background_psnr_db_five_convention": psnr_outside_five(source, edited, outside).mean(),
        "background_ssim": ssim_outside(source, edited, outside).mean(),
        "background_ssim_five_convention": ssim_outside_five(source, edited, outside).mean(),
        "vs_vae_db": psnr_outside(reference, edited, outside).mean(),
        **margins,
        "border_psnr_vs_vae_db": psnr_outside(reference, edited, ~band).mean(),
        "border_psnr_vs_perfect_db": psnr_outside(perfect, edited, ~band).mean(),
        "leak": leak(reference, edited, ~outside, edit.colour),
        "success": np.mean(success),
        "right": np.mean(right),
        "warp_error": warp_error(edited, flow, goal).mean(),
        "colour_flicker": colour_flicker(edited, goal),
        "outline_flicker": outline_flicker(outlines, flow),
    }
    if one.mask is not None:
        measured["mask_iou"] = iou(one.mask.numpy(), edit.clip.truth(FRAMES)).mean()
    return {name: float(value) for name, value in measured.items()} | one.figures


def leak(reference: np.ndarray, edited: np.ndarray, background: np.ndarray, colour: str) -> float:
    """Share of the background's pixels that took a palette colour which they did not have. By demo.check's colours, for both clips against the
    ground that surrounds the unedited one.

    reference, edited: uint8 RGB [frames, height, width, 3]; background: bool [frames, height, width]"""
    index, took = list(COLOURS).index(colour), 0
    for before, after, inside in zip(reference, edited, background, strict=True):
        ground = border(before.astype(np.float32))
        had, has = (label(frame.astype(np.float32), ground) == index for frame in (before, after))
        took += int((has & ~had & inside).sum())
    return took / int(background.sum())


@torch.inference_mode()
def make(bench: Bench, edit: Edit, ways: Mapping[str, Way]) -> tuple[Figures, dict[str, Made]]:
    """An edit made in all these ways, which may use what was made before, and its figures; also of what it is judged by."""
    made, rows = bench.judges(edit), Figures()
    for name, way in ways.items():
        begin = time.monotonic()
        made[name] = way(bench, edit, dict(made))
        rows[name] = {"seconds": time.monotonic() - begin}
    return {name: figures(edit, made, one) | rows.get(name, {}) for name, one in made.items()}, made


PANELS = ("source", "mask", *list(VARIANTS)[:4], "latent_composite", "composite")


def measure(bench: Bench, edit: Edit) -> tuple[Figures, np.ndarray]:
    rows, made = make(bench, edit, WAYS)
    rows |= {name: rows[of[kind_of(edit)]] for name, of in BY_KIND.items()}
    mask = made["latent_blend"].mask
    assert mask is not None
    made["mask"] = Made(pictures.outline_mask(made["source"].frames, mask.numpy()))
    return rows, strip({name: made[name].frames for name in PANELS}, [FRAMES // 2], TILE, edit.target_prompt)


def seeds(rows: Rows) -> dict[str, list[int]]:
    return {kind: [edit.clip.seed for edit in EDITS[kind][:count]] for kind, count in rows.count.items()}


def summary(rows: Rows) -> dict[str, Any]:
    """The keys of `edit`: means over the edits of both kinds, success apart for each."""
    stock, success = rows.by_kind("stock_sampling", "right"), {name: rows.by_kind(name, "success") for name in NAMES}
    averaged = ("background_psnr_db", "background_psnr_db_five_convention", "border_psnr_vs_vae_db", "border_psnr_vs_perfect_db", *STEADY)
    return {
        "edits": rows.count,
        "seeds": seeds(rows),
        **{figure: rows.means(NAMES, figure) for figure in averaged},
        "background_psnr_db_by_margin": {f"{margin} px": rows.means(NAMES, f"background_psnr_db_{margin}_px") for margin in MARGINS},
        "latent_blend_vs_vae_db": {label: rows.mean(name, "vs_vae_db") for label, name in AGAINST_VAE.items()},
        "start": {name: {figure: rows.by_kind(name, figure) for figure in COMPARED} for name in STARTS},
        "composite_pixels_changed_outside": int(rows.column("composite", "changed").sum()),
        "composite_pixels_compared": int(rows.column("composite", "compared").sum()),
        "success": success[GRAPHS],
        "success_of_stock_sampling": stock,
        "success_over_stock": {name: {kind: share / max(stock[kind], 1e-9) for kind, share in success[name].items()} for name in BY_KIND},
        "success_by_variant": success,
        "success_judged_as_stock": {name: rows.by_kind(name, "right") for name in NAMES},
        "leak": rows.mean(GRAPHS, "leak"),
        "leak_worst_edit": float(rows.column(GRAPHS, "leak").max()),
        "leak_by_variant": rows.means(NAMES, "leak"),
        "seconds": rows.means(VARIANTS, "seconds"),
        "inverted_less": {other: {figure: rows.less("latent_blend", other, figure) for figure in COMPARED} for other in OPPOSED},
    }


TITLES = {
    "vae_round_trip": "VAE round trip of the clip",
    "perfect_edit": "VAE round trip of the perfect edit",
    "perfect_edit_blended": "the perfect edit's latent, blended, exact mask",
    GRAPHS: "latent blend, set as its graph (colours: *structure* 0.5)",
    GRAPHS_COMPOSED: "the same with latent composite",
    "latent_blend": "latent blend",
    "latent_blend_exact_mask": "latent blend, exact mask",
    "heard_everywhere": "latent blend, the nodes' defaults (*confine* 0)",
    "random_noise_blend": "random noise (blended latent diffusion)",
    "one_level_off_blend": "one level off, to 80 % (FateZero)",
    "latent_composite": "latent blend, latent composite",
    "latent_composite_exact_mask": "latent blend, latent composite, exact mask",
    "composite": "latent blend, pixel composite",
}
COLUMNS: Columns = {
    "background_psnr_db": ("background, dB", 1, "{:.2f}"),
    "background_psnr_db_five_convention": ("FiVE's convention, dB", 1, "{:.2f}"),
    "border_psnr_vs_perfect_db": (f"border ({BORDER[0]} to {BORDER[1]} px), dB", 1, "{:.2f}"),
    "colour": ("right colour", 1, "{:.0%}"),
    "shape": ("right shape", 1, "{:.0%}"),
    "leak_by_variant": ("leak", 1, "{:.2%}"),
    **STEADY,
}
START_COLUMNS: Columns = {
    "success": ("right", 1, "{:.1%}"),
    "vs_vae_db": ("background against the VAE, dB", 1, "{:.1f}"),
    "border_psnr_vs_perfect_db": ("border, dB", 1, "{:.1f}"),
} | {figure: STEADY[figure] for figure in ("warp_error", "outline_flicker")}
UNEDITED = {"vae_round_trip": list(COLUMNS)[2:], "perfect_edit": ["border_psnr_vs_perfect_db"]}  # figures that say nothing there


def tables(found: dict[str, Any]) -> list[str]:
    """A line a variant; and how an edit of each kind does by what it begins from."""
    rows = []
    for name, title in TITLES.items():
        values = {figure: found[figure][name] for figure in COLUMNS if figure in found} | found["success_by_variant"][name]
        rows.append(([title], {figure: value for figure, value in values.items() if figure not in UNEDITED.get(name, ())}))
    rows.append((["stock sampling from noise"], found["success_of_stock_sampling"]))
    starts = [([title, kind], {figure: of[kind] for figure, of in found["start"][name].items()})
              for name, title in STARTS.items() for kind in found["edits"]]  # fmt: skip
    return [figure_table(["background of"], COLUMNS, rows), figure_table(["begins from", "edits of"], START_COLUMNS, starts)]


def goals(found: dict[str, Any]) -> Goals:
    background, success = found["background_psnr_db"], found["success_over_stock"]
    lost = {name: background["vae_round_trip"] - background[name] for name in NAMES}
    return {
        "background below the VAE round trip's, dB, exact mask": (lost["latent_blend_exact_mask"], "at most", 0.1),
        "the same with Latent Composite": (lost["latent_composite_exact_mask"], "at most", 0.1),
        "background below the VAE round trip's, dB, automatic mask": (lost[GRAPHS], "at most", 0.5),
        "that with Latent Composite": (lost[GRAPHS_COMPOSED], "at most", 0.5),
        "background against the round-tripped clip, dB, exact mask": (found["latent_blend_vs_vae_db"]["exact_mask"], "at least", 40.0),
        "pixels that the composite changed outside": (found["composite_pixels_changed_outside"], "at most", 0),
        "success of colour edits, of stock's": (success[GRAPHS]["colour"], "at least", 0.97),
        "success of shape edits, of stock's": (success[GRAPHS]["shape"], "at least", 0.90),
        "success of colour edits with Latent Composite, of stock's": (success[GRAPHS_COMPOSED]["colour"], "at least", 0.97),
        "success of shape edits with Latent Composite, of stock's": (success[GRAPHS_COMPOSED]["shape"], "at least", 0.90),
        "background pixels that took the target's colour": (found["leak"], "at most", 0.01),
    }


QUICK = {kind: listed[:2] for kind, listed in EDITS.items()}
PART = Part("edit", EDITS, QUICK, measure, summary, tables, goals, ("latent_blend", "background_psnr_db"), SHOWN)
