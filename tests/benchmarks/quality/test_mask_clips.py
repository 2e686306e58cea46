"""The clips on which masks are measured: exact masks are what is drawn, and every kind keeps its promise."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.clips import COLOUR_EDITS, DEVELOPMENT_COLOUR_EDITS, DEVELOPMENT_SHAPE_EDITS, FASTEST, SHAPE_EDITS, SLOWEST
from benchmarks.quality.mask_clips import (
    DEVELOPMENT_CLIPS,
    DEVELOPMENT_TEXTURES,
    FRAMES,
    KINDS,
    LEAVES,
    TEST_CLIPS,
    TEST_GROUNDS,
    TEST_SURFACES,
    Crossing,
    MaskClip,
    cover,
    draw_mask_clip,
    texture,
)
from demo.figures import TOO_CLOSE
from demo.scenes import COLOURS, GROUNDS, SHAPES, SIZE, draw_mask

CLIPS = tuple(clip for clips in (TEST_CLIPS, DEVELOPMENT_CLIPS) for kind in KINDS for clip in clips[kind])
FIRST = tuple(TEST_CLIPS[kind][0] for kind in KINDS)


def both(kind: str) -> tuple[MaskClip, ...]:
    return TEST_CLIPS[kind] + DEVELOPMENT_CLIPS[kind]


def without_the_sought(clip: MaskClip) -> MaskClip:
    """The clip whose sought object is far outside the picture, under the same noise."""
    path, paths = clip.paths[clip.sought], list(clip.paths)
    paths[clip.sought] = Crossing(clip.seed, replace(path.thing, x=9.0), path.ground, (0.0, 0.0))
    return replace(clip, paths=tuple(paths))


def by_name(clip: MaskClip) -> str:
    return f"{clip.kind}-{clip.seed}"


@pytest.mark.parametrize("clip", CLIPS, ids=by_name)
def test_the_exact_mask_is_where_the_object_changes_the_picture(clip: MaskClip) -> None:
    changed = (clip.render(2) != without_the_sought(clip).render(2)).any(-1)
    mask = clip.truth(2)
    assert mask.dtype == np.float32 and 0 <= mask.min() and mask.max() == 1
    assert not changed[mask == 0].any()
    assert changed[mask > 0.5].mean() > 0.99  # by chance a pixel may have its ground's colour


def test_a_plain_clip_is_the_moving_clip_that_it_is_made_of() -> None:
    clip = TEST_CLIPS["plain"][0]
    assert np.array_equal(clip.render(3), clip.paths[0].render(3))
    assert np.array_equal(clip.truth(3), clip.paths[0].truth(3))
    assert np.array_equal(clip.flow(3), clip.paths[0].flow(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_that_is_not_squeezed_is_the_one_of_the_scenes(shape: str) -> None:
    thing = replace(TEST_CLIPS["plain"][0].thing, shape=shape)
    assert np.array_equal(cover(thing, (1.0, 1.0)), draw_mask(thing))


def test_there_are_eight_clips_of_each_kind_and_three_others_to_choose_settings_on() -> None:
    assert list(TEST_CLIPS) == list(DEVELOPMENT_CLIPS) == list(KINDS)
    for kind in KINDS:
        assert (len(TEST_CLIPS[kind]), len(DEVELOPMENT_CLIPS[kind])) == (8, 3)
        assert {clip.kind for clip in both(kind)} == {kind}


def test_no_seed_serves_twice() -> None:
    edits = COLOUR_EDITS + SHAPE_EDITS + DEVELOPMENT_COLOUR_EDITS + DEVELOPMENT_SHAPE_EDITS
    seeds = [clip.seed for clip in CLIPS] + [edit.clip.seed for edit in edits]
    assert len(set(seeds)) == len(seeds)
    assert all(911_000 <= clip.seed < 912_000 for kind in KINDS for clip in TEST_CLIPS[kind])
    assert all(921_000 <= clip.seed < 922_000 for kind in KINDS for clip in DEVELOPMENT_CLIPS[kind])


def test_a_clip_is_drawn_from_its_seed_alone() -> None:
    clip = TEST_CLIPS["textured"][2]
    again = draw_mask_clip("textured", clip.seed, 2, TEST_SURFACES, enters=False)
    assert again == clip != draw_mask_clip("textured", clip.seed + 1, 2, TEST_SURFACES, enters=False)
    assert np.array_equal(again.render(2), clip.render(4)[:2])


@pytest.mark.parametrize("clip", CLIPS, ids=by_name)
def test_the_words_name_the_sought_object_and_nothing_that_training_did_not_know(clip: MaskClip) -> None:
    colour, shape = clip.words.split()
    assert (colour, shape) == (clip.thing.colour, clip.thing.shape)
    assert clip.source_prompt.count(clip.words) == 1
    known = {"a", "an", "and", "on", *COLOURS, *SHAPES, *GROUNDS}
    assert set(clip.source_prompt.split()) <= known


def test_all_but_the_close_ones_stand_out_from_their_ground() -> None:
    for clip in CLIPS:
        for path in clip.paths:
            assert (path.ground in TOO_CLOSE.get(path.thing.colour, ())) == (clip.kind == "close")


def test_the_close_test_clips_show_every_such_pair() -> None:
    shown = {(clip.thing.colour, clip.paths[0].ground) for clip in TEST_CLIPS["close"]}
    assert shown == {(colour, ground) for colour, grounds in TOO_CLOSE.items() for ground in grounds}


@pytest.mark.parametrize("clip", both("thin"), ids=by_name)
def test_thin_objects_are_two_and_a_half_to_four_times_thinner_than_the_shape(clip: MaskClip) -> None:
    thin, whole = clip.truth(1).sum(), replace(clip, squeeze=(1.0, 1.0)).truth(1).sum()
    assert 2.4 < whole / thin < 4.1


def test_small_objects_have_half_the_radius_of_the_smallest_in_training() -> None:
    assert all(0.07 <= clip.thing.radius <= 0.085 for clip in both("small"))  # scenes.random_thing begins at 0.15


def test_test_textures_and_development_textures_are_disjoint_and_in_use() -> None:
    assert {clip.surface for clip in TEST_CLIPS["textured"]} == set(TEST_SURFACES)
    assert {clip.weave for clip in TEST_CLIPS["unseen_ground"]} == set(TEST_GROUNDS)
    assert {clip.surface for clip in DEVELOPMENT_CLIPS["textured"]} == set(DEVELOPMENT_TEXTURES)
    assert {clip.weave for clip in DEVELOPMENT_CLIPS["unseen_ground"]} == set(DEVELOPMENT_TEXTURES)
    assert not set(DEVELOPMENT_TEXTURES) & {*TEST_SURFACES, *TEST_GROUNDS}


@pytest.mark.parametrize("name", sorted({*TEST_SURFACES, *TEST_GROUNDS, *DEVELOPMENT_TEXTURES}))
def test_a_texture_spans_its_range(name: str) -> None:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    shown = texture(name, x, y, np.random.default_rng(0))
    assert shown.shape == x.shape and -1 <= shown.min() < -0.8 and 0.8 < shown.max() <= 1


@pytest.mark.parametrize("clip", both("textured"), ids=by_name)
def test_the_flow_carries_the_texture_of_the_surface(clip: MaskClip) -> None:
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1)
    now, then = clip.render(2).astype(np.float32)
    core = cv2.erode((clip.truth(1)[0] > 0.5).astype(np.uint8), np.ones((13, 13))) > 0
    carried = cv2.remap(then, (grid + clip.flow(2)[0]).astype(np.float32), None, cv2.INTER_CUBIC)
    moved, stood = (np.abs(picture - now)[core].mean() for picture in (carried, then))
    assert moved < 3 and moved < stood  # the camera's noise leaves about 2


def test_the_masks_of_two_objects_share_no_pixel() -> None:
    for clip in both("two"):
        mask, other = clip.truth(FRAMES), clip.other(FRAMES)
        assert other.max(axis=(1, 2)).min() == 1
        assert (mask + other).max() < 1.0001 and not ((mask > 0.5) & (other > 0.5)).any()


def test_an_object_loses_what_another_one_covers() -> None:
    clip = TEST_CLIPS["two"][0]
    under, over = (
        replace(path, thing=replace(clip.thing, x=x), velocity=(0.0, 0.0), spin=0.0)
        for path, x in zip(clip.paths, (0.45, 0.55), strict=True)
    )
    clip = replace(clip, paths=(under, over), sought=0)
    mask, other = clip.truth(1), clip.other(1)
    assert np.array_equal(other[0], draw_mask(over.placed(0)))
    assert np.allclose(mask[0], draw_mask(under.placed(0)) * (1 - other[0]))
    assert not mask[other == 1].any() and (draw_mask(under.placed(0))[None][other == 1] == 1).any()
    assert np.array_equal(replace(clip, sought=1).truth(1), other) and np.array_equal(replace(clip, sought=1).other(1), mask)


def test_two_objects_differ_in_colour_and_shape_and_drift_apart() -> None:
    for clip in both("two"):
        first, second = clip.paths
        assert first.thing.colour != second.thing.colour and first.thing.shape != second.thing.shape
        gaps = [np.hypot(*np.subtract(first.centre(frame), second.centre(frame))) for frame in range(FRAMES)]
        gaps = np.array(gaps) / (first.thing.radius + second.thing.radius)
        assert gaps.min() < 1.2 and gaps[-1] > 1.4


def test_the_sought_object_is_now_the_first_and_now_the_second() -> None:
    assert {clip.sought for clip in TEST_CLIPS["two"]} == {0, 1}


def test_clips_of_one_object_have_no_other() -> None:
    assert all(not clip.other(1).any() for clip in FIRST if clip.kind != "two")


@pytest.mark.parametrize("clip", both("leaving"), ids=by_name)
def test_the_leaving_object_loses_its_visible_area_and_the_entering_one_gains_it(clip: MaskClip) -> None:
    entering = clip in (TEST_CLIPS["leaving"][-1], DEVELOPMENT_CLIPS["leaving"][-1])
    areas = clip.truth(FRAMES).sum((1, 2))[:: -1 if entering else 1]
    assert (np.diff(areas) < 0.02 * areas[0]).all()  # an outline's area wavers by that much on the grid of pixels
    assert LEAVES[0] - 0.01 < 1 - areas[-1] / areas[0] < LEAVES[1] + 0.01


def test_objects_leave_by_every_border() -> None:
    leaving = np.array([clip.truth(FRAMES)[-1] for clip in TEST_CLIPS["leaving"][:-1]])
    for border in (leaving[:, 0], leaving[:, -1], leaving[:, :, 0], leaving[:, :, -1]):
        assert border.any()


def test_a_leaving_object_stays_at_the_border_in_longer_clips() -> None:
    clip = TEST_CLIPS["leaving"][0]
    masks, flow = clip.truth(FRAMES + 2), clip.flow(FRAMES + 2)
    assert np.array_equal(masks[FRAMES - 1], masks[-1]) and not flow[FRAMES - 1 :].any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "leaving"])
def test_all_others_stay_whole_in_the_picture(kind: str) -> None:
    for clip in both(kind):
        for mask in clip.truth(FRAMES), clip.other(FRAMES):
            assert not mask[:, [0, -1]].any() and not mask[:, :, [0, -1]].any()


def test_objects_keep_between_the_slowest_and_the_fastest_speed() -> None:
    for clip in CLIPS:
        for path in clip.paths:
            steps = SIZE * np.linalg.norm(np.diff([path.centre(frame) for frame in range(FRAMES)], axis=0), axis=1)
            assert SLOWEST <= steps.min() and steps.max() <= FASTEST
