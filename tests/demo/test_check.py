"""The image check that the demo's figures rest on. Its full rates are printed by `python -m demo.figures --only check`."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from demo.check import colour_in, find_object, fit_shape, iou
from demo.scenes import COLOURS, GROUNDS, SHAPES, SIZE, Thing, draw, draw_mask, finish, paint_ground, plain_scene

HARD = {
    ("white", "snow"),
    ("green", "grass"),
    ("red", "brick"),
    ("orange", "brick"),
    ("yellow", "sand"),
    ("orange", "sand"),
    ("blue", "water"),
}


def scene(colour, shape, ground, seed=0):
    return plain_scene(np.random.default_rng([41, seed]), colour, shape, ground)


def answer(picture):
    """What is seen, such as "red circle"; None for nothing."""
    found = find_object(picture)
    return found and found.words


@pytest.mark.parametrize("colour", COLOURS)
def test_it_names_colour_and_shape_on_every_ground(colour):
    for index, (shape, ground) in enumerate(itertools.product(SHAPES, GROUNDS)):
        if (colour, ground) == ("white", "snow"):
            continue  # not every one of those can be told; the rates count them
        picture, mask = scene(colour, shape, ground, index)
        found = find_object(picture)
        assert found is not None and (found.colour, found.shape) == (colour, shape), (shape, ground)
        assert (found.mask & (mask > 0.5)).sum() / (found.mask | (mask > 0.5)).sum() > 0.85
        assert colour_in(picture, mask) == colour


@pytest.mark.parametrize("colour, ground", sorted(HARD))
def test_a_colour_close_to_its_ground_is_still_found(colour, ground):
    right = [answer(scene(colour, shape, ground, seed)[0]) == f"{colour} {shape}" for shape in SHAPES for seed in range(3)]
    assert np.mean(right) > 0.8


def test_it_refuses_every_other_colour_and_shape():
    picture, _ = scene("yellow", "star", "water")
    assert answer(picture) == "yellow star"


def test_it_survives_what_an_autoencoder_does():
    for index, (colour, shape) in enumerate(itertools.product(("red", "purple", "black"), SHAPES)):
        picture, _ = scene(colour, shape, list(GROUNDS)[index % 5], index)
        half = cv2.resize(picture, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
        assert answer(cv2.GaussianBlur(cv2.resize(half, (SIZE, SIZE)), (0, 0), 1)) == f"{colour} {shape}"


@pytest.mark.parametrize("ground", GROUNDS)
def test_an_empty_ground_holds_nothing(ground):
    rng = np.random.default_rng(17)
    assert all(find_object(finish(paint_ground(ground, rng), rng)) is None for _ in range(4))


@pytest.mark.parametrize("paint, ground", [("sand", "snow"), ("grass", "sand"), ("brick", "water"), ("water", "grass")])
def test_an_object_of_no_palette_colour_is_not_found(paint, ground):
    rng = np.random.default_rng(23)
    tint = tuple(float(a - b) for a, b in zip(GROUNDS[paint], COLOURS["red"], strict=True))
    picture, _ = draw(paint_ground(ground, rng), Thing("red", "square", 0.5, 0.5, 0.22, tint=tint))
    assert find_object(finish(picture, rng)) is None


def test_a_shapeless_object_is_not_found():
    rng = np.random.default_rng(29)
    picture = paint_ground("snow", rng)
    for x in (0.3, 0.42, 0.54, 0.66, 0.78):  # a bar, longer than any of the shapes
        picture, _ = draw(picture, Thing("red", "square", x, 0.5, 0.1))
    assert find_object(finish(picture, rng)) is None


def test_of_two_objects_the_larger_one_counts():
    rng = np.random.default_rng(31)
    picture, _ = draw(paint_ground("sand", rng), Thing("blue", "circle", 0.25, 0.25, 0.13))
    picture, _ = draw(picture, Thing("red", "heart", 0.65, 0.65, 0.24))
    found = find_object(finish(picture, rng))
    assert found is not None and (found.colour, found.shape) == ("red", "heart")


def test_a_rim_of_a_third_colour_does_not_win():
    rng = np.random.default_rng(37)
    ground, thing = paint_ground("water", rng), Thing("yellow", "circle", 0.5, 0.5, 0.22)
    picture, _ = draw(ground, replace(thing, colour="white", radius=0.25))
    picture, _ = draw(picture, thing)
    found = find_object(finish(picture, rng))
    assert found is not None and found.colour == "yellow"


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exact_mask_fits_its_own_outline(shape):
    for angle in (-0.3, 0.0, 0.27):
        fitted, iou = fit_shape(draw_mask(Thing("red", shape, 0.45, 0.55, 0.22, angle)) > 0.5)
        assert fitted == shape and iou > 0.93


def test_colour_in_follows_an_edit_and_notices_a_vanished_object():
    rng = np.random.default_rng(43)
    ground, thing = paint_ground("grass", rng), Thing("red", "square", 0.5, 0.5, 0.22)
    edited, mask = draw(ground, replace(thing, colour="purple"))
    assert colour_in(finish(edited, rng), mask) == "purple"
    assert colour_in(finish(ground, rng), mask) == "ground"


def test_colour_in_takes_the_colour_of_most_pixels():
    rng = np.random.default_rng(47)
    picture, mask = draw(paint_ground("sand", rng), Thing("red", "square", 0.5, 0.5, 0.25))
    picture, _ = draw(picture, Thing("blue", "circle", 0.5, 0.5, 0.1))
    assert colour_in(finish(picture, rng), mask) == "red"


def test_colour_in_refuses_an_empty_mask():
    with pytest.raises(ValueError, match="the mask is empty"):
        colour_in(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE)))


def test_larger_pictures_are_judged_alike():
    picture, mask = plain_scene(np.random.default_rng(53), "green", "triangle", "brick", size=256)
    assert answer(picture) == "green triangle" and colour_in(picture, mask) == "green"


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
