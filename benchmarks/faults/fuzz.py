"""Odd inputs in great number: every node on thousands of drawn examples, each of which must end in a sane result or in a sentence of ours.

    python -m benchmarks.faults.fuzz [--out out/faults] [--examples 10000]

Runs tests/host/test_fuzz.py by pytest with hypothesis' profile "faults", other examples on every run, in two processes, and writes
fuzz.json and, with what hypothesis says of each failure, each process's fuzz.log. Ends with 2 where anything unexpected was found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.report import ROOT, merge

EXAMPLES = 10_000, 500  # in all, and with --quick
FILE = "tests/host/test_fuzz.py"
WORKERS = 2
LONGEST = 600  # characters of a failure that are told


def run_fuzz(comfy: Path, out: Path, quick: bool) -> bool:
    """The keys `fuzz.*` of table.json; whether all ended as they should. comfy: the tests look for it themselves."""
    found = run(out, EXAMPLES[quick])
    merge(out / "table.json", {"fuzz": found})
    return not found["unexpected"]


def run(out: Path, examples: int) -> dict:
    """At least so many examples in all. Returns {"examples": how many ran, "unexpected": a sentence for each failure}, which fuzz.json holds too."""
    executed, unexpected = 0, list[str]()
    tests = len(re.findall(r"^@given", (ROOT / FILE).read_text(encoding="utf-8"), re.MULTILINE))
    while executed < examples and not unexpected:  # once more where a test has fewer different examples than it was asked for
        each = math.ceil((examples - executed) / tests / WORKERS)
        with ThreadPoolExecutor(WORKERS) as pool:
            rounds = list(pool.map(partial(one_round, each=each), [out / f"worker_{number}" for number in range(WORKERS)]))
        ran = sum(found for found, _ in rounds)
        executed += ran
        unexpected = [failure for _, failures in rounds for failure in failures] or ([] if ran else [f"no example ran; see {out}"])
    result = {"examples": executed, "unexpected": unexpected}
    (out / "fuzz.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


def one_round(out: Path, each: int) -> tuple[int, list[str]]:
    """How many examples ran, and what failed, with so many of each test in one process."""
    out.mkdir(parents=True, exist_ok=True)
    count, report, log = out / "count.json", out / "report.xml", out / "fuzz.log"
    for path in (count, report):
        path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", FILE, "-q", "--hypothesis-profile=faults", f"--junitxml={report.resolve()}"]
    told = os.environ | {"BLADE_FUZZ_EXAMPLES": str(each), "BLADE_FUZZ_COUNT": str(count.resolve())}
    with log.open("wb") as file:
        code = subprocess.run(command, cwd=ROOT, env=told, stdout=file, stderr=subprocess.STDOUT).returncode
    executed = sum(json.loads(count.read_text(encoding="utf-8")).values()) if count.exists() else 0
    failures = failed(report) if report.exists() else []
    return executed, failures or [f"pytest ended with {code}; see {log}"] * bool(code)  # a crash, or an example that hung


def failed(report: Path) -> list[str]:
    """Test and message of each failure of a JUnit report."""
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"{case.get('name')}: {found.get('message', '')[:LONGEST]}" for case in cases for found in case if found.tag in ("failure", "error")
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("out/faults"), help="where the results go (default: out/faults)")
    arguments.add_argument("--examples", type=int, default=EXAMPLES[0], help="how many examples in all, at least (default: 10,000)")
    options = arguments.parse_args()
    result = run(options.out, options.examples)
    print(f"{result['examples']:,} examples, {len(result['unexpected'])} unexpected", *result["unexpected"], sep="\n  ")
    return 2 if result["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
