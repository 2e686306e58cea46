"""Where a trajectory's tensors lie: in memory, or in files that the system maps into it page by page."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


class Storage:
    """Makes tensors. folder: where the files lie; None for memory. A file goes when its tensor does, or with the process."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised CPU tensor. Raises ValueError where the disk has no room for it."""
        if self.folder is None:
            return torch.empty(shape, dtype=dtype)
        size = math.prod(shape) * dtype.itemsize
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ValueError(
                f"the trajectory needs a file of {size / 2**30:.1f} GiB, and the disk of {str(self.folder)!r} has {free / 2**30:.1f} GiB free. "
                "Use fewer steps or frames, or make room."
            )
        with tempfile.TemporaryFile(dir=self.folder, prefix="blade_trajectory_") as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process at a write
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    raise ValueError(
                        f"the trajectory's file of {size / 2**30:.1f} GiB cannot be made in {str(self.folder)!r}: {error.strerror}. "
                        "Use fewer steps or frames, or make room."
                    ) from error
            else:
                file.truncate(size)
            return torch.from_numpy(np.memmap(file, NUMPY[dtype], "r+", shape=shape))
