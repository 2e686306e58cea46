"""The comparison with peers: on made-up rows whose means are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.quality.baselines import BASELINES, WHOLE
from benchmarks.quality.bench import FRAMES, Made, Variant, objects
from benchmarks.quality.editing import AS_GRAPHS, VARIANTS, figures
from benchmarks.quality.part import Rows
from benchmarks.quality.peers import CLAIMS, FIGURES, FLOOR, MASKED, REMOVED, TITLES, goals, plot, summary, tables, verdict, ways
from benchmarks.report import met

EDIT = DEVELOPMENT_COLOUR_EDITS[0]
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def rows(value=lambda name, number, figure: 1.0) -> Rows:
    """Three edits of each kind, whose masks fit by 0.8. value(name, number, figure)"""
    masked = {name: {"mask_iou": 0.8} for name in MASKED}
    return Rows(
        {
            f"{kind}/{number}": {"stock_sampling": {"right": 0.9}}
            | {name: {figure: value(name, number, figure) for figure in FIGURES} | masked.get(name, {}) for name in TITLES}
            for kind in ("colour", "shape")
            for number in range(3)
        }
    )


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_each_part_is_removed_alone_from_the_graphs_own_settings(kind):
    own = VARIANTS[AS_GRAPHS[kind]].inputs
    found = {name: way for name, way in ways(kind).items() if isinstance(way, Variant)}
    assert (
        found.keys() == {WHOLE, *REMOVED}
        and list(ways(kind)) == ["stock_sampling", *found, *BASELINES, "composite"]
        and found[WHOLE].inputs == own
    )
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
    judges = {"source": Made(source), "vae_round_trip": Made(source), "perfect_edit": Made(perfect)}
    exact = torch.from_numpy(EDIT.clip.truth(FRAMES))
    found = figures(EDIT, judges, Made(perfect, mask=exact))
    assert found["background_psnr_db"] == 100 and found["mask_iou"] == 1 and found["success"] == 1
    assert found["background_ssim"] == pytest.approx(1) and found["background_ssim_five_convention"] == pytest.approx(1)
    assert "mask_iou" not in figures(EDIT, judges, Made(perfect))
    assert figures(EDIT, judges, Made(perfect, mask=torch.from_numpy(np.roll(objects(EDIT), 20, 1))))["mask_iou"] < 0.7


def test_the_whole_method_is_held_against_each_row_edit_by_edit():
    found = summary(rows(lambda name, number, figure: 10.0 * number + (2.0 if name == WHOLE else 0.0)))
    assert found["whole_less"].keys() == set(TITLES) - {WHOLE}
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
    outside, inside, claims = (text.splitlines() for text in tables(summary(rows())))
    for lines, shown in ((outside, len(TITLES)), (inside, len(TITLES) - 1 + 1)):  # nothing inside the VAE's round trip; stock's success
        assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + shown
    assert outside[-1] == f"| {TITLES[FLOOR]} | 1.0 ± 0.0 | 1.0 ± 0.0 | 1.000 ± 0.000 | 1.000 ± 0.000 |  |  |"
    assert inside[2].endswith("| 100 ± 0 | 0.80 ± 0.00 | 1000.0 ± 0.0 | 100000 ± 0 | 1.000 ± 0.000 | 100 / 100 |")
    assert inside[-1].endswith("|  |  |  |  |  | 90 / 90 |")
    assert len({line.count("|") for line in claims}) == 1 and len(claims) == 2 + sum(map(len, CLAIMS.values()))
    assert set(CLAIMS) == set(REMOVED)


def test_a_claim_is_told_with_its_sign_and_whole_percents_with_a_tenth():
    *_, claims = tables(summary(rows(lambda name, number, figure: 1.0 if name == WHOLE else 0.5)))
    assert f"| {REMOVED['random_noise'][1]} | random noise in the background | right, % | +50.0 (+50.0 to +50.0) | better |" in claims
    assert "| border, dB | +0.5 (+0.5 to +0.5) | better |" in claims and "| warp error, e-3 | +500.0 (+500.0 to +500.0) | worse |" in claims


def test_a_part_that_is_better_in_no_figure_misses_its_goal():
    found = goals(summary(rows(lambda name, number, figure: 1.0 if name in (WHOLE, "fixed_mask") else 0.5)))
    assert [met(*goal) for goal in found.values()] == [True, False, True]


def test_the_plot_shows_rows_and_curves():
    found = summary(rows())
    curve = {"0.5": {"success": 0.5, "background_psnr_db": 3.0}, "1": {"success": 9, "background_psnr_db": 9.0}}
    assert not np.array_equal(plot(found, {}), plot(found, {"img2img": {"curve": curve}}))


def test_the_knobs_in_the_code_are_those_that_the_published_tuning_found_best():
    """Of the values whose success comes within 5 points of the best, the one that keeps the background best."""
    published = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["tuning"]
    for name, baseline in BASELINES.items():
        curve = published[name]["curve"]
        most = max(point["success"] for point in curve.values())
        near = [value for value, point in curve.items() if point["success"] >= most - 0.05 - 1e-9]
        best = float(max(near, key=lambda value: curve[value]["background_psnr_db"]))
        assert best == published[name]["best"] == baseline.chosen and published[name]["knob"] == baseline.knob
