"""The figure of FateZero's case, on peaks whose answer is known, and when the goal is met."""

import json

import pytest

from benchmarks.speed import fatezero_case
from benchmarks.speed.fatezero_case import CASE, GB, QUICK_CASE, case_figures

STOCK = {"sample": 3 * GB, "sample_seconds": 200.0}
EDIT = {"invert": 2 * GB, "sample": 3 * GB + GB // 10, "levels_measured": GB // 100, "levels": GB // 20, "invert_seconds": 100.0}
EDIT |= {"sample_seconds": 210.0}


def test_the_case_is_fatezeros() -> None:
    assert (CASE.frames, CASE.pixels, CASE.steps) == (8, 512, 50)


def test_the_figure_is_the_larger_stage_above_ksamplers_own_peak() -> None:
    found = case_figures(STOCK, EDIT, CASE)
    assert found["fatezero_case_gb_above_stock"] == pytest.approx(0.1, abs=1e-4)
    assert found["fatezero_case"]["seconds_per_call"] == {"ksampler": 100.0, "invert": 50.0, "sample": 105.0}


def test_the_inversion_counts_with_the_levels_that_it_has_not_walked() -> None:
    found = case_figures(STOCK, EDIT | {"invert": 3 * GB + GB // 10}, CASE)
    assert found["fatezero_case_gb_above_stock"] == pytest.approx(0.1 + 0.05 - 0.01, abs=1e-4)


@pytest.mark.parametrize(("above", "met"), [(0.2, True), (0.201, False)])
def test_the_goal_and_the_quick_forms_own_keys(above, met, monkeypatch, tmp_path, capsys) -> None:
    sides = {"stock": STOCK, "edit": EDIT | {"sample": int((3 + above) * GB)}}
    monkeypatch.setattr(fatezero_case, "machine", lambda comfy: {})
    asked = []
    monkeypatch.setattr(fatezero_case, "measure_apart", lambda comfy, side, case: asked.append(case) or sides[side])
    assert fatezero_case.run_fatezero(tmp_path, tmp_path, quick=True) is met
    assert ("MISSED" in capsys.readouterr().out) is not met
    assert fatezero_case.run_fatezero(tmp_path, tmp_path, quick=False) is met
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["memory"]
    assert written["fatezero_case_quick"]["pixels"] == QUICK_CASE.pixels
    assert written["fatezero_case"]["pixels"] == 512
    assert written["fatezero_case_gb_above_stock"] == pytest.approx(above)
    assert {case.pixels for case in asked} == {256, 512}
