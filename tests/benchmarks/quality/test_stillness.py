import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_SHAPE_EDITS
from benchmarks.quality.bench import FRAMES, Made
from benchmarks.quality.editing import STEADY, figures
from benchmarks.quality.part import Rows
from benchmarks.quality.stillness import NAMES, copied, goals, object_cells, reduction, summary, tables, ways, with_noise
from benchmarks.report import met
from blade.inversion.trajectory import Trajectory

EDIT = DEVELOPMENT_SHAPE_EDITS[0]


@pytest.fixture(scope="module")
def perfect():
    return EDIT.perfect.render(FRAMES)


def test_a_reduction_is_the_share_by_which_the_mean_falls():
    found = reduction(np.array([4.0, 2.0, 6.0]), np.array([1.0, 1.0, 1.0]))
    assert found["share"] == 0.75
    assert 0.5 <= found["low"] <= 0.75 <= found["high"] <= 1 - 1 / 6


def test_a_perfect_edit_is_right_and_stiller_than_a_copied_object(perfect):
    judges = dict.fromkeys(("source", "vae_round_trip", "perfect_edit"), Made(perfect))
    good, still = (figures(EDIT, judges, one) for one in (Made(perfect), copied(None, EDIT, judges)))
    assert good["success"] == 1
    assert good["vs_vae_db"] == 100
    for figure in STEADY:
        assert good[figure] < still[figure]


def test_an_edit_from_noise_starts_from_noise_where_the_object_is_and_nowhere_else():
    levels = torch.randn(3, FRAMES, 4, 16, 16)
    before = Trajectory(torch.tensor([0.0, 1.0, 10.0]), levels)
    cells = object_cells(EDIT)
    after = with_noise(cells)(before, 0)
    outside = (cells == 0).expand(FRAMES, 4, 16, 16)
    assert torch.equal(after.latents[:2], levels[:2])
    assert torch.equal(after.latents[2][outside], levels[2][outside])
    assert 8 < after.latents[2][~outside].std() < 12
    assert 0.02 < cells.mean() < 0.5


def rows(value) -> Rows:
    """value(name, kind, number, figure)"""
    listed = (*STEADY, "success", "vs_vae_db")
    return Rows({f"{kind}/{number}": {name: {figure: value(name, kind, number, figure) for figure in listed} for name in NAMES}
                 for kind in ("colour", "shape") for number in range(2)})  # fmt: skip


def steady(name, kind, number, figure):
    if figure == "success":
        return 0.5 if (name, kind) == ("plain", "shape") else 1.0
    return {"plain": 4.0, "copied": 2.0, "plain_from_noise": 4.0}.get(name, 1.0)


def test_the_default_is_held_against_plain_over_all_edits_and_over_those_that_both_make_right():
    found = summary(rows(steady))
    assert found["reduction.all_edits"]["edits"] == 4 and found["reduction.edits_right_in_both"]["edits"] == 2
    assert found["reduction.all_edits"]["warp_error"] == {"share": 0.75, "low": 0.75, "high": 0.75}
    assert found["reduction_from_noise.all_edits"]["outline_flicker"]["share"] == 0.75
    assert found["success"]["plain"] == {"colour": 1, "shape": 0.5} and found["background_psnr_db"]["plain"] == 4
    (table,) = tables(found)
    assert "| plain with consensus | 1000.00e-3 | 100000.0e-5 | 1.000 | 100% | 100% | 1.0 |" in table.splitlines()
    assert "| plain | 4000.00e-3 | 400000.0e-5 | 4.000 | 100% | 50% | 4.0 |" in table.splitlines()


@pytest.mark.parametrize("name, figure, bad", [("default", figure, 3.0) for figure in STEADY] + [("copied", "warp_error", 1.0)])
def test_each_goal_is_missed_by_its_own_figure(name, figure, bad):
    def value(n, kind, number, f):
        return bad if (n, f) == (name, figure) else steady(n, kind, number, f) if n != "copied" else 9.0

    assert all(met(*goal) for goal in goals(summary(rows(steady))).values())
    assert sum(not met(*goal) for goal in goals(summary(rows(value))).values()) == 1


def test_every_way_has_a_name_in_the_summary():
    assert list(ways(EDIT)) == list(NAMES)
