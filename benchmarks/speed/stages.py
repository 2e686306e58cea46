"""The stages of an edit as the nodes run them, and stock KSampler on the same frames: what the benchmarks of whole edits compare."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.bench import node_defaults

CFG = 7.5
INVERTING, SAMPLING = 1.0, CFG  # guidance of the two stages
STAGES = {"invert": INVERTING, "sample": SAMPLING}


def with_default_attention(model):
    """A MODEL as the node Temporal-Spatial Attention gives it where nothing is set."""
    from blade.nodes.temporal import TemporalAttention

    return TemporalAttention.execute(model, **node_defaults(TemporalAttention)).result[0]


class Stages:
    """DDIM Invert with a record of its words, then Blended Sampler with the node's defaults, and KSampler at the guidance of each.

    model: as loaded, which KSampler gets; patched: what the nodes get. source, target, negative: CONDITIONING, the first two with their words.
    clip: [frames, channels, h, w] as LATENT holds it. clock: seconds, after all work has been done."""

    def __init__(
        self,
        model: Any,
        patched: Any,
        prompts: tuple[list, list, list],
        clip: Tensor,
        steps: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.model, self.patched, self.clip, self.steps, self.clock = model, patched, clip, steps, clock
        self.source, self.target, self.negative = prompts
        self.trajectory: Any = None

    @torch.inference_mode()
    def stock(self, cfg: float) -> float:
        """Seconds of KSampler: euler, one model call a step, the negative prompt's rows too unless cfg is 1."""
        import comfy.sample
        import latent_preview

        gc.collect()  # else a run pays for what the one before has left
        begin = self.clock()
        noise, callback = comfy.sample.prepare_noise(self.clip, 0), latent_preview.prepare_callback(self.model, self.steps)
        comfy.sample.sample(
            self.model, noise, self.steps, cfg, "euler", "normal", self.target, self.negative, self.clip, callback=callback, seed=0
        )
        return self.clock() - begin

    @torch.inference_mode()
    def invert(self) -> float:
        """Seconds of DDIM Invert. Its trajectory is what `sample` edits."""
        from blade.nodes.invert import DDIMInvert

        gc.collect()
        begin = self.clock()
        self.trajectory = DDIMInvert.execute(self.patched, self.source, {"samples": self.clip}, self.steps).result[0]
        return self.clock() - begin

    @torch.inference_mode()
    def sample(self) -> float:
        """Seconds of Blended Sampler."""
        from blade.nodes.sampler import BlendedSampler

        gc.collect()
        begin = self.clock()
        inputs = node_defaults(BlendedSampler) | {"steps": self.steps, "cfg": CFG}
        BlendedSampler.execute(model=self.patched, target=self.target, negative=self.negative, trajectory=self.trajectory, **inputs)
        return self.clock() - begin

    def timed(self) -> dict[str, Callable[[], float]]:
        """For step_cost.interleaved: "stock_invert", "invert", "stock_sample" and "sample"."""
        return {
            "stock_invert": lambda: self.stock(INVERTING),
            "invert": self.invert,
            "stock_sample": lambda: self.stock(SAMPLING),
            "sample": self.sample,
        }
