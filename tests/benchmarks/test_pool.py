"""Clips measured in several processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import pool


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch):
    """Workers get this process's: tests in the host put ComfyUI's folder there, which holds another package `tests`."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not Path(folder, "comfy").is_dir()])


def make(checkpoint: Path) -> tuple[str, int, int]:
    return checkpoint.name, os.getpid(), torch.get_num_threads()


def work(bench: tuple[str, int, int], item: int) -> tuple[int, str, int, int]:
    if item < 0:
        raise ValueError(f"item {item} cannot be measured")
    return (item * item, *bench)


@pytest.mark.parametrize("count", [1, 2])
def test_every_item_comes_back_once_with_its_own_result(monkeypatch, count):
    monkeypatch.setattr(pool, "workers", lambda: count)
    found = dict(pool.each(make, Path("some/where"), work, range(6)))
    assert {item: result[:2] for item, result in found.items()} == {item: (item**2, "where") for item in range(6)}
    processes = {result[2] for result in found.values()}
    assert processes == {os.getpid()} if count == 1 else os.getpid() not in processes and len(processes) <= 2


def test_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(pool, "workers", lambda: 2)
    ((_, result), *_) = pool.each(make, Path("x"), work, [1, 2])
    assert result[3] == max(1, (os.cpu_count() or 1) // 2)


@pytest.mark.parametrize("count", [1, 2])
def test_what_fails_in_a_worker_is_raised_with_its_sentence(monkeypatch, count):
    monkeypatch.setattr(pool, "workers", lambda: count)
    with pytest.raises(ValueError, match="item -1 cannot be measured"):
        list(pool.each(make, Path("x"), work, [-1]))


def test_nothing_to_do_starts_nothing():
    assert list(pool.each(lambda _: pytest.fail("made"), Path("x"), work, [])) == []


ORPHANED = """
import sys, time
from pathlib import Path
from benchmarks import pool
from tests_pool_work import make, wait
if __name__ == "__main__":
    pool.workers = lambda: 2
    list(pool.each(make, Path(sys.argv[1]), wait, [1, 2, 3, 4]))
"""
WORK = """
import os, time
def make(folder):
    (folder / f"{os.getpid()}.pid").touch()
    return folder
def wait(folder, item):
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "run.py").write_text(ORPHANED)
    (tmp_path / "tests_pool_work.py").write_text(WORK)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(tmp_path)], env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(map(runs, workers))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(runs, workers)))


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_gpu_is_one_process_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pool.workers() == 1
