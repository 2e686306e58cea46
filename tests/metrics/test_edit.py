"""The figures of an edit on clips whose background, motion and colours are known exactly."""

import json

import numpy as np
import pytest

from benchmarks.metrics.temporal import colour_flicker, warp_error
from blade.metrics.edit import PER_FRAME, PER_STEP, measure
from blade.metrics.edit_chart import plot

FRAMES, HEIGHT, WIDTH = 4, 48, 64
RNG = np.random.default_rng(0)
GROUND, TEXTURE = (RNG.integers(20, 230, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2))
FLOW = np.broadcast_to(np.float32([3, 0]), (HEIGHT, WIDTH, 2))
MASKS = np.zeros((FRAMES, HEIGHT, WIDTH))
for frame in range(FRAMES):
    MASKS[frame, 16:32, 10 + 3 * frame : 26 + 3 * frame] = 1
CLIP = np.where(MASKS[..., None] > 0, np.stack([np.roll(TEXTURE, 3 * frame, 1) for frame in range(FRAMES)]), GROUND)


def figures(source=CLIP, edited=CLIP, masks=MASKS, margin=8, **more):
    return measure(zip(source, edited, masks, strict=True), margin, lambda here, there: FLOW, **more)


def test_an_edit_that_changes_nothing_has_100_db_and_no_changed_pixel():
    found = figures()
    assert found.per_frame["background_psnr_db"] == found.per_frame["background_psnr_db_five"] == [100] * FRAMES
    assert found.per_frame["changed_pixels"] == found.per_frame["changed_share"] == [0] * FRAMES
    assert found.per_step["warp_error_edited"] == found.per_step["warp_error_source"]
    assert found.per_step["colour_flicker_edited"] == found.per_step["colour_flicker_source"]
    assert found.notes() == []


def test_a_change_inside_the_grown_mask_is_no_change_of_the_background():
    edited = CLIP.copy()
    edited[0, 8, 10] = 0  # 8 pixels above the mask
    assert figures(edited=edited).summary()["changed_pixels"] == 0
    assert figures(edited=edited, margin=7).per_frame["changed_pixels"] == [1, 0, 0, 0]


def test_a_known_change_outside_is_counted_and_has_its_psnr():
    """Ten background pixels of frame 2 are 51 levels off in every channel: an error of 0.04 over their share."""
    edited = CLIP.copy()
    edited[2, 0, :10] = np.where(CLIP[2, 0, :10] > 127, CLIP[2, 0, :10] - 51, CLIP[2, 0, :10] + 51)
    found = figures(edited=edited)
    ground = found.per_frame["background_pixels"][2]
    assert found.per_frame["changed_pixels"] == [0, 0, 10, 0]
    assert found.per_frame["changed_share"][2] == pytest.approx(10 / ground)
    assert found.per_frame["background_psnr_db"][2] == pytest.approx(-10 * np.log10(0.04 * 10 / ground))
    assert found.per_frame["background_psnr_db_five"][2] == pytest.approx(-10 * np.log10(0.04 * 10 / HEIGHT / WIDTH))
    assert found.summary()["changed_share"] == pytest.approx(10 / sum(found.per_frame["background_pixels"]))


def test_the_size_of_the_mask_is_what_lies_above_a_half():
    masks = MASKS.copy()
    masks[1] *= 0.4  # which keeps it out of the background all the same
    found = figures(masks=masks)
    assert found.per_frame["mask_share"] == [16 * 16 / (HEIGHT * WIDTH), 0, *[16 * 16 / (HEIGHT * WIDTH)] * 2]
    assert found.per_frame["background_pixels"] == figures().per_frame["background_pixels"]


def test_a_thing_that_keeps_to_the_source_s_motion_has_no_warp_error_and_one_that_stays_behind_has():
    following = np.where(MASKS[..., None] > 0, 255 - CLIP, CLIP)
    left_behind = np.repeat(CLIP[:1], FRAMES, 0)
    assert figures(edited=following).per_step["warp_error_edited"] == pytest.approx([0] * 3, abs=1e-9)
    found = figures(edited=left_behind)
    assert min(found.per_step["warp_error_edited"]) > 1e-2
    assert found.per_step["warp_error_source"] == pytest.approx([0] * 3, abs=1e-9)


def test_by_steps_it_is_what_the_benchmarks_measure_of_the_whole_clip():
    edited = np.clip(CLIP + 40 * RNG.standard_normal((FRAMES, 1, 1, 3)), 0, 255).astype(np.uint8)
    found = figures(edited=edited)
    flow = np.broadcast_to(FLOW, (FRAMES - 1, *FLOW.shape))
    assert found.per_step["warp_error_edited"] == pytest.approx(warp_error(edited, flow, MASKS).tolist())
    assert found.summary()["colour_flicker_edited"] == pytest.approx(colour_flicker(edited, MASKS))
    assert found.summary()["colour_flicker_source"] == pytest.approx(colour_flicker(CLIP, MASKS))


def test_the_flow_is_that_of_the_source_in_grey():
    seen = []
    measure(zip(CLIP, CLIP[::-1], MASKS, strict=True), 0, lambda *pair: seen.append(pair) or FLOW)
    assert len(seen) == FRAMES - 1
    assert all(grey.shape == (HEIGHT, WIDTH) and grey.dtype == np.uint8 for pair in seen for grey in pair)
    assert np.array_equal(seen[0][1], seen[1][0])


def test_each_frame_is_told():
    ticks = []
    figures(tick=lambda: ticks.append(1))
    assert len(ticks) == FRAMES


def test_frames_that_the_mask_covers_and_that_it_leaves_empty_are_gaps_with_a_sentence():
    masks = MASKS.copy()
    masks[1], masks[2] = 1, 0
    found = figures(masks=masks)
    assert found.per_frame["background_psnr_db"] == [100, None, 100, 100]
    assert found.per_frame["changed_pixels"] == [0, None, 0, 0]
    assert found.per_frame["mask_share"][1:3] == [1, 0]
    assert [value is None for value in found.per_step["warp_error_edited"]] == [False, False, True]
    assert [value is None for value in found.per_step["colour_flicker_edited"]] == [False, True, True]
    told = found.text()
    assert "No background in 1 of 4 frames" in told
    assert "The mask is empty in 1 of 4 frames." in told
    assert "No warp error in 1 of 3 steps" in told
    assert "No colour flicker in 2 of 3 steps" in told


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("count", [1, FRAMES])
def test_a_clip_with_nothing_to_judge_is_reported_all_the_same(mask, count):
    found = figures(CLIP[:count], CLIP[:count], np.full((count, HEIGHT, WIDTH), mask))
    assert found.summary()["background_psnr_db"] == (None if mask else 100)
    assert found.summary()["changed_pixels"] == (None if mask else 0)
    assert (found.summary()["warp_error_edited"] is None) == (not mask or count == 1)
    assert ("One frame has no next one" in found.text()) == (count == 1)
    assert "NaN" not in found.as_json()
    assert plot(found).shape == (640, 1280, 3)


def test_the_json_holds_every_value_with_its_unit_and_null_for_none():
    masks = MASKS.copy()
    masks[3] = 1
    tree = json.loads(figures(masks=masks).as_json())
    assert (tree["frames"], tree["width_px"], tree["height_px"], tree["margin_px"]) == (FRAMES, WIDTH, HEIGHT, 8)
    assert tree["per_frame"].keys() == PER_FRAME.keys() and tree["per_step"].keys() == PER_STEP.keys()
    assert tree["summary"].keys() == tree["units"].keys() == PER_FRAME.keys() | PER_STEP.keys()
    assert {len(values) for values in tree["per_frame"].values()} == {FRAMES}
    assert {len(values) for values in tree["per_step"].values()} == {FRAMES - 1}
    assert tree["per_frame"]["background_psnr_db"] == [100, 100, 100, None]
    assert isinstance(tree["summary"]["changed_pixels"], int)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="pixels is -1"):
        figures(margin=-1)


def test_the_chart_shows_its_curves_and_leaves_matplotlib_s_state_alone():
    import matplotlib.pyplot

    edited = CLIP.copy()
    edited[2, 0] = 0
    one, other = plot(figures()), plot(figures(edited=edited))
    assert one.dtype == np.uint8 and one.shape == other.shape == (640, 1280, 3)
    assert (one != other)[:320].any()  # the upper row is the background's
    assert matplotlib.pyplot.get_fignums() == []
