"""What holds on a ComfyUI: the host tests and the page's, run on it, as a row of docs/hosts.md.

    COMFYUI_PATH=... python -m tools.hosts [--page FOLDER]

In the environment of that ComfyUI, with pytest and Selenium: `nox -s hosts` makes it. The row replaces that of the same versions.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import distributions, version
from pathlib import Path

from runner.fetch import comfy_version, find_comfy
from runner.host import REPOSITORY

TABLE = REPOSITORY / "docs" / "hosts.md"
TESTS = {"tests/host": ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"], "tests/browser": []}  # and pytest's options
GROUPS = ("host tests", "page, classic", "page, Nodes 2.0")
VERSIONS = ("ComfyUI", "page", "Python", "torch")
OUTCOMES = ("passed", "failed", "skipped")
TOLD = 10  # failures that are told one by one
LENGTH = 200  # characters of what is told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--page", type=Path, help="a folder into which comfyui-frontend-package was installed, instead of the environment's"
    )
    options = parser.parse_args()
    comfy = find_comfy()
    environment, page = {**os.environ, "COMFYUI_PATH": str(comfy)}, version("comfyui-frontend-package")
    if options.page:
        page = next(iter(distributions(path=[str(options.page)]))).version
        environment["COMFYUI_PAGE"] = str(options.page / "comfyui_frontend_package" / "static")
    cases: list[ET.Element] = []
    with tempfile.TemporaryDirectory() as folder:
        for tests, spread in TESTS.items():
            report = Path(folder, f"{Path(tests).name}.xml")
            command = [sys.executable, "-m", "pytest", tests, "-m", "not slow and not release", f"--junitxml={report}", *spread]
            subprocess.run(command, cwd=REPOSITORY, env=environment)
            cases += ET.parse(report).iter("testcase")
    row = table_row((comfy_version(comfy), page, platform.python_version(), version("torch")), cases)
    TABLE.write_text(with_row(TABLE.read_text(encoding="utf-8"), row), encoding="utf-8")
    print(f"{row}\nWritten to {TABLE}.")


def table_row(versions: tuple[str, ...], cases: Iterable[ET.Element]) -> str:
    """A line of the table. versions: as VERSIONS names them. cases: pytest's, from its JUnit report."""
    counts = {group: Counter[str]() for group in GROUPS}
    told = []
    for case in cases:
        outcome, reason = verdict(case)
        modes = GROUPS[2 if "vue" in case.get("name", "") else 1]
        counts[modes if ".browser." in f"{case.get('classname')}." else GROUPS[0]][outcome] += 1
        if reason:
            told.append(f"`{case.get('name')}`: {reason}")
    cells = [", ".join(f"{counts[group][outcome]} {outcome}" for outcome in OUTCOMES if counts[group][outcome]) for group in GROUPS]
    rest = [f"and {len(told) - TOLD} more"] if len(told) > TOLD else []
    return f"| {' | '.join([*versions, *(cell or 'none ran' for cell in cells), '<br>'.join(told[:TOLD] + rest)])} |"


def verdict(case: ET.Element) -> tuple[str, str]:
    """ "passed", "skipped" or "failed", and the first line of why, as a table can hold it."""
    for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            line = (found.get("message") or found.text or "").strip().partition("\n")[0]
            line = line if len(line) <= LENGTH else f"{line[:LENGTH]} ..."
            return outcome, line.replace("|", "\\|").replace("<", "&lt;")
    return "passed", ""


def with_row(page: str, row: str) -> str:
    """The page with that row in its table: in place of the one of the same versions, and in the versions' order."""
    lines = page.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    end = next((number for number in range(begin, len(lines)) if not lines[number].startswith("|")), len(lines))
    rows = {key(line): line for line in [*lines[begin:end], row]}
    return "\n".join([*lines[:begin], *(rows[versions] for versions in sorted(rows)), *lines[end:]]) + "\n"


def key(row: str) -> tuple[tuple[int, ...], ...]:
    """The row's versions, as numbers. A torch's "+cpu" is not told apart."""
    cells = [cell.strip() for cell in row.split("|")[1 : 1 + len(VERSIONS)]]
    return tuple(tuple(map(int, re.findall(r"\d+", cell.partition("+")[0]))) for cell in cells)


if __name__ == "__main__":
    main()
