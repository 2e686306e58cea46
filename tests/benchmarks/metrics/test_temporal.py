"""Steadiness of an edited object on clips whose motion, colours and outlines are known exactly."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.clips import MovingClip
from benchmarks.metrics.temporal import RIM, colour_flicker, mask_flicker, outline_flicker, warp_error
from demo.scenes import Thing

CLIP = MovingClip(2, Thing("blue", "square", 0.47, 0.52, 0.22), "sand", (0.023, -0.017), spin=0.03)
FRAMES, MASKS, FLOW = CLIP.render(6), CLIP.truth(6), CLIP.flow(6)
BLOCK = np.zeros((4, 32, 40), bool)
BLOCK[:, 8:24, 10:30] = True


def waves(x_shift: float, y_shift: float) -> np.ndarray:
    """A smooth pattern that moves on by that many pixels a frame. float [4, 32, 40, 3]"""
    y, x = np.mgrid[0:32, 0:40]
    places = [(x - x_shift * frame, y - y_shift * frame) for frame in range(4)]
    return np.stack([np.stack([0.5 + 0.4 * np.sin(0.3 * (a + k) + 0.2 * b) for k in range(3)], -1) for a, b in places])


def constant_flow(dx: float, dy: float) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy]), (3, 32, 40, 2))


# warp_error


def test_a_shift_by_whole_pixels_has_no_error_at_all() -> None:
    picture = np.random.default_rng(0).random((32, 60, 3))
    frames = np.stack([picture[:, 9 - 3 * frame : 49 - 3 * frame] for frame in range(4)])
    assert (warp_error(frames, constant_flow(3, 0), BLOCK) == 0).all()


def test_a_smooth_pattern_along_its_own_motion_has_almost_none() -> None:
    errors = warp_error(waves(1.25, 0.5), constant_flow(1.25, 0.5), BLOCK)
    assert errors.shape == (3,) and errors.max() < 3e-6
    assert warp_error(waves(1.25, 0.5), constant_flow(-1.25, -0.5), BLOCK).min() > 1e-2


def test_a_change_of_brightness_is_its_square() -> None:
    frames = np.full((4, 32, 40, 3), 0.3) + np.array([0, 0.1, 0.1, 0.3])[:, None, None, None]
    assert warp_error(frames, constant_flow(0.4, 0.4), BLOCK) == pytest.approx([0.01, 0, 0.04], abs=1e-6)


def test_what_happens_outside_the_object_does_not_count() -> None:
    frames = np.where(BLOCK[..., None], 0.5, np.random.default_rng(0).random((4, 32, 40, 3)))
    assert (warp_error(frames, constant_flow(0, 0), BLOCK) == 0).all()


def test_points_that_leave_the_picture_do_not_count() -> None:
    frames = np.zeros((2, 8, 8, 3))
    frames[1, :, 7] = 1
    flow = np.zeros((1, 8, 8, 2))
    flow[..., 0] = 4  # columns 0 to 3 land on 4 to 7, the others outside
    assert warp_error(frames, flow, np.ones((2, 8, 8))) == pytest.approx([1 / 4])


def test_bytes_and_floats_are_one_scale() -> None:
    assert warp_error(FRAMES, FLOW, MASKS) == pytest.approx(warp_error(FRAMES / 255, FLOW, MASKS), rel=1e-4)


def test_an_object_that_does_not_follow_the_motion_is_worse_than_a_noisy_flickering_one_that_does() -> None:
    """Its surface is plain, so all that tells is that ground shows where the object should be."""
    flicker = 3 * np.random.default_rng(0).standard_normal((6, 1, 1, 3))
    noise = 3 * np.random.default_rng(1).standard_normal(FRAMES.shape)
    followed = np.clip(FRAMES + MASKS[..., None] * (flicker + noise), 0, 255).astype(np.uint8)
    left_behind = np.repeat(FRAMES[:1], 6, 0)
    assert warp_error(left_behind, FLOW, MASKS).mean() > 5 * warp_error(followed, FLOW, MASKS).mean()
    assert warp_error(FRAMES, FLOW, MASKS).mean() < warp_error(followed, FLOW, MASKS).mean()


def test_a_frame_without_an_object_has_no_warp_error() -> None:
    masks = BLOCK.copy()
    masks[1] = False
    with pytest.raises(ValueError, match="mask of frame 1 has no pixel that stays in the picture"):
        warp_error(waves(0, 0), constant_flow(0, 0), masks)


# colour_flicker


def coloured(colours: np.ndarray) -> np.ndarray:
    """A block of each frame's colour on black. colours: [4, 3] -> [4, 32, 40, 3]"""
    return BLOCK[..., None] * colours[:, None, None]


def test_colour_flicker_is_half_the_mean_square_of_the_change() -> None:
    colours = np.array([[0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [0.6, 0.3, 0.5], [0.6, 0.3, 0.5]])
    assert colour_flicker(coloured(colours), BLOCK) == pytest.approx((0.01 + 0.04) / 9 / 2)


def test_independent_colours_give_their_variance() -> None:
    colours = 0.5 + 0.02 * np.random.default_rng(0).standard_normal((2000, 3))
    frames = np.broadcast_to(colours[:, None, None], (2000, 9, 9, 3))
    assert colour_flicker(frames, np.ones((2000, 9, 9), bool)) == pytest.approx(0.02**2, rel=0.06)


def test_a_steady_colour_does_not_flicker_while_it_moves() -> None:
    """What is left is the camera's noise in the mean of some 2,000 pixels."""
    assert colour_flicker(FRAMES, MASKS) < 1e-6


def test_the_rim_is_no_part_of_the_colour() -> None:
    frames = coloured(np.full((4, 3), 0.5))
    frames[1, 8 : 8 + RIM, 10:30] = frames[1, 8:24, 10 : 10 + RIM] = frames[1, 24 - RIM : 24, 10:30] = frames[1, 8:24, 30 - RIM : 30] = 1
    assert colour_flicker(frames, BLOCK) == 0
    frames[1, 8 + RIM, 20] = 1
    assert colour_flicker(frames, BLOCK) > 0


def test_an_object_that_is_all_rim_is_refused() -> None:
    masks = BLOCK.copy()
    masks[2] = False
    masks[2, 10:16, 10:30] = True
    with pytest.raises(ValueError, match="in frame 2 lies more than 3 pixels inside"):
        colour_flicker(waves(0, 0), masks)


# outline_flicker


def test_an_outline_that_moves_by_whole_pixels_with_the_flow_does_not_flicker() -> None:
    found = np.stack([np.roll(BLOCK[0], 2 * frame, 1) for frame in range(4)])
    assert outline_flicker(found, constant_flow(2, 0)) == 0


def test_an_outline_that_stays_behind_flickers_by_its_closed_form() -> None:
    """A block of 20 columns carried by 5: 15 of 25 are shared."""
    assert outline_flicker(BLOCK, constant_flow(5, 0)) == pytest.approx(1 - 15 / 25)


def test_half_a_pixel_counts_as_half_a_pixel() -> None:
    """The carried block reaches half of one column more and half of one less: 19.5 of 20.5 are shared."""
    assert outline_flicker(BLOCK, constant_flow(0.5, 0)) == pytest.approx(1 - 19.5 / 20.5)


def test_exact_outlines_along_their_own_motion_stay_close_to_zero() -> None:
    assert outline_flicker(MASKS, FLOW) < 0.03
    assert outline_flicker(np.repeat(MASKS[:1], 6, 0), FLOW) > 0.1


def test_an_outline_that_swells_and_shrinks_flickers() -> None:
    grown = replace(CLIP, thing=replace(CLIP.thing, radius=0.24)).truth(6)  # its path is a little shorter, which hardly matters here
    found = np.where(np.arange(6)[:, None, None] % 2, grown, MASKS)
    assert outline_flicker(found, FLOW) > 0.1


def test_steps_to_and_from_a_frame_without_an_object_count_as_one() -> None:
    found = BLOCK.copy()
    found[1] = False
    assert outline_flicker(found, constant_flow(0, 0)) == pytest.approx(2 / 3)
    assert outline_flicker(np.zeros_like(BLOCK), constant_flow(0, 0)) == 1


# mask_flicker

STILL = np.zeros((1, 32, 48, 2), np.float32)


def moved(columns: float, frames: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A disc that moves by so many columns a frame, exact to the fraction of a pixel, and its flow."""
    y, x = np.mgrid[0:32, 0:48]
    distance = np.stack([np.hypot(x - 14 - columns * frame, y - 16) for frame in range(frames)])
    flow = np.zeros((frames - 1, 32, 48, 2), np.float32)
    flow[..., 0] = columns
    return np.clip(8.5 - distance, 0, 1).astype(np.float32), flow


@pytest.mark.parametrize("columns", [0.0, 3.0, -1.0])
def test_a_mask_that_moves_with_its_object_does_not_flicker(columns: float) -> None:
    assert mask_flicker(*moved(columns)) == pytest.approx([0, 0, 0])


def test_a_mask_that_moves_by_fractions_of_a_pixel_hardly_flickers() -> None:
    assert mask_flicker(*moved(2.4)).max() < 0.05


def test_a_mask_that_stays_behind_its_object_flickers() -> None:
    masks, flow = moved(0.0)
    flow[..., 0] = 4
    assert mask_flicker(masks, flow).min() > 0.3


def test_flicker_is_1_less_the_overlap_of_each_two_frames() -> None:
    masks = np.zeros((3, 32, 48), bool)
    masks[0, :, 0:8] = masks[1, :, 0:8] = masks[2, :, 4:12] = True
    assert mask_flicker(masks, np.repeat(STILL, 2, 0)) == pytest.approx([0, 1 - 4 / 12])


def test_pixels_that_leave_the_picture_do_not_count() -> None:
    masks = np.zeros((2, 32, 48), np.float32)
    masks[0, :, 36:48] = 1
    masks[1, :, 44:48] = 1  # of twelve columns that move by eight, four are left
    flow = STILL.copy()
    flow[..., 0] = 8
    assert mask_flicker(masks, flow) == pytest.approx([0])


def test_two_empty_masks_do_not_flicker_and_one_that_vanishes_does() -> None:
    masks = np.zeros((3, 32, 48), np.float32)
    masks[0, 8:24, 8:24] = 1
    assert mask_flicker(masks, np.repeat(STILL, 2, 0)) == pytest.approx([1, 0])


@pytest.mark.parametrize(
    ("masks", "flow"),
    [((4, 8, 16), (4, 8, 16, 2)), ((4, 8, 16), (3, 16, 8, 2)), ((4, 8, 16), (3, 8, 16)), ((8, 16), (7, 16, 2))],
    ids=["a flow too many", "turned", "no vectors", "a single mask"],
)
def test_a_flow_that_does_not_fit_is_named(masks: tuple, flow: tuple) -> None:
    with pytest.raises(ValueError, match="mask_flicker") as caught:
        mask_flicker(np.zeros(masks), np.zeros(flow))
    assert str(masks) in str(caught.value) and str(flow) in str(caught.value)


# what they refuse

CALLS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], object]] = {
    "warp_error": lambda frames, masks, flow: warp_error(frames, flow, masks),
    "colour_flicker": lambda frames, masks, flow: colour_flicker(frames, masks),
    "outline_flicker": lambda frames, masks, flow: outline_flicker(masks, flow),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_frame_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 1 frame has no next one"):
        CALLS[name](FRAMES[:1], MASKS[:1], FLOW[:0])


@pytest.mark.parametrize("name", ["warp_error", "colour_flicker"])
def test_masks_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: frames of shape \(6, 128, 128, 3\) and masks of shape \(5, 128, 128\)"):
        CALLS[name](FRAMES, MASKS[:5], FLOW)


@pytest.mark.parametrize("name", ["warp_error", "outline_flicker"])
def test_a_flow_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: a flow of shape \(4, 128, 128, 2\) for 6 frames: give \[5, 128, 128, 2\]"):
        CALLS[name](FRAMES, MASKS, FLOW[:4])
