"""What the figures of speed come to: the goals, the tables of speed.md, the picture speed.png. Reads speed.json and measures nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.report import met, table
from benchmarks.speed import blending_cost, edit_cost, fatezero_case, inversion_cost, long_clip, recording_cost, step_cost

MIB, GB = 2**20, 10**9
MEASURED, LIMIT, PLAIN = "#2b6cb0", "#c53030", "#a0aec0"


def at(found: dict, *path: str) -> Any:
    """A value inside nested dicts; None where a part is missing."""
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def goals(found: dict) -> dict[str, tuple[float, str, float]]:
    """What must be reached, of what was measured: figure -> (value, "at least" or "at most", bound)."""
    predicted = at(found, "temporal", "step_ratio_predicted", "first_previous")
    listed = {
        "a step with keys of first and previous, of stock's": (
            at(found, "temporal", "step_ratio", "first_previous"),
            "at most",
            step_cost.MOST_OVER_PREDICTION * (predicted or 0),
        ),
        "DDIM Invert with its record, of stock KSampler's time": (
            at(found, "inversion", "ratio_to_stock"),
            "at most",
            inversion_cost.MOST_OF_STOCK,
        ),
        "recording adds": (at(found, "overhead", "recording"), "at most", recording_cost.MOST_OVERHEAD),
        "blending and masks add": (at(found, "overhead", "blending_and_masks"), "at most", blending_cost.MOST_OVERHEAD),
        "a whole edit's share of stock's throughput": (at(found, "edit", "share_of_stock_throughput"), "at least", edit_cost.LEAST_SHARE),
        "FateZero's case, GB above stock KSampler": (
            at(found, "memory", "fatezero_case_gb_above_stock"),
            "at most",
            fatezero_case.MOST_ABOVE,
        ),
    }
    listed |= {
        f"memory of {name.split('_')[0]} frames, of that of {name.split('_')[2]}": (ratio, "at most", long_clip.LONGEST_GROWTH)
        for name, ratio in (at(found, "temporal", "peak_memory_ratio") or {}).items()
    }
    for name, run in (at(found, "inversion", "memory") or {}).items():
        frames = name.split("_")[0]
        listed[f"DDIM Invert's peak at {frames} frames, MiB"] = (run["inversion"] / MIB, "at most", run["limit"] / MIB)
    return {name: goal for name, goal in listed.items() if goal[0] is not None}


def spread(quarters: list[float], digits: int = 3) -> str:
    low, middle, high = quarters
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def percent(quarters: list[float]) -> str:
    low, middle, high = (100 * value for value in quarters)
    return f"{middle:.1f} % ({low:.1f} to {high:.1f})"


def markdown(found: dict) -> str:
    """All tables, of the parts that were measured. Medians, with quartiles in brackets."""
    listed = goals(found)
    shown = [
        [name, f"{value:.4g}", f"{which} {bound:.4g}", "met" if met(value, which, bound) else "MISSED"]
        for name, (value, which, bound) in listed.items()
    ]
    parts = {"Goals": table(["figure", "measured", "goal", ""], shown)} if shown else {}
    if steps := at(found, "temporal", "step", "quartiles"):
        rows = [[name.replace("_", " "), spread(one["ratio"]), spread(one["predicted"])] for name, one in steps.items()]
        parts["A step with temporal attention, of stock's"] = table(
            ["keys and values from", "measured", "predicted from the attention"], rows
        )
    if time := at(found, "inversion", "time", "quartiles"):
        names = {"ratio_to_stock": "with the words' record", "ratio_to_stock_without_record": "without"}
        parts["DDIM Invert, of stock KSampler's time"] = table(["", "ratio"], [[names[name], spread(one)] for name, one in time.items()])
    rows = []
    for part, key in (("recording, CFG 1", "recording_details"), ("blending and masks, CFG 7.5", "blending_details")):
        details = at(found, "overhead", key) or {}
        for kind, quarters in details.get("quartiles", {}).items():
            rows.append([part, kind, f"{details['shares'][kind]:.0%}", percent(quarters)])
    if rows:
        parts["What is added to a step"] = table(["", "levels", "their share", "added there"], rows)
        told = [f"{name.replace('_', ' ')} {100 * value:.2f} %" for name in ("recording", "blending_and_masks", "confine", "structure")
                if (value := at(found, "overhead", name)) is not None]  # fmt: skip
        parts["What is added to a step"] += f"\n\nOver a whole run: {', '.join(told)}; confine and structure on top of blending and masks."
    if edit := at(found, "edit", "details", "quartiles"):
        rows = [[name.replace("_", " "), spread(one)] for name, one in edit.items()]
        parts["A whole edit, of the throughput of the same U-Net calls in stock ComfyUI"] = table(["", "share"], rows)
    rows = [[name.replace("_", " "), f"{clip['pixels']} px, {clip['dtype']}"]
            + [f"{spread(clip[stage]['ratio_to_stock'])}; {clip[stage]['seconds_per_frame_and_step']:.3f} s" for stage in ("invert", "sample")]
            for name, clip in found.get("stages", {}).items()]  # fmt: skip
    if rows:
        heads = ["clip", "", "DDIM Invert, of KSampler; a frame and step", "Blended Sampler, of KSampler at CFG 7.5; a frame and step"]
        parts["By length and shape"] = table(heads, rows)
    rows = []
    for key in ("fatezero_case", "fatezero_case_quick"):
        if case := at(found, "memory", key):
            title = f"{case['frames']} frames, {case['pixels']} px, {case['steps']} steps"
            rows.append([title, "KSampler", f"{case['stock_peak'] / GB:.3f}", ""])
            rows += [["", stage, f"{peak / GB:.3f}", f"{case['above_stock'][stage] / GB:.3f}"] for stage, peak in case["peak"].items()]
    if rows:
        parts["Memory of FateZero's case, GB above the loaded model"] = table(["case", "stage", "peak", "above KSampler"], rows) + (
            "\n\nFateZero publishes 12 GB of GPU memory, 100 GB of RAM and 100 s for 8 frames, on an RTX 3090: another card."
        )
    rows = [[str(run["frames"]), f"{run['peak'] / MIB:.0f}", f"{run['trajectory'] / MIB:.0f}", f"{run['above'] / MIB:.0f}", run["peak_stage"]]
            for run in (at(found, "temporal", "memory") or {}).values()]  # fmt: skip
    if rows:
        parts["Memory by length, file to file, MiB"] = table(["frames", "the server's peak", "trajectory", "above both", "peak in"], rows)
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items()) + "\n"


def draw(found: dict, path: Path) -> bool:
    """The picture: what is added to stock's time, and memory by frames. False, and no file, where neither was measured."""
    over = [(title, 100 * value, 100 * bound) for title, value, bound in overheads(found)]
    memory = list((at(found, "temporal", "memory") or {}).values())
    inversion = at(found, "inversion", "memory") or {}
    if not over and not memory and not inversion:
        return False
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.3, 1), layout="constrained")
    places = range(len(over))
    bars.barh(places, [value for _, value, _ in over], color=MEASURED, height=0.6)
    for place, (_, value, bound) in zip(places, over, strict=True):
        limits = [] if math.isnan(bound) else [bound]
        for limit in limits:
            bars.plot([limit, limit], [place - 0.4, place + 0.4], color=LIMIT, linewidth=2.5)
        bars.annotate(f"{value:.1f} %", (max(value, 0, *limits), place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    bars.plot([], [], color=LIMIT, linewidth=2.5, label="goal")
    bars.set_yticks(places, [title for title, _, _ in over])
    bars.invert_yaxis()
    bars.margins(x=0.15)
    bars.axvline(0, color="black", linewidth=0.8)
    bars.set_xlabel("% added to the time of the same U-Net calls in stock ComfyUI")
    bars.legend(loc="lower right", frameon=False)
    if memory:
        frames = [run["frames"] for run in memory]
        for node, title in long_clip.STAGES.items():
            sizes = [at(run, "above_idle_by_stage", node, "resident") for run in memory]
            if None not in sizes:
                lines.plot(frames, [size / MIB for size in sizes], "o-", label=title, linewidth=1.5, markersize=4)
        lines.plot(frames, [run["trajectory"] / MIB for run in memory], "--", color=PLAIN, label="trajectory alone")
        lines.set_title(f"an edit from file to file, {memory[0]['steps']} steps", fontsize=10)
    elif inversion:
        frames = [int(name.split("_")[0]) for name in inversion]
        for kind in ("stock", "inversion"):
            lines.plot(frames, [run[kind] / MIB for run in inversion.values()], "o-", label=kind)
    if memory or inversion:
        lines.set_xlabel("frames")
        lines.set_ylabel("peak above the idle server, MiB")
        lines.set_ylim(0, 1.35 * lines.get_ylim()[1])  # room for the legend above the curves
        lines.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    else:
        lines.set_axis_off()
    for side in (bars, lines):
        side.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def overheads(found: dict) -> list[tuple[str, float, float]]:
    """What is added to stock's time, of what was measured: title, share of stock's time, and its goal (not a number where there is none)."""
    nothing = math.nan
    ratio, share = at(found, "inversion", "ratio_to_stock"), at(found, "edit", "share_of_stock_throughput")
    listed = [
        ("recording (CFG 1)", at(found, "overhead", "recording"), recording_cost.MOST_OVERHEAD),
        ("blending and masks", at(found, "overhead", "blending_and_masks"), blending_cost.MOST_OVERHEAD),
        (f"confine {blending_cost.CONFINE} on top", at(found, "overhead", "confine"), nothing),
        (f"structure {blending_cost.STRUCTURE} on top", at(found, "overhead", "structure"), nothing),
        ("DDIM Invert", None if ratio is None else ratio - 1, inversion_cost.MOST_OF_STOCK - 1),
        ("a whole edit", None if share is None else 1 / share - 1, 1 / edit_cost.LEAST_SHARE - 1),
    ]
    return [(title, value, bound) for title, value, bound in listed if value is not None]


def write_report(out: Path) -> None:
    """speed.md and speed.png beside speed.json, of all that it holds. Does nothing where there is none."""
    if (out / "speed.json").exists():
        found = json.loads((out / "speed.json").read_text(encoding="utf-8"))
        (out / "speed.md").write_text(markdown(found), encoding="utf-8")
        draw(found, out / "speed.png")
