"""What recording of the words' maps costs in time: a step of SD1.5's U-Net with the recorder on against the same with it off."""

from __future__ import annotations

import gc
import math
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import machine, merge
from benchmarks.speed.step_cost import SD15Bench, Seconds, interleaved, quartiles, spelled, start_comfy

ROUNDS = 11
STEPS = 25
MOST_OVERHEAD = 0.03
PROMPT = "a red sports car on a mountain road"  # in CLIP's vocabulary a token each


Denoised = dict[str, list[torch.Tensor]]


class RecordingBench(SD15Bench):
    """Steps of one cond row a frame (CFG 1, where what is recorded is the largest share), all frames in one batch."""

    def __init__(self) -> None:
        from blade.attention.record import MapRecorder, clear, recorded_sizes
        from blade.host.attention import record_cross_attention
        from blade.host.frames import with_frame_batches
        from blade.host.sampling import sigma_table
        from blade.host.words import KEY
        from blade.inversion.schedule import ddim_sigmas

        super().__init__()
        self.words = spelled(self.words, PROMPT)
        words = self.words[0][1][KEY]
        self.recorder = MapRecorder(words, recorded_sizes(*self.noise.shape[-2:]), self.frames)
        self.conds: set = set()
        off = with_frame_batches(self.model, size=self.frames)  # a size of its own: the automatic one may change between two calls
        self.models = {"off": off, "on": record_cross_attention(off, self.recorder, self.conds)}
        # Levels differ in cost: the middle one of each kind stands for all of its kind on the grid.
        kinds: dict[str, list[float]] = {"noisy": [], "clear": []}
        for sigma in ddim_sigmas(sigma_table(self.model), STEPS)[:-1].tolist():
            kinds["clear" if clear(sigma) else "noisy"].append(sigma)
        self.sigmas = {kind: of_kind[len(of_kind) // 2] for kind, of_kind in kinds.items()}
        self.shares = {kind: len(of_kind) / STEPS for kind, of_kind in kinds.items()}
        self.denoised: Denoised = defaultdict(list)

    @torch.inference_mode()
    def step(self, level: str, side: str) -> float:
        """Seconds of one model call inside ComfyUI's sampling chain, on the side "on" with all that DDIM Invert does: a level is begun,
        shown by the layers, averaged, brought to the CPU and kept. What the model gave is added to `denoised`."""
        import comfy.sample
        import comfy.samplers

        from blade.attention.record import CrossAttentionRecord
        from blade.host.sampling import positive_conds

        seconds = math.nan
        record = CrossAttentionRecord(self.recorder.words)

        def call_once(model, x, sigmas, extra_args, callback, disable):
            nonlocal seconds
            self.conds.update(positive_conds(model, self.recorder.words))
            begin = self.clock()
            if side == "on":
                self.recorder.begin(sigmas[0])
            denoised = model(x, sigmas[0].expand(len(x)), **extra_args)
            if side == "on":
                found = self.recorder.finish()
                assert found, "no layer has shown the recorder anything"
                record.add(found, 1, lambda shape, dtype: torch.empty(shape, dtype=dtype))
            seconds = self.clock() - begin
            self.denoised[level].append(denoised.cpu())
            return denoised

        gc.collect()  # else a measurement pays for what the one before has left
        sampler = comfy.samplers.KSAMPLER(call_once)
        sigmas = torch.tensor([self.sigmas[level], 0.0])
        comfy.sample.sample_custom(
            self.models[side], self.noise, 1.0, sampler, sigmas, self.words, self.words, torch.zeros_like(self.noise), disable_pbar=True, seed=0
        )  # fmt: skip
        return seconds


def measure_recording(rounds: int) -> tuple[RecordingBench, Seconds]:
    """Seconds by noise level with the recorder "off" and "on", a value a round, and the bench, which holds what was denoised in all of them."""
    bench = RecordingBench()
    return bench, interleaved({level: {side: partial(bench.step, level, side) for side in bench.models} for level in bench.sigmas}, rounds)


def recording_figures(seconds: Seconds, shares: dict[str, float], denoised: Denoised) -> dict:
    """The keys of `overhead` for recording: `recording` is the median of the rounds' ratios, less 1, of each kind of level by its share
    of a run's levels.

    denoised: by level, what the model gave in all measurements of either side, which is to be the same to the bit."""
    overhead = {level: quartiles(np.array(sides["on"]) / np.array(sides["off"]) - 1) for level, sides in seconds.items()}
    return {
        "recording": round(sum(shares[kind] * middle for kind, (_, middle, _) in overhead.items()), 5),
        "recording_latents_identical": all(torch.equal(one, of_level[0]) for of_level in denoised.values() for one in of_level),
        "recording_details": {
            "rounds": min(len(sides["off"]) for sides in seconds.values()),
            "quartiles": overhead,
            "seconds": {level: {side: quartiles(np.array(values)) for side, values in sides.items()} for level, sides in seconds.items()},
        },
    }


def run_recording(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goal is met."""
    start_comfy(comfy)
    bench, seconds = measure_recording(5 if quick else ROUNDS)
    found = recording_figures(seconds, bench.shares, bench.denoised)
    details = found["recording_details"]
    details |= {
        "sigmas": bench.sigmas,
        "shares": bench.shares,
        "frames": bench.frames,
        "pixels": bench.pixels,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "prompt": PROMPT,
    }
    merge(out / "speed.json", {"machine": {"recording": machine(comfy)}, "overhead": found})
    low, middle, high = details["seconds"]["noisy"]["off"]
    print(
        f"\nA step of SD1.5's U-Net on {bench.frames} frames of {bench.pixels} pixels takes {middle:.2f} s ({low:.2f} to {high:.2f}); "
        f"quartiles of {details['rounds']} rounds"
    )
    for level, quarters in details["quartiles"].items():
        low, middle, high = (100 * overhead for overhead in quarters)
        print(f"{f'{level}, {bench.shares[level]:.0%}, sigma {bench.sigmas[level]:.2f}':<28}{middle:.2f} % ({low:.2f} to {high:.2f})")
    same = "identical" if found["recording_latents_identical"] else "DIFFERENT"
    print(f"{'recording adds':<28}{100 * found['recording']:.2f} %; the latents are {same}")
    met = found["recording"] <= MOST_OVERHEAD and found["recording_latents_identical"]
    print(f"{'met   ' if met else 'MISSED'} recording: at most {MOST_OVERHEAD:.0%}, and the same latents to the bit")
    return met
