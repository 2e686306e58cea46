"""Finds the best value of each baseline's main knob, on the development clips: keys `tuning.*` of quality.json.

    python -m benchmarks.quality.tuning [--out out/bench] [--checkpoint FILE] [--quick]

A knob's best value: of those whose success comes within 5 points of the best that any value reaches, the one that keeps the background best. So
each baseline is shown where it makes the edit, not where it leaves the clip as it was.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, DEVELOPMENT_SHAPE_EDITS, Edit
from benchmarks.pack import import_pack
from benchmarks.pool import each
from benchmarks.quality import editing
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.editing import AS_GRAPHS, VARIANTS, kind_of
from benchmarks.report import Kept, machine, merge
from demo.base import CHECKPOINT_NAME

ROOT = Path(__file__).resolve().parents[2]
NEAR = 0.05  # of success
CLIPS = 4  # of each kind
Curve = dict[str, dict[str, float]]  # value of the knob, as it is printed -> figures


def best(curve: Mapping[str, Mapping[str, float]]) -> float:
    """The value of a knob by the rule above. curve: value -> "success" and "background_psnr_db", means over the clips."""
    most = max(point["success"] for point in curve.values())
    near = [value for value, point in curve.items() if point["success"] >= most - NEAR - 1e-9]
    return float(max(near, key=lambda value: curve[value]["background_psnr_db"]))


def known(out: Path) -> dict[str, Any]:
    """The curves that were measured into `out`, or else the published ones."""
    for folder in (out, ROOT / "benchmarks" / "results"):
        file = folder / "quality.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if "tuning" in found:
            return found["tuning"]
    return {}


@torch.inference_mode()
def measured(bench: editing.Bench, task: tuple[str, Edit]) -> dict[str, dict[str, dict[str, float]]]:
    """By baseline and value of its knob, what the table needs of one edit."""
    _, edit = task
    clips = bench.judges(edit)
    _, own = bench.blend(edit, VARIANTS[AS_GRAPHS[kind_of(edit)]])
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, baseline in BASELINES.items():
        for value in baseline.values:
            latents, _ = baseline.run(bench, edit, value, own)
            found = editing.figures(edit, clips, bench.demo.decode(latents))
            rows.setdefault(name, {})[f"{value:g}"] = {figure: found[figure] for figure in ("success", "background_psnr_db")}
    return rows


def summary(rows: list[dict]) -> dict[str, dict]:
    """Of each baseline: its curve over the clips and the best value."""
    found = {}
    for name, baseline in BASELINES.items():
        curve: Curve = {
            f"{value:g}": {
                figure: float(np.mean([row[name][f"{value:g}"][figure] for row in rows])) for figure in ("success", "background_psnr_db")
            }
            for value in baseline.values
        }
        found[name] = {"knob": baseline.knob, "best": best(curve), "curve": curve}
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/bench"), help="where the results go (default: out/bench)")
    arguments.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / CHECKPOINT_NAME, help="another checkpoint than the demo's")
    arguments.add_argument("--quick", action="store_true", help="a clip of each kind only, under a key of its own")
    options = arguments.parse_args()
    import_pack()
    own = options.out.resolve() / "quick" if options.quick else options.out.resolve()
    own.mkdir(parents=True, exist_ok=True)
    most = 1 if options.quick else CLIPS
    edits = {
        f"{kind}/{number}": edit
        for kind, listed in (("colour", DEVELOPMENT_COLOUR_EDITS[:most]), ("shape", DEVELOPMENT_SHAPE_EDITS[:most]))
        for number, edit in enumerate(listed)
    }
    done = Kept(own / "tuning_rows.json")
    for (key, _), rows in each(editing.Bench, options.checkpoint, measured, [task for task in edits.items() if task[0] not in done.rows]):
        done.rows[key] = rows
        done.write()
        print(f"{key}: {len(done.rows)} of {len(edits)}", flush=True)
    found = summary([done.rows[key] for key in edits])
    merge(
        options.out.resolve() / "quality.json",
        {
            "tuning_quick" if options.quick else "tuning": {
                "clips": len(edits),
                "machine": machine(Path(os.environ["COMFYUI_PATH"])),
                **found,
            }
        },
    )
    for name, one in found.items():
        told = ", ".join(f"{value}: {point['success']:.0%} {point['background_psnr_db']:.1f} dB" for value, point in one["curve"].items())
        print(f"{name}, {one['knob']}: {told}; best {one['best']:g}, in the code {BASELINES[name].chosen:g}")


if __name__ == "__main__":
    main()
