"""The procedural world: what its masks, captions and clips promise."""

import itertools

import numpy as np
import pytest

from demo.scenes import (
    COLOURS,
    GROUNDS,
    PATTERNS,
    SHAPES,
    SIZE,
    Thing,
    caption,
    draw,
    draw_mask,
    outline,
    paint_ground,
    plain_scene,
    random_scene,
    random_thing,
    random_things,
)
from tests.clips import render_clip


def test_the_world_is_as_large_as_promised():
    assert len(SHAPES) >= 5 and len(COLOURS) >= 8 and len(GROUNDS) >= 5


def test_a_seed_gives_the_same_scene_and_another_seed_another():
    first, again, other = (random_scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert not np.array_equal(first[0], other[0])


def test_captions_read_as_english():
    red, orange = Thing("red", "heart", 0.5, 0.5, 0.2), Thing("orange", "star", 0.5, 0.5, 0.2)
    assert caption([red], "grass") == "a red heart on grass"
    assert caption([orange, red], "snow") == "an orange star and a red heart on snow"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_covers_the_area_of_its_outline(shape):
    x, y = outline(shape).astype(float).T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    mask = draw_mask(Thing("red", shape, 0.5, 0.5, 0.25, angle=0.2))
    assert mask.min() == 0 and mask.max() == 1
    assert mask.sum() / (0.25 * SIZE) ** 2 == pytest.approx(area, rel=0.02)


def test_a_mask_sits_where_the_thing_says():
    mask = draw_mask(Thing("red", "circle", 0.3, 0.7, 0.15))
    rows, columns = np.nonzero(mask > 0.5)
    assert columns.mean() + 0.5 == pytest.approx(0.3 * SIZE, abs=0.7) and rows.mean() + 0.5 == pytest.approx(0.7 * SIZE, abs=0.7)


def test_drawing_changes_the_picture_under_the_mask_only():
    ground = paint_ground("brick", np.random.default_rng(1))
    picture, mask = draw(ground, Thing("blue", "star", 0.4, 0.5, 0.2))
    assert np.array_equal(picture[mask == 0], ground[mask == 0])
    assert (np.abs(picture - ground)[mask == 1].max(-1) > 20).all()


@pytest.mark.parametrize("colour, pattern", list(itertools.product(COLOURS, PATTERNS)))
def test_a_painted_object_keeps_its_colour_on_average(colour, pattern):
    picture, mask = draw(paint_ground("water", np.random.default_rng(1)), Thing(colour, "square", 0.5, 0.5, 0.28, pattern=pattern))
    assert np.abs(picture[mask == 1].mean(0) - COLOURS[colour]).max() < 14


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_ground_keeps_its_colour_on_average(ground):
    picture = paint_ground(ground, np.random.default_rng(5))
    assert picture.shape == (SIZE, SIZE, 3) and 0 <= picture.min() and picture.max() <= 255
    assert np.abs(picture.mean((0, 1)) - GROUNDS[ground]).max() < 20


def test_uncropped_things_lie_inside_the_picture():
    rng = np.random.default_rng(2)
    for _ in range(60):
        thing = random_thing(rng)
        mask = draw_mask(thing)
        rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert thing.shape == "star" or rim.max() == 0  # a star's points reach a little further than the margin


def test_some_scenes_have_a_second_thing_of_another_colour_and_shape():
    rng = np.random.default_rng(6)
    pairs = [things for things in (random_things(rng) for _ in range(200)) if len(things) == 2]
    assert 10 < len(pairs) < 60
    for first, second in pairs:
        assert first.colour != second.colour and first.shape != second.shape


def test_a_plain_scene_comes_with_its_mask():
    picture, mask = plain_scene(np.random.default_rng(8), "purple", "heart", "sand")
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and mask.shape == (SIZE, SIZE)
    assert np.abs(picture[mask == 1].mean(0) - COLOURS["purple"]).max() < 25


def test_a_clip_moves_its_first_thing_and_nothing_else():
    things = [Thing("red", "circle", 0.3, 0.5, 0.15), Thing("white", "square", 0.8, 0.8, 0.12)]
    frames, masks = render_clip(11, things, "grass", frames=4, velocity=(0.05, 0.0))
    assert frames.shape == (4, SIZE, SIZE, 3) and frames.dtype == np.uint8 and masks.shape == (4, SIZE, SIZE)
    centres = [np.nonzero(mask > 0.5)[1].mean() for mask in masks]
    assert np.diff(centres) == pytest.approx([0.05 * SIZE] * 3, abs=0.5)
    still = (masks == 0).all(0)
    assert np.abs(frames[0].astype(int) - frames[3])[still].mean() < 4  # the frames' own noise
