"""Quality against exact ground truth: how well a clip comes back from its inversion, how well masks fit the object that words name, how
still an edited object holds, what an edit keeps outside it and changes inside, and how that compares with the peers' ways.

    python -m benchmarks.quality [--out out/bench] [--only inversion,masks,temporal,edit,peers] [--quick]

Runs the demo checkpoints through the pack's own nodes, inside ComfyUI's loader and sampler. Writes quality.json, tables and pictures. What
is measured for one clip is kept and not measured again, until the code of the pack or of the benchmarks changes.
Ends with 2 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.pack import import_pack
from benchmarks.quality import editing, masks, peers, reconstruction, stillness
from benchmarks.report import ROOT, command
from demo.base import CHECKPOINT_NAME

PARTS = {module.PART.name: module.PART.run for module in (reconstruction, masks, stillness, editing, peers)}
CHECKPOINT = {"type": Path, "default": ROOT / "demo" / CHECKPOINT_NAME, "help": "another checkpoint than the demo's own"}


def checkpoint(options: argparse.Namespace) -> Path:
    import_pack()
    return options.checkpoint


if __name__ == "__main__":
    quick = "a few clips only, under keys of their own"
    sys.exit(command(__doc__, PARTS, "out/bench", quick, options={"--checkpoint": CHECKPOINT}, subject=checkpoint))
