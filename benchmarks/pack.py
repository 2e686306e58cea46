"""The pack as the package `blade`, for benchmarks that run it in their own process."""

import sys
import types
from pathlib import Path


def import_pack() -> None:
    """Makes the pack importable as `blade`, whatever its folder is called, without executing its own __init__.py: that one is for ComfyUI, which must
    be on the import path for the pack's nodes and host."""
    if "blade" not in sys.modules:
        sys.modules["blade"] = blade = types.ModuleType("blade")
        blade.__path__ = [str(Path(__file__).resolve().parents[1])]
