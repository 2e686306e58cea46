"""The figures of an edit as a chart."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from .chart import draw_frames, draw_psnr, drawn, new_figure
from .edit import CHANGED_SHARE, FIVE, FLICKER, FLICKER_SOURCE, MASK_SHARE, PSNR, WARP, WARP_SOURCE, EditFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALONE, FIVES, EDITED, SOURCE = "its pixels alone", "FiVE's convention", "edited", "source"
COLOURS = {ALONE: "C0", FIVES: "0.6", EDITED: "C1", SOURCE: "0.6"}


def plot(figures: EditFigures) -> np.ndarray:
    """Above, the whole clip's figures in words, and by frame the background's PSNR and how much of it changed; below, the mask's size, and inside it
    warp error and colour flicker from frame to frame, beside the source's own. uint8 RGB [height, width, 3]"""
    figure = new_figure(1280, 640)
    (words, psnr, changed), (mask, warp, flicker) = figure.subplots(2, 3)
    series = {key: as_array(values) for key, values in {**figures.per_frame, **figures.per_step}.items()}
    draw_psnr(psnr, {FIVES: series[FIVE], ALONE: series[PSNR]})
    psnr.set(title="background against the source")
    low, high = psnr.get_ylim()
    psnr.set_ylim(low, high + 0.2 * (high - low))
    draw_frames(changed, {"": 100 * series[CHANGED_SHARE]})
    changed.set(title="background pixels that changed", ylabel="% of the background")
    draw_frames(mask, {"": 100 * series[MASK_SHARE]})
    mask.set(title="size of the mask", ylabel="% of the frame")
    for axes, edited, source, scale, title, unit in (
        (warp, WARP, WARP_SOURCE, 1e3, "warp error inside the mask", "mean squared difference, 1e-3"),
        (flicker, FLICKER, FLICKER_SOURCE, 1e5, "colour flicker inside the mask", "half mean squared change, 1e-5"),
    ):
        draw_frames(axes, {SOURCE: scale * series[source], EDITED: scale * series[edited]}, first=1)
        axes.set(title=title, ylabel=unit, xlabel="frame, compared with the one before")
    for axes in (changed, mask, warp, flicker):
        top = max(highest(axes), 0.1)
        axes.set_ylim(-0.05 * top, 1.35 * top)  # zero lies above the border, and a legend has room
    for axes in (psnr, warp, flicker):
        for line in axes.lines:
            line.set(color=COLOURS[str(line.get_label())])
        axes.legend(ncols=2, loc="upper center", fontsize="small")
    for axes in (psnr, changed, mask, warp, flicker):
        axes.set_xlim(-0.5, max(figures.frames, 2) - 0.5)
        if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            axes.text(0.5, 0.4, "nothing to judge", transform=axes.transAxes, ha="center")
            axes.set_yticks([])
    write(words, figures)
    height, width = figures.size
    frames = f"{figures.frames} frame{'s' * (figures.frames > 1)} of {width}x{height}"
    figure.suptitle(f"{frames}; the background is what lies more than {figures.margin} px outside the mask")
    return drawn(figure)


def as_array(values: list[float | None]) -> np.ndarray:
    """NaN where there is nothing to judge."""
    return np.array([np.nan if value is None else value for value in values], float)


def highest(axes: Axes) -> float:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


def write(axes: Axes, figures: EditFigures) -> None:
    """The whole clip's figures, and what could not be judged."""
    axes.axis("off")
    axes.set(title="the whole clip")
    rows = figures.rows()
    for place, (label, value) in enumerate(rows):
        axes.text(0, 0.95 - 0.11 * place, label, fontsize=10, va="top")
        axes.text(1, 0.95 - 0.11 * place, value, fontsize=10, va="top", ha="right", weight="bold")
    lines = [line for note in figures.notes() for line in textwrap.wrap(note, 62)]
    axes.text(0, 0.95 - 0.11 * len(rows), "\n".join(lines), fontsize=8, va="top")
