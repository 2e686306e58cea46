"""The bench of all questions of time: a model in this process, what is timed on it, and ratios that are taken within rounds."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pack import import_pack
from benchmarks.quality.bench import node_defaults
from runner.in_process import import_comfy

Timed = Mapping[str, Callable[[], float]]
Seconds = dict[str, list[float]]  # of each thing that was timed, a value a round
Ratios = Mapping[str, Callable[[Any], np.ndarray]]  # each of an object that has the seconds, as arrays, under their names

CFG = 7.5  # of the sampler; an inversion has 1
SOURCE, TARGET = "a red car on grass", "a blue car on grass"  # in CLIP's vocabulary a token each
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
UNETS: dict[str, dict] = {  # the rest is in comfy.supported_models
    "SD15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "SDXL": {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "num_classes": "sequential",
    },
}


def start_comfy(comfy: Path) -> None:
    """Makes ComfyUI's modules and the pack importable in this process, on CUDA where there is one."""
    os.environ["COMFYUI_PATH"] = str(comfy)
    import_comfy(cpu=not torch.cuda.is_available())
    import_pack()


def clock() -> float:
    """Seconds, after all work has been done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def seconds_of(work: Callable[[], object]) -> float:
    """How long some work takes, without the garbage of what ran before."""
    gc.collect()
    begin = clock()
    work()
    return clock() - begin


def spelled(conditioning: list, text: str) -> list:
    """CONDITIONING whose words are known, as the node Prompt makes it. text: words that are a token each in CLIP's vocabulary."""
    from blade.attention.words import CHUNK, PromptWords, Word
    from blade.host.words import KEY

    words = PromptWords(text, tuple(Word(word, (column,)) for column, word in enumerate(text.split(), 1)), CHUNK)
    return [[embedding, {**options, KEY: words}] for embedding, options in conditioning]


@dataclass
class Bench:
    """A model, a clip, prompts, and what is timed on them: stock KSampler, nodes of the pack, a model call, the attention in it.

    model: MODEL, which KSampler gets; patched: what the pack's nodes get. clip: [frames, channels, h, w] as LATENT holds it.
    source, target, negative: CONDITIONING, the first two with their words. steps: of KSampler and of the nodes."""

    model: Any
    clip: Tensor
    source: list
    target: list
    negative: list
    steps: int
    patched: Any = None
    trajectory: Any = None  # what `invert` gave last, which `sample` edits

    @property
    def about(self) -> dict:
        dtype = str(self.model.model_dtype()).removeprefix("torch.")
        return {"frames": len(self.clip), "pixels": 8 * self.clip.shape[-1], "dtype": dtype}

    def patch_as_default(self) -> int:
        """The nodes get what Temporal-Spatial Attention gives where nothing is set. Returns how many frames each frame sees then."""
        from blade.nodes.temporal import TemporalAttention

        inputs = node_defaults(TemporalAttention)
        self.patched = TemporalAttention.execute(self.model, **inputs).result[0]
        return sum(inputs[f"{kind}_frame"] for kind in ("self", "first", "previous", "next", "middle"))

    def stock(self, cfg: float) -> float:
        """Seconds of KSampler: euler, one model call a step, the negative prompt's rows too unless cfg is 1."""
        import comfy.sample
        import latent_preview

        def ksampler() -> None:
            noise, callback = comfy.sample.prepare_noise(self.clip, 0), latent_preview.prepare_callback(self.model, self.steps)
            rest = (cfg, "euler", "normal", self.target, self.negative, self.clip)
            comfy.sample.sample(self.model, noise, self.steps, *rest, callback=callback, seed=0)

        return seconds_of(ksampler)

    def invert(self, source: list | None = None) -> float:
        """Seconds of DDIM Invert, which records its prompt's words. source: another prompt."""
        from blade.nodes.invert import DDIMInvert

        def node() -> None:
            inputs = self.patched or self.model, source or self.source, {"samples": self.clip}, self.steps
            self.trajectory = DDIMInvert.execute(*inputs).result[0]

        return seconds_of(node)

    def sample(self, **inputs: Any) -> float:
        """Seconds of Blended Sampler, with its defaults where nothing else is given."""
        from blade.nodes.sampler import BlendedSampler

        inputs = node_defaults(BlendedSampler) | {"steps": self.steps, "cfg": CFG, "trajectory": self.trajectory} | inputs
        inputs |= {"model": self.patched or self.model, "target": self.target, "negative": self.negative}
        return seconds_of(partial(BlendedSampler.execute, **inputs))

    def stages(self) -> Timed:
        """Both stages of an edit, and KSampler at the guidance of each."""
        stock = partial(self.stock, 1.0), partial(self.stock, CFG)
        return {"stock_invert": stock[0], "invert": self.invert, "stock_sample": stock[1], "sample": self.sample}

    @torch.inference_mode()
    def in_chain(self, model: Any, sigma: float, work: Callable[[Any, Tensor, Tensor, dict], float], prompt: list | None = None) -> float:
        """work(model, x, sigma, extra_args) inside ComfyUI's sampling chain, at one level with one cond row a frame (CFG 1)."""
        import comfy.sample
        import comfy.samplers

        found: list[float] = []

        def once(model, x, sigmas, extra_args, callback, disable):
            found.append(work(model, x, sigmas[0], extra_args))
            return x

        chain = comfy.samplers.KSAMPLER(once), torch.tensor([sigma, 0.0]), prompt or self.negative, prompt or self.negative
        comfy.sample.sample_custom(model, self.clip, 1.0, *chain, torch.zeros_like(self.clip), disable_pbar=True, seed=0)
        return found[0]

    def call(self, model: Any) -> float:
        """Seconds of one model call."""
        return self.in_chain(model, 5.0, lambda model, x, sigma, options: seconds_of(partial(model, x, sigma.expand(len(x)), **options)))

    @torch.inference_mode()
    def attend(self, times: int) -> float:
        """Seconds of the attention alone, over all self-attention layers, with `times` as many keys and values as queries."""
        from comfy.ldm.modules.attention import optimized_attention

        seconds, where = 0.0, {"device": self.model.load_device, "dtype": self.model.model_dtype()}
        for (rows, cells, width), heads in self.layers:
            q, k, v = (torch.randn(rows, many * cells, width, **where) for many in (1, times, times))
            seconds += seconds_of(partial(optimized_attention, q, k, v, heads))
        return seconds

    @cached_property
    def layers(self) -> list[tuple[torch.Size, int]]:
        """Of each self-attention layer: the shape of its queries in one call, [frames, cells, width], and its heads."""
        model, layers = self.model.clone(), list[tuple[torch.Size, int]]()

        def note(q, k, v, options):
            layers.append((q.shape, options["n_heads"]))
            return q, k, v

        model.set_model_attn1_patch(note)
        self.call(model)
        return layers


@torch.no_grad()
def random_bench(
    steps: int = 0, frames: int = 0, pixels: int = 0, unet: dict | None = None, family: str = "SD15", dtype: torch.dtype | None = None
) -> Bench:
    """A model with random weights, whose values cost no time, and a random clip: SD1.5 in fp32 with 4 frames of 256 pixels on the CPU, in
    fp16 with 16 frames of 512 pixels on CUDA. frames, pixels, dtype: others than those. unet: changes to UNETS."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    usual = (16, 512, torch.float16) if torch.cuda.is_available() else (4, 256, torch.float32)
    frames, pixels, dtype = frames or usual[0], pixels or usual[1], dtype or usual[2]
    kind, device = getattr(comfy.supported_models, family), comfy.model_management.get_torch_device()
    shape = UNET | kind.unet_config | UNETS[family] | (unet or {})
    config = kind(shape)
    config.set_inference_dtype(dtype, None)
    inner = config.get_model({}, device=device)
    drawn = torch.randn(2**22, device=device, generator=torch.Generator(device).manual_seed(0))  # repeated: billions take minutes to draw
    for parameter in inner.parameters():
        if parameter.ndim < 2:
            parameter.fill_(1)
            continue
        for part in parameter.view(-1).split(len(drawn)):  # scaled so that activations stay near 1
            part.copy_(drawn[: len(part)]).mul_(parameter[0].numel() ** -0.5)
    model = comfy.model_patcher.ModelPatcher(inner, device, torch.device("cpu"))
    words: list = [[torch.randn(1, 77, shape["context_dim"]), {"pooled_output": torch.randn(1, 1280)} if family == "SDXL" else {}]]
    clip = torch.randn(frames, 4, pixels // 8, pixels // 8)
    return Bench(model, clip, spelled(words, SOURCE), spelled(words, TARGET), words, steps)


def interleaved(timed: Mapping[Any, Timed], rounds: int, warm_up: int = 1) -> dict[Any, Seconds]:
    """Each measurement of each group, a value a round. A group's measurements follow each other, forwards and backwards in turn; the rounds
    that go before as a warm-up are dropped."""
    found: dict[Any, Seconds] = {name: {what: [] for what in group} for name, group in timed.items()}
    for turn, number in enumerate(range(1 - warm_up, rounds + 1)):
        for name, group in timed.items():
            for what, measure in list(group.items())[:: -1 if turn % 2 else 1]:
                taken = measure()
                if number > 0:
                    found[name][what].append(taken)
        print(f"  round {number} of {rounds}{'' if number > 0 else ' (warm-up)'}", flush=True)
    return found


def quartiles(values: np.ndarray | list[float]) -> list[float]:
    return [round(float(value), 5) for value in np.quantile(values, [0.25, 0.5, 0.75])]


def compared(seconds: Seconds, ratios: Ratios) -> dict:
    """How many rounds there were, and quartiles of ratios and of the seconds.

    Ratios are taken within each round, so that what else the machine does counts for both sides; their medians are the figures."""
    arrays = SimpleNamespace(**{what: np.array(values) for what, values in seconds.items()})
    return {
        "rounds": min(map(len, seconds.values())),
        "quartiles": {name: quartiles(ratio(arrays)) for name, ratio in ratios.items()},
        "seconds": {what: quartiles(values) for what, values in seconds.items()},
    }


def compare(timed: Timed, ratios: Ratios, rounds: int) -> dict:
    """Times one group in turn, and what `compared` tells of it."""
    return compared(interleaved({"": timed}, rounds)[""], ratios)
