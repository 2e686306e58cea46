"""What faults, cancellations, odd inputs and long use leave behind: nothing.

    python -m benchmarks.faults [--out out/faults] [--only cells,refusals,cancellations,soak,fuzz] [--quick]

Writes the keys `cells`, `dirty_cells`, `random_cancellations`, `soak.*` and `fuzz.*` of table.json, and table.md. Each part runs real servers with a
pack that makes them fail (`benchmarks/faults/pack`); `refusals` adds to the cells the column "refused by us"; `fuzz` runs tests/host/test_fuzz.py
with many examples. Ends with 1 where a prompt fails without a fault, with 2 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.cells import DISK, KILLED, REFUSALS, REFUSED, STAGES, TENSOR_FAULTS, run_cancellations, run_cells
from benchmarks.faults.fuzz import run as run_fuzz
from benchmarks.faults.soak import run_soak
from benchmarks.report import Kept, machine, merge
from runner.fetch import find_comfy
from runner.host import HostError

REPOSITORY = Path(__file__).resolve().parents[2]
CELLS, CANCELLATIONS, EDITS, EXAMPLES = 30, 60, 200, 10_000  # goals
GROWTH = 0.1  # MiB an edit
QUICK = 20  # times fewer


def cells(comfy: Path, out: Path, quick: bool) -> bool:
    rows = fill(comfy, out, (*TENSOR_FAULTS, DISK, KILLED))
    return not dirty(rows) and len(rows) >= CELLS


def refusals(comfy: Path, out: Path, quick: bool) -> bool:
    rows = fill(comfy, out, (REFUSED,))
    return not dirty(rows) and len(rows) == len(REFUSALS)


def fill(comfy: Path, out: Path, faults: tuple[str, ...]) -> list[dict]:
    """Some of the table's columns. Returns their rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows = run_cells(comfy, out / "base_cells", Kept(out / "cells.json"), faults)
    merge(out / "table.json", {"cells": len(rows), "dirty_cells": len(dirty(rows)), "table": rows})
    return [row for row in rows if row["fault"] in faults]


def dirty(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["dirt"]]


def cancellations(comfy: Path, out: Path, quick: bool) -> bool:
    count = CANCELLATIONS // QUICK if quick else CANCELLATIONS
    found = run_cancellations(comfy, out / "base_cancellations", count)
    merge(
        out / "table.json",
        {"random_cancellations": found["stopped"], "late_cancellations": found["late"], "dirty_cancellations": found["dirt"]},
    )
    return not found["dirt"] and found["stopped"] >= count


def soak(comfy: Path, out: Path, quick: bool) -> bool:
    found = run_soak(comfy, out / "base_soak", EDITS // QUICK if quick else EDITS)
    merge(out / "table.json", {"soak": found})
    return found["mib_per_edit"] < GROWTH and not found["not_reproduced"]


def fuzz(comfy: Path, out: Path, quick: bool) -> bool:
    found = run_fuzz(out, EXAMPLES // QUICK if quick else EXAMPLES)
    merge(out / "table.json", {"fuzz": found})
    return not found["unexpected"]


PARTS: dict[str, Callable[[Path, Path, bool], bool]] = {
    "cells": cells,
    "refusals": refusals,
    "cancellations": cancellations,
    "soak": soak,
    "fuzz": fuzz,
}


def markdown(found: dict) -> str:
    """The table: a row for each stage, a column for each fault, in each cell what the artist gets."""
    lines = []
    if "table" in found:
        kinds = list(dict.fromkeys(row["fault"] for row in found["table"]))
        ends = {(row["stage"], row["fault"]): ("" if not row["dirt"] else "**dirty** ") + ending(row["end"]) for row in found["table"]}
        lines += [f"| {' | '.join(['', *kinds])} |", f"|{'---|' * (len(kinds) + 1)}"]
        lines += [f"| {' | '.join([stage, *(ends.get((stage, kind), '') for kind in kinds)])} |" for stage in STAGES.values()]
        lines += ["", f"{found['cells']} cells, {found['dirty_cells']} dirty."]
    if "random_cancellations" in found:
        lines += ["", f"{found['random_cancellations']} edits stopped at random moments, and {found['late_cancellations']} that had ended by then; "
                  f"{len(found['dirty_cancellations'])} dirty."]  # fmt: skip
    if "soak" in found:
        told = found["soak"]
        lines += ["", f"{told['edits']} edits on one server with {told['different_settings']} different settings: resident memory grows by "
                  f"{told['mib_per_edit']:+.3f} ± {told['standard_error']:.3f} MiB an edit; {len(told['not_reproduced'])} results differ from their first."]  # fmt: skip
    if "fuzz" in found:
        lines += ["", f"{found['fuzz']['examples']} fuzz examples, {len(found['fuzz']['unexpected'])} with an unexpected end."]
    return "\n".join(lines) + "\n"


def ending(sentence: str) -> str:
    """What stands in a cell."""
    if sentence in ("finished", "interrupted", "the server was killed"):
        return {"interrupted": "stopped", "the server was killed": "old files whole"}.get(sentence, sentence)
    return "a sentence of ours" if "(BLADE)" in sentence else "the fault's own error"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/faults"), help="where the results go (default: out/faults)")
    arguments.add_argument("--only", default=",".join(PARTS), help=f"which parts, separated by commas (default: {','.join(PARTS)})")
    arguments.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer cancellations, edits and examples")
    options = arguments.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        arguments.error(f"--only: there is no part {unknown[0]!r}: take from {', '.join(PARTS)}.")
    out, reached = options.out.resolve(), []
    try:
        comfy = find_comfy(REPOSITORY / ".cache")
        for name in chosen:
            begin = time.monotonic()
            reached.append(PARTS[name](comfy, out, options.quick))
            print(f"{'met   ' if reached[-1] else 'MISSED'} {name} ({(time.monotonic() - begin) / 60:.1f} min)\n", flush=True)
    except (HostError, ValueError) as error:
        print(f"The faults could not be tried: {error}", file=sys.stderr)
        return 1
    merge(out / "table.json", {"machine": machine(comfy)})
    table = markdown(json.loads((out / "table.json").read_text(encoding="utf-8")))
    (out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return 0 if all(reached) else 2


if __name__ == "__main__":
    sys.exit(main())
