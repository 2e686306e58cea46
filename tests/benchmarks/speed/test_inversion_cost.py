"""The arithmetic of the figures of inversion's cost, on numbers whose answer is known, and the prompts that are compared."""

import pytest
import safetensors.torch

from benchmarks.speed.inversion_cost import ALLOWANCE, MIB, SIDE, memory_figures, ratio_figures, sampling_prompt, write_latents
from blade.attention.record import recorded_sizes


def test_a_load_that_grows_during_the_rounds_changes_no_ratio_to_stock() -> None:
    steady = {"stock": 10.0, "record": 10.5, "without": 10.2}
    found = ratio_figures({run: [value * load for load in (1, 2, 5)] for run, value in steady.items()})
    assert found["ratio_to_stock"] == pytest.approx(1.05)
    assert found["ratio_to_stock_without_record"] == pytest.approx(1.02)
    assert found["time"]["quartiles"]["ratio_to_stock"] == [1.05, 1.05, 1.05]
    assert found["time"]["seconds"]["stock"] == [15, 20, 35]


def test_a_ratio_is_taken_within_its_round() -> None:
    found = ratio_figures({"stock": [1.0, 2.0, 4.0], "record": [2.0, 2.0, 4.0], "without": [1.0, 1.0, 1.0]})
    assert found["ratio_to_stock"] == 1.0  # 2, 1 and 1
    assert found["ratio_to_stock_without_record"] == 0.5  # 1, 1/2 and 1/4


def test_an_inversion_may_take_stocks_peak_the_trajectory_and_what_stock_itself_differs_by() -> None:
    most = (1000 + 2 * 105 + 30) * MIB
    kinds = {"stock": [1000 * MIB, 990 * MIB, 1020 * MIB], "inversion": [most, most + 500, 0]}
    run = memory_figures({8: kinds, 64: kinds}, {8: 200 * MIB, 64: 200 * MIB}, 10)["memory"]["8_frames_10_steps"]
    assert (run["stock"], run["inversion"], run["difference"]) == (1000 * MIB, most, most - 1000 * MIB)
    assert (run["allowance"], run["limit"], run["within"]) == (30 * MIB, most, True)


def test_a_byte_more_is_beyond_the_limit() -> None:
    """Where stock's peaks are equal, the least allowance is left."""
    most = (1000 + 210) * MIB + ALLOWANCE
    kinds = {"stock": [1000 * MIB] * 3, "inversion": [most + 1] * 3}
    run = memory_figures({8: kinds, 64: kinds}, {8: 200 * MIB, 64: 200 * MIB}, 10)["memory"]["8_frames_10_steps"]
    assert (run["limit"], run["within"]) == (most, False)


def test_what_a_frame_adds_is_the_slope_between_each_two_lengths() -> None:
    above = {2: {"stock": [10], "inversion": [10]}, 4: {"stock": [30], "inversion": [50]}, 8: {"stock": [70], "inversion": [70]}}
    found = memory_figures(above, {2: 2, 4: 4, 8: 8}, 10)
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
    assert held["latent_tensor"].shape == (3, 4, SIDE, SIDE)
    assert "latent_format_version_0" in held  # else LoadLatent scales them
    assert len(recorded_sizes(SIDE, SIDE)) == 2
