"""IoU on masks whose overlap is known."""

import numpy as np
import pytest

from blade.metrics.masks import iou


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
