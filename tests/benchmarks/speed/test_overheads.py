"""The figures of what recording, blending and masks cost, on numbers whose answer is known."""

import json

import pytest
import torch

from benchmarks.report import ROOT
from benchmarks.speed.overheads import SETTINGS, blending_figures, disc, recording_figures
from runner.graphs import to_prompt

ACTING = {"confine": 0.5, "structure": 0.25}
KINDS = {"noisy": 0.8, "clear": 0.2}
ONE = torch.ones(2, 3)
SAME = {"noisy": [ONE, ONE.clone()], "clear": [3 * ONE, 3 * ONE]}
DIFFERENT = {**SAME, "clear": [ONE, ONE.nextafter(2 * ONE)]}


def pairs(*overheads: float, stock: float = 2.0, rows: int = 8) -> list[dict]:
    return [{"sigma": 1.0, "stock": stock, "ours": stock * (1 + over), "stock_rows": 8, "ours_rows": rows} for over in overheads]


def figures(masks: list[dict], clear: list[bool], confine: list[dict] | None = None, structure: list[dict] | None = None) -> dict:
    return blending_figures({"masks": masks, "confine": confine or masks[:1], "structure": structure or masks[:1]}, clear, ACTING)


def test_the_settings_are_those_of_the_graph_that_changes_the_colour() -> None:
    workflow, types = (ROOT / name for name in ("workflows/blade_change_colour.json", "tests/runner/object_info.json"))
    prompt = to_prompt(json.loads(workflow.read_text(encoding="utf-8")), json.loads(types.read_text(encoding="utf-8")))
    [inputs] = [node["inputs"] for node in prompt.values() if node["class_type"] == "BLADE_BlendedSampler"]
    assert {setting: {name: inputs[name] for name in SETTINGS[setting]} for setting in SETTINGS} == SETTINGS


def test_blending_adds_the_median_of_each_kind_of_level_by_its_share() -> None:
    found = figures(pairs(0.01, 0.02, 0.5, 0.06), [False, False, False, True])
    assert found["blending_and_masks"] == pytest.approx(0.75 * 0.02 + 0.25 * 0.06)
    assert found["blending_details"]["shares"] == {"noisy": 0.75, "clear": 0.25, **ACTING}


def test_a_load_that_grows_from_level_to_level_changes_no_overhead() -> None:
    growing = [one for load in (1.0, 3.0, 9.0) for one in pairs(0.02, stock=load)]
    assert figures(growing, [False] * 3)["blending_and_masks"] == pytest.approx(0.02)


def test_a_setting_counts_what_it_adds_to_the_same_levels_without_it_by_the_share_at_which_it_acts() -> None:
    masks = pairs(0.01, 0.01, 0.9, 0.9)  # the last two are of levels at which the settings do not act
    found = figures(masks, [False] * 4, pairs(0.03, 0.03), pairs(0.51, rows=12))
    assert found["confine"] == pytest.approx(0.5 * 0.02)
    assert found["structure"] == pytest.approx(0.25 * 0.5)
    assert found["blending_details"]["rows_ratio"] == {"masks": 1.0, "confine": 1.0, "structure": 1.5}


def test_recording_adds_the_median_of_the_rounds_ratios_less_1() -> None:
    found = recording_figures({"noisy": {"off": [1.0, 2.0, 4.0, 10.0, 1.0], "on": [1.01, 2.04, 4.04, 90.0, 0.5]}}, {"noisy": 1.0}, SAME)
    assert found["recording"] == pytest.approx(0.01)  # 1 %, 2 %, 1 %, and two rounds that something else has spoilt
    assert found["recording_details"]["rounds"] == 5
    assert found["recording_details"]["quartiles"]["noisy"] == pytest.approx([0.01, 0.01, 0.02])
    assert found["recording_details"]["seconds"]["noisy"]["off"] == [1.0, 2.0, 4.0]


def test_a_level_that_costs_more_counts_by_how_many_there_are_of_its_kind() -> None:
    off = [1.0, 1.0, 1.0]
    found = recording_figures({"noisy": {"off": off, "on": off}, "clear": {"off": off, "on": [1.06] * 3}}, KINDS, SAME)
    assert found["recording"] == pytest.approx(0.012)


def test_a_last_bit_of_difference_is_told() -> None:
    seconds = {level: {"off": [1.0], "on": [1.0]} for level in KINDS}
    assert recording_figures(seconds, KINDS, SAME)["recording_latents_identical"] is True
    assert recording_figures(seconds, KINDS, DIFFERENT)["recording_latents_identical"] is False


def test_the_made_up_object_moves_and_covers_a_part_of_each_frame() -> None:
    found = disc(5, (32, 32))
    assert 0.05 < float(found.mean()) < 0.3
    centres = (found * torch.arange(32)).sum((1, 2)) / found.sum((1, 2))
    assert (centres.diff() > 0).all()
