"""The watch over a process's memory, and the figures of the three questions of memory on numbers whose answer is known."""

import json
import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.report import ROOT
from benchmarks.speed import memory
from benchmarks.speed.memory import (
    ALLOWANCE,
    CASE,
    EDIT,
    GB,
    LATENT_SIDE,
    MIB,
    SIDE,
    MemoryWatch,
    case_figures,
    edit_prompt,
    inversion_figures,
    length_figures,
    sampling_prompt,
    seam,
    trajectory_bytes,
    write_latents,
)
from blade.attention.record import recorded_sizes
from demo.scenes import SIZE
from runner.graphs import with_defaults

PUBLISHED = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text(encoding="utf-8"))
STOCK = {"sample": 3 * GB, "sample_seconds": 200.0}
EDITED = {"invert": 2 * GB, "sample": 3 * GB + GB // 10, "levels": GB // 20, "further": GB // 25}
EDITED |= {"invert_seconds": 100.0, "sample_seconds": 210.0}


def test_a_watch_tells_the_most_of_its_own_time_however_short_it_was(monkeypatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    with mmap.mmap(-1, 64 * MIB) as before:
        before.write(b"1" * (64 * MIB))  # pages of its own: those of the heap may have been touched before
    with MemoryWatch() as watch, mmap.mmap(-1, 16 * MIB) as taken:
        taken.write(b"1" * (16 * MIB))
        watch.ended.wait(0.2)  # elsewhere than on Linux it has to be seen
    assert 15 * MIB < watch.peak - watch.idle[0] < 60 * MIB


def test_memory_is_told_by_the_node_that_runs(monkeypatch) -> None:
    watch, moments = MemoryWatch(), iter([("a", 10, 6), ("b", 30, 29), ("b", 20, 1), ("a", 11, 9), (None, 5, 5)])
    held = []

    def ended(seconds: float) -> bool:
        node, *held[:] = next(moments, ("", 0, 0))
        watch.on_event({"type": "executing", "data": {"node": node}})
        return not all(held)

    monkeypatch.setattr(watch, "ended", SimpleNamespace(wait=ended))
    monkeypatch.setattr(watch, "held", lambda: tuple(held))
    watch.look()
    assert watch.stages == {"a": (11, 9), "b": (30, 29), "": (5, 5)}


def test_an_edits_memory_is_told_above_the_idle_server_and_the_trajectory() -> None:
    kept = trajectory_bytes(100, 8, SIDE)
    stages = {"": (900, 700), "encode": (950, 710), "invert": (970, 740), "sample": (980, 720), "decode": (990, 730), "end": (0, 0)}
    watch = SimpleNamespace(idle=(900, 700), peak=1000 + kept, stages=stages)
    found = length_figures(watch, {"encode": 1.0, "invert": 8.0, "sample": 16.0, "decode": 2.0}, 100, 8)
    assert (found["above"], found["above_private"], found["peak_stage"], found["trajectory"]) == (100, 40, "decode", kept)
    assert found["above_idle_by_stage"]["invert"] == {"resident": 70, "private": 40}
    assert found["seconds_per_frame_and_step"] == {"invert": 0.01, "sample": 0.02}
    published = PUBLISHED["temporal"]["memory"]["100_frames_8_steps"]
    assert found.keys() == published.keys() and found["above_idle_by_stage"].keys() == published["above_idle_by_stage"].keys()


def test_pairs_of_frames_across_a_border_of_batches_are_told_from_those_inside() -> None:
    errors = np.ones(11)  # 12 frames
    errors[[3, 7]] = 3, 5  # frames 3 to 4 and 7 to 8
    found = seam(errors, 4)
    assert found["borders"] == 2
    assert (found["across"], found["across_standard_error"]) == (4, 1)
    assert (found["inside"], found["inside_standard_error"]) == (1, 0)
    assert (found["difference"], found["difference_standard_error"]) == (3, 1)
    assert found.keys() == PUBLISHED["temporal"]["seam"]["1000_frames_8_steps"].keys()


def test_a_trajectory_holds_its_levels_and_a_map_for_each_word_and_step() -> None:
    assert SIDE * 8 == SIZE
    latents, maps = 21 * 100 * 4 * 16 * 16 * 4, (20 * 2 + 4) * 100 * len(EDIT.clip.source_prompt.split()) * 16 * 16
    assert trajectory_bytes(100, 20, SIDE) == latents + maps


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
    assert prompt["sample"]["inputs"]["steps"] == 3
    mask_modes = types["BLADE_BlendedSampler"]["input"]["required"]["mask_mode"][1]["options"]
    assert prompt["sample"]["inputs"]["mask_mode"] == mask_modes[0]
    temporal = {name.removesuffix("_frame") for name, value in prompt["temporal"]["inputs"].items() if name.endswith("_frame") and value}
    assert temporal == {"self", "first", "previous"}
    inverted = prompt["invert"]["inputs"]
    assert [inverted[name] for name in ("schedule", "depth", "method", "precision")] == ["ddim", 1.0, "DDIM", "fp32"]


def test_an_inversion_may_take_stocks_peak_the_trajectory_and_what_stock_itself_differs_by() -> None:
    most = (1000 + 2 * 105 + 30) * MIB
    kinds = {"stock": [1000 * MIB, 990 * MIB, 1020 * MIB], "inversion": [most, most + 500, 0]}
    run = inversion_figures({8: kinds, 64: kinds}, {8: 200 * MIB, 64: 200 * MIB}, 10)["memory"]["8_frames_10_steps"]
    assert (run["stock"], run["inversion"], run["difference"]) == (1000 * MIB, most, most - 1000 * MIB)
    assert (run["allowance"], run["limit"], run["within"]) == (30 * MIB, most, True)
    assert run.keys() == PUBLISHED["inversion"]["memory"]["8_frames_10_steps"].keys()


def test_a_byte_more_is_beyond_the_limit() -> None:
    """Where stock's peaks are equal, the least allowance is left."""
    most = (1000 + 210) * MIB + ALLOWANCE
    kinds = {"stock": [1000 * MIB] * 3, "inversion": [most + 1] * 3}
    run = inversion_figures({8: kinds, 64: kinds}, {8: 200 * MIB, 64: 200 * MIB}, 10)["memory"]["8_frames_10_steps"]
    assert (run["limit"], run["within"]) == (most, False)


def test_what_a_frame_adds_is_the_slope_between_each_two_lengths() -> None:
    above = {2: {"stock": [10], "inversion": [10]}, 4: {"stock": [30], "inversion": [50]}, 8: {"stock": [70], "inversion": [70]}}
    found = inversion_figures(above, {2: 2, 4: 4, 8: 8}, 10)
    assert found["memory_per_frame"] == {
        "2_to_4_frames_10_steps": {"stock": 10, "inversion": 20, "predicted": 1},
        "2_to_8_frames_10_steps": {"stock": 10, "inversion": 10, "predicted": 1},
        "4_to_8_frames_10_steps": {"stock": 10, "inversion": 5, "predicted": 1},
    }


def test_both_prompts_sample_the_same_latents_in_as_many_steps_and_their_links_lead_somewhere() -> None:
    prompts = [sampling_prompt(kind, "clip.latent", 7) for kind in ("stock", "inversion")]
    for prompt in prompts:
        links = [value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
        assert set(links) < prompt.keys()
        assert prompt["sample"]["inputs"]["steps"] == 7
    assert prompts[0]["latent"] == prompts[1]["latent"]
    assert prompts[0]["source"]["inputs"] == prompts[1]["source"]["inputs"]
    assert prompts[0]["sample"]["inputs"]["cfg"] == 1.0


def test_latents_lie_where_the_server_looks_and_are_of_a_size_with_two_recorded_resolutions(tmp_path) -> None:
    (tmp_path / "input").mkdir()
    held = safetensors.torch.load_file(tmp_path / "input" / write_latents(tmp_path, 3))
    assert held["latent_tensor"].shape == (3, 4, LATENT_SIDE, LATENT_SIDE)
    assert "latent_format_version_0" in held  # else LoadLatent scales them
    assert len(recorded_sizes(LATENT_SIDE, LATENT_SIDE)) == 2


def test_the_case_is_fatezeros() -> None:
    assert (CASE["frames"], CASE["pixels"], CASE["steps"]) == (8, 512, 50)


def test_the_figure_is_the_larger_stage_above_ksamplers_own_peak() -> None:
    found = case_figures(STOCK, EDITED, CASE)
    assert found["fatezero_case_gb_above_stock"] == pytest.approx(0.1, abs=1e-4)
    assert found["fatezero_case"]["seconds_per_call"] == {"ksampler": 100.0, "invert": 50.0, "sample": 105.0}
    assert found.keys() == PUBLISHED["memory"].keys() and found["fatezero_case"].keys() == PUBLISHED["memory"]["fatezero_case"].keys()


def test_the_inversion_counts_with_the_levels_that_it_has_not_walked() -> None:
    found = case_figures(STOCK, EDITED | {"invert": 3 * GB + GB // 10}, CASE)
    assert found["fatezero_case_gb_above_stock"] == pytest.approx(0.1 + 0.04, abs=1e-4)


def test_each_side_has_a_process_of_its_own_and_the_quick_form_keys_of_its_own(monkeypatch, tmp_path) -> None:
    asked = []

    class Process:
        def __init__(self, *_: object):
            asked.append([])

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, work, comfy, side, **case):
            asked[-1].append((side, case["pixels"]))
            return SimpleNamespace(result=lambda: {"stock": STOCK, "edit": EDITED}[side])

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Process)
    assert memory.fatezero(tmp_path, tmp_path, quick=False)["memory"].keys() == PUBLISHED["memory"].keys()
    quick = memory.fatezero(tmp_path, tmp_path, quick=True)["memory"]
    assert quick.keys() == {f"{name}_quick" for name in PUBLISHED["memory"]}
    assert asked == [[("stock", 512)], [("edit", 512)], [("stock", 256)], [("edit", 256)]]
