"""What temporal attention, DDIM inversion, recording, blending and a clip's length cost, in time and in memory, against stock ComfyUI.

    python -m benchmarks.speed [--out out/bench] [--only steps,memory,inversion,inversion_memory,recording,blending,edit,fatezero,lengths]
        [--quick]

Writes the keys `temporal.*`, `inversion.*`, `overhead.*`, `edit.*`, `memory.*` and `stages.*` of speed.json, prints them as tables, and puts
all that the file holds into speed.md and speed.png: times as ratios, so that they mean the same on any machine. Ends with 1 and ComfyUI's own
sentence if a prompt fails, with 2 if a goal is missed. The memory part edits a clip of 1,000 frames (with --quick 96 frames), and
inversion_memory starts twelve servers (with --quick eight).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.speed.blending_cost import run_blending
from benchmarks.speed.edit_cost import run_edit
from benchmarks.speed.fatezero_case import run_fatezero
from benchmarks.speed.inversion_cost import run_inversion, run_inversion_memory
from benchmarks.speed.lengths import run_lengths
from benchmarks.speed.long_clip import run_memory
from benchmarks.speed.recording_cost import run_recording
from benchmarks.speed.report import write_report
from benchmarks.speed.step_cost import run_steps
from demo.run import RunFailed
from runner.fetch import find_comfy
from runner.host import HostError

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = {
    "steps": run_steps,
    "memory": run_memory,
    "inversion": run_inversion,
    "inversion_memory": run_inversion_memory,
    "recording": run_recording,
    "blending": run_blending,
    "edit": run_edit,
    "fatezero": run_fatezero,
    "lengths": run_lengths,
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/bench"), help="where the results go (default: out/bench)")
    arguments.add_argument("--only", default=",".join(PARTS), help=f"which parts, separated by commas (default: {','.join(PARTS)})")
    arguments.add_argument("--quick", action="store_true", help="fewer rounds, and shorter clips under keys of their own")
    options = arguments.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        arguments.error(f"--only: there is no part {unknown[0]!r}: take from {', '.join(PARTS)}.")
    try:
        comfy = find_comfy(REPOSITORY / ".cache")
        reached = []
        for name in chosen:
            begin = time.monotonic()
            reached.append(PARTS[name](comfy, options.out.resolve(), options.quick))
            print(f"({name}: {(time.monotonic() - begin) / 60:.1f} min)\n", flush=True)
    except (HostError, RunFailed, ValueError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 1
    write_report(options.out.resolve())
    return 0 if all(reached) else 2


if __name__ == "__main__":
    sys.exit(main())
