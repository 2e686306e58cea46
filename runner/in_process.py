"""Makes ComfyUI's own modules importable outside its server, for training and for the launcher of test hosts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def mend_companions() -> None:
    """Makes torchvision and torchaudio importable where they were built for another torch, as PyPI's CUDA builds beside a CPU-only one:
    their compiled parts do not load then, which ends their import.

    ComfyUI uses what of them is written in Python. With a matching set this does nothing, and what is not installed stays missing."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):  # its Python part asks for their schemas
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        import torchaudio
    except ImportError:
        pass
    except (OSError, RuntimeError):  # no library of that CUDA; or of another CUDA than torch's
        # This module outlives the import that failed: the next one is told that there is no compiled part, which torchaudio allows.
        sys.modules["torchaudio._extension.utils"]._load_lib = lambda name: False  # type: ignore[attr-defined]
        import torchaudio  # noqa: F401


def import_comfy(cpu: bool = True) -> Path:
    """Puts the ComfyUI at COMFYUI_PATH on the import path, set to run with repeatable results. Returns its folder.

    cpu: whether it runs on the CPU, or on what ComfyUI finds."""
    folder = os.environ.get("COMFYUI_PATH")
    if not folder or not (Path(folder) / "comfy").is_dir():
        raise SystemExit(f"COMFYUI_PATH is {folder!r}: set it to a folder that holds ComfyUI (the one with main.py).")
    sys.path.insert(0, folder)
    mend_companions()
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True  # the CPU's default picks its chunk sizes from the free memory, and with them its rounding
    return Path(folder)
