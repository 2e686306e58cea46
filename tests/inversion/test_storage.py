import errno
import gc
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from blade.inversion import storage
from blade.inversion.storage import Storage, reserve
from tests.system import PACK, ROOT, file_limit, on_linux


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
    with pytest.raises(ValueError, match=r"cannot be made in .*\(No space left on device\). Use fewer steps or frames, make room, or keep"):
        Storage(tmp_path).empty((2, 3), torch.float32)
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_disk_has_no_room_for_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ValueError, match=r"needs a file of .* GiB.*Use fewer steps or frames"):
        Storage(tmp_path).empty((1000, 1000), torch.float32)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps what is mapped")
def test_a_mapped_tensor_outlives_its_folder(tmp_path):
    folder = tmp_path / "temp"
    tensor = Storage(folder).empty((64, 64), torch.float32)
    tensor.fill_(3)
    shutil.rmtree(folder)
    assert (tensor == 3).all()
    assert Storage(folder).empty((4,), torch.float32).shape == (4,)


@on_linux
def test_a_disk_that_refuses_the_room_is_told_of_and_left_empty(tmp_path):
    with (
        file_limit(20_000),
        pytest.raises(ValueError, match=r"file of .* GiB cannot be made in .*\(File too large\).*Use fewer steps or frames"),
    ):
        Storage(tmp_path).empty((100, 100), torch.float32)
    assert not list(tmp_path.iterdir())


@on_linux
def test_the_disk_s_room_is_taken_before_anything_is_written(tmp_path, monkeypatch):
    taken, real = [], storage.np.memmap

    def mapping(file, *args, **options):
        taken.append(os.fstat(file.fileno()))
        return real(file, *args, **options)

    monkeypatch.setattr(storage.np, "memmap", mapping)
    tensor = Storage(tmp_path).empty((2**20,), torch.float32)
    assert [status.st_size for status in taken] == [tensor.nbytes] and taken[0].st_blocks * 512 >= tensor.nbytes


@pytest.mark.parametrize("size", [1, 2**24, 2**24 + 1])
def test_where_the_system_takes_no_room_by_name_it_is_taken_with_zeros(tmp_path, monkeypatch, size):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "a", "w+b") as file:
        reserve(file, size)
    assert (tmp_path / "a").stat().st_size == size
    assert Storage(tmp_path).empty((3, 5), torch.float32).sum() == 0


@pytest.mark.parametrize("taken", [True, False])
def test_a_folder_that_cannot_be_made_or_used_is_told_of(tmp_path, monkeypatch, taken):
    (tmp_path / "temp").write_text("no folder")
    with pytest.raises(ValueError, match=r"cannot be made in .*temp.*make room, or keep the trajectory in memory"):
        Storage(tmp_path / "temp" if taken else tmp_path / "temp" / "more").empty((3,), torch.float32)


@pytest.mark.parametrize("step", ["reserve", "memmap"])
def test_a_failure_on_the_way_leaves_no_file(tmp_path, monkeypatch, step):
    def failing(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(*(storage, step) if step == "reserve" else (storage.np, step), failing)
    with pytest.raises(ValueError, match=r"cannot be made in .*\(Cannot allocate memory\)"):
        Storage(tmp_path).empty((3,), torch.float32)
    assert not list(tmp_path.iterdir())


ENDING = """
import os, signal
import torch
from pathlib import Path
from blade.inversion.storage import Storage
tensor = Storage(Path(sys.argv[2])).empty((1000, 1000), torch.float32)
tensor.fill_(1)
print("mapped", flush=True)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "failed":
    raise RuntimeError
"""


@pytest.mark.parametrize("end", ["failed", "killed"])
def test_a_process_that_ends_in_any_way_leaves_no_file(tmp_path, end):
    command = [sys.executable, "-c", PACK + ENDING, str(ROOT), str(tmp_path), end]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "mapped\n" and done.returncode
    assert not list(tmp_path.iterdir())


def test_a_disk_with_just_enough_room_is_used_and_one_with_a_byte_less_is_not(tmp_path, monkeypatch):
    for free in (24, 23):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: namedtuple("Usage", "total used free")(10**9, 0, free))
        if free == 24:
            assert Storage(tmp_path).empty((2, 3), torch.float32).shape == (2, 3)
        else:
            with pytest.raises(ValueError, match=r"needs a file of 0\.0 GiB, and the disk of .* has 0\.0 GiB free"):
                Storage(tmp_path).empty((2, 3), torch.float32)
    assert Storage(tmp_path).empty((2, 3), torch.float16).nbytes == 12
