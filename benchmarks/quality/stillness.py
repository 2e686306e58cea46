"""How still an edited object holds, with each kind of temporal attention, against exact ground truth.

Edits the clips of benchmarks.clips with the demo checkpoint through the pack's own nodes, inside ComfyUI's loader and sampler: keys
`temporal.*` of quality.json, the table temporal.md and the picture temporal.jpg.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.clips import COLOUR_EDITS, SHAPE_EDITS, Edit
from benchmarks.metrics.temporal import colour_flicker, outline_flicker, warp_error
from benchmarks.pool import each
from benchmarks.report import Kept, machine, merge
from demo import pictures
from demo.check import colour_in, find_object
from demo.figures import Demo
from metrics.background import dilate, psnr_outside

FRAMES, STEPS, CFG = 8, 25, 7.5
EDITS = 8  # of each kind
FLOORS = ("vae_floor", "copied")  # a perfect edit after the VAE, and its first frame as a still


@dataclass(frozen=True)
class Variant:
    """keys: whose keys and values a frame sees; consensus, until: the sampler's; from_noise: the object starts from noise instead of
    its own inverted latents."""

    keys: tuple[str, ...]
    consensus: float = 0.0
    until: float = 0.0
    from_noise: bool = False


def variants() -> dict[str, Variant]:
    """By the name under which their figures stand. `default` is what the nodes do when nothing is turned."""
    from blade.nodes.sampler import BlendedSampler
    from blade.nodes.temporal import TemporalAttention

    temporal, sampler = node_defaults(TemporalAttention), node_defaults(BlendedSampler)
    keys = tuple(
        kind
        for kind in ("self", "first", "previous", "next", "middle", "all")
        if temporal[f"{kind}_frames" if kind == "all" else f"{kind}_frame"]
    )
    consensus = sampler["consensus"], sampler["consensus_until"]
    found = {
        "plain": Variant(("self",)),
        "first": Variant(("first",)),
        "first_previous": Variant(("first", "previous")),
        "self_first_previous": Variant(("self", "first", "previous")),
        "self_middle": Variant(("self", "middle")),
        "all": Variant(("all",)),
        "plain_with_consensus": Variant(("self",), *consensus),
        "default": Variant(keys, *consensus),
    }
    for name in ("plain", "first_previous", "default"):
        found[f"{name}_from_noise"] = Variant(found[name].keys, found[name].consensus, found[name].until, from_noise=True)
    return found


def node_defaults(node) -> dict:
    """The inputs of a node that have a default, with it."""
    return {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}


class Bench:
    """Edits clips in this process."""

    def __init__(self, checkpoint: Path, cpu: bool = True):
        self.demo = Demo(checkpoint, cpu)
        self.demo.parts  # noqa: B018 - puts ComfyUI on the import path
        import blade.nodes.invert
        import blade.nodes.prompt
        import blade.nodes.sampler
        from blade.attention.temporal import KeyFrames
        from blade.host.attention import with_temporal_attention

        self.nodes, self.keys, self.patch = blade.nodes, KeyFrames, with_temporal_attention
        self.trajectories: dict = {}

    def prompt(self, text: str):
        return self.nodes.prompt.Prompt.execute(self.demo.clip, text).result[0]

    @torch.inference_mode()
    def invert(self, edit: Edit, keys: tuple[str, ...]) -> tuple:
        """The model with that temporal attention, and the clip's trajectory by it."""
        model, place = self.patch(self.demo.model, self.keys(keys)), (edit, keys)
        if place not in self.trajectories:
            self.trajectories = {place: value for place, value in self.trajectories.items() if place[0] == edit}  # one clip's at a time
            self.trajectories[place] = self.walk(model, edit.clip.source_prompt, edit.clip.render(FRAMES), STEPS)
        return model, self.trajectories[place]

    def walk(self, model, source_prompt: str, frames: np.ndarray, steps: int):
        """The trajectory of a clip, uint8 RGB [frames, height, width, 3]."""
        samples = {"samples": self.demo.encode(frames)}
        return self.nodes.invert.DDIMInvert.execute(model, self.prompt(source_prompt), samples, steps).result[0]

    @torch.inference_mode()
    def edit(self, edit: Edit, variant: Variant) -> np.ndarray:
        """uint8 RGB [frames, size, size, 3]"""
        model, trajectory = self.invert(edit, variant.keys)
        if variant.from_noise:
            trajectory = with_noise(trajectory, object_cells(edit))
        latent, *_ = self.nodes.sampler.BlendedSampler.execute(
            model, self.prompt(edit.target_prompt), self.prompt(""), trajectory, STEPS, CFG, "euler", 1.0, edit.source_words, edit.target_words, 0,
            consensus=variant.consensus, consensus_until=variant.until,
        ).result  # fmt: skip
        return self.demo.decode(latent["samples"])


def object_cells(edit: Edit) -> torch.Tensor:
    """The latent cells that the old or the new object touches. [frames, 1, h, w] of 0 and 1"""
    exact = np.maximum(edit.clip.truth(FRAMES), edit.clip.truth(FRAMES, edit.shape))
    return (torch.nn.functional.max_pool2d(torch.from_numpy(exact)[:, None], 8) > 0.02).float()


def with_noise(trajectory, cells: torch.Tensor):
    """The trajectory whose highest level is noise where the object is: only the edit inside the mask starts from there."""
    latents, sigma = trajectory.latents.clone(), float(trajectory.sigmas[-1])
    noise = torch.randn(latents[-1].shape, generator=torch.Generator().manual_seed(5))
    latents[-1] = torch.lerp(latents[-1], noise * sigma, cells)
    return replace(trajectory, latents=latents)


def figures(edit: Edit, edited: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """reference: the clip after the VAE's round trip, which is all that a background can be."""
    goal, flow = edit.clip.truth(FRAMES, edit.shape), edit.clip.flow(FRAMES)
    objects = [find_object(frame) for frame in edited]
    outlines = np.stack([np.zeros(goal.shape[1:], bool) if found is None else found.mask for found in objects])
    colour = np.mean([colour_in(frame, mask) == edit.colour for frame, mask in zip(edited, goal, strict=True)])
    shape = np.mean([found is not None and found.shape == edit.shape for found in objects])
    outside = dilate(np.maximum(goal, edit.clip.truth(FRAMES)), 8)
    return {
        "warp_error": float(warp_error(edited, flow, goal).mean()),
        "colour_flicker": colour_flicker(edited, goal),
        "outline_flicker": outline_flicker(outlines, flow),
        "success": float(colour) if edit.shape == edit.clip.thing.shape else float(shape),
        "background_psnr_db": float(psnr_outside(reference, edited, outside).mean()),
    }


@dataclass(frozen=True)
class Task:
    """An edit to measure under every variant. shown: whether the picture shows it."""

    kind: str
    number: int
    edit: Edit
    shown: bool

    def key(self, name: str) -> str:
        return f"{name}/{self.kind}/{self.number}/{FRAMES}/{STEPS}"

    @property
    def keys(self) -> list[str]:
        return [self.key(name) for name in (*variants(), *FLOORS)]


def measured(bench: Bench, task: Task) -> tuple[dict[str, dict], dict[str, np.ndarray], float]:
    """Figures by key, the clips that the picture shows, and seconds."""
    begin, edit = time.monotonic(), task.edit
    source = edit.clip.render(FRAMES)
    with torch.inference_mode():
        reference, ceiling = (bench.demo.decode(bench.demo.encode(clip)) for clip in (source, edit.perfect.render(FRAMES)))
    made = dict(zip(FLOORS, (ceiling, np.repeat(ceiling[:1], FRAMES, 0)), strict=True))
    rows: dict[str, dict] = {}
    for name, variant in variants().items():
        made[name] = bench.edit(edit, variant)
        rows[task.key(name)] = figures(edit, made[name], reference) | {"variant": asdict(variant)}
    rows |= {task.key(name): figures(edit, made[name], reference) for name in FLOORS}
    return rows, {"source": source, **made} if task.shown else {}, time.monotonic() - begin


def measure(checkpoint: Path, edits: dict[str, tuple[Edit, ...]], out: Path, show: dict[str, int]) -> dict:
    """Figures by variant, kind of edit and number of the edit. show: kind -> the edit that the picture shows"""
    done = Kept(out / "edits.json")
    sheets: dict[str, dict[str, np.ndarray]] = {}
    tasks = [Task(kind, number, edit, show.get(kind) == number) for kind, listed in edits.items() for number, edit in enumerate(listed)]
    left = [task for task in tasks if task.shown or not done.rows.keys() >= set(task.keys)]
    for task, (rows, made, seconds) in each(Bench, checkpoint, measured, left):
        done.rows |= rows
        done.write()
        if made:
            sheets[task.kind] = made
        told = ", ".join(f"{name} {rows[task.key(name)]['warp_error'] * 1e3:.2f}e-3" for name in ("plain", "first_previous", "default"))
        print(f"{task.kind} {task.number + 1}/{len(edits[task.kind])}: warp error {told}, {seconds:.0f} s", flush=True)
    draw({kind: sheets[kind] for kind in show}, out / "temporal.jpg")
    return done.rows


FIGURES = ("warp_error", "colour_flicker", "outline_flicker", "success", "background_psnr_db")


def summary(rows: dict, edits: dict[str, tuple[Edit, ...]]) -> dict:
    """{figure: {variant: mean}}, means over the edits of both kinds, success apart for each; and by how much `default` is below `plain`,
    over all edits and over those that both make right in at least three quarters of the frames, with 95 % intervals (bootstrap over edits)."""

    def column(name: str, figure: str) -> np.ndarray:
        return np.array(
            [rows[f"{name}/{kind}/{number}/{FRAMES}/{STEPS}"][figure] for kind, listed in edits.items() for number in range(len(listed))]
        )

    names = [*variants(), *FLOORS]
    found: dict = {figure: {name: float(column(name, figure).mean()) for name in names} for figure in FIGURES}
    kinds = np.array([kind for kind, listed in edits.items() for _ in listed])
    found["success"] = {name: {kind: float(column(name, "success")[kinds == kind].mean()) for kind in edits} for name in names}
    for suffix in ("", "_from_noise"):
        both = (column("plain" + suffix, "success") >= 0.75) & (column("default" + suffix, "success") >= 0.75)
        for label, chosen in (("all_edits", np.ones(len(kinds), bool)), ("edits_right_in_both", both)):
            found[f"reduction{suffix}.{label}"] = {"edits": int(chosen.sum())} | {
                figure: reduction(column("plain" + suffix, figure)[chosen], column("default" + suffix, figure)[chosen])
                for figure in FIGURES[:3]
                if chosen.any()
            }
    return found


def reduction(plain: np.ndarray, default: np.ndarray) -> dict[str, float]:
    """How much lower the mean is, as a share, with its 95 % interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(plain), (2000, len(plain)))
    low, high = np.quantile(1 - default[drawn].mean(1) / plain[drawn].mean(1), [0.025, 0.975])
    return {"share": float(1 - default.mean() / plain.mean()), "low": float(low), "high": float(high)}


def table(found: dict) -> str:
    """Markdown: one line a variant."""
    lines = [
        "| keys and values from | warp error | colour flicker | outline flicker | right colour | right shape | background, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in found["warp_error"]:
        right = found["success"][name]
        lines.append(
            f"| {name.replace('_', ' ')} | {found['warp_error'][name] * 1e3:.2f}e-3 | {found['colour_flicker'][name] * 1e5:.1f}e-5 | "
            f"{found['outline_flicker'][name]:.3f} | {right['colour']:.0%} | {right['shape']:.0%} | {found['background_psnr_db'][name]:.1f} |"
        )
    return "\n".join(lines) + "\n"


SHOWN = {
    "source": "source",
    "plain": "plain self-\nattention",
    "first_previous": "first and\nprevious",
    "all": "all frames",
    "plain_with_consensus": "plain, with\nconsensus",
    "default": "default",
}


def draw(sheets: dict[str, dict[str, np.ndarray]], target: Path) -> None:
    """The paper's comparison with and without temporal attention, as a picture: a row for each variant, for one edit of each kind."""
    parts = [pictures.contact_sheet({SHOWN[name]: pictures.enlarge(made[name]) for name in SHOWN}) for made in sheets.values()]
    width = min(part.shape[1] for part in parts)
    picture = np.concatenate([part[:, :width] for part in parts])
    cv2.imwrite(
        str(target), cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]
    )


def run_stillness(checkpoint: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    own = out / "quick" if quick else out
    own.mkdir(parents=True, exist_ok=True)
    most = 2 if quick else EDITS
    edits = {"colour": COLOUR_EDITS[:most], "shape": SHAPE_EDITS[:most]}
    found = summary(measure(checkpoint, edits, own, show={"colour": 0, "shape": 0}), edits)
    found["machine"] = machine(Path(os.environ["COMFYUI_PATH"]))
    merge(out / "quality.json", {"temporal_quick" if quick else "temporal": found})
    (own / "temporal.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    for label in ("all_edits", "edits_right_in_both"):
        lower = found[f"reduction.{label}"]
        told = ", ".join(
            f"{figure} {lower[figure]['share']:.0%} ({lower[figure]['low']:.0%} to {lower[figure]['high']:.0%})"
            for figure in FIGURES[:3]
            if figure in lower
        )
        print(f"default below plain over {lower['edits']} edits ({label.replace('_', ' ')}): {told}")
    reached = all(found["reduction.all_edits"][figure]["share"] >= 0.3 for figure in FIGURES[:3])
    reached &= found["warp_error"]["copied"] > found["warp_error"]["default"]
    print(f"{'met   ' if reached else 'MISSED'} each at least 30 % lower, and a copied object that does not move scores worse")
    return reached
