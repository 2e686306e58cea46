"""The figures of what blending and masks cost, on numbers whose answer is known, and when the goal is met."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import blending_cost
from benchmarks.speed.blending_cost import blending_figures, disc

SHARES = {"confine": 0.5, "structure": 0.25}


def pairs(*overheads: float, stock: float = 2.0, rows: int = 8) -> list[dict]:
    return [{"sigma": 1.0, "stock": stock, "ours": stock * (1 + over), "stock_rows": 8, "ours_rows": rows} for over in overheads]


def figures(masks: list[dict], clear: list[bool], confine: list[dict] | None = None, structure: list[dict] | None = None) -> dict:
    return blending_figures({"masks": masks, "confine": confine or masks[:1], "structure": structure or masks[:1]}, clear, SHARES)


def test_the_overhead_is_the_median_of_each_kind_of_level_by_its_share() -> None:
    found = figures(pairs(0.01, 0.02, 0.5, 0.06), [False, False, False, True])
    assert found["blending_and_masks"] == pytest.approx(0.75 * 0.02 + 0.25 * 0.06)
    assert found["blending_details"]["shares"] == {"noisy": 0.75, "clear": 0.25, **SHARES}


def test_a_load_that_grows_from_level_to_level_changes_no_overhead() -> None:
    growing = [one for load in (1.0, 3.0, 9.0) for one in pairs(0.02, stock=load)]
    assert figures(growing, [False] * 3)["blending_and_masks"] == pytest.approx(0.02)


def test_a_setting_counts_what_it_adds_to_the_same_levels_without_it_by_the_share_at_which_it_acts() -> None:
    masks = pairs(0.01, 0.01, 0.9, 0.9)  # the last two are of levels at which the settings do not act
    found = figures(masks, [False] * 4, pairs(0.03, 0.03), pairs(0.51, rows=12))
    assert found["confine"] == pytest.approx(0.5 * 0.02)
    assert found["structure"] == pytest.approx(0.25 * 0.5)
    assert found["blending_details"]["rows_ratio"] == {"masks": 1.0, "confine": 1.0, "structure": 1.5}


@pytest.mark.parametrize(("over", "met"), [(0.03, True), (0.0302, False)])
def test_the_goal_is_at_most_three_percent(over, met, monkeypatch, tmp_path, capsys) -> None:
    bench = SimpleNamespace(steps=2, frames=4, pixels=256, dtype=torch.float32, acting=lambda setting: [True, False])
    monkeypatch.setattr(blending_cost, "start_comfy", lambda comfy: None)
    monkeypatch.setattr(blending_cost, "machine", lambda comfy: {})
    measured = {setting: pairs(over, over) for setting in blending_cost.SETTINGS}
    monkeypatch.setattr(blending_cost, "measure_blending", lambda steps: (bench, measured))
    assert blending_cost.run_blending(tmp_path, tmp_path, quick=True) is met
    assert ("MISSED" in capsys.readouterr().out) is not met
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["overhead"]
    assert written["blending_and_masks"] == pytest.approx(over)
    assert written["blending_details"]["shares"]["confine"] == 0.5


def test_the_made_up_thing_moves_and_covers_a_part_of_each_frame() -> None:
    found = disc(5, (32, 32))
    assert 0.05 < float(found.mean()) < 0.3
    centres = (found * torch.arange(32)).sum((1, 2)) / found.sum((1, 2))
    assert (centres.diff() > 0).all()
