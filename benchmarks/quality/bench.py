"""The demo's model under the pack's own nodes, inside ComfyUI's loader and sampler, and the ways to make an edit with it: the nodes' defaults
with one thing replaced, some of them by what peers have in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clips import Edit
from demo.figures import Demo

FRAMES, STEPS, CFG = 8, 25, 7.5
FATEZERO = {"blend_until": 0.8}  # share of the steps that are blended there


def node_defaults(node: Any) -> dict[str, Any]:
    """The inputs of a node that have a default, with it."""
    return {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}


def kind_of(edit: Edit) -> str:
    return "colour" if edit.shape == edit.clip.thing.shape else "shape"


def objects(edit: Edit) -> np.ndarray:
    """How much of each pixel the old or the new object covers. float32 0..1 [frames, size, size]"""
    return np.maximum(edit.clip.truth(FRAMES), edit.clip.truth(FRAMES, edit.shape))


@dataclass(frozen=True)
class Made:
    """A clip that was made, uint8 RGB [frames, size, size, 3]; where it has them its latents, as LATENT holds them, and the mask that it was confined
    to, [frames, size, size]; figures of the making."""

    frames: np.ndarray
    latents: Tensor | None = None
    mask: Tensor | None = None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A way to make an edit with Blended Sampler. background: what the inverted trajectory is replaced by, from it and a seed; None: it stays. mask:
    from edit and trajectory the mask that takes the place of the one that draws itself, [frames, size, size]. keys: whose keys and values a frame
    sees; None: as the node's defaults. inputs: of the node, in place of its defaults."""

    background: Callable[[Any, int], Any] | None = None
    mask: Callable[[Edit, Any], Tensor] | None = None
    keys: tuple[str, ...] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, bench: Bench, edit: Edit, before: dict[str, Made]) -> Made:
        latents, mask = bench.blend(edit, self)
        return Made(bench.demo.decode(latents), latents, mask)


Way = Callable[["Bench", Edit, dict[str, Made]], Made]  # from what was made of the edit before, by name


class Bench:
    """Inverts and edits clips in this process. cpu: as demo.figures.Demo takes it."""

    def __init__(self, checkpoint: Path, cpu: bool = True):
        self.demo = Demo(checkpoint, cpu)
        self.demo.parts  # noqa: B018 - puts ComfyUI on the import path
        import blade.nodes.invert
        import blade.nodes.prompt
        import blade.nodes.sampler
        from blade.attention.temporal import KeyFrames
        from blade.host.attention import with_temporal_attention
        from blade.nodes.temporal import TemporalAttention

        self.nodes, self.keys, self.patch = blade.nodes, KeyFrames, with_temporal_attention
        self.inputs = node_defaults(blade.nodes.sampler.BlendedSampler)
        # Whose keys and values a frame sees by default: ("self", ...) for self_frame=True, ...
        self.attention = tuple(name.split("_")[0] for name, on in node_defaults(TemporalAttention).items() if on is True)
        self.trajectories: dict[tuple, Any] = {}

    def prompt(self, text: str) -> list:
        return self.nodes.prompt.Prompt.execute(self.demo.clip, text).result[0]

    def stock_prompts(self, edit: Edit) -> tuple[list, list]:
        """Target prompt and empty negative prompt, as CLIP Text Encode gives them."""
        positive, negative = ([[self.demo.encode_text([text]), {}]] for text in (edit.target_prompt, ""))
        return positive, negative

    def walk(self, model: Any, source_prompt: str, frames: np.ndarray, steps: int, **inputs: Any) -> Any:
        """The trajectory of a clip, uint8 RGB [frames, height, width, 3]. inputs: of the node DDIM Invert, in place of its defaults."""
        samples = {"samples": self.demo.encode(frames)}
        return self.nodes.invert.DDIMInvert.execute(model, self.prompt(source_prompt), samples, steps, **inputs).result[0]

    @torch.inference_mode()
    def invert(self, edit: Edit, keys: tuple[str, ...]) -> tuple[Any, Any]:
        """The model with that temporal attention, and the clip's trajectory by it, which is kept until another clip comes."""
        model, place = self.patch(self.demo.model, self.keys(keys)), (edit, keys)
        if place not in self.trajectories:
            self.trajectories = {place: value for place, value in self.trajectories.items() if place[0] == edit}
            self.trajectories[place] = self.walk(model, edit.clip.source_prompt, edit.clip.render(FRAMES), STEPS)
        return model, self.trajectories[place]

    @torch.inference_mode()
    def blend(self, edit: Edit, variant: Variant) -> tuple[Tensor, Tensor]:
        """The latents, as LATENT holds them, and the mask that was used, [frames, size, size]"""
        model, trajectory = self.invert(edit, variant.keys or self.attention)
        own: dict[str, Any] = {"steps": STEPS, "cfg": CFG, "source_words": edit.source_words, "target_words": edit.target_words}
        if variant.mask is not None:
            own |= {"mask": variant.mask(edit, trajectory), "mask_mode": self.nodes.sampler.ALONE}
        if variant.background is not None:
            trajectory = variant.background(trajectory, edit.clip.seed)
        return self.sample(model, trajectory, edit.clip.source_prompt, edit.target_prompt, own | variant.inputs)

    def sample(self, model: Any, trajectory: Any, source_prompt: str, target_prompt: str, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the node Blended Sampler gives: latents, as LATENT holds them, and mask. inputs: in place of its defaults."""
        prompts = {"source": self.prompt(source_prompt), "target": self.prompt(target_prompt), "negative": self.prompt("")}
        given = self.inputs | inputs | prompts | {"model": model, "trajectory": trajectory}
        latent, mask, *_ = self.nodes.sampler.BlendedSampler.execute(**given).result
        return latent["samples"], mask

    @torch.inference_mode()
    def judges(self, edit: Edit) -> dict[str, Made]:
        """What an edit is judged by: the clip; then, out of the VAE, the clip, the edit as it should be, and that edit's latent in the clip's under the
        exact mask, which is all that a latent blend can be."""
        from blade.attention.masks import to_latent_mask

        source = edit.clip.render(FRAMES)
        latent, wanted = self.demo.encode(source), self.demo.encode(edit.perfect.render(FRAMES))
        blended = torch.lerp(latent, wanted, to_latent_mask(torch.from_numpy(objects(edit)), *latent.shape[-2:]))
        decoded = {"vae_round_trip": latent, "perfect_edit": wanted, "perfect_edit_blended": blended}
        return {"source": Made(source)} | {name: Made(self.demo.decode(latents)) for name, latents in decoded.items()}

    def stock_sampling(self, edit: Edit, before: dict[str, Made]) -> Made:
        """The target prompt sampled from noise by ComfyUI alone, a seed a frame, on the inversion's grid."""
        import comfy.sample
        import comfy.samplers

        _, trajectory = self.invert(edit, self.attention)
        empty = torch.zeros_like(trajectory.clip)
        noise = torch.cat([comfy.sample.prepare_noise(empty[:1], edit.clip.seed * FRAMES + frame) for frame in range(FRAMES)])
        sampled = comfy.sample.sample_custom(
            self.demo.model, noise, CFG, comfy.samplers.sampler_object("euler"), trajectory.sampling_sigmas(STEPS), *self.stock_prompts(edit), empty,
            disable_pbar=True, seed=edit.clip.seed,
        )  # fmt: skip
        return Made(self.demo.decode(sampled))

    def latent_composite(self, edit: Edit, before: dict[str, Made], of: str) -> Made:
        """What the node Latent Composite makes of an edit that was made before."""
        from blade.nodes.latent_composite import LatentComposite

        given = {"latent": {"samples": before[of].latents}, "vae": self.demo.vae, "mask": before[of].mask}
        given |= {"source": torch.from_numpy(before["source"].frames).float() / 255}
        return Made(self.demo.decode(LatentComposite.execute(**node_defaults(LatentComposite) | given).result[0]["samples"]))

    def pixel_composite(self, edit: Edit, before: dict[str, Made], of: str) -> Made:
        """What the node Pixel Composite makes of an edit that was made before, with the figures of `changed_outside`."""
        from blade.nodes.composite import PixelComposite

        source, edited = (torch.from_numpy(before[name].frames.astype(np.float32) / 255) for name in ("source", of))
        given = {"source": source, "edited": edited, "mask": before[of].mask}
        pasted, used = (found.numpy() for found in PixelComposite.execute(**node_defaults(PixelComposite) | given).result[:2])
        figures = changed_outside(source.numpy(), pasted, used)
        return Made((pasted.clip(0, 1) * 255).round().astype(np.uint8), figures=dict(figures))


def changed_outside(source: np.ndarray, composite: np.ndarray, mask: np.ndarray) -> dict[str, int]:
    """How many pixels are not the source's to the bit where the mask [frames, height, width] is 0, and how many lie there."""
    outside = mask == 0
    return {"changed": int(((source != composite).any(-1) & outside).sum()), "compared": int(outside.sum())}


def random_noise(trajectory: Any, seed: int) -> Any:
    """The trajectory with the background of blended latent diffusion: at each level the clip under fresh noise; level 0 is the clip itself,
    where their loop leaves its last noise in. The record of the words stays."""
    generator, latents = torch.Generator().manual_seed(seed), torch.empty(trajectory.latents.shape)
    latents[0] = trajectory.clip
    for level in range(1, len(latents)):
        latents[level] = trajectory.clip + trajectory.sigmas[level] * torch.randn(trajectory.clip.shape, generator=generator)
    return replace(trajectory, latents=latents, exact_clip=None)


def one_level_off(trajectory: Any, seed: int) -> Any:
    """The trajectory as FateZero's loop reads it, each level's latent being the next noisier one's; the highest stays. Level 0 stays the clip,
    which that loop never blends in, since it stops before."""
    levels = torch.arange(1, len(trajectory.sigmas) + 1).clamp(max=len(trajectory.sigmas) - 1)
    levels[0] = 0
    return replace(trajectory, latents=trajectory.latents[levels])


def exact_mask(edit: Edit, trajectory: Any) -> Tensor:
    """The exact old and new object."""
    return torch.from_numpy(objects(edit))


def fixed_mask(threshold: float) -> Callable[[Edit, Any], Tensor]:
    """Prompt-to-prompt's and FateZero's mask of the source words, at a threshold that is the same for all clips."""

    def mask(edit: Edit, trajectory: Any) -> Tensor:
        (phrase,) = trajectory.record.words.choose(edit.source_words)
        return prompt_to_prompt(trajectory.record, phrase.columns, trajectory.pixels, threshold)

    return mask


def prompt_to_prompt(record: Any, columns: tuple[int, ...], size: Sequence[int], threshold: float = 0.3) -> Tensor:
    """The rule of prompt-to-prompt's and FateZero's local blend: the words' maps summed over all levels, 3x3 max-pool, resized, divided by
    each frame's maximum, above a threshold. On the maps that are recorded here. [frames, *size]"""
    maps = [list(record.pick(level, columns).values()) for level in range(len(record.levels))]
    mean = torch.stack([torch.stack([F.interpolate(of[:, None], (16, 16), mode="area") for of in level]).mean(0) for level in maps]).mean(0)
    heat = F.interpolate(F.max_pool2d(mean, 3, 1, 1), tuple(size), mode="bilinear")[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True) > threshold).float()
