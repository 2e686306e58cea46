"""The benchmark's clips move the way they say: the exact flow fits what is drawn, and every drawn edit can be judged."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.clips import (
    COLOUR_EDITS,
    DEVELOPMENT_COLOUR_EDITS,
    DEVELOPMENT_SHAPE_EDITS,
    FASTEST,
    FRAMES,
    INDEX_OF_ORIGIN,
    SHAPE_EDITS,
    SLOWEST,
    Edit,
    MovingClip,
    draw_edit,
)
from demo.check import ANGLES, find_object
from demo.figures import TOO_CLOSE
from demo.scenes import SIZE, Thing, draw, draw_mask, paint_ground

EDITS = COLOUR_EDITS + SHAPE_EDITS + DEVELOPMENT_COLOUR_EDITS + DEVELOPMENT_SHAPE_EDITS
STRIPED = Thing("white", "square", 0.47, 0.52, 0.22, angle=0.1, pattern="striped")
CLIP = MovingClip(1, STRIPED, "water", (0.023, 0.017), spin=0.03)  # across its stripes


def carried_back(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The next frame seen from this one: sampled where the flow takes each pixel."""
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1)
    return cv2.remap(picture.astype(np.float32), (grid + flow).astype(np.float32), None, cv2.INTER_LANCZOS4)


def drawn(clip: MovingClip, frames: int) -> list[np.ndarray]:
    """The clip's frames before the camera's noise, RGB in 0..255."""
    ground = paint_ground(clip.ground, np.random.default_rng(clip.seed))
    return [draw(ground, clip.placed(frame))[0] for frame in range(frames)]


def least(error_at: dict[float, float]) -> float:
    """Where the parabola through a few errors has its least value."""
    square, slope, _ = np.polyfit(list(error_at), list(error_at.values()), 2)
    return float(-slope / (2 * square))


def test_the_flow_carries_the_stripes_of_the_surface_within_a_grey_level() -> None:
    frames, inside = drawn(CLIP, 6), CLIP.truth(6) > 0.5
    for now, then, flow, mask in zip(frames, frames[1:], CLIP.flow(6), inside, strict=False):
        core = cv2.erode(mask.astype(np.uint8), np.ones((13, 13))) > 0
        assert np.abs(carried_back(then, 0 * flow) - now)[core].mean() > 4  # what standing still would leave
        assert np.abs(carried_back(then, flow) - now)[core].max() < 1  # the shade from above, which does not turn, is most of it


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "heart"])
def test_the_flow_carries_the_outline_within_a_fiftieth_of_a_pixel(shape: str) -> None:
    """The misfit of the exact masks is least where nothing is added to the flow, along both axes."""
    masks, flow = CLIP.truth(FRAMES, shape), CLIP.flow(FRAMES)
    for axis in ([1, 0], [0, 1]):
        error_at = {}
        for shift in (-0.2, -0.1, 0.0, 0.1, 0.2):
            carried = [carried_back(then, field + shift * np.array(axis)) for then, field in zip(masks[1:], flow, strict=True)]
            error_at[shift] = float(np.square(np.stack(carried) - masks[:-1]).mean())
        assert abs(least(error_at)) < 0.02


def test_the_object_turns_around_the_pixel_where_its_mask_is_centred() -> None:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    masks = CLIP.truth(FRAMES, "circle")
    found = np.stack([(masks * x).sum((1, 2)), (masks * y).sum((1, 2))]) / masks.sum((1, 2))
    said = np.array([CLIP.centre(frame) for frame in range(FRAMES)]).T * SIZE + INDEX_OF_ORIGIN
    assert np.abs((found - said).mean(1)).max() < 0.02
    assert np.abs(found - said).max() < 0.05


def test_the_flow_turns_with_the_object() -> None:
    clip = replace(CLIP, velocity=(0.0, 0.0))
    flow, (now, then) = clip.flow(2)[0], clip.truth(2)
    error_at = {times: float(np.square(carried_back(then, times * flow) - now).sum()) for times in (0.0, 0.5, 1.0, 1.5, 2.0)}
    assert least(error_at) == pytest.approx(1, abs=0.05)
    assert error_at[1.0] < 0.25 * error_at[0.0]


def test_an_object_without_spin_moves_by_its_velocity_in_pixels() -> None:
    clip = replace(CLIP, spin=0.0)
    step = (np.array(clip.centre(1)) - clip.centre(0)) * SIZE
    assert np.allclose(clip.flow(2)[0], step, atol=1e-4)
    assert step == pytest.approx(SIZE * np.array(CLIP.velocity), rel=0.03)


def test_one_frame_has_an_empty_flow() -> None:
    assert CLIP.flow(1).shape == (0, SIZE, SIZE, 2)


@pytest.mark.parametrize("edit", EDITS[::4], ids=lambda edit: str(edit.clip.seed))
def test_an_object_never_leaves_the_picture_in_a_thousand_frames(edit: Edit) -> None:
    for clip in (edit.clip, edit.perfect):
        x, y = np.array([clip.centre(frame) for frame in range(1000)]).T
        for frame in (x.argmin(), x.argmax(), y.argmin(), y.argmax()):
            mask = draw_mask(clip.placed(int(frame)))
            assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()


def test_an_object_never_turns_farther_than_the_check_compares_outlines() -> None:
    assert max(abs(edit.clip.placed(frame).angle) for edit in EDITS for frame in range(1000)) < ANGLES.max()


def test_a_place_without_room_to_move_is_refused() -> None:
    with pytest.raises(ValueError, match=r"radius 0\.22 at \(0\.2, 0\.52\) has no room.*0\.299"):
        replace(CLIP, thing=replace(STRIPED, x=0.2))


def test_frames_are_the_drawn_ones_under_the_noise_of_the_camera() -> None:
    frames = CLIP.render(3)
    assert frames.shape == (3, SIZE, SIZE, 3) and frames.dtype == np.uint8
    noise = frames - np.stack(drawn(CLIP, 3))
    assert noise.std() == pytest.approx(2, abs=0.1)  # a frame is cut to whole bytes, which adds little
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] < 0.05


def test_a_clip_is_the_same_however_many_frames_are_rendered() -> None:
    assert np.array_equal(CLIP.render(2), CLIP.render(4)[:2])


def test_the_perfect_edit_differs_from_the_clip_in_the_object_alone() -> None:
    edit = SHAPE_EDITS[0]
    outside = (edit.clip.truth(2) == 0) & (edit.clip.truth(2, edit.shape) == 0)
    source, target = edit.clip.render(2), edit.perfect.render(2)
    assert np.array_equal(source[outside], target[outside])
    assert np.array_equal(edit.perfect.truth(2), edit.clip.truth(2, edit.shape))
    assert (source != target).any()


def test_edits_are_drawn_from_their_seeds_alone() -> None:
    assert tuple(draw_edit(910_000 + index, "colour") for index in range(2)) == COLOUR_EDITS[:2]
    assert SHAPE_EDITS[0] == draw_edit(910_100, "shape") != draw_edit(910_101, "shape")


def test_there_are_24_edits_of_each_kind_and_eight_others_to_choose_settings_on() -> None:
    assert [len(edits) for edits in (COLOUR_EDITS, SHAPE_EDITS, DEVELOPMENT_COLOUR_EDITS, DEVELOPMENT_SHAPE_EDITS)] == [24, 24, 8, 8]
    seeds = [edit.clip.seed for edit in EDITS]
    assert len(set(seeds)) == 64 and min(seeds) >= 910_000


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: str(edit.clip.seed))
def test_an_edit_changes_one_thing_and_names_it(edit: Edit) -> None:
    thing, coloured = edit.clip.thing, edit in COLOUR_EDITS + DEVELOPMENT_COLOUR_EDITS
    assert (edit.colour != thing.colour, edit.shape != thing.shape) == (coloured, not coloured)
    assert edit.source_words in edit.clip.source_prompt and edit.target_words in edit.target_prompt
    assert edit.clip.source_prompt.split()[-2:] == edit.target_prompt.split()[-2:] == ["on", edit.clip.ground]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: str(edit.clip.seed))
def test_an_edit_keeps_to_what_the_demo_model_and_the_check_can_do(edit: Edit) -> None:
    thing = edit.clip.thing
    for colour in (thing.colour, edit.colour):
        assert edit.clip.ground not in TOO_CLOSE.get(colour, ())
    assert "star" not in (thing.shape, edit.shape)
    assert 0.18 <= thing.radius <= 0.24 and abs(edit.clip.spin) <= 0.03 and thing.pattern != "mottled"
    speeds = SIZE * np.linalg.norm(np.diff([edit.clip.centre(frame) for frame in range(FRAMES)], axis=0), axis=1)
    assert SLOWEST <= speeds.min() and speeds.max() <= FASTEST


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: str(edit.clip.seed))
def test_the_check_accepts_source_and_perfect_edit_at_both_ends(edit: Edit) -> None:
    for clip in (edit.clip, edit.perfect):
        for frame in clip.render(FRAMES)[[0, -1]]:
            found = find_object(frame)
            assert found and found.words == f"{clip.thing.colour} {clip.thing.shape}"
