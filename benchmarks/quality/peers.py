"""The whole method against itself with a part removed, and against what others do with the same model, on clips that no setting was chosen on; every
row is the same model, frames, steps and guidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.clips import Edit
from benchmarks.quality.baselines import BASELINES, WHOLE
from benchmarks.quality.bench import FRAMES, Bench, Variant, Way, fixed_mask, kind_of, random_noise
from benchmarks.quality.editing import AS_GRAPHS, EDITS, VARIANTS, make, seeds
from benchmarks.quality.part import Columns, Figures, Part, Rows, figure_table, strip
from benchmarks.report import ROOT, Goals, interval, table
from metrics.chart import drawn, new_figure

SHOWN, TILE = 3, 150  # edits of each kind in the picture; pixels
REMOVED = {  # row -> (what it stands for, the claim of the paper that it is held against)
    "random_noise": ("random noise in the background", "1. background latents by DDIM inversion"),
    "fixed_mask": ("mask at a fixed 0.3 (prompt-to-prompt's rule)", "2. autonomous, noise-aware masks"),
    "plain_attention": ("plain self-attention, frames alone", "3. temporal-spatial attention"),
}
COMPOSITE, FLOOR = "composite", "vae_round_trip"
TITLES = {
    WHOLE: "**BLADE, set as its graphs**",
    COMPOSITE: "BLADE, with Pixel Composite",
    **{name: f"BLADE with {title}" for name, (title, _) in REMOVED.items()},
    **{name: f"{baseline.title} ({baseline.knob} {baseline.chosen:g})" for name, baseline in BASELINES.items()},
    FLOOR: "VAE round trip of the clip",
}
MASKED = (WHOLE, "fixed_mask", "blended_latent_diffusion", "fatezero", "differential_diffusion")
CLAIMS = {  # row without the part -> (figures that the part is for, whether more is better)
    "random_noise": {"background_psnr_db": True, "border_psnr_vs_perfect_db": True, "warp_error": False, "success": True},
    "fixed_mask": {"mask_iou": True, "background_psnr_db": True, "border_psnr_vs_perfect_db": True, "success": True},
    "plain_attention": {"warp_error": False, "colour_flicker": False, "outline_flicker": False, "success": True},
}
OUTSIDE: Columns = {
    "background_psnr_db": ("background, dB", 1, "{:.1f}"),
    "background_psnr_db_five_convention": ("FiVE's convention", 1, "{:.1f}"),
    "background_ssim": ("SSIM", 1, "{:.3f}"),
    "background_ssim_five_convention": ("FiVE's convention", 1, "{:.3f}"),
    "border_psnr_vs_perfect_db": ("border, dB", 1, "{:.1f}"),
    "leak": ("leak, %", 100, "{:.2f}"),
}
INSIDE: Columns = {
    "success": ("right, %", 100, "{:.0f}"),
    "mask_iou": ("mask IoU", 1, "{:.2f}"),
    "warp_error": ("warp error, e-3", 1e3, "{:.1f}"),
    "colour_flicker": ("colour flicker, e-5", 1e5, "{:.0f}"),
    "outline_flicker": ("outline flicker", 1, "{:.3f}"),
    "by_kind": ("colour / shape, %", 1, "{}"),
}
FIGURES = [figure for figure in OUTSIDE | INSIDE if figure not in ("mask_iou", "by_kind")]


def ways(kind: str) -> dict[str, Way]:
    """The whole method, set as the graph for a kind of edit, with each part removed in turn, and the others' ways."""
    inputs = VARIANTS[AS_GRAPHS[kind]].inputs
    return {
        "stock_sampling": Bench.stock_sampling,
        WHOLE: Variant(inputs=inputs),
        "random_noise": Variant(random_noise, inputs=inputs),
        "fixed_mask": Variant(mask=fixed_mask(0.3), inputs=inputs),
        "plain_attention": Variant(keys=("self",), inputs=inputs | {"consensus": 0.0}),
        **BASELINES,
        COMPOSITE: partial(Bench.pixel_composite, of=WHOLE),
    }


def measure(bench: Bench, edit: Edit) -> tuple[Figures, np.ndarray]:
    rows, made = make(bench, edit, ways(kind_of(edit)))
    shown = {name: made[name].frames for name in ("source", WHOLE, *REMOVED, *BASELINES)}
    return rows, strip(shown, [1, FRAMES - 2], TILE, edit.target_words)


def summary(rows: Rows) -> dict[str, Any]:
    """Means with their 95 % intervals over the edits by figure and row, success by kind too; and, edit by edit, the whole method less each other row."""
    others = {name: [*FIGURES, *(["mask_iou"] if name in MASKED else [])] for name in TITLES if name != WHOLE}
    whole_less = {name: {figure: rows.less(WHOLE, name, figure) for figure in judged} for name, judged in others.items()}
    return {
        "edits": rows.count,
        "seeds": seeds(rows),
        **{figure: {name: interval(rows.column(name, figure)) for name in TITLES} for figure in FIGURES},
        "mask_iou": {name: interval(rows.column(name, "mask_iou")) for name in MASKED},
        "success_by_kind": {name: rows.by_kind(name, "success") for name in TITLES},
        "success_of_stock_sampling": rows.by_kind("stock_sampling", "right"),
        "whole_less": whole_less,
        "knobs": {name: {"knob": baseline.knob, "value": baseline.chosen} for name, baseline in BASELINES.items()},
        "claims": {name: {figure: verdict(whole_less[name][figure], more) for figure, more in of.items()} for name, of in CLAIMS.items()},
    }


def verdict(gap: Mapping[str, float], more: bool) -> str:
    """ "better", "worse" or, where the interval holds 0, "no difference". gap: the whole method less the row; more: whether more is better."""
    if gap["low"] <= 0 <= gap["high"]:
        return "no difference"
    return "better" if (gap["mean"] > 0) == more else "worse"


def tables(found: dict[str, Any]) -> list[str]:
    """A line a row, each figure with half its 95 % interval: outside the object, inside it; and what each part of the paper brings, edit by edit."""
    outside, inside = [], []
    for name, title in TITLES.items():
        values = {figure: found[figure].get(name) for figure in (*FIGURES, "mask_iou")}
        if name == FLOOR:  # nothing is edited there
            outside.append(([title], {figure: value for figure, value in values.items() if figure.startswith("background")}))
        else:
            outside.append(([title], values))
            inside.append(([title], values | {"by_kind": shares(found["success_by_kind"][name])}))
    inside.append((["stock sampling from noise, wherever the thing is"], {"by_kind": shares(found["success_of_stock_sampling"])}))
    claims = []
    for name, judged in found["claims"].items():
        title, claim = REMOVED[name]
        for figure, answer in judged.items():
            head, scale, form = (OUTSIDE | INSIDE)[figure]
            form = "{:+.1f}" if form == "{:.0f}" else form.replace(":", ":+")
            mean, low, high = (form.format(found["whole_less"][name][figure][key] * scale) for key in ("mean", "low", "high"))
            claims.append([claim, title, head, f"{mean} ({low} to {high})", answer])
    heads = ["the paper's part", "held against", "figure", "whole method less that, 95 % interval", ""]
    return [figure_table(["edits by"], OUTSIDE, outside), figure_table(["edits by"], INSIDE, inside), table(heads, claims)]


def shares(by_kind: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * share:.0f}" for share in by_kind.values())


def goals(found: dict[str, Any]) -> Goals:
    return {f"figures in which {REMOVED[name][1]} are better than {REMOVED[name][0]}": (list(of.values()).count("better"), "at least", 1)
            for name, of in found["claims"].items()}  # fmt: skip


def plot(found: dict[str, Any], tuning: Mapping[str, Any]) -> np.ndarray:
    """Background against success: the rows with their intervals, and as thin lines the others' knobs. tuning: of quality.json. uint8 RGB"""
    figure = new_figure(1000, 600)
    axes = figure.add_subplot()
    for name in TITLES:
        if name in (FLOOR, COMPOSITE):
            continue
        right, kept = found["success"][name], found["background_psnr_db"][name]
        points = axes.errorbar(
            100 * right["mean"], kept["mean"],
            xerr=[[100 * (right["mean"] - right["low"])], [100 * (right["high"] - right["mean"])]],
            yerr=[[kept["mean"] - kept["low"]], [kept["high"] - kept["mean"]]],
            fmt="*" if name == WHOLE else "s" if name in REMOVED else "o", markersize=16 if name == WHOLE else 7, capsize=3,
            label=TITLES[name].replace("*", ""), zorder=3 if name == WHOLE else 2,
        )  # fmt: skip
        curve = list(tuning[name]["curve"].values()) if name in tuning else []
        axes.plot([100 * point["success"] for point in curve], [point["background_psnr_db"] for point in curve],
                  color=points[0].get_color(), linewidth=0.8, alpha=0.6)  # fmt: skip
    axes.axhline(found["background_psnr_db"][FLOOR]["mean"], color="black", linestyle="--", linewidth=0.8, label=TITLES[FLOOR])
    axes.set(xlabel="edits right, % of frames", ylabel="background kept, PSNR in dB (true masked mean)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn(figure)


def draw(found: dict[str, Any], strips: list[np.ndarray]) -> dict[str, np.ndarray]:
    published = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text(encoding="utf-8"))
    return {"peers.jpg": np.concatenate(strips), "peers.png": plot(found, published["tuning"])}


PEERS, QUICK = ({kind: listed[:count] for kind, listed in EDITS.items()} for count in (16, 2))
PART = Part("peers", PEERS, QUICK, measure, summary, tables, goals, (WHOLE, "background_psnr_db"), SHOWN, draw)
