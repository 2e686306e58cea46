"""The ratios that answer the questions of time, on seconds whose answer is known, and when SDXL's shape is left out."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import bench, times
from benchmarks.speed.bench import Bench, compared


def medians(seconds: dict[str, list[float]], ratios: dict) -> dict[str, float]:
    return {name: middle for name, (_, middle, _) in compared(seconds, ratios)["quartiles"].items()}


def test_a_step_is_predicted_from_the_attention_with_more_keys_alone() -> None:
    four = {"stock": [10.0] * 3, "temporal": [11.0, 13.0, 12.0], "plain": [1.0] * 3, "wide": [2.0, 3.0, 2.0]}
    assert medians(four, times.STEP) == pytest.approx({"ratio": 1.2, "predicted": 1.1, "over_predicted": 13 / 12}, abs=1e-5)


def test_an_inversion_is_compared_with_stock_with_and_without_its_record() -> None:
    found = medians({"stock": [10.0], "record": [10.5], "without": [10.2]}, times.INVERSION)
    assert found == {"ratio_to_stock": 1.05, "ratio_to_stock_without_record": 1.02}


def test_the_floor_of_an_edit_is_stock_and_the_wide_attention_of_three_passes_a_step() -> None:
    seconds = {"stock_invert": [10.0], "invert": [14.0], "stock_sample": [20.0], "sample": [26.0], "plain": [0.5], "wide": [1.0]}
    found = medians(seconds, times.WHOLE_EDIT)
    assert times.EDIT_STEPS == 4
    assert found == pytest.approx(
        {
            "share_of_stock_throughput": (30 + 12 * 0.5) / 40,
            "invert_share": 12 / 14,
            "sample_share": 24 / 26,
            "share_of_stock_without_wide_keys": 0.75,
        },
        abs=1e-5,
    )


def test_stages_are_told_as_ratios_and_as_seconds_of_a_frame_and_step(monkeypatch) -> None:
    seconds = {"stock_invert": [8.0, 16.0, 80.0], "invert": [8.8, 17.6, 88.0], "stock_sample": [16.0] * 3, "sample": [16.0, 16.0, 99.0]}
    monkeypatch.setattr(bench, "interleaved", lambda timed, rounds: {name: seconds for name in timed})
    model = SimpleNamespace(model_dtype=lambda: torch.float32)
    found = times.by_frame(Bench(model, torch.zeros(8, 4, 16, 16), [], [], [], steps=2), 3)
    assert found["invert"] == {
        "ratio_to_stock": [1.1] * 3,
        "seconds_per_frame_and_step": pytest.approx(17.6 / 8 / 2),
        "stock_seconds_per_frame_and_step": pytest.approx(16 / 8 / 2),
    }
    assert found["sample"]["ratio_to_stock"][1] == 1.0
    assert (found["frames"], found["pixels"], found["dtype"], found["steps"]) == (8, 128, "float32", 2)


@pytest.mark.parametrize(("gibibytes", "expected"), [(10, None), (12, torch.bfloat16), (20, torch.float32)])
def test_without_memory_for_its_weights_sdxls_shape_is_left_out(gibibytes, expected, monkeypatch) -> None:
    monkeypatch.setattr(times.psutil, "virtual_memory", lambda: SimpleNamespace(available=gibibytes * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert times.sdxl_dtype() == expected
