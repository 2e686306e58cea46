"""What temporal attention costs in time: a step of SD1.5's U-Net with it against one without; and the bench for such ratios."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.pack import import_pack
from benchmarks.report import machine, merge
from runner.in_process import import_comfy

Timed = dict[str, dict[str, Callable[[], float]]]
Seconds = dict[str, dict[str, list[float]]]

VARIANTS = {
    "first_previous": ("first", "previous"),
    "self_first_previous": ("self", "first", "previous"),
    "self_middle": ("self", "middle"),
    "first": ("first",),
    "all": ("all",),
}
MOST_OVER_PREDICTION = 1.05
SD15_UNET = {  # the rest is in comfy.supported_models.SD15
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}


def start_comfy(comfy: Path) -> None:
    """Makes ComfyUI's modules and the pack importable in this process, on CUDA where there is one."""
    os.environ["COMFYUI_PATH"] = str(comfy)
    import_comfy()
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import_pack()


class SD15Bench:
    """SD1.5's U-Net, a clip's noise and a clock.

    Random weights, as their values cost no time. On the CPU fp32, 4 frames of 256 pixels; on CUDA fp16, 16 frames of 512 pixels; or as many
    `frames` and `pixels` as are given. unet: another shape than SD1.5's."""

    def __init__(self, frames: int = 0, pixels: int = 0, unet: dict | None = None) -> None:
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        cuda = torch.cuda.is_available()
        self.frames, self.pixels, self.dtype = (16, 512, torch.float16) if cuda else (4, 256, torch.float32)
        self.frames, self.pixels = frames or self.frames, pixels or self.pixels
        self.device = comfy.model_management.get_torch_device()
        config = comfy.supported_models.SD15(unet or SD15_UNET)
        config.set_inference_dtype(self.dtype, None)
        inner = config.get_model({}, device=self.device)
        self.rng = torch.Generator(self.device).manual_seed(0)
        for parameter in inner.parameters():  # its memory is whatever was there before
            fan_in = math.prod(parameter.shape[1:])
            parameter.data.normal_(0, fan_in**-0.5, generator=self.rng) if parameter.ndim > 1 else parameter.data.fill_(1)
        self.model = comfy.model_patcher.ModelPatcher(inner, self.device, torch.device("cpu"))
        self.noise = torch.randn(self.frames, 4, self.pixels // 8, self.pixels // 8)
        self.words: list = [[torch.randn(1, 77, 768), {}]]

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def spelled(conditioning: list, text: str) -> list:
    """CONDITIONING whose words are known, as the node Prompt makes it. text: words that are a token each in CLIP's vocabulary."""
    from blade.attention.words import CHUNK, PromptWords, Word
    from blade.host.words import KEY

    words = PromptWords(text, tuple(Word(word, (column,)) for column, word in enumerate(text.split(), 1)), CHUNK)
    return [[embedding, {**options, KEY: words}] for embedding, options in conditioning]


class StepBench(SD15Bench):
    """One model call on the clip, timed inside ComfyUI's sampling chain, and the attention in it alone."""

    def __init__(self, frames: int = 0, pixels: int = 0, unet: dict | None = None) -> None:
        import comfy.ldm.modules.attention

        super().__init__(frames, pixels, unet)
        self.attention = comfy.ldm.modules.attention.optimized_attention
        self.layers = self.self_attention_layers()

    @torch.inference_mode()
    def step(self, model) -> float:
        """Seconds of one call with one cond row a frame (CFG 1)."""
        import comfy.sample
        import comfy.samplers

        seconds = math.nan

        def call_once(model, x, sigmas, extra_args, callback, disable):
            nonlocal seconds
            begin = self.clock()
            model(x, sigmas[0].expand(len(x)), **extra_args)
            seconds = self.clock() - begin
            return x

        sigmas = torch.tensor([5.0, 0.0])
        sampler = comfy.samplers.KSAMPLER(call_once)
        comfy.sample.sample_custom(
            model, self.noise, 1.0, sampler, sigmas, self.words, self.words, torch.zeros_like(self.noise), disable_pbar=True, seed=0
        )
        return seconds

    def self_attention_layers(self) -> list[tuple[torch.Size, int]]:
        """Of each self-attention layer in one call: the shape of its input, [frames, cells, width], and its heads."""
        layers: list[tuple[torch.Size, int]] = []
        unet = self.model.get_model_object("diffusion_model")
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs: layers.append((inputs[0].shape, module.heads)))
            for name, module in unet.named_modules()
            if name.endswith("attn1")
        ]
        self.step(self.model)
        for hook in hooks:
            hook.remove()
        return layers

    @torch.inference_mode()
    def attend(self, times: int) -> float:
        """Seconds of the attention alone, over all self-attention layers, with `times` as many keys and values as queries."""

        def tensor(shape: torch.Size, cells: int) -> torch.Tensor:
            drawn = torch.randn(shape[0], cells, shape[2], device=self.device, generator=self.rng)
            return drawn.to(self.dtype)

        seconds = 0.0
        for shape, heads in self.layers:
            q, k, v = (tensor(shape, cells) for cells in (shape[1], times * shape[1], times * shape[1]))
            begin = self.clock()
            self.attention(q, k, v, heads)
            seconds += self.clock() - begin
        return seconds


def interleaved(timed: Timed, rounds: int) -> Seconds:
    """Seconds of each measurement of each group, a value a round. A group's measurements follow each other, forwards and backwards in
    turn; one round more goes before, as a warm-up, and is dropped."""
    seconds: Seconds = {name: {what: [] for what in group} for name, group in timed.items()}
    for number in range(rounds + 1):
        for name, group in timed.items():
            for what, measure in list(group.items())[:: -1 if number % 2 else 1]:
                taken = measure()
                if number:
                    seconds[name][what].append(taken)
        print(f"  round {number} of {rounds}{'' if number else ' (warm-up)'}", flush=True)
    return seconds


def measure_steps(rounds: int) -> Seconds:
    """Seconds by variant: "stock" and "temporal", a step without and with it; "plain" and "wide", stock's attention alone with as many
    keys as queries and with the variant's."""
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    bench = StepBench()
    timed: Timed = {}
    for name, kinds in VARIANTS.items():
        model = with_temporal_attention(bench.model, KeyFrames(kinds), size=bench.frames)
        times = bench.frames if kinds == ("all",) else len(kinds)
        timed[name] = {
            "stock": partial(bench.step, bench.model),
            "temporal": partial(bench.step, model),
            "plain": partial(bench.attend, 1),
            "wide": partial(bench.attend, times),
        }
    return interleaved(timed, rounds)


def step_figures(seconds: Seconds) -> dict:
    """The keys of `temporal` for the time of a step, from what `measure_steps` gives.

    Ratios are taken within each round, so that what else the machine does counts for both sides; their medians are the figures.
    Predicted is stock's step plus what stock's own attention takes longer with that many more keys."""
    details = {}
    for name, four in seconds.items():
        stock, temporal, plain, wide = (np.array(four[what]) for what in ("stock", "temporal", "plain", "wide"))
        ratio, predicted = temporal / stock, 1 + (wide - plain) / stock
        details[name] = {"ratio": quartiles(ratio), "predicted": quartiles(predicted), "over_predicted": quartiles(ratio / predicted)}
    return {
        "step_ratio": {name: found["ratio"][1] for name, found in details.items()},
        "step_ratio_predicted": {name: found["predicted"][1] for name, found in details.items()},
        "step": {
            "rounds": min(len(four["stock"]) for four in seconds.values()),
            "quartiles": details,
            "seconds": {name: {what: quartiles(np.array(values)) for what, values in four.items()} for name, four in seconds.items()},
        },
    }


def quartiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in np.quantile(values, [0.25, 0.5, 0.75])]


def run_steps(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    start_comfy(comfy)
    found = step_figures(measure_steps(3 if quick else 6))
    merge(out / "speed.json", {"machine": {"steps": machine(comfy)}, "temporal": found})
    stock = found["step"]["seconds"]["first_previous"]["stock"]
    print(
        f"\nA step of SD1.5's U-Net takes {stock[1]:.2f} s ({stock[0]:.2f} to {stock[2]:.2f}); quartiles of {found['step']['rounds']} rounds"
    )
    print(f"{'keys and values from':<22}{'measured':>20}{'predicted':>20}{'over predicted':>20}")
    for name, detail in found["step"]["quartiles"].items():
        columns = (f"{middle:.3f} ({low:.3f}-{high:.3f})" for low, middle, high in detail.values())
        print(f"{name.replace('_', ' '):<22}" + "".join(f"{column:>20}" for column in columns))
    met = found["step_ratio"]["first_previous"] <= MOST_OVER_PREDICTION * found["step_ratio_predicted"]["first_previous"]
    print(f"{'met   ' if met else 'MISSED'} first and previous: at most {MOST_OVER_PREDICTION} times what is predicted")
    return met
