"""What is said of the edits that benchmarks.footage makes: means with their intervals, the table, the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.footage.edit import COMPOSITE, METHOD, VAE
from benchmarks.report import interval

ROWS = {
    VAE: "VAE round trip of the clip",
    METHOD: "the method: latent blend, set as its graph",
    COMPOSITE: "the method, pixel composite",
    "random_noise": "without its inverted background: random noise",
    "plain_attention": "plain self-attention, *consensus* 0",
}
COLUMNS = {  # figure -> head, and how it is written; those that were not measured are left out
    "background_psnr_db": ("background, dB", "{:.2f}"),
    "background_psnr_db_five_convention": ("FiVE's convention, dB", "{:.2f}"),
    "background_ssim": ("background, SSIM", "{:.4f}"),
    "background_ssim_five_convention": ("FiVE's convention, SSIM", "{:.4f}"),
    "background_lpips_five_convention": ("FiVE's convention, LPIPS", "{:.4f}"),
    "mask_iou": ("own mask, IoU", "{:.3f}"),
    "tem_con": ("Tem-Con", "{:.4f}"),
    "frame_acc": ("Frame-Acc", "{:.1%}"),
    "seconds": ("seconds", "{:.1f}"),
}
OPPOSED = ("random_noise", "plain_attention")
LEAST_BACK, MOST_LOST = (
    30.0,
    0.5,
)  # dB: below the first Reconstruction Check says that much of the clip is lost; what the latent blend may lose


def summary(edits: list[dict[str, dict[str, Any]]], kinds: list[str]) -> dict[str, Any]:
    """Means over the edits with their 95 % intervals, by figure and row, and for each kind of edit the means alone. edits: {row: figures} each"""

    def column(figure: str, row: str, kind: str = "") -> np.ndarray:
        return np.array([rows[row][figure] for rows, own in zip(edits, kinds, strict=True) if kind in ("", own)], np.float64)

    measured = {
        figure: [row for row in ROWS if figure in edits[0][row]] for figure in (*COLUMNS, "inversion_seconds", "lost_outside_own_mask_db")
    }
    means = {figure: {row: interval(column(figure, row)) for row in rows} for figure, rows in measured.items() if rows}
    return {
        "edits": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "means": means,
        "by_kind": {
            kind: {figure: {row: float(column(figure, row, kind).mean()) for row in rows} for figure, rows in means.items()}
            for kind in sorted(set(kinds))
        },
        "method_less": {
            other: {
                figure: interval(column(figure, METHOD) - column(figure, other))
                for figure, rows in means.items()
                if METHOD in rows and other in rows
            }
            for other in OPPOSED
        },
        "composite_pixels_changed_outside": int(column("changed", COMPOSITE).sum()),
        "composite_pixels_compared": int(column("compared", COMPOSITE).sum()),
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: one line a row, each figure with its interval where there are several edits."""
    columns = [figure for figure in COLUMNS if figure in found["means"]]
    several = sum(found["edits"].values()) > 1
    lines = [f"| | {' | '.join(COLUMNS[figure][0] for figure in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, title in ROWS.items():
        cells = []
        for figure in columns:
            told, value = COLUMNS[figure][1].format, found["means"][figure].get(row)
            spread = f" ({told(value['low'])} to {told(value['high'])})" if value and several else ""
            cells.append(told(value["mean"]) + spread if value else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def goals(found: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """What must hold on any checkpoint: figure -> (value, "at least" or "at most", bound)"""
    checks, lost = found["checks"], found["means"]["lost_outside_own_mask_db"][METHOD]["mean"]
    return {
        "the clip sampled straight back, PSNR of its latents, dB": (checks["reconstruction_psnr_db"], "at least", LEAST_BACK),
        "an empty mask gives the clip to the bit": (float(checks["empty_mask_is_the_clip"]), "at least", 1),
        "background outside the sampler's own mask, latent blend below the VAE round trip, dB": (lost, "at most", MOST_LOST),
        "pixels that Pixel Composite changed outside its mask": (found["composite_pixels_changed_outside"], "at most", 0),
    }
