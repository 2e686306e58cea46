import numpy as np
import pytest

from blade.video.fit import CROP, PAD, Fit


def ramp(height, width):
    """Every pixel another colour."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows ^ columns], -1)


def test_sides_become_multiples_of_eight_by_a_centred_crop():
    picture = ramp(21, 34)
    assert np.array_equal(Fit(21, 34).apply(picture), picture[2:18, 1:33])


def test_sides_become_multiples_of_eight_by_repeating_the_outermost_pixels():
    picture = ramp(21, 34)
    padded = Fit(21, 34, sides=PAD).apply(picture)
    assert padded.shape == (24, 40, 3)
    assert np.array_equal(padded[1:22, 3:37], picture)
    assert (padded[0] == padded[1]).all() and (padded[22:] == padded[21]).all()
    assert (padded[:, :3] == padded[:, 3:4]).all() and (padded[:, 37:] == padded[:, 36:37]).all()


@pytest.mark.parametrize("sides", [CROP, PAD])
@pytest.mark.parametrize("size", [(16, 24), (21, 34), (8, 15)])
def test_what_fits_already_is_left_as_it_is_and_all_else_comes_back_whole(sides, size):
    fit, picture = Fit(*size, sides=sides), ramp(*size)
    fitted = fit.apply(picture)
    assert fitted.shape == (*fit.size, 3) and not any(side % 8 for side in fit.size)
    assert np.array_equal(fit.undo(fitted[None], picture[None] if sides == CROP else None)[0], picture)
    if size == (16, 24):
        assert np.array_equal(fitted, picture)


def test_undoing_a_crop_keeps_the_edit_inside_and_the_source_at_the_rim():
    fit, source = Fit(21, 34), ramp(21, 34)
    whole = fit.undo(np.full((1, 16, 32, 3), 99, np.uint8), source[None])[0]
    inside = np.zeros((21, 34), bool)
    inside[2:18, 1:33] = True
    assert (whole[inside] == 99).all() and np.array_equal(whole[~inside], source[~inside])
    assert np.array_equal(source, ramp(21, 34))


def test_the_longest_side_is_scaled_before_the_crop():
    assert Fit(100, 200, 64).apply(np.zeros((100, 200, 3), np.uint8)).shape == (32, 64, 3)
    assert Fit(200, 100, 64).apply(np.zeros((200, 100, 3), np.uint8)).shape == (64, 32, 3)
    assert Fit(1080, 1920, 512).size == (288, 512)
    assert Fit(100, 150, 70).scaled == (47, 70) and Fit(100, 150, 70).size == (40, 64) and Fit(100, 150, 70, PAD).size == (48, 72)


def test_frames_under_eight_pixels_are_refused_with_their_size():
    with pytest.raises(ValueError, match="30x7 pixels"):
        Fit(7, 30)
