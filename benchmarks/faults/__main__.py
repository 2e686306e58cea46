"""What faults, cancellations, odd inputs and long use leave behind: nothing.

    python -m benchmarks.faults [--out out/faults] [--only cells,refusals,cancellations,soak,fuzz] [--quick]

Writes the keys `cells`, `dirty_cells`, `random_cancellations`, `soak.*` and `fuzz.*` of table.json, and table.md. Each part runs real servers with a
pack that makes them fail (`benchmarks/faults/pack`); `refusals` adds to the cells the column "refused by us"; `fuzz` runs tests/host/test_fuzz.py
with many examples. Ends with 1 where a prompt fails without a fault, with 2 where a goal is missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.faults.cells import DISK, KILLED, REFUSALS, REFUSED, STAGES, TENSOR_FAULTS, run_cells
from benchmarks.faults.fuzz import run_fuzz
from benchmarks.faults.soak import run_cancellations, run_soak
from benchmarks.report import command, machine, merge, table

GOAL = 30  # cells
PARTS: dict[str, Callable[[Path, Path, bool], bool]] = {
    "cells": partial(run_cells, (*TENSOR_FAULTS, DISK, KILLED), GOAL),
    "refusals": partial(run_cells, (REFUSED,), len(REFUSALS)),
    "cancellations": run_cancellations,
    "soak": run_soak,
    "fuzz": run_fuzz,
}
SENTENCES = {  # by a key of table.json, whose lists are counted
    "cells": "{cells} cells, {dirty_cells} dirty.",
    "random_cancellations": "{random_cancellations} edits stopped at random moments, and {late_cancellations} that had ended by then; "
    "{dirty_cancellations} dirty.",
    "soak": "{soak[edits]} edits on one server with {soak[different_settings]} different settings: resident memory grows by "
    "{soak[mib_per_edit]:+.3f} ± {soak[standard_error]:.3f} MiB an edit; {soak[not_reproduced]} results differ from their first.",
    "fuzz": "{fuzz[examples]} fuzz examples, {fuzz[unexpected]} with an unexpected end.",
}
ENDS = {"finished": "finished", "interrupted": "stopped", "the server was killed": "old files whole"}


def markdown(found: dict) -> str:
    """What table.json holds: a row for each stage, a column for each fault, in each cell what the artist gets; a sentence for each other part."""
    parts = []
    if rows := found.get("table"):
        kinds = list(dict.fromkeys(row["fault"] for row in rows))
        ends = {(row["stage"], row["fault"]): "**dirty** " * bool(row["dirt"]) + ending(row["end"]) for row in rows}
        parts.append(table(["", *kinds], ([stage, *(ends.get((stage, kind), "") for kind in kinds)] for stage in STAGES.values())))
    parts += [sentence.format(**counted(found)) for key, sentence in SENTENCES.items() if key in found]
    return "\n\n".join(parts) + "\n"


def counted(found: dict) -> dict:
    """Figures with the length of every list in its place."""
    return {key: counted(held) if isinstance(held, dict) else len(held) if isinstance(held, list) else held for key, held in found.items()}


def ending(sentence: str) -> str:
    """What stands in a cell."""
    return ENDS.get(sentence) or ("a sentence of ours" if "(BLADE)" in sentence else "the fault's own error")


def report(comfy: Path, out: Path) -> None:
    merge(out / "table.json", {"machine": machine(comfy)})
    text = markdown(json.loads((out / "table.json").read_text(encoding="utf-8")))
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> int:
    return command(
        __doc__, PARTS, "out/faults", "20 times fewer cancellations, edits and examples; the growth is not judged", report=report
    )


if __name__ == "__main__":
    sys.exit(main())
