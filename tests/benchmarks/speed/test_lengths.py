"""The figures of the stages by length and shape, on seconds whose answer is known, and when SDXL's shape is left out."""

from types import SimpleNamespace

import pytest

from benchmarks.speed import lengths
from benchmarks.speed.lengths import STEPS, length_figures

ABOUT = {"demo_8_frames": {"frames": 8, "pixels": 128, "dtype": "float32"}}


def test_ratios_are_taken_within_a_round_and_seconds_are_of_a_frame_and_step() -> None:
    sides = {"stock_invert": [8.0, 16.0, 80.0], "invert": [8.8, 17.6, 88.0], "stock_sample": [16.0] * 3, "sample": [16.0, 16.0, 99.0]}
    found = length_figures({"demo_8_frames": sides}, ABOUT)["stages"]["demo_8_frames"]
    assert found["invert"]["ratio_to_stock"][1] == pytest.approx(1.1)
    assert found["invert"]["seconds_per_frame_and_step"] == pytest.approx(17.6 / 8 / STEPS)
    assert found["invert"]["stock_seconds_per_frame_and_step"] == pytest.approx(16 / 8 / STEPS)
    assert found["sample"]["ratio_to_stock"][1] == 1.0
    assert (found["frames"], found["pixels"], found["steps"]) == (8, 128, STEPS)


def test_without_memory_for_its_weights_sdxls_shape_is_left_out(monkeypatch) -> None:
    monkeypatch.setattr(lengths.psutil, "virtual_memory", lambda: SimpleNamespace(available=10 * 2**30))
    monkeypatch.setattr(lengths.torch.cuda, "is_available", lambda: False)
    assert lengths.chosen_dtype() is None
    monkeypatch.setattr(lengths.psutil, "virtual_memory", lambda: SimpleNamespace(available=12 * 2**30))
    assert lengths.chosen_dtype() == lengths.torch.bfloat16
    monkeypatch.setattr(lengths.psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * 2**30))
    assert lengths.chosen_dtype() == lengths.torch.float32
