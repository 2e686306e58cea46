"""How well a clip comes back from its inversion, for every kind of prediction, and that the inversion is diffusers' where it is plain.

Through the pack's own nodes, DDIM Invert and Reconstruction Check, on diffusers' grid, CFG 1. PSNR of latents has the range of the frame's latent as
its peak.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.clips import COLOUR_EDITS, SHAPE_EDITS, MovingClip
from benchmarks.quality import bench
from benchmarks.quality.part import Columns, Figures, Part, Rows, figure_table, strip
from benchmarks.report import ROOT, Goals
from demo.base import TWIN_NAME
from demo.scenes import SIZE
from metrics.background import psnr_outside
from metrics.chart import drawn, new_figure
from metrics.reconstruction import latent_psnr

FRAMES = 2  # of each clip: without attention across frames each is inverted for itself
GRIDS = (10, 25, 50)
BEST = 3  # further calls a step
# Of DDIM Invert. From "predicted" on, each makes one more call a step.
METHODS: dict[str, dict[str, Any]] = {"ddim": {"method": "DDIM"}, "predicted": {"method": "predicted"}}
METHODS |= {f"refine_{refine}": {"method": "refined", "refine": refine} for refine in (1, 2, BEST)}
LABELS = {"ddim": "ddim", "predicted": "predicted", "best": f"refine_{BEST}"}  # measured for every kind of prediction
PREDICTIONS = {"eps": ("epsilon", False), "v": ("v_prediction", False), "v_zsnr": ("v_prediction", True)}  # diffusers' name, zero SNR
MOST_ERROR = 1e-4


class Bench(bench.Bench):
    """Inverts and reconstructs clips with every kind of prediction."""

    def __init__(self, checkpoint: Path):
        super().__init__(checkpoint)
        import comfy.sd
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
        from safetensors.torch import load_file

        from benchmarks.quality.reference import diffusers_unet
        from demo.model_pack.architecture import UNET_CONFIG

        twin = ROOT / "demo" / TWIN_NAME
        zero_snr = comfy.sd.load_diffusion_model(str(twin))
        self.models = {"eps": self.demo.model, "v": ModelSamplingDiscrete().patch(zero_snr, "v_prediction", False)[0], "v_zsnr": zero_snr}
        own = {f"model.diffusion_model.{name}": value for name, value in load_file(twin).items() if value.numel()}
        of_twin = diffusers_unet(own, UNET_CONFIG)
        self.references = {"eps": diffusers_unet(load_file(checkpoint), UNET_CONFIG), "v": of_twin, "v_zsnr": of_twin}

    def reconstruct(self, kind: str, clip: MovingClip, trajectory: Any) -> tuple[np.ndarray, float]:
        """The clip as it came back, uint8 RGB, and the mean PSNR of its latents in dB."""
        from blade.nodes.reconstruction import ReconstructionCheck

        back, _, _, mean = ReconstructionCheck.execute(self.models[kind], self.prompt(clip.source_prompt), trajectory).result
        return self.demo.decode(back["samples"]), mean

    def difference_to_diffusers(self, kind: str, clip: MovingClip, trajectory: Any) -> float:
        """The largest difference at any level, as a share of the level's largest value."""
        from benchmarks.quality.reference import invert_with_diffusers

        prediction, zero_snr = PREDICTIONS[kind]
        context = self.prompt(clip.source_prompt)[0][0]
        theirs = invert_with_diffusers(self.references[kind], trajectory.clip, context, trajectory.steps, prediction, zero_snr=zero_snr)
        return float(((trajectory.latents - theirs).abs().amax((1, 2, 3, 4)) / theirs.abs().amax((1, 2, 3, 4))).max())

    def plain_fixed_point(self, clip: MovingClip, steps: int, calls: int) -> float:
        """PSNR after AIDI's fixed point as it is published: each further call puts eps of the last latent into the step. For eps."""
        from blade.host.sampling import run_sampler, sigma_table
        from blade.inversion.schedule import ddim_sigmas

        model, prompt = self.models["eps"], self.prompt(clip.source_prompt)
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

        latent = self.demo.encode(clip.render(FRAMES))
        run_sampler(model, there_and_back, ddim_sigmas(sigma_table(model), steps), prompt, prompt, 1.0, latent)
        return float(latent_psnr(start.cpu(), back.cpu()).mean())


@torch.inference_mode()
def measure(bench: Bench, clip: MovingClip) -> tuple[Figures, np.ndarray]:
    """Figures by kind/steps/method, and a frame as it comes back."""
    source, rows = clip.render(FRAMES), Figures()
    round_trip = bench.demo.decode(bench.demo.encode(source))
    shown = {"clip": source, "the VAE's round trip": round_trip}
    titles = {"eps/10/ddim": "10 steps, DDIM", "eps/10/refine_1": "10 steps, refined, refine 1"}
    for kind in PREDICTIONS:
        for steps in GRIDS if kind == "eps" else (10, 50):
            for method in METHODS if kind == "eps" else LABELS.values():
                trajectory = bench.walk(bench.models[kind], clip.source_prompt, source, steps, tolerance=0.0, **METHODS[method])
                back, mean = bench.reconstruct(kind, clip, trajectory)
                row = {"latent_psnr_db": mean, "decoded_gap_db": whole_psnr(source, round_trip) - whole_psnr(source, back)}
                if method == "ddim" and steps != 25:
                    row["diffusers_max_rel_error"] = bench.difference_to_diffusers(kind, clip, trajectory)
                rows[name := f"{kind}/{steps}/{method}"] = row
                if name in titles:
                    shown[titles[name]] = back
    for calls in (1, BEST):
        rows[f"eps/10/fixed_point_{calls}"] = {"latent_psnr_db": bench.plain_fixed_point(clip, 10, calls)}
    return rows, strip(shown, [0], 2 * SIZE, "")


def whole_psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the frames, of all pixels. uint8 [frames, height, width, 3]"""
    return float(psnr_outside(one, other, np.zeros(one.shape[:3])).mean())


def summary(rows: Rows) -> dict[str, Any]:
    """Means over the clips. `best` is three further calls a step; what is of eps stands first, every kind under `kinds`."""

    def by_steps(kind: str, figure: str, method: str, grids: tuple[int, ...] = (10, 50)) -> dict[str, float]:
        return {str(steps): rows.mean(f"{kind}/{steps}/{method}", figure) for steps in grids}

    kinds = {
        kind: {
            figure: {label: by_steps(kind, figure, method) for label, method in LABELS.items()}
            for figure in ("latent_psnr_db", "decoded_gap_db")
        }
        for kind in PREDICTIONS
    }
    worst = {kind: [rows.column(f"{kind}/{steps}/ddim", "diffusers_max_rel_error").max() for steps in (10, 50)] for kind in PREDICTIONS}
    return {
        "clips": len(rows.clips),
        "frames": FRAMES,
        "diffusers_max_rel_error": {kind: float(max(errors)) for kind, errors in worst.items()},
        "latent_psnr_db": kinds["eps"]["latent_psnr_db"],
        "decoded_gap_db": kinds["eps"]["decoded_gap_db"]["best"]["50"],
        "kinds": kinds,
        "by_method": {str(steps): {method: rows.mean(f"eps/{steps}/{method}", "latent_psnr_db") for method in METHODS} for steps in GRIDS},
        "plain_fixed_point_10_steps": {str(calls): rows.mean(f"eps/10/fixed_point_{calls}", "latent_psnr_db") for calls in (1, BEST)},
    }


TITLES = {"eps": "noise (eps)", "v": "v", "v_zsnr": "v, zero terminal SNR"}
HEADS = {"ddim": "DDIM", "predicted": "predicted", "best": f"refine {BEST}"}
COLUMNS: Columns = {f"{label}/{steps}": (f"{steps} steps, {head}", 1, "{:.1f}") for steps in (10, 50) for label, head in HEADS.items()}
COLUMNS |= {"lost": (f"lost in decoded frames, 50 steps, refine {BEST}", 1, "{:.3f} dB")}
COLUMNS |= {"error": ("largest difference of DDIM to diffusers", 1, "{:.1e}")}


def tables(found: dict[str, Any]) -> list[str]:
    """A line a kind of prediction."""
    rows = []
    for kind, of in found["kinds"].items():
        values = {f"{label}/{steps}": value for label, by_steps in of["latent_psnr_db"].items() for steps, value in by_steps.items()}
        values |= {"lost": of["decoded_gap_db"]["best"]["50"], "error": found["diffusers_max_rel_error"][kind]}
        rows.append(([TITLES[kind]], values))
    return [figure_table(["latents, PSNR in dB"], COLUMNS, rows)]


def goals(found: dict[str, Any]) -> Goals:
    psnr = found["latent_psnr_db"]
    return {
        "largest difference to diffusers' inversion": (max(found["diffusers_max_rel_error"].values()), "at most", MOST_ERROR),
        "50 steps, three further calls above DDIM, dB": (psnr["best"]["50"] - psnr["ddim"]["50"], "at least", 18),
        "10 steps, three further calls above DDIM at 50, dB": (psnr["best"]["10"] - psnr["ddim"]["50"], "at least", 5),
        "decoded below the VAE's round trip, dB": (found["decoded_gap_db"], "at most", 0.1),
    }


def draw(found: dict[str, Any], shown: list[np.ndarray]) -> dict[str, np.ndarray]:
    """PSNR against calls for each grid, and a frame as it comes back."""
    figure = new_figure(shown[0].shape[1], 460)
    axes = figure.add_subplot()
    for steps, values in found["by_method"].items():
        ddim, *ours = values.values()
        (line,) = axes.plot(range(1, 1 + len(ours)), ours, marker="o", label=f"{steps} steps")
        axes.plot([1], [ddim], marker="s", color=line.get_color(), linestyle="none", label=f"{steps} steps, DDIM")
    plain = {0: found["by_method"]["10"]["ddim"]} | {int(calls): value for calls, value in found["plain_fixed_point_10_steps"].items()}
    axes.plot([1 + calls for calls in plain], list(plain.values()), "k--", marker="x", label="10 steps, plain fixed point")
    axes.set(xlabel="model calls a step", ylabel="latents that come back, PSNR in dB", xticks=range(1, 2 + BEST))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    return {"inversion.jpg": np.concatenate([drawn(figure), shown[0]])}


CLIPS = {"colour": [edit.clip for edit in COLOUR_EDITS[:8]], "shape": [edit.clip for edit in SHAPE_EDITS[:8]]}
QUICK = {kind: listed[:1] for kind, listed in CLIPS.items()}
PART = Part("inversion", CLIPS, QUICK, measure, summary, tables, goals, (f"eps/50/refine_{BEST}", "latent_psnr_db"), 1, draw, Bench)
