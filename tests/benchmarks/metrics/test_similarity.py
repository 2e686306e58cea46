"""SSIM of the background on pictures whose value is known, and what the two conventions have to do with each other."""

import cv2
import numpy as np
import pytest

from benchmarks.metrics.similarity import REACH, ssim_outside, ssim_outside_five

NOISE = np.random.default_rng(0).random((2, 40, 60, 3))
HALF = np.zeros((2, 40, 60))
HALF[:, :, :30] = 1  # the object fills the left half
EMPTY = np.zeros((2, 40, 60), bool)
JUDGES = [ssim_outside, ssim_outside_five]


@pytest.mark.parametrize("judge", JUDGES)
def test_the_same_clip_is_alike(judge) -> None:
    assert judge(NOISE, NOISE, HALF) == pytest.approx([1, 1])


@pytest.mark.parametrize("judge", JUDGES)
def test_of_flat_pictures_only_the_brightness_counts(judge) -> None:
    """Without any variance the formula leaves (2ab + C1) / (a^2 + b^2 + C1), with C1 = 0.01^2."""
    dark, light = np.full((1, 20, 20, 3), 0.25), np.full((1, 20, 20, 3), 0.75)
    wanted = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert judge(dark, light, np.zeros((1, 20, 20))) == pytest.approx([wanted])


def test_it_is_wangs_formula_with_a_gaussian_window() -> None:
    one, other = NOISE[:1], NOISE[1:]
    window = {"ksize": (2 * REACH + 1,) * 2, "sigmaX": 1.5, "borderType": cv2.BORDER_REFLECT}

    def mean(picture):
        return cv2.GaussianBlur(picture, **window)

    a, b = mean(one[0]), mean(other[0])
    aa, bb, ab = mean(one[0] ** 2) - a * a, mean(other[0] ** 2) - b * b, mean(one[0] * other[0]) - a * b
    wanted = (2 * a * b + 1e-4) * (2 * ab + 9e-4) / ((a * a + b * b + 1e-4) * (aa + bb + 9e-4))
    assert ssim_outside(one, other, EMPTY[:1]) == pytest.approx([wanted.mean()], abs=1e-6)
    assert ssim_outside_five(one, other, EMPTY[:1]) == pytest.approx([wanted[REACH:-REACH, REACH:-REACH].mean()], abs=1e-6)


def test_bytes_and_floats_are_one_scale() -> None:
    whole = (NOISE * 255).round().astype(np.uint8)
    assert ssim_outside(whole, whole[::-1], HALF) == pytest.approx(ssim_outside(whole / 255, whole[::-1] / 255, HALF))


def test_what_happens_inside_a_mask_that_is_wide_enough_does_not_count() -> None:
    edited = NOISE.copy()
    edited[:, :, : 30 - REACH] = 0
    assert ssim_outside(NOISE, edited, HALF) == pytest.approx([1, 1])
    edited[:, :, 30 - REACH] = 0
    assert (ssim_outside(NOISE, edited, HALF) < 1 - 1e-9).all()


def test_of_a_changed_background_the_zeroed_object_hides_a_part() -> None:
    edited = np.random.default_rng(1).random(NOISE.shape)
    true, five = ssim_outside(NOISE, edited, HALF), ssim_outside_five(NOISE, edited, HALF)
    assert (true < 0.1).all() and (five > 0.4).all()


def test_each_frame_is_judged_by_itself() -> None:
    edited = NOISE.copy()
    edited[1] = 0.5
    found = ssim_outside(NOISE, edited, EMPTY)
    assert found[0] == pytest.approx(1) and found[1] < 0.1


def test_a_mask_over_everything_leaves_nothing_to_judge() -> None:
    masks = HALF.copy()
    masks[1] = 1
    with pytest.raises(ValueError, match="frame 1 covers the whole frame"):
        ssim_outside(NOISE, NOISE, masks)


@pytest.mark.parametrize("judge", JUDGES)
def test_what_does_not_fit_is_named(judge) -> None:
    with pytest.raises(ValueError, match=r"\(2, 40, 60, 3\) and \(1, 40, 60, 3\)"):
        judge(NOISE, NOISE[:1], HALF)
    with pytest.raises(ValueError, match=r"masks of shape \(1, 40, 60\)"):
        judge(NOISE, NOISE, HALF[:1])
    with pytest.raises(ValueError, match="60x10 pixels: give both sides at least 11"):
        judge(NOISE[:, :10], NOISE[:, :10], HALF[:, :10])
