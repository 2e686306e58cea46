"""What the figures of speed come to: the goals, the tables of speed.md, the picture speed.png. Reads speed.json and measures nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.report import Goals, met, table
from benchmarks.speed.memory import GB, MIB, STAGES
from benchmarks.speed.overheads import SETTINGS

MEASURED, LIMIT, PLAIN = "#2b6cb0", "#c53030", "#a0aec0"
MOST_OF_STOCK, MOST_OVER_PREDICTION, MOST_OVERHEAD, LEAST_SHARE = 1.05, 1.05, 0.03, 0.90
LONGEST_GROWTH, MOST_GB_ABOVE = 1.10, 0.2
Rows = list[list[str]]


def at(found: dict, path: str, missing: Any = None) -> Any:
    """A value inside nested dicts, by its keys with dots between; `missing` where there is none."""
    for name in path.split("."):
        if name not in found:
            return missing
        found = found[name]
    return found


def goals(found: dict) -> Goals:
    """What must be reached, of what was measured: figure -> (value, "at least" or "at most", bound)."""
    longest_step = MOST_OVER_PREDICTION * at(found, "temporal.step_ratio_predicted.first_previous", 0)
    listed = [
        ("a step with keys of first and previous, of stock's", "temporal.step_ratio.first_previous", "at most", longest_step),
        ("DDIM Invert with its record, of stock KSampler's time", "inversion.ratio_to_stock", "at most", MOST_OF_STOCK),
        ("recording adds", "overhead.recording", "at most", MOST_OVERHEAD),
        ("blending and masks add", "overhead.blending_and_masks", "at most", MOST_OVERHEAD),
        ("a whole edit's share of stock's throughput", "edit.share_of_stock_throughput", "at least", LEAST_SHARE),
        ("FateZero's case, GB above stock KSampler", "memory.fatezero_case_gb_above_stock", "at most", MOST_GB_ABOVE),
        ("a smaller case, GB above stock KSampler", "memory.fatezero_case_gb_above_stock_quick", "at most", MOST_GB_ABOVE),
    ]
    reached = {name: (at(found, path), which, bound) for name, path, which, bound in listed}
    for name, ratio in at(found, "temporal.peak_memory_ratio", {}).items():
        reached["memory of {0} frames, of that of {2}".format(*name.split("_"))] = (ratio, "at most", LONGEST_GROWTH)
    for name, run in at(found, "inversion.memory", {}).items():
        reached[f"DDIM Invert's peak at {name.split('_')[0]} frames, MiB"] = (run["inversion"] / MIB, "at most", run["limit"] / MIB)
    if not at(found, "overhead.recording_latents_identical", True):  # worth a row only where it is missed
        reached["the latents with recording, of those without to the bit"] = (0, "at least", 1)
    return {name: goal for name, goal in reached.items() if goal[0] is not None}


def spread(quarters: list[float]) -> str:
    low, middle, high = quarters
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def spaced(name: str) -> str:
    return name.replace("_", " ")


def added_rows(name: str, details: Any) -> Rows:
    """Of the entries of `overhead`, those with details of recording and of blending."""
    title = {"recording_details": "recording, CFG 1", "blending_details": "blending and masks, CFG 7.5"}.get(name)
    quartiles = details["quartiles"] if title else {}
    percent = {kind: [100 * value for value in quarters] for kind, quarters in quartiles.items()}
    return [
        [str(title), kind, f"{details['shares'][kind]:.0%}", f"{middle:.1f} % ({low:.1f} to {high:.1f})"]
        for kind, (low, middle, high) in percent.items()
    ]


def case_rows(name: str, case: Any) -> Rows:
    """Of the entries of `memory`, those that are whole cases."""
    if name not in ("fatezero_case", "fatezero_case_quick"):
        return []
    title, above = f"{case['frames']} frames, {case['pixels']} px, {case['steps']} steps", case["above_stock"]
    rows = [["", stage, f"{peak / GB:.3f}", f"{above[stage] / GB:.3f}"] for stage, peak in case["peak"].items()]
    return [[title, "KSampler", f"{case['stock_peak'] / GB:.3f}", ""], *rows]


def stage_cell(stage: dict) -> str:
    return f"{spread(stage['ratio_to_stock'])}; {stage['seconds_per_frame_and_step']:.3f} s"


TABLES: dict[str, tuple[list[str], str, Callable[[str, Any], Rows]]] = {  # heads, where the entries are, the rows of an entry by its name
    "A step with temporal attention, of stock's": (
        ["keys and values from", "measured", "predicted from the attention"],
        "temporal.step.quartiles",
        lambda name, step: [[spaced(name), spread(step["ratio"]), spread(step["predicted"])]],
    ),
    "DDIM Invert, of stock KSampler's time": (
        ["", "ratio"],
        "inversion.time.quartiles",
        lambda name, ratio: [["without" if name.endswith("without_record") else "with the words' record", spread(ratio)]],
    ),
    "What is added to a step": (["", "levels", "their share", "added there"], "overhead", added_rows),
    "A whole edit, of the throughput of the same U-Net calls in stock ComfyUI": (
        ["", "share"],
        "edit.details.quartiles",
        lambda name, share: [[spaced(name), spread(share)]],
    ),
    "By length and shape": (
        ["clip", "", "DDIM Invert, of KSampler; a frame and step", "Blended Sampler, of KSampler at CFG 7.5; a frame and step"],
        "stages",
        lambda name, clip: [
            [spaced(name), f"{clip['pixels']} px, {clip['dtype']}", *(stage_cell(clip[one]) for one in ("invert", "sample"))]
        ],
    ),
    "Memory of FateZero's case, GB above the loaded model": (["case", "stage", "peak", "above KSampler"], "memory", case_rows),
    "Memory by length, file to file, MiB": (
        ["frames", "the server's peak", "trajectory", "above both", "peak in"],
        "temporal.memory",
        lambda name, run: [
            [str(run["frames"]), *(f"{run[kind] / MIB:.0f}" for kind in ("peak", "trajectory", "above")), run["peak_stage"]]
        ],
    ),
}


def markdown(found: dict) -> str:
    """All tables, of the parts that were measured. Medians, with quartiles in brackets."""
    added = {name: at(found, f"overhead.{name}") for name in ("recording", "blending_and_masks", "confine", "structure")}
    told = ", ".join(f"{spaced(name)} {100 * value:.2f} %" for name, value in added.items() if value is not None)
    notes = {
        "What is added to a step": f"Over a whole run: {told}; confine and structure on top of blending and masks.",
        "Memory of FateZero's case, GB above the loaded model": "FateZero publishes 12 GB of GPU memory, 100 GB of RAM and 100 s "
        "for 8 frames, on an RTX 3090: another card.",
    }
    judged = [
        [name, f"{goal[0]:.4g}", f"{goal[1]} {goal[2]:.4g}", "met" if met(*goal) else "MISSED"] for name, goal in goals(found).items()
    ]
    shown = {"Goals": (["figure", "measured", "goal", ""], judged)}
    for title, (heads, path, rows_of) in TABLES.items():
        shown[title] = heads, [row for name, entry in at(found, path, {}).items() for row in rows_of(name, entry)]
    texts = [[f"## {title}", table(heads, rows), notes.get(title)] for title, (heads, rows) in shown.items() if rows]
    return "\n\n".join(text for texts_of_one in texts for text in texts_of_one if text) + "\n"


def overheads(found: dict) -> list[tuple[str, float, float | None]]:
    """What is added to stock's time, of what was measured: title, share of stock's time, and its goal, if it has one."""
    ratio, share = at(found, "inversion.ratio_to_stock"), at(found, "edit.share_of_stock_throughput")
    listed = [
        ("recording (CFG 1)", at(found, "overhead.recording"), MOST_OVERHEAD),
        ("blending and masks", at(found, "overhead.blending_and_masks"), MOST_OVERHEAD),
        *((f"{name} {SETTINGS[name][name]} on top", at(found, f"overhead.{name}"), None) for name in ("confine", "structure")),
        ("DDIM Invert", ratio and ratio - 1, MOST_OF_STOCK - 1),
        ("a whole edit", share and 1 / share - 1, 1 / LEAST_SHARE - 1),
    ]
    return [(title, value, bound) for title, value, bound in listed if value is not None]


def draw(found: dict, path: Path) -> None:
    """The picture: what is added to stock's time, and an edit's memory by frames."""
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.3, 1), layout="constrained")
    over, memory = overheads(found), list(at(found, "temporal.memory", {}).values())
    bars.barh(range(len(over)), [100 * value for _, value, _ in over], color=MEASURED, height=0.6)
    for place, (_, value, bound) in enumerate(over):
        if bound is not None:
            bars.plot([100 * bound] * 2, [place - 0.4, place + 0.4], color=LIMIT, linewidth=2.5)
        end = 100 * max(value, bound or 0, 0), place
        bars.annotate(f"{100 * value:.1f} %", end, (5, 0), textcoords="offset points", va="center", fontsize=9)
    bars.plot([], [], color=LIMIT, linewidth=2.5, label="goal")
    bars.set_yticks(range(len(over)), [title for title, _, _ in over])
    bars.invert_yaxis()
    bars.margins(x=0.15)
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_xlabel("% added to the time of the same U-Net calls in stock ComfyUI")
    bars.legend(loc="lower right", frameon=False)
    frames = [run["frames"] for run in memory]
    for node, title in STAGES.items():
        sizes = [at(run, f"above_idle_by_stage.{node}.resident") for run in memory]
        if None not in sizes:
            lines.plot(frames, [size / MIB for size in sizes], "o-", label=title, linewidth=1.5, markersize=4)
    lines.plot(frames, [run["trajectory"] / MIB for run in memory], "--", color=PLAIN, label="trajectory alone")
    lines.set_title(f"an edit from file to file, {memory[0]['steps'] if memory else 0} steps", fontsize=10)
    lines.set(xlabel="frames", ylabel="peak above the idle server, MiB")
    lines.set_ylim(0, 1.35 * lines.get_ylim()[1])  # room for the legend above the curves
    lines.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    lines.set_visible(bool(memory))
    for side in (bars, lines):
        side.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_report(out: Path) -> None:
    """speed.md and speed.png beside speed.json, of all that it holds."""
    found = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    (out / "speed.md").write_text(markdown(found), encoding="utf-8")
    draw(found, out / "speed.png")
