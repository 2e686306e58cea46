"""IoU and flicker of masks whose overlap is known."""

import numpy as np
import pytest

from blade.metrics.masks import iou, mask_flicker


def box(left: int, right: int) -> np.ndarray:
    mask = np.zeros((1, 8, 16))
    mask[:, :, left:right] = 1
    return mask


def test_overlap_of_known_boxes() -> None:
    assert iou(box(0, 8), box(4, 12)) == pytest.approx([4 / 12])
    assert iou(box(0, 8), box(0, 8)) == pytest.approx([1])
    assert iou(box(0, 8), box(8, 16)) == pytest.approx([0])


def test_one_figure_for_each_frame() -> None:
    assert iou(np.concatenate([box(0, 8), box(0, 4)]), np.concatenate([box(0, 8), box(0, 8)])) == pytest.approx([1, 0.5])


def test_half_covered_pixels_are_outside() -> None:
    assert iou(box(0, 8) * 0.5, box(0, 8)) == pytest.approx([0])


def test_two_empty_masks_agree_and_one_does_not() -> None:
    assert iou(box(0, 0), box(0, 0)) == pytest.approx([1])
    assert iou(box(0, 0), box(0, 4)) == pytest.approx([0])


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 16\) and \(1, 16, 8\)"):
        iou(box(0, 4), box(0, 4).transpose(0, 2, 1))


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
