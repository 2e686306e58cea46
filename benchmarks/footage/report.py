"""What is said of the edits that benchmarks.footage makes: means with their intervals, the table, the verdict."""

from __future__ import annotations

from typing import Any

from benchmarks.footage.edit import COMPOSITE, METHOD, VAE
from benchmarks.quality.part import Columns, Rows, figure_table
from benchmarks.report import Goals, interval

ROWS = {
    VAE: "VAE round trip of the clip",
    METHOD: "the method: latent blend, set as its graph",
    COMPOSITE: "the method, pixel composite",
    "random_noise": "without its inverted background: random noise",
    "plain_attention": "plain self-attention, *consensus* 0",
}
COLUMNS: Columns = {  # those that were not measured are left out
    "background_psnr_db": ("background, dB", 1, "{:.2f}"),
    "background_psnr_db_five_convention": ("FiVE's convention, dB", 1, "{:.2f}"),
    "background_ssim": ("background, SSIM", 1, "{:.4f}"),
    "background_ssim_five_convention": ("FiVE's convention, SSIM", 1, "{:.4f}"),
    "background_lpips_five_convention": ("FiVE's convention, LPIPS", 1, "{:.4f}"),
    "mask_iou": ("own mask, IoU", 1, "{:.3f}"),
    "tem_con": ("Tem-Con", 1, "{:.4f}"),
    "frame_acc": ("Frame-Acc", 1, "{:.1%}"),
    "seconds": ("seconds", 1, "{:.1f}"),
}
OPPOSED = ("random_noise", "plain_attention")


def summary(rows: Rows) -> dict[str, Any]:
    """Means over the edits with their 95 % intervals, by figure and row, and for each kind of edit the means alone."""
    first, kinds = next(iter(rows.clips.values())), sorted(rows.count)
    figures = (*COLUMNS, "inversion_seconds", "lost_outside_own_mask_db")
    measured = {figure: named for figure in figures if (named := [row for row in ROWS if figure in first[row]])}
    less = {other: {figure: rows.column(METHOD, figure) - rows.column(other, figure) for figure in first[other]} for other in OPPOSED}
    return {
        "edits": {kind: rows.count[kind] for kind in kinds},
        "means": {figure: {row: interval(rows.column(row, figure)) for row in named} for figure, named in measured.items()},
        "by_kind": {kind: {figure: {row: rows.mean(row, figure, kind) for row in named} for figure, named in measured.items()} for kind in kinds},
        "method_less": {other: {figure: interval(gaps) for figure, gaps in of.items()} for other, of in less.items()},
        "composite_pixels_changed_outside": int(rows.column(COMPOSITE, "changed").sum()),
        "composite_pixels_compared": int(rows.column(COMPOSITE, "compared").sum()),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown: one line a row, each figure with half its interval where there are several edits."""
    means, several = found["means"], sum(found["edits"].values()) > 1
    columns = {figure: column for figure, column in COLUMNS.items() if figure in means}
    lines = [([title], {figure: of[row] if several else of[row]["mean"] for figure, of in means.items() if row in of})
             for row, title in ROWS.items()]  # fmt: skip
    return figure_table([""], columns, lines) + "\n"


def goals(found: dict[str, Any]) -> Goals:
    """What must hold on any checkpoint: below the first bound Reconstruction Check says that much of the clip is lost."""
    checks, lost = found["checks"], found["means"]["lost_outside_own_mask_db"][METHOD]["mean"]
    return {
        "the clip sampled straight back, PSNR of its latents, dB": (checks["reconstruction_psnr_db"], "at least", 30.0),
        "an empty mask gives the clip to the bit": (float(checks["empty_mask_is_the_clip"]), "at least", 1),
        "background outside the sampler's own mask, latent blend below the VAE round trip, dB": (lost, "at most", 0.5),
        "pixels that Pixel Composite changed outside its mask": (found["composite_pixels_changed_outside"], "at most", 0),
    }
