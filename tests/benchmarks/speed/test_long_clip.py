"""The arithmetic of a long clip's figures, on numbers whose answer is known."""

import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.report import ROOT
from benchmarks.speed.long_clip import EDIT, MIB, SIDE, by_stage, edit_prompt, forget_peak, known_peak, seam, trajectory_bytes
from demo.scenes import SIZE
from runner.graphs import with_defaults


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
    latents, maps = 21 * 100 * 4 * 16 * 16 * 4, (20 * 2 + 4) * 100 * len(EDIT.clip.source_prompt.split()) * 16 * 16
    assert trajectory_bytes(100, 20) == latents + maps


def test_maps_of_a_larger_clip_are_kept_at_two_resolutions() -> None:
    latents, maps = 11 * 8 * 4 * 32 * 32 * 4, (10 * 2 + 4) * 8 * len(EDIT.clip.source_prompt.split()) * (32 * 32 + 16 * 16)
    assert trajectory_bytes(8, 10, 32) == latents + maps


def test_the_edit_is_one_on_which_settings_are_chosen_and_its_links_lead_somewhere() -> None:
    prompt = edit_prompt("clip.mp4", 10, 3)
    assert EDIT in DEVELOPMENT_COLOUR_EDITS
    links = [value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert set(links) < prompt.keys()
    assert prompt["encode"]["inputs"]["frame_count"] == 10
    assert prompt["invert"]["inputs"]["steps"] == prompt["sample"]["inputs"]["steps"] == 3


def test_with_the_defaults_the_edit_has_all_that_its_nodes_need() -> None:
    types = json.loads((ROOT / "tests" / "runner" / "object_info.json").read_text(encoding="utf-8"))
    prompt = with_defaults(edit_prompt("clip.mp4", 10, 3), types)
    missing = [
        (key, name) for key, node in prompt.items() for name in types[node["class_type"]]["input"]["required"] if name not in node["inputs"]
    ]
    assert missing == []
    assert (
        prompt["sample"]["inputs"]["steps"] == 3
        and prompt["sample"]["inputs"]["mask_mode"] == types["BLADE_BlendedSampler"]["input"]["required"]["mask_mode"][1]["options"][0]
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process's peak")
def test_a_peak_is_that_of_what_came_after_it_was_forgotten() -> None:
    forget_peak(os.getpid())
    begin = known_peak(os.getpid())
    with mmap.mmap(-1, 16 * MIB) as taken:  # pages of its own: those of the heap may have been touched before
        for page in range(0, 16 * MIB, 4096):
            taken[page] = 1
    assert 15 * MIB < known_peak(os.getpid()) - begin < 24 * MIB
