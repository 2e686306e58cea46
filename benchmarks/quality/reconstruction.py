"""How well a clip comes back from its inversion, for every kind of prediction, and that the inversion is diffusers' where it is plain.

Through the pack's own nodes, DDIM Invert and Reconstruction Check, on diffusers' grid, CFG 1: keys `inversion.*` of quality.json, the table
inversion.md and the picture inversion.jpg. PSNR of latents has the range of the frame's latent as its peak.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.clips import COLOUR_EDITS, SHAPE_EDITS, MovingClip
from benchmarks.pool import each
from benchmarks.report import Kept, machine, merge
from demo.figures import Demo
from metrics.background import psnr_outside
from metrics.reconstruction import latent_psnr
from runner.host import TWIN_NAME

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 2  # of each clip: without attention across frames each is inverted for itself
CLIPS = 8  # of each kind of edit
GRIDS = (10, 25, 50)
BEST = 3  # further calls a step
METHODS: dict[str, dict[str, Any]] = {"ddim": {"method": "DDIM"}, "predicted": {"method": "predicted"}}
METHODS |= {f"refine_{refine}": {"method": "refined", "refine": refine} for refine in (1, 2, BEST)}
CALLS = {"ddim": 1, "predicted": 1, "refine_1": 2, "refine_2": 3, f"refine_{BEST}": 1 + BEST}  # a step
PREDICTIONS = {"eps": ("epsilon", False), "v": ("v_prediction", False), "v_zsnr": ("v_prediction", True)}  # diffusers' name, zero SNR
MOST_ERROR = 1e-4


class Bench:
    """Inverts and reconstructs clips in this process."""

    def __init__(self, checkpoint: Path):
        self.demo = Demo(checkpoint)
        self.demo.parts  # noqa: B018 - puts ComfyUI on the import path
        import comfy.sd
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
        from safetensors.torch import load_file

        import blade.nodes.invert
        import blade.nodes.prompt
        import blade.nodes.reconstruction
        from benchmarks.quality.reference import diffusers_unet
        from demo.model_pack.architecture import UNET_CONFIG

        self.nodes = blade.nodes
        twin = ROOT / "demo" / TWIN_NAME
        zero_snr = comfy.sd.load_diffusion_model(str(twin))
        self.models = {"eps": self.demo.model, "v": ModelSamplingDiscrete().patch(zero_snr, "v_prediction", False)[0], "v_zsnr": zero_snr}
        reference = diffusers_unet(load_file(checkpoint), UNET_CONFIG)
        own = {f"model.diffusion_model.{name}": value for name, value in load_file(twin).items() if value.numel()}
        of_twin = diffusers_unet(own, UNET_CONFIG)
        self.references = {"eps": reference, "v": of_twin, "v_zsnr": of_twin}

    def prompt(self, clip: MovingClip):
        return self.nodes.prompt.Prompt.execute(self.demo.clip, clip.source_prompt).result[0]

    def invert(self, kind: str, clip: MovingClip, steps: int, method: str):
        samples = {"samples": self.demo.encode(clip.render(FRAMES))}
        return self.nodes.invert.DDIMInvert.execute(
            self.models[kind], self.prompt(clip), samples, steps, tolerance=0.0, **METHODS[method]
        ).result[0]

    def reconstruct(self, kind: str, clip: MovingClip, trajectory) -> tuple[Tensor, float]:
        """The clip as it came back, as LATENT, and the mean PSNR of its latents in dB."""
        back, _, _, mean = self.nodes.reconstruction.ReconstructionCheck.execute(self.models[kind], self.prompt(clip), trajectory).result
        return back["samples"], mean

    def difference_to_diffusers(self, kind: str, clip: MovingClip, trajectory) -> float:
        """The largest difference at any level, as a share of the level's largest value."""
        from benchmarks.quality.reference import invert_with_diffusers

        prediction, zero_snr = PREDICTIONS[kind]
        context = self.prompt(clip)[0][0]
        theirs = invert_with_diffusers(self.references[kind], trajectory.clip, context, trajectory.steps, prediction, zero_snr=zero_snr)
        return float(((trajectory.latents - theirs).abs().amax((1, 2, 3, 4)) / theirs.abs().amax((1, 2, 3, 4))).max())

    def plain_fixed_point(self, clip: MovingClip, steps: int, calls: int) -> float:
        """PSNR after AIDI's fixed point as it is published: each further call puts eps of the last latent into the step. For eps."""
        from blade.host.sampling import run_sampler, sigma_table
        from blade.inversion.schedule import ddim_sigmas

        model, prompt = self.models["eps"], self.prompt(clip)
        latent = self.demo.encode(clip.render(FRAMES))
        start = back = torch.empty(0)

        def there_and_back(model, x, sigmas, extra_args, callback, disable):
            nonlocal start, back
            start, rising = x, sigmas.flip(0)

            def eps(x: Tensor, sigma: Tensor) -> Tensor:
                return (x - model(x, sigma * x.new_ones(len(x)), **extra_args)) / sigma

            for leaving, arriving in pairwise(rising):
                guess = x + (arriving - leaving) * eps(x * ((1 + arriving**2) / (1 + leaving**2)) ** 0.5, arriving)
                for _ in range(calls):
                    guess = x + (arriving - leaving) * eps(guess, arriving)
                x = guess
            for leaving, arriving in pairwise(sigmas):
                x = x + (arriving - leaving) * eps(x, leaving)
            back = x
            return x

        run_sampler(model, there_and_back, ddim_sigmas(sigma_table(model), steps), prompt, prompt, 1.0, latent)
        return float(latent_psnr(start.cpu(), back.cpu()).mean())


@torch.inference_mode()
def measured(bench: Bench, task: tuple[str, MovingClip]) -> tuple[dict[str, dict[str, Any]], float]:
    """Figures of one clip by kind/steps/what/name of the clip, and seconds."""
    begin, (name, clip) = time.monotonic(), task
    source, rows = clip.render(FRAMES), dict[str, dict[str, Any]]()
    round_trip = whole_psnr(source, bench.demo.decode(bench.demo.encode(source)))
    for kind in PREDICTIONS:
        for steps in GRIDS if kind == "eps" else (10, 50):
            for method in METHODS if kind == "eps" else ("ddim", "predicted", f"refine_{BEST}"):
                trajectory = bench.invert(kind, clip, steps, method)
                back, mean = bench.reconstruct(kind, clip, trajectory)
                row: dict[str, Any] = {"latent_psnr_db": mean, "decoded_gap_db": round_trip - whole_psnr(source, bench.demo.decode(back))}
                if method == "ddim" and steps != 25:
                    row["diffusers_max_rel_error"] = bench.difference_to_diffusers(kind, clip, trajectory)
                rows[f"{kind}/{steps}/{method}/{name}"] = row
    for calls in (1, BEST):
        rows[f"eps/10/fixed_point_{calls}/{name}"] = {"latent_psnr_db": bench.plain_fixed_point(clip, 10, calls)}
    return rows, time.monotonic() - begin


def whole_psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the frames, of all pixels. uint8 [frames, height, width, 3]"""
    return float(psnr_outside(one, other, np.zeros(one.shape[:3])).mean())


def summary(rows: dict, names: list[str]) -> dict:
    """Means over the clips. `best` is three further calls a step; what is of eps stands first, every kind under `kinds`."""

    def mean(kind: str, steps: int, what: str, figure: str) -> float:
        return float(np.mean([rows[f"{kind}/{steps}/{what}/{name}"][figure] for name in names]))

    def worst(kind: str) -> float:
        return max(rows[f"{kind}/{steps}/ddim/{name}"]["diffusers_max_rel_error"] for steps in (10, 50) for name in names)

    kinds: dict = {}
    for kind in PREDICTIONS:
        kinds[kind] = {
            figure: {label: {str(steps): mean(kind, steps, what, figure) for steps in (10, 50)} for label, what in (("ddim", "ddim"), ("predicted", "predicted"), ("best", f"refine_{BEST}"))}
            for figure in ("latent_psnr_db", "decoded_gap_db")
        }  # fmt: skip
    return {
        "clips": len(names),
        "frames": FRAMES,
        "diffusers_max_rel_error": {kind: worst(kind) for kind in PREDICTIONS},
        "latent_psnr_db": kinds["eps"]["latent_psnr_db"],
        "decoded_gap_db": kinds["eps"]["decoded_gap_db"]["best"]["50"],
        "kinds": kinds,
        "by_method": {str(steps): {method: mean("eps", steps, method, "latent_psnr_db") for method in METHODS} for steps in GRIDS},
        "plain_fixed_point_10_steps": {str(calls): mean("eps", 10, f"fixed_point_{calls}", "latent_psnr_db") for calls in (1, BEST)},
    }


def table(found: dict) -> str:
    """Markdown: one line a kind of prediction."""
    heads = [f"{steps} steps, {label}" for steps in (10, 50) for label in ("DDIM", "predicted", f"refine {BEST}")]
    lines = [
        f"| latents, PSNR in dB | {' | '.join(heads)} | lost in decoded frames, 50 steps, refine {BEST} | largest difference of DDIM to diffusers |",
        "|---" * (len(heads) + 3) + "|",
    ]
    names = {"eps": "noise (eps)", "v": "v", "v_zsnr": "v, zero terminal SNR"}
    for kind, figures in found["kinds"].items():
        psnr, lost = figures["latent_psnr_db"], figures["decoded_gap_db"]["best"]["50"]
        cells = [f"{psnr[label][steps]:.1f}" for steps in ("10", "50") for label in ("ddim", "predicted", "best")]
        lines.append(f"| {names[kind]} | {' | '.join(cells)} | {lost:.3f} dB | {found['diffusers_max_rel_error'][kind]:.1e} |")
    return "\n".join(lines) + "\n"


def draw(bench: Bench, clip: MovingClip, found: dict, target: Path) -> None:
    """PSNR against calls for each grid, and a frame as it comes back."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    canvas, places = FigureCanvasAgg(figure), figure.add_gridspec(2, 4)
    axes = figure.add_subplot(places[:, :2])
    for steps in GRIDS:
        values = found["by_method"][str(steps)]
        ours = [method for method in METHODS if method != "ddim"]
        (line,) = axes.plot([CALLS[method] for method in ours], [values[method] for method in ours], marker="o", label=f"{steps} steps")
        axes.plot([1], [values["ddim"]], marker="s", color=line.get_color(), linestyle="none", label=f"{steps} steps, DDIM")
    plain = {0: found["by_method"]["10"]["ddim"]} | {int(calls): value for calls, value in found["plain_fixed_point_10_steps"].items()}
    axes.plot([1 + calls for calls in plain], list(plain.values()), "k--", marker="x", label="10 steps, plain fixed point")
    axes.set(xlabel="model calls a step", ylabel="latents that come back, PSNR in dB", xticks=sorted(set(CALLS.values())))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    source = clip.render(1)
    shown = {"clip": source, "the VAE's round trip": bench.demo.decode(bench.demo.encode(source))}
    for label, method in (("10 steps, DDIM", "ddim"), ("10 steps, refined, refine 1", "refine_1")):
        with torch.inference_mode():
            back, _ = bench.reconstruct("eps", clip, bench.invert("eps", clip, 10, method))
            shown[label] = bench.demo.decode(back)
    for place, (label, frames) in enumerate(shown.items()):
        picture = figure.add_subplot(places[place // 2, 2 + place % 2])
        picture.imshow(frames[0])
        picture.set_title(label, fontsize=10)
        picture.axis("off")
    canvas.draw()
    cv2.imwrite(str(target), np.asarray(canvas.buffer_rgba())[..., 2::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def run_reconstruction(checkpoint: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goals are met."""
    own = out / "quick" if quick else out
    own.mkdir(parents=True, exist_ok=True)
    kept = Kept(own / "reconstructions.json")
    most = 1 if quick else CLIPS
    clips = {
        f"{label}_{number}": edit.clip
        for label, edits in (("colour", COLOUR_EDITS), ("shape", SHAPE_EDITS))
        for number, edit in enumerate(edits[:most])
    }
    left = [task for task in clips.items() if f"eps/10/fixed_point_{BEST}/{task[0]}" not in kept.rows]
    for (name, _), (rows, seconds) in each(Bench, checkpoint, measured, left):
        kept.rows |= rows
        kept.write()
        shown = {key: rows[f"eps/{key}/{name}"]["latent_psnr_db"] for key in ("10/ddim", "10/refine_3", "50/ddim", "50/refine_3")}
        print(f"{name}: " + ", ".join(f"{key} {value:.1f} dB" for key, value in shown.items()) + f", {seconds:.0f} s", flush=True)
    found = summary(kept.rows, list(clips))
    found["machine"] = machine(Path(os.environ["COMFYUI_PATH"]))
    merge(out / "quality.json", {"inversion_quick" if quick else "inversion": found})
    (own / "inversion.md").write_text(table(found), encoding="utf-8")
    draw(Bench(checkpoint), clips["colour_0"], found, own / "inversion.jpg")
    print(table(found))
    psnr = found["latent_psnr_db"]
    goals = {
        f"diffusers' inversion to {MOST_ERROR:g}": max(found["diffusers_max_rel_error"].values()) <= MOST_ERROR,
        "50 steps, three further calls: at least 18 dB above DDIM": psnr["best"]["50"] >= psnr["ddim"]["50"] + 18,
        "10 steps, three further calls: at least 5 dB above DDIM at 50": psnr["best"]["10"] >= psnr["ddim"]["50"] + 5,
        "decoded within 0.1 dB of the VAE's round trip": found["decoded_gap_db"] <= 0.1,
    }
    for goal, met in goals.items():
        print(f"{'met   ' if met else 'MISSED'} {goal}")
    return all(goals.values())
