"""Makes the pack importable as `blade` whatever its folder is called, and lets no host test be skipped."""

import os
import sys
import types
from pathlib import Path

import pytest

# Before anything imports torch, and for the servers too: threads of two processes on two cores slow each other tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
collect_ignore = ["browser"]  # needs a browser: `nox -s browser` asks for it by name

# Without executing the pack's own __init__.py: that one is for ComfyUI, and tests of a room need no ComfyUI.
blade = types.ModuleType("blade")
blade.__path__ = [str(HERE.parent)]
sys.modules["blade"] = blade


def fail_if_skipped(report, path: Path) -> None:
    """A skipped host test would pass on a machine where nothing runs."""
    if report.skipped and not hasattr(report, "wasxfail") and (HERE / "host") in path.parents:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"A host test may not be skipped ({reason})."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    fail_if_skipped(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    fail_if_skipped(report, collector.path)
    return report
