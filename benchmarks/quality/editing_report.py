"""What is said of the edits that benchmarks.quality.editing measures: keys `edit.*` of quality.json, the tables of edit.md, the goals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import UNSEEN_COLOUR_EDITS, UNSEEN_SHAPE_EDITS
from benchmarks.quality.editing import AGAINST_VAE, AS_GRAPHS, BORDER, COMPOSED, MARGINS, NAMES, OPPOSED, STARTS, VARIANTS, measure
from benchmarks.report import interval, machine, merge, met

GRAPHS, GRAPHS_COMPOSED = "as_graphs", "as_graphs_composed"
BY_KIND = {  # rows that take each kind of edit from a variant of its own: the graph's settings, and these with Latent Composite after them
    GRAPHS: AS_GRAPHS,
    GRAPHS_COMPOSED: {kind: COMPOSED[name] for kind, name in AS_GRAPHS.items()},
}
ROWS = (*NAMES, *BY_KIND)
COMPARED = (
    "background_psnr_db",
    "vs_vae_db",
    "border_psnr_vs_vae_db",
    "border_psnr_vs_perfect_db",
    "success",
    "leak",
    "warp_error",
    "colour_flicker",
    "outline_flicker",
)


def summary(rows: dict[str, list[dict]]) -> dict[str, Any]:
    """The keys of `edit`: means over the edits of both kinds, success apart for each. rows: kind -> one {variant: figures} an edit"""

    def column(name: str, figure: str, kinds: tuple[str, ...] = tuple(rows)) -> np.ndarray:
        return np.array([row[BY_KIND[name][kind] if name in BY_KIND else name][figure] for kind in kinds for row in rows[kind]], np.float64)

    def means(figure: str, names: tuple[str, ...] = ROWS) -> dict[str, float]:
        return {name: float(column(name, figure).mean()) for name in names}

    def by_kind(name: str, figure: str) -> dict[str, float]:
        return {kind: float(column(name, figure, (kind,)).mean()) for kind in rows}

    success, stock = by_kind(GRAPHS, "success"), by_kind("stock_sampling", "right")
    found: dict[str, Any] = {
        "edits": {kind: len(listed) for kind, listed in rows.items()},
        "background_psnr_db": means("background_psnr_db"),
        "background_psnr_db_five_convention": means("background_psnr_db_five_convention"),
        "latent_blend_vs_vae_db": {AGAINST_VAE[name]: value for name, value in means("vs_vae_db", tuple(AGAINST_VAE)).items()},
        "background_psnr_db_by_margin": {f"{margin} px": means(f"background_psnr_db_{margin}_px") for margin in MARGINS},
        "start": {name: {figure: by_kind(name, figure) for figure in COMPARED} for name in STARTS},
        "border_psnr_vs_vae_db": means("border_psnr_vs_vae_db"),
        "border_psnr_vs_perfect_db": means("border_psnr_vs_perfect_db"),
        "composite_pixels_changed_outside": int(column("composite", "changed").sum()),
        "composite_pixels_compared": int(column("composite", "compared").sum()),
        "success": success,
        "success_of_stock_sampling": stock,
        "success_over_stock": {name: {kind: by_kind(name, "success")[kind] / max(stock[kind], 1e-9) for kind in rows} for name in BY_KIND},
        "success_by_variant": {name: by_kind(name, "success") for name in ROWS},
        "success_judged_as_stock": {name: by_kind(name, "right") for name in ROWS},
        "leak": float(column(GRAPHS, "leak").mean()),
        "leak_worst_edit": float(column(GRAPHS, "leak").max()),
        "leak_by_variant": means("leak"),
        "seconds": means("seconds", tuple(VARIANTS)),
    }
    found |= {figure: means(figure) for figure in COMPARED[-3:]}
    found["inverted_less"] = {
        other: {figure: difference(column("latent_blend", figure), column(other, figure)) for figure in COMPARED} for other in OPPOSED
    }
    return found


def difference(own: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Mean of own - other over the edits, with its 95 % interval (bootstrap over edits)."""
    return interval(own - other)


TITLES = {
    "vae_round_trip": "VAE round trip of the clip",
    "perfect_edit": "VAE round trip of the perfect edit",
    "perfect_edit_blended": "the perfect edit's latent, blended, exact mask",
    GRAPHS: "latent blend, set as its graph (colours: *structure* 0.5)",
    GRAPHS_COMPOSED: "the same with latent composite",
    "latent_blend": "latent blend",
    "latent_blend_exact_mask": "latent blend, exact mask",
    "heard_everywhere": "latent blend, the nodes' defaults (*confine* 0)",
    "random_noise_blend": "random noise (blended latent diffusion)",
    "one_level_off_blend": "one level off, to 80 % (FateZero)",
    "latent_composite": "latent blend, latent composite",
    "latent_composite_exact_mask": "latent blend, latent composite, exact mask",
    "composite": "latent blend, pixel composite",
}


def table(found: dict[str, Any]) -> str:
    """Markdown: one line a variant."""
    heads = (
        "background of",
        "background, dB",
        "FiVE's convention, dB",
        f"border ({BORDER[0]} to {BORDER[1]} px), dB",
        "right colour",
        "right shape",
        "leak",
        "warp error",
        "colour flicker",
        "outline flicker",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title in TITLES.items():
        edited, success = name != "vae_round_trip", found["success_by_variant"][name]
        cells = [
            title,
            f"{found['background_psnr_db'][name]:.2f}",
            f"{found['background_psnr_db_five_convention'][name]:.2f}",
            f"{found['border_psnr_vs_perfect_db'][name]:.2f}" if edited and name != "perfect_edit" else "",
            *(f"{success[kind]:.0%}" if edited else "" for kind in ("colour", "shape")),
            f"{found['leak_by_variant'][name]:.2%}" if edited else "",
            f"{found['warp_error'][name] * 1e3:.2f}e-3" if edited else "",
            f"{found['colour_flicker'][name] * 1e5:.1f}e-5" if edited else "",
            f"{found['outline_flicker'][name]:.3f}" if edited else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    stock = found["success_of_stock_sampling"]
    lines.append(f"| stock sampling from noise | | | | {stock['colour']:.0%} | {stock['shape']:.0%} | | | | |")
    return "\n".join(lines) + "\n"


def start_table(found: dict[str, Any]) -> str:
    """Markdown: how an edit of each kind does by what it begins from."""
    lines = [
        "| begins from | edits of | right | background against the VAE, dB | border, dB | warp error | outline flicker |",
        "|---" * 7 + "|",
    ]
    for name, title in STARTS.items():
        for kind in found["start"][name]["success"]:
            one = {figure: by_kind[kind] for figure, by_kind in found["start"][name].items()}
            lines.append(
                f"| {title} | {kind} | {one['success']:.1%} | {one['vs_vae_db']:.1f} | {one['border_psnr_vs_perfect_db']:.1f} | "
                f"{one['warp_error'] * 1e3:.2f}e-3 | {one['outline_flicker']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def goals(found: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """What must be reached: figure -> (value, "at least" or "at most", bound)"""
    background = found["background_psnr_db"]
    lost = {name: background["vae_round_trip"] - background[name] for name in ("latent_blend_exact_mask", *COMPOSED.values(), *BY_KIND)}
    success = found["success_over_stock"]
    return {
        "background below the VAE round trip's, dB, exact mask": (lost["latent_blend_exact_mask"], "at most", 0.1),
        "the same with Latent Composite": (lost["latent_composite_exact_mask"], "at most", 0.1),
        "background below the VAE round trip's, dB, automatic mask": (lost[GRAPHS], "at most", 0.5),
        "that with Latent Composite": (lost[GRAPHS_COMPOSED], "at most", 0.5),
        "background against the round-tripped clip, dB, exact mask": (
            found["latent_blend_vs_vae_db"]["exact_mask"],
            "at least",
            40.0,
        ),
        "pixels that the composite changed outside": (found["composite_pixels_changed_outside"], "at most", 0),
        "success of colour edits, of stock's": (success[GRAPHS]["colour"], "at least", 0.97),
        "success of shape edits, of stock's": (success[GRAPHS]["shape"], "at least", 0.90),
        "success of colour edits with Latent Composite, of stock's": (success[GRAPHS_COMPOSED]["colour"], "at least", 0.97),
        "success of shape edits with Latent Composite, of stock's": (success[GRAPHS_COMPOSED]["shape"], "at least", 0.90),
        "background pixels that took the target's colour": (found["leak"], "at most", 0.01),
    }


def run_editing(checkpoint: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goals are met."""
    own = out / "quick" if quick else out
    own.mkdir(parents=True, exist_ok=True)
    most = 2 if quick else None
    edits = {"colour": UNSEEN_COLOUR_EDITS[:most], "shape": UNSEEN_SHAPE_EDITS[:most]}
    found = summary(measure(checkpoint, edits, own))
    found["seeds"] = {kind: [edit.clip.seed for edit in listed] for kind, listed in edits.items()}
    found["machine"] = machine(Path(os.environ["COMFYUI_PATH"]))
    merge(out / "quality.json", {"edit_quick" if quick else "edit": found})
    (own / "edit.md").write_text(f"{table(found)}\n{start_table(found)}", encoding="utf-8")
    print(table(found), start_table(found), sep="\n")
    for other, gaps in found["inverted_less"].items():
        told = ", ".join(f"{figure} {gap['mean']:+.3g} ({gap['low']:+.3g} to {gap['high']:+.3g})" for figure, gap in gaps.items())
        print(f"latent blend less {other}: {told}")
    listed = goals(found)
    for name, (value, which, bound) in listed.items():
        print(f"{'met   ' if met(value, which, bound) else 'MISSED'} {name}: {value:.4g}, {which} {bound}")
    return all(met(*goal) for goal in listed.values())
