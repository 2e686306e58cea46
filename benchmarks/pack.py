"""The pack as the package `blade`, for benchmarks that run it in their own process."""

from __future__ import annotations

import sys
import types
from pathlib import Path


def import_pack() -> None:
    """Makes the pack importable as `blade`, whatever its folder is called. ComfyUI must be on the import path for its nodes and host.

    Without executing the pack's own __init__.py: that one is for ComfyUI."""
    if "blade" not in sys.modules:
        blade = types.ModuleType("blade")
        blade.__path__ = [str(Path(__file__).resolve().parents[1])]
        sys.modules["blade"] = blade
