"""What the two stages of an edit cost by a clip's length and by the U-Net's shape, against stock KSampler in the same run."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.report import ROOT, machine, merge
from benchmarks.speed.blending_cost import SOURCE, TARGET
from benchmarks.speed.long_clip import EDIT
from benchmarks.speed.stages import STAGES, Stages
from benchmarks.speed.step_cost import Seconds, interleaved, quartiles, spelled, start_comfy
from demo.base import CHECKPOINT_NAME
from demo.figures import Demo

LENGTHS, QUICK_LENGTHS = (8, 32, 128), (8,)  # frames; a clip of 1,000 is the part `memory`
STEPS = 2
ROUNDS, SDXL_ROUNDS = 2, 1
SDXL_FRAMES, SDXL_PIXELS = 2, 256
SDXL_UNET = {  # the rest is in comfy.supported_models.SDXL
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
}
WEIGHTS = 2.6e9  # of SDXL's U-Net
ROOM = 6 * 2**30  # bytes beside them: the frames' own, and what else the machine does


def lengths_of_demo(lengths: tuple[int, ...]) -> dict[int, Stages]:
    """By frames, an edit of so long a clip with the demo checkpoint, of 128 pixels."""
    demo = Demo(ROOT / "demo" / CHECKPOINT_NAME)
    model = demo.model
    from blade.nodes.prompt import Prompt

    source, target, negative = (Prompt.execute(demo.clip, text).result[0] for text in (EDIT.clip.source_prompt, EDIT.target_prompt, ""))
    clip = demo.encode(EDIT.clip.render(max(lengths)))
    return {frames: Stages(model, model, (source, target, negative), clip[:frames], STEPS) for frames in lengths}


def chosen_dtype() -> torch.dtype | None:
    """Of SDXL's weights: fp16 on CUDA, else fp32 or, where memory does not hold that, bf16. None where it holds neither."""
    free = psutil.virtual_memory().available
    kinds = [torch.float16] if torch.cuda.is_available() else [torch.float32, torch.bfloat16]
    return next((kind for kind in kinds if kind.itemsize * WEIGHTS + ROOM < free), None)


def sdxl_stages() -> tuple[Stages, torch.dtype] | None:
    """An edit with SDXL's U-Net and random weights; None where memory does not hold them."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    dtype = chosen_dtype()
    if dtype is None:
        return None
    device = comfy.model_management.get_torch_device()
    config = comfy.supported_models.SDXL(SDXL_UNET)
    config.set_inference_dtype(dtype, None)
    inner = config.get_model({}, device=device)
    fill(inner, device)
    model = comfy.model_patcher.ModelPatcher(inner, device, torch.device("cpu"))
    words = [[torch.randn(1, 77, 2048), {"pooled_output": torch.randn(1, 1280)}]]
    clip = torch.randn(SDXL_FRAMES, 4, SDXL_PIXELS // 8, SDXL_PIXELS // 8)
    return Stages(model, model, (spelled(words, SOURCE), spelled(words, TARGET), words), clip, STEPS), dtype


@torch.no_grad()
def fill(inner: Any, device: torch.device) -> None:
    """Random weights that keep activations near 1, repeated from a few million numbers, since billions take minutes to draw."""
    bank = torch.randn(2**22, device=device, generator=torch.Generator(device).manual_seed(0))
    for parameter in inner.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1)
            continue
        scale, flat = parameter[0].numel() ** -0.5, parameter.view(-1)
        for start in range(0, len(flat), len(bank)):
            part = flat[start : start + len(bank)]
            part.copy_(bank[: len(part)]).mul_(scale)


def measure_lengths(quick: bool) -> tuple[Seconds, dict[str, dict]]:
    """Seconds of each clip's stages, a value a round, and of each clip its frames, pixels and what else counts."""
    import comfy.model_management  # noqa: F401 - which chooses its device now, since Demo asks for the CPU

    rounds, seconds, about = 1 if quick else ROUNDS, Seconds(), dict[str, dict]()
    for frames, stages in lengths_of_demo(QUICK_LENGTHS if quick else LENGTHS).items():
        name = f"demo_{frames}_frames"
        seconds |= interleaved({name: stages.timed()}, rounds)
        about[name] = {"frames": frames, "pixels": 8 * stages.clip.shape[-1], "dtype": "float32"}
    if not quick:
        made = sdxl_stages()
        if made is None:
            print("SDXL's shape is left out: its weights do not fit into the free memory.")
        else:
            stages, dtype = made
            seconds |= interleaved({"sdxl_shape": stages.timed()}, SDXL_ROUNDS)
            about["sdxl_shape"] = {"frames": SDXL_FRAMES, "pixels": SDXL_PIXELS, "dtype": str(dtype).removeprefix("torch.")}
            del stages, made
            gc.collect()
    return seconds, about


def length_figures(seconds: Seconds, about: dict[str, dict]) -> dict:
    """The key `stages`: for each clip and stage the ratio to KSampler at the same guidance, taken within each round, and both sides' seconds
    a frame and step."""
    found = {}
    for name, sides in seconds.items():
        steps = about[name]["frames"] * STEPS
        found[name] = {**about[name], "steps": STEPS}
        for stage in STAGES:
            stock, ours = (np.array(sides[side]) for side in (f"stock_{stage}", stage))
            found[name][stage] = {
                "ratio_to_stock": quartiles(ours / stock),
                "seconds_per_frame_and_step": round(float(np.median(ours)) / steps, 5),
                "stock_seconds_per_frame_and_step": round(float(np.median(stock)) / steps, 5),
            }
    return {"stages": found}


def run_lengths(comfy: Path, out: Path, quick: bool) -> bool:
    """Measures, writes and prints. There is no goal: True."""
    start_comfy(comfy)
    found = length_figures(*measure_lengths(quick))
    merge(out / "speed.json", {"machine": {"lengths": machine(comfy)}, **found})
    print(f"\n{'ratio to KSampler, and s a frame and step':<44}" + "".join(f"{stage:>28}" for stage in STAGES))
    for name, clip in found["stages"].items():
        title = f"{name.replace('_', ' ')}, {clip['pixels']} px, {clip['dtype']}"
        row = (f"{clip[stage]['ratio_to_stock'][1]:.3f} ({clip[stage]['seconds_per_frame_and_step']:.3f} s)" for stage in STAGES)
        print(f"{title:<44}" + "".join(f"{cell:>28}" for cell in row))
    return True
