"""One step of warp error and of colour flicker, on pictures small enough to write out."""

import numpy as np
import pytest

from blade.metrics.temporal import RIM, mean_colour, places, solid_part, step_error, step_flicker

SIDE = 24


def flow(right, down):
    return np.broadcast_to(np.float32([right, down]), (SIDE, SIDE, 2))


def picture(seed=0):
    return np.random.default_rng(seed).random((SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 2), (-4, 1), (0, -5)])
def test_what_follows_the_flow_by_whole_pixels_has_no_error_and_what_leaves_the_picture_does_not_count(right, down):
    now = picture()
    then = np.roll(now, (down, right), (0, 1))
    assert step_error(now, then, flow(right, down), np.ones((SIDE, SIDE))) == pytest.approx(0, abs=1e-12)
    assert step_error(now, then + 0.25, flow(right, down), np.ones((SIDE, SIDE))) == pytest.approx(1 / 16, rel=1e-3)


@pytest.mark.parametrize("place", [(0, 10), (10, 0), (SIDE - 1, 10), (10, SIDE - 1)], ids=["top", "left", "bottom", "right"])
def test_a_pixel_that_ends_on_the_border_is_judged_and_one_beyond_it_is_not(place):
    """Of a mask of one pixel in the middle, carried to there."""
    now, then, mask = picture(0), picture(1), np.zeros((SIDE, SIDE))
    mask[10, 10] = 1
    down, right = place[0] - 10, place[1] - 10
    expected = np.square(then[place].astype(float) - now[10, 10]).mean()
    assert step_error(now, then, flow(right, down), mask) == pytest.approx(expected, rel=1e-5)
    beyond = flow(right + 0.01 * np.sign(right), down + 0.01 * np.sign(down))
    assert step_error(now, then, beyond, mask) is None


def test_only_pixels_where_the_mask_is_above_a_half_are_judged_and_bytes_are_shares_of_255():
    now = np.zeros((SIDE, SIDE, 3), np.uint8)
    then = now.copy()
    then[5, 5], then[5, 6] = 51, 255
    mask = np.zeros((SIDE, SIDE))
    mask[5, 5], mask[5, 6] = 0.6, 0.5
    assert step_error(now, then, flow(0, 0), mask) == pytest.approx(0.04)
    mask[5, 5] = 0.5
    assert step_error(now, then, flow(0, 0), mask) is None


def test_the_flow_moves_columns_and_rows():
    x, y = places(flow(1.5, -2))
    assert (x[3, 4], y[3, 4]) == (5.5, 1) and x.dtype == y.dtype == np.float32 and x.shape == (SIDE, SIDE)


def test_the_solid_part_lies_more_than_the_rim_inside():
    masks = np.zeros((1, SIDE, SIDE))
    masks[0, 5:17, 6:18] = 0.6
    solid = np.zeros((1, SIDE, SIDE), bool)
    solid[0, 5 + RIM : 17 - RIM, 6 + RIM : 18 - RIM] = True
    assert RIM == 3 and np.array_equal(solid_part(masks), solid)
    assert not solid_part(0.5 * np.ones((1, SIDE, SIDE))).any() and solid_part(np.ones((1, SIDE, SIDE))).all()


def test_a_mean_colour_is_of_the_solid_part_alone():
    frame, solid = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), bool)
    frame[2, 2], frame[2, 3] = (51, 0, 255), (153, 0, 255)
    assert mean_colour(frame, solid) is None
    solid[2, 2:4] = True
    assert mean_colour(frame, solid).tolist() == pytest.approx([0.4, 0, 1])


def test_a_step_of_flicker_is_half_the_mean_square():
    assert step_flicker(np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.2, 0.0])) == pytest.approx(0.5 * 0.18 / 3)
