"""Optical flow of pictures whose motion is known, and of those that OpenCV's DIS cannot take as they are."""

import cv2
import numpy as np
import pytest

from benchmarks.metrics.temporal import warp_error
from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS
from blade.video.motion import optical_flow


def texture(height, width, seed=0):
    """Soft blobs, which an estimated flow can follow. uint8 [height, width]"""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_a_shift_is_found_at_every_pixel_that_stays():
    wide = texture(96, 160)
    here, there = wide[:, 20:116], wide[:, 17:113]  # three pixels to the right
    flow = optical_flow(np.ascontiguousarray(here), np.ascontiguousarray(there))
    assert flow.shape == (96, 96, 2)
    np.testing.assert_allclose(flow[8:-8, 8:-12], np.broadcast_to([3.0, 0.0], (80, 76, 2)), atol=0.3)


def test_a_picture_of_usual_sides_is_given_to_dis_as_it_is():
    here, there = texture(72, 128), texture(72, 128, 1)
    expected = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(here, there, None)
    assert np.array_equal(optical_flow(here, there), expected)


def test_a_finer_search_follows_a_thing_more_closely():
    clip = DEVELOPMENT_CLIPS["plain"][0]
    pictures, masks = clip.render(2), clip.truth(2)
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    coarse, fine = (warp_error(pictures, optical_flow(*greys, finest)[None], masks)[0] for finest in (1, 0))
    assert fine < 0.6 * coarse


@pytest.mark.parametrize("finest", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 48), (12, 300), (8, 300), (64, 512), (300, 12), (3, 40)])
def test_thin_and_tiny_pictures_have_a_finite_flow(size, finest):
    """OpenCV's own ends the process at 12 x 48 and 12 x 300, gives NaN at 8 x 300 and refuses what has no side of 12."""
    here = texture(*size)
    flow = optical_flow(here, np.roll(here, 1, 1), finest)
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
