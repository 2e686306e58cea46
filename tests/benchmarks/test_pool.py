"""Clips measured in several processes."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks import pool


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


def test_a_gpu_is_one_process_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pool.workers() == 1
