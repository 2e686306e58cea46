"""What is said of the figures of speed: goals met and missed, tables of what was measured and of nothing else, and the picture."""

import json
import shutil

import cv2
import numpy as np
import pytest

from benchmarks.report import ROOT, met
from benchmarks.speed.report import goals, markdown, overheads, write_report

RESULTS = ROOT / "benchmarks" / "results"
FOUND = {
    "temporal": {"step_ratio": {"first_previous": 1.2}, "step_ratio_predicted": {"first_previous": 1.1}},
    "inversion": {"ratio_to_stock": 1.02},
    "overhead": {
        "blending_and_masks": 0.0301,
        "structure": 0.2,
        "blending_details": {"quartiles": {"noisy": [0.01, 0.02, 0.05]}, "shares": {"noisy": 0.8}},
    },
    "edit": {"share_of_stock_throughput": 0.95, "details": {"quartiles": {"share_of_stock_throughput": [0.9, 0.95, 0.96]}}},
}
MISSING = {"memory": {"fatezero_case_gb_above_stock": 0.25}}


def judged(found: dict) -> dict[str, bool]:
    return {name: met(*goal) for name, goal in goals(found).items()}


def test_the_published_figures_give_the_published_tables_and_picture(tmp_path) -> None:
    shutil.copy(RESULTS / "speed.json", tmp_path)
    write_report(tmp_path)
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == (RESULTS / "speed.md").read_text(encoding="utf-8")
    drawn, published = (cv2.imread(str(folder / "speed.png")).astype(float) for folder in (tmp_path, RESULTS))
    assert drawn.shape == published.shape
    assert np.abs(drawn - published).mean() < 2  # another matplotlib may place letters elsewhere by a pixel


def test_each_measured_goal_is_judged_by_its_own_parts_bound() -> None:
    assert judged({**FOUND, **MISSING}) == {
        "a step with keys of first and previous, of stock's": False,  # 1.2 against 1.05 times 1.1
        "DDIM Invert with its record, of stock KSampler's time": True,
        "blending and masks add": False,
        "a whole edit's share of stock's throughput": True,
        "FateZero's case, GB above stock KSampler": False,
    }


@pytest.mark.parametrize(
    ("path", "reached", "missed"),
    [
        ("inversion.ratio_to_stock", 1.05, 1.0501),
        ("overhead.recording", 0.03, 0.0302),
        ("overhead.recording_latents_identical", True, False),
        ("overhead.blending_and_masks", 0.03, 0.0302),
        ("edit.share_of_stock_throughput", 0.9, 0.8999),
        ("memory.fatezero_case_gb_above_stock", 0.2, 0.201),
        ("memory.fatezero_case_gb_above_stock_quick", 0.2, 0.201),
        ("temporal.peak_memory_ratio.1000_to_100", 1.1, 1.11),
    ],
)
def test_a_goal_is_met_at_its_bound_and_missed_beyond(path, reached, missed) -> None:
    def nested(value: float) -> dict:
        for name in reversed(path.split(".")):
            value = {name: value}
        return value

    assert all(judged(nested(reached)).values())
    assert list(judged(nested(missed)).values()) == [False]


def test_memory_by_length_and_of_the_inversion_have_their_bounds() -> None:
    run = {"inversion": 100 * 2**20, "limit": 100 * 2**20 - 1}
    assert judged({"temporal": {"peak_memory_ratio": {"1000_to_100": 1.11}}, "inversion": {"memory": {"8_frames_10_steps": run}}}) == {
        "memory of 1000 frames, of that of 100": False,
        "DDIM Invert's peak at 8 frames, MiB": False,
    }


def test_the_tables_tell_medians_with_quartiles_and_leave_out_what_was_not_measured() -> None:
    text = markdown(FOUND)
    assert "| blending and masks add | 0.0301 | at most 0.03 | MISSED |" in text
    assert "| share of stock throughput | 0.950 (0.900 to 0.960) |" in text
    assert "| blending and masks, CFG 7.5 | noisy | 80% | 2.0 % (1.0 to 5.0) |" in text
    assert "FateZero" not in text
    assert "## Goals" not in markdown({})


def test_an_edits_share_is_drawn_as_the_time_it_adds() -> None:
    drawn = {title: (value, bound) for title, value, bound in overheads(FOUND)}
    assert drawn["a whole edit"] == pytest.approx((1 / 0.95 - 1, 1 / 0.9 - 1))
    assert drawn["DDIM Invert"] == pytest.approx((0.02, 0.05))
    assert drawn["structure 0.5 on top"] == (0.2, None)


def test_tables_and_picture_lie_beside_the_figures_of_a_single_part(tmp_path) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(FOUND), encoding="utf-8")
    write_report(tmp_path)
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == markdown(FOUND)
    picture = cv2.imread(str(tmp_path / "speed.png"))
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 10
