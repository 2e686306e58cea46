"""The comparison with peers: on made-up rows whose means are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.editing import AS_GRAPHS, VARIANTS, Clips, objects
from benchmarks.quality.peers import PANELS, REMOVED, ROWS, WHOLE, figures, removed, strip
from benchmarks.quality.peers_report import (
    CLAIMS,
    FIGURES,
    INSIDE,
    MASKED,
    OUTSIDE,
    SHOWN,
    TITLES,
    claims_table,
    draw,
    summary,
    table,
    verdict,
)
from benchmarks.quality.stillness import FRAMES
from benchmarks.quality.tuning import best

EDIT = DEVELOPMENT_COLOUR_EDITS[0]
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def rows(value=lambda name, number, figure: 1.0):
    return {
        kind: [
            {
                **{name: {figure: value(name, number, figure) for figure in FIGURES} for name in ROWS},
                "stock_sampling": {"right": 0.9},
            }
            for number in range(3)
        ]
        for kind in ("colour", "shape")
    }


def with_masks(found, iou=0.8):
    for listed in found.values():
        for row in listed:
            for name in MASKED:
                row[name]["mask_iou"] = iou
    return found


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_each_part_is_removed_alone_from_the_graphs_own_settings(kind):
    own = VARIANTS[AS_GRAPHS[kind]].inputs
    found = removed(kind)
    assert found.keys() == {WHOLE, *REMOVED} and found[WHOLE].inputs == own
    changed = {name: [bool(one.background), bool(one.mask), bool(one.keys)] for name, one in found.items()}
    assert changed == {
        WHOLE: [False] * 3,
        "random_noise": [True, False, False],
        "fixed_mask": [False, True, False],
        "plain_attention": [False, False, True],
    }
    assert [one.inputs for one in found.values()] == [own, own, own, own | {"consensus": 0.0}]


def test_a_perfect_edit_has_no_loss_and_its_masks_overlap():
    source, perfect = EDIT.clip.render(FRAMES), EDIT.perfect.render(FRAMES)
    clips = Clips(source, source, perfect, perfect)
    found = figures(EDIT, clips, perfect, torch.from_numpy(EDIT.clip.truth(FRAMES)))
    assert found["background_psnr_db"] == 100 and found["mask_iou"] == 1 and found["success"] == 1
    assert found["background_ssim"] == pytest.approx(1) and found["background_ssim_five_convention"] == pytest.approx(1)
    assert "mask_iou" not in figures(EDIT, clips, perfect, None)
    assert figures(EDIT, clips, perfect, torch.from_numpy(np.roll(objects(EDIT), 20, 1)))["mask_iou"] < 0.7


def test_the_whole_method_is_held_against_each_row_edit_by_edit():
    found = summary(with_masks(rows(lambda name, number, figure: 10.0 * number + (2.0 if name == WHOLE else 0.0))))
    assert found["whole_less"].keys() == set(ROWS) - {WHOLE}
    for gaps in found["whole_less"].values():
        assert gaps["success"] == {"mean": 2, "low": 2, "high": 2}  # the clips' own spread of 10 is no uncertainty of the difference
    spread = found["success"]["img2img"]
    assert spread["mean"] == 10 and spread["low"] < 10 < spread["high"]
    assert found["success_by_kind"][WHOLE] == {"colour": 12, "shape": 12}
    assert found["success_of_stock_sampling"] == {"colour": pytest.approx(0.9), "shape": pytest.approx(0.9)}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "gap, more, expected",
    [
        ((1, 0.5, 2), True, "better"),
        ((1, 0.5, 2), False, "worse"),
        ((-1, -2, -0.5), True, "worse"),
        ((-1, -2, -0.5), False, "better"),
        ((0.5, -0.1, 1), True, "no difference"),
        ((0, 0, 0), True, "no difference"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(gap, more, expected):
    assert verdict(dict(zip(("mean", "low", "high"), gap, strict=True)), more) == expected


def test_tables_have_a_line_for_each_row_and_claim_and_as_many_cells_in_each():
    found = summary(with_masks(rows()))
    for columns, shown in ((OUTSIDE, len(ROWS)), (INSIDE, len(ROWS) - 1 + 1)):  # nothing inside the VAE's round trip; stock's success
        lines = table(found, columns).splitlines()
        assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + shown
    assert set(TITLES) == set(ROWS) and {*OUTSIDE, *INSIDE} == {*FIGURES, "mask_iou"} == set(SHOWN)
    claims = claims_table(found).splitlines()
    assert len({line.count("|") for line in claims}) == 1 and len(claims) == 2 + sum(map(len, CLAIMS.values()))
    assert set(CLAIMS) == set(REMOVED)


def test_the_plot_shows_rows_and_curves(tmp_path):
    found = summary(with_masks(rows()))
    draw(found, {}, tmp_path / "without.png")
    draw(found, {"img2img": {"curve": {"0.5": {"success": 0.5, "background_psnr_db": 3.0}, "1": {"success": 9, "background_psnr_db": 9.0}}}},
         tmp_path / "with.png")  # fmt: skip
    assert (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


def test_a_strip_shows_every_panel_at_two_moments():
    made = {name: np.full((FRAMES, 8, 8, 3), 9 * index, np.uint8) for index, name in enumerate(PANELS)}
    for name in PANELS:
        made[name][FRAMES - 2] += 1
    seen = set(np.unique(strip(EDIT, made)[..., 0]))
    assert {9 * index + late for index in range(len(PANELS)) for late in (0, 1)} <= seen


def test_the_best_knob_makes_the_edit_first_and_keeps_the_background_next():
    def point(success, kept):
        return {"success": success, "background_psnr_db": kept}

    assert best({"0.2": point(0.1, 40), "0.5": point(0.88, 30), "0.7": point(0.92, 25), "1": point(0.9, 20)}) == 0.5
    assert best({"0.2": point(0.1, 40), "0.5": point(0.80, 30), "0.7": point(0.92, 25), "1": point(0.9, 20)}) == 0.7


def test_the_knobs_in_the_code_are_those_that_the_published_tuning_found_best():
    found = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["tuning"]
    for name, baseline in BASELINES.items():
        assert [float(value) for value in found[name]["curve"]] == list(baseline.values)
        assert best(found[name]["curve"]) == found[name]["best"] == baseline.chosen
