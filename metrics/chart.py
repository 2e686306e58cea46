"""What the charts of several nodes share. matplotlib is asked for when one is drawn, not before, and its global state is never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKED = 64  # frames, up to which each has a dot


def new_figure(width: int, height: int) -> Figure:
    """An empty figure of so many pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: Figure) -> np.ndarray:
    """The figure as a picture. uint8 RGB [height, width, 3]"""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]  # an Agg canvas has it


def draw_frames(axes: Axes, series: Mapping[str, Sequence[float] | np.ndarray], first: int = 0) -> None:
    """Curves by frame number, counted from `first`, on axes that show whole frames; NaN leaves a gap."""
    from matplotlib.ticker import MaxNLocator

    for label, values in series.items():
        axes.plot(np.arange(first, first + len(values)), values, marker="o" if len(values) <= MARKED else None, label=label)
    axes.set(xlabel="frame")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def draw_psnr(axes: Axes, series: Mapping[str, Sequence[float] | np.ndarray]) -> None:
    """`draw_frames` for PSNR in dB: over 10 dB at least, since a tenth of a dB is no mountain."""
    draw_frames(axes, series)
    axes.set(ylabel="PSNR, dB")
    values = np.concatenate([np.asarray(one, float) for one in series.values()])
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        spread = max(high - low, 10) / 2 + 1
        axes.set_ylim((low + high) / 2 - spread, (low + high) / 2 + spread)
