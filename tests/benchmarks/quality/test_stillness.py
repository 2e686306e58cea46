import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_SHAPE_EDITS
from benchmarks.quality.stillness import FRAMES, figures, object_cells, reduction, with_noise
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
    good, copied = (figures(EDIT, clip, perfect) for clip in (perfect, np.repeat(perfect[:1], FRAMES, 0)))
    assert good["success"] == 1
    assert good["background_psnr_db"] == 100
    for figure in ("warp_error", "colour_flicker", "outline_flicker"):
        assert good[figure] < copied[figure]


def test_the_unedited_clip_is_no_success(perfect):
    assert figures(EDIT, EDIT.clip.render(FRAMES), perfect)["success"] == 0


def test_an_edit_from_noise_starts_from_noise_where_the_object_is_and_nowhere_else():
    levels = torch.randn(3, FRAMES, 4, 16, 16)
    before = Trajectory(torch.tensor([0.0, 1.0, 10.0]), levels)
    cells = object_cells(EDIT)
    after = with_noise(before, cells)
    outside = (cells == 0).expand(FRAMES, 4, 16, 16)
    assert torch.equal(after.latents[:2], levels[:2])
    assert torch.equal(after.latents[2][outside], levels[2][outside])
    assert 8 < after.latents[2][~outside].std() < 12
    assert 0.02 < cells.mean() < 0.5
