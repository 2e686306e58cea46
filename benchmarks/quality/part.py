"""What the parts of the benchmark have in common: clips are measured one by one, what was measured is kept, and of all together something is said."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.pool import each
from benchmarks.quality.bench import Bench
from benchmarks.report import Goals, Kept, interval, judge, machine, merge, table
from demo import pictures
from demo.figures import sheet

Figures = dict[str, dict[str, float]]  # of one clip: variant -> figure -> value
Columns = dict[str, tuple[str, float, str]]  # figure -> head, scale and format


class Rows:
    """The figures of all clips. clips: "kind/number" -> variant -> figure -> value"""

    def __init__(self, clips: Mapping[str, Figures]):
        self.clips, kinds = clips, [key.split("/")[0] for key in clips]
        self.count = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def column(self, name: str, figure: str, kind: str = "") -> np.ndarray:
        """A variant's figure of every clip, or of a kind's. float64 [clips]"""
        return np.array([rows[name][figure] for key, rows in self.clips.items() if kind in ("", key.split("/")[0])], np.float64)

    def mean(self, name: str, figure: str, kind: str = "") -> float:
        return float(self.column(name, figure, kind).mean())

    def means(self, names: Iterable[str], figure: str) -> dict[str, float]:
        return {name: self.mean(name, figure) for name in names}

    def less(self, name: str, other: str, figure: str) -> dict[str, float]:
        """What a variant has more than another, edit by edit, with its 95 % interval."""
        return interval(self.column(name, figure) - self.column(other, figure))

    def by_kind(self, name: str, figure: str) -> dict[str, float]:
        return {kind: self.mean(name, figure, kind) for kind in self.count}


def written(value: float | Mapping[str, float] | None, scale: float, form: str) -> str:
    """A figure as a table shows it, scaled and formatted; with half its interval, if it has one."""
    if isinstance(value, Mapping):
        return " ± ".join(form.format(one * scale) for one in (value["mean"], (value["high"] - value["low"]) / 2))
    return "" if value is None else form.format(value * scale)


def figure_table(heads: Sequence[str], columns: Columns, rows: Iterable[tuple[Sequence[str], Mapping[str, Any]]]) -> str:
    """A table in Markdown: cells under `heads`, then a column a figure. rows: the cells, and the values by figure"""
    lines = [
        [*cells, *(written(values.get(figure), scale, form) for figure, (_, scale, form) in columns.items())] for cells, values in rows
    ]
    return table([*heads, *(head for head, *_ in columns.values())], lines)


def strip(clips: Mapping[str, np.ndarray], moments: Sequence[int], side: int, caption: str) -> np.ndarray:
    """Panels of some frames of clips, `side` pixels high, side by side, a row a moment; the first over the clip's name and the caption. uint8 RGB"""
    height, width = next(iter(clips.values())).shape[1:3]
    size = round(side * width / height), side
    tiles = [cv2.resize(frames[moment], size, interpolation=cv2.INTER_CUBIC) for moment in moments for frames in clips.values()]
    return sheet(tiles, [[caption, name.replace("_", " ")] for name in clips] + [[]] * (len(tiles) - len(clips)), len(clips))


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: a key of quality.json, a table, and pictures; functions are a module's. clips: by kind. quick: of each, with --quick.
    measure(bench, clip): its figures, and a picture of it. summary: of all figures. tables, goals: of the summary. progress: variant and figure that
    are printed of each clip. shown: clips of each kind whose picture is kept. draw(summary, clips' pictures): pictures by file name; else the latter
    stand below one another."""

    name: str
    clips: Mapping[str, Sequence[Any]]
    quick: Mapping[str, Sequence[Any]]
    measure: Callable[[Any, Any], tuple[Figures, np.ndarray]]
    summary: Callable[[Rows], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[str]]
    goals: Callable[[dict[str, Any]], Goals]
    progress: tuple[str, str]
    shown: int = 1
    draw: Callable[[dict[str, Any], list[np.ndarray]], dict[str, np.ndarray]] | None = None
    bench: type[Bench] = Bench

    def run(self, checkpoint: Path, out: Path, quick: bool) -> bool:
        """Measures, writes and prints; whether the goals are met. What is measured of a clip is kept until the code or a checkpoint changes."""
        own = out / "quick" if quick else out
        own.mkdir(parents=True, exist_ok=True)
        kept, (name, figure) = Kept(own / f"{self.name}_rows.json"), self.progress
        tasks = [
            (self.measure, f"{kind}/{number}", clip,
             own / f"{self.name}_{kind}_{number}.png" if number < self.shown else None)
            for kind, listed in (self.quick if quick else self.clips).items() for number, clip in enumerate(listed)
        ]  # fmt: skip
        left = [task for task in tasks if task[1] not in kept.rows or (task[3] and not task[3].exists())]
        for (_, key, *_), (rows, seconds) in each(self.bench, checkpoint, measured, left):
            kept.rows[key] = rows
            kept.write()
            print(
                f"{self.name} {key} ({len(kept.rows)} of {len(tasks)}): {name}, {figure} {rows[name][figure]:.4g}, {seconds:.0f} s",
                flush=True,
            )
        found = self.summary(Rows({key: kept.rows[key] for _, key, *_ in tasks})) | {"machine": machine(Path(os.environ["COMFYUI_PATH"]))}
        merge(out / "quality.json", {f"{self.name}_quick" if quick else self.name: found})
        text, strips = "\n\n".join(self.tables(found)) + "\n", [pictures.load(task[3]) for task in tasks if task[3]]
        (own / f"{self.name}.md").write_text(text, encoding="utf-8")
        for file, picture in (self.draw(found, strips) if self.draw else {f"{self.name}.jpg": np.concatenate(strips)}).items():
            pictures.save(own / file, picture)
        print(text)
        return judge(self.goals(found))


def measured(bench: Bench, task: tuple[Callable[[Any, Any], tuple[Figures, np.ndarray]], str, Any, Path | None]) -> tuple[Figures, float]:
    """Figures of a clip, and the seconds that they took. task: the part's `measure`, the clip's key, the clip, and where its picture goes"""
    begin, (measure, _, clip, place) = time.monotonic(), task
    rows, picture = measure(bench, clip)
    if place:
        pictures.save(place, picture)
    return rows, time.monotonic() - begin
