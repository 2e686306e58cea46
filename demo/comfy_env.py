"""Makes ComfyUI's own modules importable outside its server, for training and for the launcher of test hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def mend_torchvision() -> None:
    """A CPU-only torch beside a CUDA build of torchvision cannot load torchvision's compiled operators, and its import fails.

    Declaring the two operators that its Python part asks for is enough for ComfyUI, which calls neither.
    With a matching pair this does nothing."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def import_comfy(cpu: bool = True) -> Path:
    """Puts the ComfyUI at COMFYUI_PATH on the import path, set to run with repeatable results. Returns its folder.

    cpu: whether it runs on the CPU, or on what ComfyUI finds."""
    folder = os.environ.get("COMFYUI_PATH")
    if not folder or not (Path(folder) / "comfy").is_dir():
        raise SystemExit(f"COMFYUI_PATH is {folder!r}: set it to a folder that holds ComfyUI (the one with main.py).")
    sys.path.insert(0, folder)
    mend_torchvision()
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True  # the CPU's default picks its chunk sizes from the free memory, and with them its rounding
    return Path(folder)
