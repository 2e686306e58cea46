"""What is said of the rows that benchmarks.quality.peers measures: keys `peers.*` of quality.json, the tables of peers.md, the plot, the claims."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.clips import UNSEEN_COLOUR_EDITS, UNSEEN_SHAPE_EDITS
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.editing_report import difference
from benchmarks.quality.peers import COMPOSITE, FLOOR, REMOVED, ROWS, WHOLE, measure
from benchmarks.quality.tuning import known
from benchmarks.report import interval, machine, merge

EDITS = 16  # of each kind
FIGURES = (
    "background_psnr_db",
    "background_psnr_db_five_convention",
    "background_ssim",
    "background_ssim_five_convention",
    "border_psnr_vs_perfect_db",
    "success",
    "leak",
    "warp_error",
    "colour_flicker",
    "outline_flicker",
)
MASKED = (WHOLE, "fixed_mask", "blended_latent_diffusion", "fatezero", "differential_diffusion")
TITLES = {
    WHOLE: "**BLADE, set as its graphs**",
    COMPOSITE: "BLADE, with Pixel Composite",
    **{name: f"BLADE with {title}" for name, (title, _) in REMOVED.items()},
    **{name: f"{baseline.title} ({baseline.knob} {baseline.chosen:g})" for name, baseline in BASELINES.items()},
    FLOOR: "VAE round trip of the clip",
}
CLAIMS = {  # row without the part -> (figures that the part is for, whether more is better)
    "random_noise": {"background_psnr_db": True, "border_psnr_vs_perfect_db": True, "warp_error": False, "success": True},
    "fixed_mask": {"mask_iou": True, "background_psnr_db": True, "border_psnr_vs_perfect_db": True, "success": True},
    "plain_attention": {"warp_error": False, "colour_flicker": False, "outline_flicker": False, "success": True},
}


def summary(rows: dict[str, list[dict]]) -> dict[str, Any]:
    """Means with their 95 % intervals over the edits by figure and row, success by kind too; and, edit by edit, the whole method less each other row.

    rows: kind -> one {row: figures} an edit"""
    every = [row for listed in rows.values() for row in listed]

    def column(name: str, figure: str, chosen: list[dict] = every) -> np.ndarray:
        return np.array([row[name][figure] for row in chosen], np.float64)

    found: dict[str, Any] = {"edits": {kind: len(listed) for kind, listed in rows.items()}}
    for figure in FIGURES:
        found[figure] = {name: interval(column(name, figure)) for name in ROWS}
    found["mask_iou"] = {name: interval(column(name, "mask_iou")) for name in MASKED}
    found["success_by_kind"] = {
        name: {kind: float(column(name, "success", listed).mean()) for kind, listed in rows.items()} for name in ROWS
    }
    found["success_of_stock_sampling"] = {kind: float(column("stock_sampling", "right", listed).mean()) for kind, listed in rows.items()}
    found["whole_less"] = {
        name: {figure: difference(column(WHOLE, figure), column(name, figure)) for figure in FIGURES}
        | ({"mask_iou": difference(column(WHOLE, "mask_iou"), column(name, "mask_iou"))} if name in MASKED else {})
        for name in ROWS
        if name != WHOLE
    }
    found["knobs"] = {name: {"knob": baseline.knob, "value": baseline.chosen} for name, baseline in BASELINES.items()}
    found["claims"] = {name: {figure: verdict(found["whole_less"][name][figure], more) for figure, more in figures.items()}
                       for name, figures in CLAIMS.items()}  # fmt: skip
    return found


def verdict(gap: dict[str, float], more: bool) -> str:
    """ "better", "worse" or, where the interval holds 0, "no difference". gap: the whole method less the row; more: whether more is better."""
    if gap["low"] <= 0 <= gap["high"]:
        return "no difference"
    return "better" if (gap["mean"] > 0) == more else "worse"


SHOWN = {  # figure -> (head, factor, format)
    "background_psnr_db": ("background, dB", 1, ".1f"),
    "background_psnr_db_five_convention": ("FiVE's convention", 1, ".1f"),
    "background_ssim": ("SSIM", 1, ".3f"),
    "background_ssim_five_convention": ("FiVE's convention", 1, ".3f"),
    "border_psnr_vs_perfect_db": ("border, dB", 1, ".1f"),
    "mask_iou": ("mask IoU", 1, ".2f"),
    "success": ("right, %", 100, ".0f"),
    "leak": ("leak, %", 100, ".2f"),
    "warp_error": ("warp error, e-3", 1e3, ".1f"),
    "colour_flicker": ("colour flicker, e-5", 1e5, ".0f"),
    "outline_flicker": ("outline flicker", 1, ".3f"),
}


OUTSIDE = (*FIGURES[:5], "leak")
INSIDE = ("success", "mask_iou", "warp_error", "colour_flicker", "outline_flicker")


def table(found: dict[str, Any], figures: tuple[str, ...]) -> str:
    """Markdown: one line a row, each figure with half its 95 % interval; success by kind too, if it is among them."""
    by_kind = "success" in figures
    heads = ["edits by", *(SHOWN[figure][0] for figure in figures), *(["colour / shape, %"] if by_kind else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title in TITLES.items():
        if name == FLOOR and by_kind:
            continue  # nothing is edited there
        cells = []
        for figure in figures:
            _, factor, form = SHOWN[figure]
            one = found[figure].get(name)
            if one is None or (name == FLOOR and figure in ("leak", "border_psnr_vs_perfect_db")):
                cells.append("")
            else:
                cells.append(f"{one['mean'] * factor:{form}} ± {(one['high'] - one['low']) / 2 * factor:{form}}")
        if by_kind:
            cells.append(" / ".join(f"{100 * share:.0f}" for share in found["success_by_kind"][name].values()))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    if by_kind:
        stock = " / ".join(f"{100 * share:.0f}" for share in found["success_of_stock_sampling"].values())
        lines.append(f"| stock sampling from noise, wherever the thing is | {'| ' * len(figures)}{stock} |")
    return "\n".join(lines) + "\n"


def claims_table(found: dict[str, Any]) -> str:
    """Markdown: what each part of the paper brings, edit by edit."""
    lines = ["| the paper's part | held against | figure | whole method less that, 95 % interval | |", "|---" * 5 + "|"]
    for name, figures in CLAIMS.items():
        title, claim = REMOVED[name]
        for figure in figures:
            head, factor, form = SHOWN[figure]
            gap = {what: value * factor for what, value in found["whole_less"][name][figure].items()}
            form = f"+{form}" if form != ".0f" else "+.1f"
            lines.append(
                f"| {claim} | {title} | {head} | {gap['mean']:{form}} ({gap['low']:{form}} to {gap['high']:{form}}) | {found['claims'][name][figure]} |"
            )
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], tuning: dict[str, Any], target: Path) -> None:
    """Background against success: the rows with their intervals, and as thin lines the knobs of the others on the development clips."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    for name in ROWS:
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
        if name in tuning:
            curve = list(tuning[name]["curve"].values())
            axes.plot([100 * point["success"] for point in curve], [point["background_psnr_db"] for point in curve],
                      color=points[0].get_color(), linewidth=0.8, alpha=0.6)  # fmt: skip
    floor = found["background_psnr_db"][FLOOR]["mean"]
    axes.axhline(floor, color="black", linestyle="--", linewidth=0.8, label=TITLES[FLOOR])
    axes.set(xlabel="edits right, % of frames", ylabel="background kept, PSNR in dB (true masked mean)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    canvas.draw()
    cv2.imwrite(str(target), np.asarray(canvas.buffer_rgba())[..., 2::-1])


def run_peers(checkpoint: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goals are met."""
    own = out / "quick" if quick else out
    own.mkdir(parents=True, exist_ok=True)
    most = 2 if quick else EDITS
    edits = {"colour": UNSEEN_COLOUR_EDITS[:most], "shape": UNSEEN_SHAPE_EDITS[:most]}
    found = summary(measure(checkpoint, edits, own))
    found["seeds"] = {kind: [edit.clip.seed for edit in listed] for kind, listed in edits.items()}
    found["machine"] = machine(Path(os.environ["COMFYUI_PATH"]))
    merge(out / "quality.json", {"peers_quick" if quick else "peers": found})
    text = f"{table(found, OUTSIDE)}\n{table(found, INSIDE)}\n{claims_table(found)}"
    (own / "peers.md").write_text(text, encoding="utf-8")
    draw(found, known(out), own / "peers.png")
    print(text)
    reached = True
    for name, figures in found["claims"].items():
        shown = "better" in figures.values()
        reached &= shown
        print(f"{'met   ' if shown else 'MISSED'} {REMOVED[name][1]}: better than {REMOVED[name][0]} in one figure at least")
    return reached
