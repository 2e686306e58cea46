"""The files that the benchmarks write, one JSON each, and the record of what they ran on."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from demo.run import RunFailed, versions
from runner.fetch import find_comfy
from runner.host import HostError

ROOT = Path(__file__).resolve().parents[1]
Goals = Mapping[str, tuple[float, str, float]]  # name -> (value, "at least" or "at most", bound)


def command(
    description: str,
    parts: Mapping[str, Callable[[Any, Path, bool], bool]],
    out: str,
    quick: str,
    *,
    options: Mapping[str, dict[str, Any]] | None = None,
    subject: Callable[[argparse.Namespace], Any] = lambda chosen: find_comfy(ROOT / ".cache"),
    report: Callable[[Any, Path], None] = lambda subject, out: None,
) -> int:
    """The command line of a benchmark in several parts: measures those that --only names, else all. Returns the exit status: 2 where a goal is
    missed, 1 with a sentence where something cannot run.

    description: the benchmark's docstring. parts: name -> part(subject, out, quick), which measures, writes, prints, and says whether its goals are
    met. out: the default of --out. quick: what --quick does. options: further ones, as argparse takes them. subject: from all options what is
    measured, here the folder of a ComfyUI. report(subject, out): runs after the parts."""
    arguments = argparse.ArgumentParser(description=description.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path(out), help=f"where the results go (default: {out})")
    arguments.add_argument("--only", default=",".join(parts), help=f"which parts, separated by commas (default: {','.join(parts)})")
    arguments.add_argument("--quick", action="store_true", help=quick)
    for name, settings in (options or {}).items():
        arguments.add_argument(name, **settings)
    chosen = arguments.parse_args()
    names, folder, reached = chosen.only.split(","), chosen.out.resolve(), []
    if unknown := [name for name in names if name not in parts]:
        arguments.error(f"--only: there is no part {unknown[0]!r}: take from {', '.join(parts)}.")
    try:
        measured = subject(chosen)
        for name in names:
            begin = time.monotonic()
            reached.append(parts[name](measured, folder, chosen.quick))
            print(f"{'met   ' if reached[-1] else 'MISSED'} {name} ({(time.monotonic() - begin) / 60:.1f} min)\n", flush=True)
    except (HostError, RunFailed, ValueError, OSError) as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return 1
    report(measured, folder)
    return 0 if all(reached) else 2


def judge(goals: Goals) -> bool:
    """Prints every goal beside what was reached, and returns whether all are met."""
    for name, (value, which, bound) in goals.items():
        print(f"{'met   ' if met(value, which, bound) else 'MISSED'} {name}: {value:.4g}, {which} {bound:g}")
    return all(met(*goal) for goal in goals.values())


def merge(path: Path, figures: dict) -> None:
    """Puts nested figures into a JSON file: dicts are merged key by key, all else is replaced, and what is not named stays. Raises ValueError where
    the file holds no JSON object."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}): move it away.") from error
    if not isinstance(kept, dict):
        raise ValueError(f"{path} holds a JSON {type(kept).__name__}, not an object: move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _merged(kept, figures))


def _merged(kept: Any, new: Any) -> Any:
    if not (isinstance(kept, dict) and isinstance(new, dict)):
        return new
    return kept | {name: _merged(kept.get(name), value) for name, value in new.items()}


def _write(path: Path, tree: dict) -> None:
    """Beside its place, and moved there, so the file is whole whenever it is read."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Kept:
    """Rows of figures that took long to measure, in a file: not measured again until the code or a checkpoint changes."""

    def __init__(self, file: Path):
        self.file, self.stamp = file, code_fingerprint()
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.rows: dict = found["rows"] if found.get("fingerprint") == self.stamp else {}

    def write(self) -> None:
        _write(self.file, {"fingerprint": self.stamp, "rows": self.rows})


def code_fingerprint() -> str:
    """Changes with the code that makes an edit or measures it, and with the demo's checkpoints."""
    folders = ("attention", "blending", "inversion", "host", "nodes", "metrics", "video", "benchmarks", "demo", "runner")
    files = [path for folder in folders for kind in ("*.py", "*.safetensors") for path in sorted((ROOT / folder).rglob(kind))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows])


def interval(*columns: np.ndarray, of: Callable[..., Any] = lambda mean: mean) -> dict[str, float]:
    """The mean of some values, or what `of` makes of the means of several columns, with its 95 % interval (bootstrap over the rows)."""
    drawn = np.random.default_rng(0).integers(0, len(columns[0]), (2000, len(columns[0])))
    low, high = np.quantile(of(*(column[drawn].mean(1) for column in columns)), [0.025, 0.975])
    return {"mean": float(of(*(column.mean() for column in columns))), "low": float(low), "high": float(high)}


def met(value: float, which: str, bound: float) -> bool:
    """Whether a goal is reached. which: "at least" or "at most" """
    return value >= bound if which == "at least" else value <= bound


def machine(comfy: Path) -> dict:
    """What the figures depend on beside the code: processor, cores, memory, GPU if there is one, and versions. Nothing of the day.

    comfy: the folder of the ComfyUI that was used."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.exists() else None
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions(comfy),
    }
