"""The files that the benchmarks write, one JSON each, and the record of what they ran on."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
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
    parts: Mapping[str, Callable[[Path, Path, bool], bool]],
    out: str,
    quick: str,
    *,
    options: Mapping[str, dict[str, Any]] | None = None,
    subject: Callable[[argparse.Namespace], Path] = lambda chosen: find_comfy(ROOT / ".cache"),
    report: Callable[[Path, Path], None] = lambda subject, out: None,
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
    except (HostError, RunFailed, ValueError) as error:
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
    """Puts nested figures into a JSON file: dicts are merged key by key, all else is replaced, and what is not named stays.

    The file is written beside its place and moved there, so it is whole whenever it is read. Raises ValueError where the file holds no
    JSON object."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}): move it away.") from error
    if not isinstance(kept, dict):
        raise ValueError(f"{path} holds a JSON {type(kept).__name__}, not an object: move it away.")
    text = json.dumps(_merged(kept, figures), indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        part = Path(file.name)
        try:
            file.write(text)
            file.close()  # an open file cannot be moved on Windows
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _merged(kept: dict, new: dict) -> dict:
    both = {name: _merged(kept[name], new[name]) for name in kept.keys() & new.keys() if _dicts(kept[name], new[name])}
    return {**kept, **new, **both}


def _dicts(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


class Kept:
    """Rows of figures that took long to measure, in a file: not measured again until the code or a checkpoint changes."""

    def __init__(self, file: Path):
        self.file, self.stamp = file, code_fingerprint()
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.rows: dict = found["rows"] if found.get("fingerprint") == self.stamp else {}

    def write(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": self.stamp, "rows": self.rows}), encoding="utf-8")
        part.replace(self.file)


def code_fingerprint() -> str:
    """Changes with the code that makes an edit or measures it, and with the demo's checkpoints."""
    digest = hashlib.sha256()
    for folder in ("attention", "blending", "inversion", "host", "nodes", "metrics", "video", "benchmarks", "demo"):
        for path in sorted((ROOT / folder).glob("*.py")):
            digest.update(path.read_bytes())
    for path in sorted((ROOT / "demo").glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows])


def interval(values: np.ndarray) -> dict[str, float]:
    """The mean of some values, with its 95 % interval (bootstrap over them)."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (2000, len(values)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def met(value: float, which: str, bound: float) -> bool:
    """Whether a goal is reached. which: "at least" or "at most" """
    return value >= bound if which == "at least" else value <= bound


def machine(comfy: Path) -> dict:
    """What the figures depend on beside the code: processor, cores, memory, GPU if there is one, and versions. Nothing of the day.

    comfy: the folder of the ComfyUI that was used."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions(comfy),
    }


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
