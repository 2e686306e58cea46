"""Runs one node on one set of inputs, and judges all that must hold whatever they were."""

from __future__ import annotations

import copy
import faulthandler
import linecache
import shutil
import sys
import time
from collections import Counter
from functools import wraps
from pathlib import Path

import cv2
import numpy as np
import torch

from blade.video.save import FFV1, H264, save_video
from blade.video.whole import Unwritable

ROOT = Path(__file__).resolve().parents[2]
LONGEST, LARGEST = 30, 2**30  # seconds of processor time, and bytes above the peak so far, that one example may take
HANGS = 300  # seconds after which the run ends with a traceback

EXECUTED: Counter = Counter()  # examples that ran to their end, by test


def counted(test):
    @wraps(test)
    def run(*args, **kwargs):
        test(*args, **kwargs)
        EXECUTED[test.__name__] += 1

    return run


def fill_inputs(folder: Path) -> None:
    """Clips, and what is none."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    save_video(folder / "clip.mp4", [pictures], 8.0, H264, waveform=torch.rand(2, 8000) - 0.5, sample_rate=8000)
    save_video(folder / "odd.mkv", [pictures[:, :17, :31]], 29.97, FFV1)
    save_video(folder / "tiny.mkv", [pictures[:, :3, :5]], 8.0, FFV1)
    for name in ("pictures", "broken", "empty"):
        (folder / name).mkdir()
    for number in (1, 2, 10):
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), pictures[0])
        cv2.imwrite(str(folder / "broken" / f"{number}.png"), pictures[0, :, : 8 * (1 + number)])
    (folder / "broken" / "0.png").write_bytes(b"no picture")
    (folder / "text.mp4").write_bytes(b"no clip")
    (folder / "nothing.mp4").write_bytes(b"")


class Trial:
    """The nodes at work in folders of their own: `input`, `output` and `temp` of `folder`."""

    def __init__(self, studio, folder: Path):
        self.studio, self.folder = studio, folder
        self.options = copy.deepcopy(studio.model.model_options)

    def __call__(self, node, **inputs) -> tuple | None:
        """The node's outputs; None where it answered with a sentence of its own. Anything else is raised."""
        before, begin, peak = self.files(), time.process_time(), most_memory()
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            with torch.inference_mode():
                outputs = node.execute(**inputs).result
        except ValueError as error:
            check_sentence(error, node.define_schema().display_name)
            outputs = None
        finally:
            faulthandler.cancel_dump_traceback_later()
        took, grown, made = time.process_time() - begin, most_memory() - peak, self.files() - before
        assert took < LONGEST, f"took {took:.0f} s"
        assert grown < LARGEST, f"took {grown / 2**30:.1f} GiB"
        astray = {path for path in made if not path.startswith(("output/", "temp/"))}
        half = {path for path in made if path.startswith("output/") and (outputs is None or path.endswith((".part", ".tmp")))}
        assert not astray and not half, f"left behind: {astray | half}"
        self.check_model()
        return outputs

    def files(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}

    def check_model(self) -> None:
        """The artist's MODEL is as it was loaded."""
        model = self.studio.model
        assert model.model_options == self.options
        assert not (model.patches or model.object_patches)
        assert not any(listed for by_key in model.wrappers.values() for listed in by_key.values())

    def clear(self) -> None:
        """The output folder as it is before each example: with one thing in it that is in the way of a folder."""
        for name in ("output", "temp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        (self.folder / "output" / "taken").write_bytes(b"")


def check_sentence(error: ValueError, title: str) -> None:
    """An error is ours if it begins with a node's title, and what it tells was found out by our code rather than by a library's."""
    first: BaseException = error
    while type(first.__cause__) in (ValueError, Unwritable):
        first = first.__cause__
    trace = first.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    place = trace.tb_frame.f_code.co_filename
    line = linecache.getline(place, trace.tb_lineno).strip()
    ours = type(error) is ValueError and Path(place).is_relative_to(ROOT) and line.startswith("raise ")
    if first.__cause__ is not None and trace.tb_frame.f_code.co_name in ("naming", "reading") and Path(place).parent.name == "nodes":
        ours = False  # these pass on a library's own ValueError, such as one of numpy's
    if not ours or not (str(error).startswith(title) or str(error).startswith("Edit (BLADE)")):
        raise AssertionError(f"{place}:{trace.tb_lineno}: {line}: {error}") from error


def most_memory() -> int:
    """The process's peak so far, in bytes; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sane(tensor: torch.Tensor, *shape: int | None, low: float = -np.inf, high: float = np.inf) -> None:
    """A tensor of a shape (None: any size), of finite values from low to high."""
    assert tensor.ndim == len(shape), tensor.shape
    assert all(wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)), (tensor.shape, shape)
    assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()
    assert low <= float(tensor.min()) and float(tensor.max()) <= high
