"""The arithmetic of the speed figures, on numbers whose answer is known."""

import numpy as np
import pytest

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.speed import EDIT, SIDE, by_stage, edit_prompt, seam, step_figures, trajectory_bytes
from demo.scenes import SIZE


def test_a_step_is_predicted_from_the_attention_with_more_keys_alone() -> None:
    four = {"stock": [10.0, 10.0, 10.0], "temporal": [11.0, 13.0, 12.0], "plain": [1.0, 1.0, 1.0], "wide": [2.0, 3.0, 2.0]}
    found = step_figures({"all": four})
    assert found["step_ratio"] == {"all": pytest.approx(1.2)}
    assert found["step_ratio_predicted"] == {"all": pytest.approx(1.1)}
    assert found["step"]["rounds"] == 3


def test_a_machine_that_slows_down_during_the_rounds_changes_no_ratio() -> None:
    steady = {"stock": 4.0, "temporal": 5.0, "plain": 1.0, "wide": 2.0}
    slower = {what: [value * load for load in (1, 1, 2, 3, 5)] for what, value in steady.items()}
    found = step_figures({"all": slower})
    assert found["step"]["quartiles"]["all"] == {"ratio": [1.25] * 3, "predicted": [1.25] * 3, "over_predicted": [1.0] * 3}


def test_memory_is_told_by_the_node_that_ran() -> None:
    events = [(1.0, "a"), (2.0, "b"), (4.0, "a"), (5.0, "")]
    samples = [(0.5, 99, 0), (1.5, 10, 4), (2.0, 30, 1), (3.5, 20, 20), (4.5, 11, 2), (5.5, 99, 0)]
    assert by_stage(samples, events) == {
        "a": {"seconds": 2.0, "peak": 11, "peak_private": 9},
        "b": {"seconds": 2.0, "peak": 30, "peak_private": 29},
    }


def test_pairs_of_frames_across_a_border_of_batches_are_told_from_those_inside() -> None:
    errors = np.ones(11)  # 12 frames
    errors[[3, 7]] = 3, 5  # frames 3 to 4 and 7 to 8
    found = seam(errors, 4)
    assert found["borders"] == 2
    assert (found["across"], found["across_standard_error"]) == (4, 1)
    assert (found["inside"], found["inside_standard_error"]) == (1, 0)
    assert (found["difference"], found["difference_standard_error"]) == (3, 1)


def test_a_trajectory_holds_its_levels_and_a_map_for_each_word_and_step() -> None:
    assert SIDE * 8 == SIZE
    latents, maps = 21 * 100 * 4 * 16 * 16 * 4, 20 * 100 * len(EDIT.clip.source_prompt.split()) * 16 * 16 * 2
    assert trajectory_bytes(100, 20) == latents + maps


def test_the_edit_is_one_on_which_settings_are_chosen_and_its_links_lead_somewhere() -> None:
    prompt = edit_prompt("clip.mp4", 10, 3)
    assert EDIT in DEVELOPMENT_COLOUR_EDITS
    links = [value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert set(links) < prompt.keys()
    assert prompt["encode"]["inputs"]["frame_count"] == 10
    assert prompt["invert"]["inputs"]["steps"] == prompt["sample"]["inputs"]["steps"] == 3
