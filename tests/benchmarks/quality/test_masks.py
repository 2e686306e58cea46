"""The figures of masks: on made-up rows whose means are known, and prompt-to-prompt's rule by hand."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.quality.bench import prompt_to_prompt
from benchmarks.quality.mask_clips import FRAMES, KINDS, TEST_CLIPS
from benchmarks.quality.masks import (
    LEVELS,
    NAMES,
    RULES,
    WAYS,
    draw,
    figures,
    goals,
    level_alone,
    levels_alike,
    picture,
    summary,
    tables,
    without_affinity,
)
from benchmarks.quality.part import Rows
from benchmarks.report import met
from blade.attention.record import CrossAttentionRecord
from blade.attention.words import PromptWords, Word

WORDS = PromptWords("red cat", (Word("red", (1,)), Word("cat", (2, 3))), 77)
FIGURES = ("iou", "flicker", "covered")


def rows(value: Callable[[str, str, int, str], float]) -> Rows:
    """value(name, kind, number, figure)"""
    return Rows(
        {
            f"{kind}/{number}": {
                name: {figure: value(name, kind, number, figure) for figure in FIGURES} for name in (*WAYS, "exact", "p2p_0.3")
            }
            for kind in KINDS
            for number in range(len(TEST_CLIPS[kind]))
        }
    )


def by_name(**values: float) -> dict:
    """Every figure of a way is one value, of the others 0.5."""
    return summary(rows(lambda name, *_: values.get(name, 0.5)))


def test_the_summary_has_the_figures_of_every_goal() -> None:
    found = by_name()
    assert {"default", "default_plain_clips", "default_no_pixel_refinement", "p2p_0.3"} <= found["iou"].keys()
    assert isinstance(found["wrong_object_covered"], float) and isinstance(found["flicker_ratio"], float)
    assert found["ablation"].keys() == {"ladder", "without", "threshold", "single_level"}
    assert len(goals(found)) == 6 and all(isinstance(value, float) for value, *_ in goals(found).values())
    assert found["clips"] == sum(map(len, TEST_CLIPS.values())) >= 48
    json.dumps(found, allow_nan=False)


def leaves(of: object) -> list:
    """What lies in a nest of dicts."""
    return [leaf for part in of.values() for leaf in leaves(part)] if isinstance(of, dict) else [of]


def test_every_way_is_shown_somewhere() -> None:
    values = {name: index / 100 for index, name in enumerate((*WAYS, "exact", "p2p_0.3"), 1)}
    shown = leaves(summary(rows(lambda name, *_: values[name])))
    assert [name for name, value in values.items() if value not in [pytest.approx(leaf) for leaf in shown]] == []


def test_a_mean_is_over_clips_and_a_kinds_over_its_own() -> None:
    found = summary(rows(lambda name, kind, number, figure: 0.9 if kind == "plain" else 0.6))
    share = len(TEST_CLIPS["plain"]) / sum(map(len, TEST_CLIPS.values()))
    assert found["iou"]["default"] == pytest.approx(0.6 + 0.3 * share)
    assert found["iou"]["default_plain_clips"] == pytest.approx(0.9)
    assert found["iou_by_kind"]["default"] == pytest.approx({kind: 0.9 if kind == "plain" else 0.6 for kind in KINDS})


def test_the_wrong_object_counts_where_there_are_two() -> None:
    found = summary(rows(lambda name, kind, number, figure: 0.03 if kind == "two" else 0.0))
    assert found["wrong_object_covered"] == pytest.approx(0.03)


def test_flicker_is_compared_with_the_same_mask_unsmoothed() -> None:
    found = by_name(**{"default": 0.1, "without/smoothing": 0.4, "ladder/smoothing": 0.2, "ladder/affinity": 0.25})
    assert found["flicker_ratio"] == pytest.approx(0.25)
    assert found["flicker_ratio_no_pixel_refinement"] == pytest.approx(0.8)


def test_the_gain_is_the_defaults_iou_less_prompt_to_prompts() -> None:
    assert by_name(**{"default": 0.9, "p2p_0.3": 0.55})["iou"]["gain_over_p2p_0.3"] == pytest.approx(0.35)


def test_the_worst_clip_is_named_as_it_is_counted_from_1() -> None:
    found = summary(rows(lambda name, kind, number, figure: 0.2 if (name, kind, number) == ("default", "thin", 1) else 0.8))
    assert found["worst"] == (0.2, "thin 2")


def test_the_table_has_a_row_for_each_mask_and_each_part() -> None:
    found = by_name(**{"default": 0.912, "p2p_0.3": 0.43})
    text = "\n\n".join(tables(found))
    assert "| default | 0.91 | 0.91 |" in text and "| prompt-to-prompt's rule (max-pool, fixed 0.3) | 0.43 |" in text
    assert all(f"| {name} | " in text for name in NAMES.values())
    widths = {line.count("|") for line in text.split("\n\n")[0].splitlines()}
    assert widths == {len(KINDS) + 3}


GOOD = {"iou": 0.95, "flicker": 1.0, "covered": 0.01}


def good(name: str, kind: str, number: int, figure: str) -> float:
    return {("p2p_0.3", "iou"): 0.2, ("default", "flicker"): 0.5}.get((name, figure), GOOD[figure])


@pytest.mark.parametrize(
    "name, kind, figure, bad",
    [
        ("default", "small", "iou", 0.0),  # which lowers the mean over eight kinds to 0.83: still enough
        ("default", "plain", "iou", 0.8),
        ("default_no_pixel_refinement", "", "iou", 0.7),
        ("p2p_0.3", "", "iou", 0.8),
        ("default", "two", "covered", 0.06),
        ("default", "", "flicker", 0.7),
    ],
)
def test_each_goal_is_missed_by_its_own_figure(name: str, kind: str, figure: str, bad: float) -> None:
    def value(n: str, k: str, number: int, f: str) -> float:
        return bad if (n, f) == (name, figure) and kind in ("", k) else good(n, k, number, f)

    assert all(met(*goal) for goal in goals(summary(rows(good))).values())
    assert sum(not met(*goal) for goal in goals(summary(rows(value))).values()) == (kind != "small")


@pytest.mark.parametrize("count, shown", [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (8, [0, 9, 18, 27, 36, 45, 54, 63])])
def test_the_picture_shows_another_clip_of_each_kind_two_in_a_row(count: int, shown: list[int]) -> None:
    strips = [np.full((2, 3, 3), index, np.uint8) for index in range(count * len(KINDS))]
    assert draw({}, strips)["masks.jpg"][::2, ::3, 0].ravel().tolist() == shown


def test_what_is_left_of_a_record_is_what_the_way_says() -> None:
    record = replace(record_of(cells((3, 3, 1.0)), cells((3, 3, 0.5))), spread={(16, 16): torch.ones(1, 3, 16, 16)})
    assert without_affinity(record).spread == {}
    assert torch.equal(level_alone(1)(record).spread[(16, 16)], record.levels[1][(16, 16)])
    assert float(levels_alike(record).spread[(16, 16)][0, 1, 3, 3]) == pytest.approx(0.375)


def test_a_clip_is_dimmed_outside_each_mask() -> None:
    clip = TEST_CLIPS["plain"][0]
    frames, exact = clip.render(FRAMES), clip.truth(FRAMES)
    masks = dict.fromkeys(("p2p_0.3", "ladder/flat", "default_no_pixel_refinement"), np.ones_like(exact)) | {
        "default": 0 * exact,
        "exact": exact,
    }
    found = picture(clip, frames, masks)
    tiles = [found[6:200, 6 + index * found.shape[1] // 4 :][:, :200].mean() for index in (0, 3)]
    assert tiles[1] == pytest.approx(0.3 * tiles[0], rel=0.1)


def test_each_way_of_a_rule_exists() -> None:
    assert {f"{rule}/{edges}" for rule in RULES for edges in ("with_edges", "without_edges")} <= set(WAYS)
    assert {f"level/{level}" for level in LEVELS} <= set(WAYS)


def test_the_exact_mask_fits_and_one_of_the_other_object_covers_it() -> None:
    clip = TEST_CLIPS["two"][0]
    exact = figures(clip, clip.truth(FRAMES))
    assert (exact["iou"], exact["covered"]) == (1, 0)
    assert exact["flicker"] < 0.1
    wrong = figures(clip, clip.other(FRAMES))
    assert wrong["covered"] == 1 and wrong["iou"] < 0.05


def record_of(*levels: np.ndarray) -> CrossAttentionRecord:
    """Cat's maps by level, each [frames, 16, 16], half in either token."""
    stored = [torch.from_numpy(level)[:, None] * torch.tensor([0.0, 0.5, 0.5])[:, None, None] for level in levels]
    return CrossAttentionRecord(WORDS, [0.5] * len(levels), [{(16, 16): maps.float()} for maps in stored])


def cells(*warm: tuple[int, int, float], frame: int = 0, frames: int = 1) -> np.ndarray:
    maps = np.zeros((frames, 16, 16))
    for row, column, value in warm:
        maps[frame, row, column] = value
    return maps


def rule(*levels: np.ndarray) -> np.ndarray:
    return prompt_to_prompt(record_of(*levels), (2, 3), torch.Size((16, 16))).numpy()


def blocks(*places: tuple[int, int]) -> np.ndarray:
    """3x3 cells around each place."""
    mask = np.zeros((1, 16, 16))
    for row, column in places:
        mask[:, row - 1 : row + 2, column - 1 : column + 2] = 1
    return mask


def test_prompt_to_prompt_pools_3x3_and_takes_what_exceeds_three_tenths_of_the_maximum() -> None:
    maps = cells((3, 3, 0.2), (3, 12, 0.062), (12, 3, 0.058))
    assert np.array_equal(rule(maps), blocks((3, 3), (3, 12)))


def test_prompt_to_prompt_sums_the_levels_alike() -> None:
    """What one of four levels sees has a quarter of the weight."""
    always, once = (3, 3, 1.0), (12, 12, 1.0)
    assert np.array_equal(rule(cells(always, once), *[cells(always)] * 2), blocks((3, 3), (12, 12)))
    assert np.array_equal(rule(cells(always, once), *[cells(always)] * 3), blocks((3, 3)))


def test_prompt_to_prompt_divides_each_frame_by_its_own_maximum() -> None:
    dim = cells((3, 3, 1.0), frames=2) + cells((12, 12, 0.01), frame=1, frames=2)
    assert np.array_equal(rule(dim), np.concatenate([blocks((3, 3)), blocks((12, 12))]))


def test_prompt_to_prompt_brings_finer_maps_to_16x16_and_the_mask_to_the_frames_size() -> None:
    fine = torch.zeros(1, 3, 32, 32)
    fine[:, 1, 6:8, 6:8] = 1
    record = CrossAttentionRecord(WORDS, [0.5], [{(32, 32): fine}])
    assert np.array_equal(prompt_to_prompt(record, (2,), torch.Size((16, 16))).numpy(), blocks((3, 3)))
    assert prompt_to_prompt(record, (2,), torch.Size((64, 64))).shape == (1, 64, 64)
