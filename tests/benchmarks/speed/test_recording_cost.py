"""The figures of what recording costs, on numbers whose answer is known, and when its goal is met."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import recording_cost
from benchmarks.speed.recording_cost import recording_figures

SHARES = {"noisy": 0.8, "clear": 0.2}
ONE = torch.ones(2, 3)
SAME = {"noisy": [ONE, ONE.clone()], "clear": [3 * ONE, 3 * ONE]}
DIFFERENT = {**SAME, "clear": [ONE, ONE.nextafter(2 * ONE)]}


def test_the_overhead_is_the_median_of_the_rounds_ratios_less_1() -> None:
    found = recording_figures({"noisy": {"off": [1.0, 2.0, 4.0, 10.0, 1.0], "on": [1.01, 2.04, 4.04, 90.0, 0.5]}}, {"noisy": 1.0}, SAME)
    assert found["recording"] == pytest.approx(0.01)  # 1 %, 2 %, 1 %, and two rounds that something else has spoilt
    assert found["recording_details"]["rounds"] == 5
    assert found["recording_details"]["quartiles"]["noisy"] == pytest.approx([0.01, 0.01, 0.02])
    assert found["recording_details"]["seconds"]["noisy"]["off"] == [1.0, 2.0, 4.0]


def test_a_level_that_costs_more_counts_by_how_many_there_are_of_its_kind() -> None:
    off = [1.0, 1.0, 1.0]
    found = recording_figures({"noisy": {"off": off, "on": off}, "clear": {"off": off, "on": [1.06] * 3}}, SHARES, SAME)
    assert found["recording"] == pytest.approx(0.012)


def test_a_last_bit_of_difference_is_told() -> None:
    seconds = {level: {"off": [1.0], "on": [1.0]} for level in SHARES}
    assert recording_figures(seconds, SHARES, SAME)["recording_latents_identical"] is True
    assert recording_figures(seconds, SHARES, DIFFERENT)["recording_latents_identical"] is False


@pytest.mark.parametrize(
    ("on", "denoised", "met"),
    [(1.03, SAME, True), (1.0302, SAME, False), (1.0, DIFFERENT, False)],
    ids=["met", "too slow", "other latents"],
)
def test_the_goal_asks_for_little_time_and_the_same_latents(on, denoised, met, monkeypatch, tmp_path, capsys) -> None:
    bench = SimpleNamespace(denoised=denoised, sigmas=dict.fromkeys(SHARES, 1.0), shares=SHARES, frames=4, pixels=256, dtype=torch.float32)
    monkeypatch.setattr(recording_cost, "start_comfy", lambda comfy: None)
    monkeypatch.setattr(recording_cost, "machine", lambda comfy: {})
    monkeypatch.setattr(
        recording_cost, "measure_recording", lambda rounds: (bench, {level: {"off": [1.0], "on": [on]} for level in SHARES})
    )
    assert recording_cost.run_recording(tmp_path, tmp_path, quick=True) is met
    assert ("MISSED" in capsys.readouterr().out) is not met
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["overhead"]
    assert written["recording"] == pytest.approx(on - 1)
    assert written["recording_latents_identical"] is (denoised is SAME)
