"""What temporal attention, DDIM inversion, recording, blending and a clip's length cost, in time and in memory, against stock ComfyUI.

    python -m benchmarks.speed [--out out/bench] [--only steps,memory,inversion,inversion_memory,recording,blending,edit,fatezero,lengths]
        [--quick]

Writes the keys `temporal.*`, `inversion.*`, `overhead.*`, `edit.*`, `memory.*` and `stages.*` of speed.json, prints them as tables, and puts
all that the file holds into speed.md and speed.png: times as ratios, so that they mean the same on any machine. Ends with 1 and ComfyUI's own
sentence if a prompt fails, with 2 if a goal is missed. The memory part edits a clip of 1,000 frames (with --quick 96 frames), and
inversion_memory starts twelve servers (with --quick eight).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import command, machine, merge, met
from benchmarks.speed.bench import start_comfy
from benchmarks.speed.memory import fatezero, inversion_memory, memory
from benchmarks.speed.overheads import blending, recording
from benchmarks.speed.report import goals, markdown, write_report
from benchmarks.speed.times import edit, inversion, lengths, steps

QUESTIONS = (steps, memory, inversion, inversion_memory, recording, blending, edit, fatezero, lengths)


def part(question: Callable[[Path, Path, bool], dict]) -> Callable[[Path, Path, bool], bool]:
    """Measures, writes and prints; whether its goals are met. question(comfy, out, quick) gives figures nested as in speed.json."""

    def run(comfy: Path, out: Path, quick: bool) -> bool:
        start_comfy(comfy)
        found = question(comfy, out, quick)
        merge(out / "speed.json", {"machine": {question.__name__: machine(comfy)}, **found})
        print(f"\n{markdown(found)}", flush=True)
        return all(met(*goal) for goal in goals(found).values())

    return run


PARTS = {question.__name__: part(question) for question in QUESTIONS}


def main() -> int:
    quick = "fewer rounds, and shorter clips under keys of their own"
    return command(__doc__, PARTS, "out/bench", quick, report=lambda comfy, out: write_report(out))


if __name__ == "__main__":
    sys.exit(main())
