import errno
import gc
import os
import shutil
from collections import namedtuple

import pytest
import torch

from blade.inversion.storage import Storage


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mapped_tensor_holds_what_is_written(tmp_path, dtype):
    tensor = Storage(tmp_path).empty((3, 5, 2), dtype)
    values = torch.randn(3, 5, 2).to(dtype)
    tensor.copy_(values)
    assert torch.equal(tensor, values)
    assert (tensor.dtype, tensor.shape) == (dtype, (3, 5, 2))


def test_without_a_folder_it_is_plain_memory():
    tensor = Storage().empty((2, 3), torch.float32)
    assert tensor.shape == (2, 3)
    assert tensor.is_contiguous()


def test_nothing_is_left_in_the_folder_once_the_tensor_is_gone(tmp_path):
    tensor = Storage(tmp_path / "new").empty((64, 64), torch.float32)
    tensor.fill_(1)
    assert tensor.sum() == 64 * 64
    del tensor
    gc.collect()
    assert not list((tmp_path / "new").iterdir())


def test_a_disk_that_fills_up_meanwhile_is_told_of_with_what_to_do(tmp_path, monkeypatch):
    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)  # Windows and macOS have none
    with pytest.raises(ValueError, match=r"cannot be made in .*: No space left on device\. Use fewer steps or frames, or make room\."):
        Storage(tmp_path).empty((2, 3), torch.float32)
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_disk_has_no_room_for_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ValueError, match=r"needs a file of .* GiB.*Use fewer steps or frames"):
        Storage(tmp_path).empty((1000, 1000), torch.float32)
    assert not list(tmp_path.iterdir())
