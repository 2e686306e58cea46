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
from benchmarks.quality.editing_report import run_editing
from benchmarks.quality.mask_quality import run_masks
from benchmarks.quality.peers_report import run_peers
from benchmarks.quality.reconstruction import run_reconstruction
from benchmarks.quality.stillness import run_stillness
from runner.host import CHECKPOINT_NAME

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"inversion": run_reconstruction, "masks": run_masks, "temporal": run_stillness, "edit": run_editing, "peers": run_peers}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/bench"), help="where the results go (default: out/bench)")
    arguments.add_argument("--only", default=",".join(PARTS), help=f"which parts, separated by commas (default: {','.join(PARTS)})")
    arguments.add_argument(
        "--checkpoint", type=Path, default=ROOT / "demo" / CHECKPOINT_NAME, help="another checkpoint than the demo's own"
    )
    arguments.add_argument("--quick", action="store_true", help="a few clips only, under keys of their own")
    options = arguments.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        arguments.error(f"--only: there is no part {unknown[0]!r}: take from {', '.join(PARTS)}.")
    import_pack()
    reached = [PARTS[name](options.checkpoint, options.out.resolve(), options.quick) for name in chosen]
    return 0 if all(reached) else 2


if __name__ == "__main__":
    sys.exit(main())
