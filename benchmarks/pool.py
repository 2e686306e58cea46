"""Clips measured in several processes at once. A small model's layers are too small to share between cores: a process for each does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.pack import import_pack

MOST = 8  # processes; each holds a model and ComfyUI's modules, about 1 GiB
Item = TypeVar("Item")
Result = TypeVar("Result")
_bench: Any = None  # this process's own


def workers() -> int:
    """How many processes measure at once: one where a GPU does the work."""
    return 1 if torch.cuda.is_available() else max(1, min(os.cpu_count() or 1, MOST))


def each(
    make: Callable[[Path], Any], checkpoint: Path, work: Callable[[Any, Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with work(make(checkpoint), item), in the order in which they are done. `make` runs once a process.

    make, work: functions of a module, since they travel to other processes; items and results travel too. What a worker raises is raised here, and
    what has not begun then is not begun."""
    count = min(workers(), len(items))
    if count == 1:
        _begin(make, checkpoint)
        yield from ((item, work(_bench, item)) for item in items)
    if count < 2:
        return
    threads = max(1, (os.cpu_count() or 1) // count)
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (make, checkpoint, threads))
    try:
        known: dict[Future[Any], Item] = {pool.submit(_work, work, item): item for item in items}
        yield from ((known[done], done.result()) for done in as_completed(known))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[Path], Any], checkpoint: Path, threads: int | None = None) -> None:
    """Makes this process's bench; with so many threads, if it is a worker."""
    global _bench
    if threads:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(threads)
    import_pack()
    _bench = make(checkpoint)


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers, and they would go on through all that is left."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _work(work: Callable[[Any, Any], Any], item: Any) -> Any:
    return work(_bench, item)
