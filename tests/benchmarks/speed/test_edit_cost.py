"""What share of stock's throughput an edit has, on seconds whose answer is known, and when the goal is met."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import edit_cost
from benchmarks.speed.edit_cost import edit_figures

SECONDS = {"stock_invert": 10.0, "invert": 14.0, "stock_sample": 20.0, "sample": 26.0, "plain": 0.5, "wide": 1.0}


def test_the_floor_is_stock_and_the_wide_attention_of_three_passes_a_step() -> None:
    found = edit_figures({what: [value] for what, value in SECONDS.items()}, 4)
    assert found["share_of_stock_throughput"] == pytest.approx((30 + 12 * 0.5) / 40)
    shares = found["details"]["quartiles"]
    assert shares["invert_share"][1] == pytest.approx(12 / 14, abs=1e-5)
    assert shares["sample_share"][1] == pytest.approx(24 / 26, abs=1e-5)
    assert shares["share_of_stock_without_wide_keys"][1] == 0.75


def test_a_share_is_taken_within_its_round() -> None:
    loaded = {what: [value * load for load in (1, 2, 5)] for what, value in SECONDS.items()}
    loaded["sample"][2] *= 100  # something else has spoilt a round
    found = edit_figures(loaded, 4)
    assert found["share_of_stock_throughput"] == pytest.approx(0.9)
    assert found["details"]["rounds"] == 3


@pytest.mark.parametrize(("invert", "met"), [(14.0, True), (14.1, False)])
def test_the_goal_is_nine_tenths(invert, met, monkeypatch, tmp_path, capsys) -> None:
    bench = SimpleNamespace(frames=4, pixels=256, dtype=torch.float32)
    monkeypatch.setattr(edit_cost, "start_comfy", lambda comfy: None)
    monkeypatch.setattr(edit_cost, "machine", lambda comfy: {})
    measured = {"edit": {what: [value] for what, value in (SECONDS | {"invert": invert}).items()}}
    monkeypatch.setattr(edit_cost, "measure_edit", lambda rounds: (bench, measured))
    assert edit_cost.run_edit(tmp_path, tmp_path, quick=True) is met
    assert ("MISSED" in capsys.readouterr().out) is not met
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["edit"]
    assert written["share_of_stock_throughput"] == pytest.approx(36 / (26 + invert), abs=1e-5)
