"""Background PSNR on frames whose error is known, and what the two conventions have to do with each other."""

import numpy as np
import pytest

from blade.metrics.background import dilate, psnr_outside, psnr_outside_five

GREY = np.full((2, 10, 20, 3), 0.5)
HALF = np.zeros((2, 10, 20))
HALF[:, :, :10] = 1  # the object fills the left half


def test_a_constant_error_of_a_tenth_is_20_db() -> None:
    assert psnr_outside(GREY, GREY + 0.1, HALF) == pytest.approx([20, 20])


def test_bytes_and_floats_are_one_scale() -> None:
    dark = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr_outside(dark, dark + 51, np.zeros((1, 4, 4))) == pytest.approx([-20 * np.log10(51 / 255)])


def test_what_happens_inside_the_mask_does_not_count() -> None:
    edited = GREY.copy()
    edited[:, :, :10] = 0
    assert psnr_outside(GREY, edited, HALF) == pytest.approx([100, 100])
    assert psnr_outside_five(GREY, edited, HALF) == pytest.approx([100, 100])


def test_each_frame_is_judged_by_itself() -> None:
    edited = GREY + np.array([0.1, 0.01])[:, None, None, None]
    assert psnr_outside(GREY, edited, HALF) == pytest.approx([20, 40])


def test_a_soft_mask_weighs_its_pixels() -> None:
    edited = GREY.copy()
    edited[:, :, :10] += 0.1
    quarter = HALF * 0.5  # the wrong half weighs half: a third of all weight
    assert psnr_outside(GREY, edited, quarter) == pytest.approx([20 + 10 * np.log10(3)] * 2)


def test_five_exceeds_the_true_mean_by_the_background_s_share() -> None:
    assert psnr_outside_five(GREY, GREY + 0.1, HALF) == pytest.approx([20 + 10 * np.log10(2)] * 2)


def test_no_mask_makes_the_conventions_equal() -> None:
    edited = GREY + np.random.default_rng(0).normal(0, 0.05, GREY.shape)
    empty = np.zeros((2, 10, 20), bool)
    assert psnr_outside(GREY, edited, empty) == pytest.approx(psnr_outside_five(GREY, edited, empty))


def test_a_mask_over_everything_leaves_nothing_to_judge() -> None:
    masks = HALF.copy()
    masks[1] = 1
    with pytest.raises(ValueError, match="frame 1 covers the whole frame"):
        psnr_outside(GREY, GREY, masks)


@pytest.mark.parametrize("judge", [psnr_outside, psnr_outside_five])
def test_shapes_that_differ_are_named(judge) -> None:
    with pytest.raises(ValueError, match=r"\(2, 10, 20, 3\) and \(1, 10, 20, 3\)"):
        judge(GREY, GREY[:1], HALF)
    with pytest.raises(ValueError, match=r"masks of shape \(1, 10, 20\)"):
        judge(GREY, GREY, HALF[:1])


def test_dilation_is_a_disc_of_that_radius() -> None:
    mask = np.zeros((2, 41, 41))
    mask[0, 20, 20] = 0.2  # any coverage counts; the second frame stays empty
    y, x = np.mgrid[-20:21, -20:21]
    for pixels in (0, 1, 5, 8):
        grown = dilate(mask, pixels)
        assert (grown[0] == (x**2 + y**2 <= pixels**2)).all()
        assert not grown[1].any()


def test_dilation_by_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels is -1"):
        dilate(HALF, -1)


def test_a_mask_over_everything_leaves_no_error_in_five_s_convention() -> None:
    assert psnr_outside_five(GREY, GREY + 0.5, np.ones((2, 10, 20))) == pytest.approx([100, 100])
    soft = np.full((2, 10, 20), 0.5)  # both pictures are multiplied, so that an error counts by the square of its weight
    assert psnr_outside_five(GREY, GREY + 0.1, soft) == pytest.approx([20 + 20 * np.log10(2)] * 2)


@pytest.mark.parametrize("judge", [psnr_outside, psnr_outside_five])
def test_a_single_picture_is_no_clip(judge) -> None:
    with pytest.raises(ValueError, match=r"\(10, 20, 3\) and \(10, 20, 3\): give two clips"):
        judge(GREY[0], GREY[0], HALF[0])


def test_an_error_too_small_to_tell_is_100_db_and_a_larger_one_less() -> None:
    empty = np.zeros((2, 10, 20))
    assert psnr_outside(GREY, GREY + 1e-6, empty) == pytest.approx([100, 100])
    assert psnr_outside(GREY, GREY + 2e-5, empty) == pytest.approx([-20 * np.log10(2e-5)] * 2)
