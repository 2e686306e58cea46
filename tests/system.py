"""What a system does to a program that writes: it runs out of room, or kills it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and kills as Linux knows them")
PACK = """
import sys, types
pack = types.ModuleType("blade")
pack.__path__ = [sys.argv[1]]
sys.modules["blade"] = pack
"""
KILLER = """
import os, random, signal, time
random.seed(0)
begin = time.monotonic()
work(0)
took = time.monotonic() - begin
for kill in range(1, 11):
    child = os.fork()
    if not child:
        while True:
            work(kill)
    time.sleep(random.uniform(0.2, 1.2) * took)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    check()
"""


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: writing fails as on a full disk."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def run(code: str, *arguments: object) -> str:
    """What a program prints that has the pack as `blade`; its sys.argv[2:] are the arguments. It works in one thread: in a forked process OpenMP would
    wait forever for the threads that stayed behind."""
    command = [sys.executable, "-c", PACK + code, str(ROOT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert not done.returncode, done.stderr
    return done.stdout


def kill_at_work(code: str, folder: Path) -> None:
    """Runs `work(n)` of the code ten times in a process that is killed meanwhile, and `check()` after each. Its sys.argv[2] is the folder."""
    run(code + KILLER, folder)
