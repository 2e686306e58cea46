"""The figures of an edit on clips whose background, motion and colours are known exactly."""

import json
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.metrics.temporal import colour_flicker, warp_error
from blade.metrics import edit_chart
from blade.metrics.chart import draw_frames, draw_psnr, new_figure
from blade.metrics.edit import (
    CHANGED,
    CHANGED_SHARE,
    FIVE,
    FLICKER,
    FLICKER_SOURCE,
    MASK_SHARE,
    PER_FRAME,
    PER_STEP,
    PSNR,
    WARP,
    WARP_SOURCE,
    EditFigures,
    measure,
)
from blade.metrics.edit import (
    GROUND as PIXELS,
)
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


def test_a_figure_is_told_in_words_beside_the_sources():
    """Small figures with two digits, from a hundred on whole ones."""
    found = EditFigures(7, (HEIGHT, WIDTH))
    found.add({PSNR: 41.26, FIVE: 43.04, PIXELS: 3000, CHANGED: 1234, CHANGED_SHARE: 1234 / 3000, MASK_SHARE: 0.1234})
    found.add({PSNR: 45.26, FIVE: 45.04, PIXELS: 1000, CHANGED: 2, CHANGED_SHARE: 2 / 1000, MASK_SHARE: 0.3234})
    found.add({WARP: 2.5e-3, WARP_SOURCE: 0.1, FLICKER: 99.994e-5, FLICKER_SOURCE: 1234e-5})
    assert found.rows() == [
        ("background PSNR", "43.3 dB"),
        ("in FiVE's convention", "44.0 dB"),
        ("changed there", "1,236 px (30.9%)"),
        ("mask", "22.3% of the frame"),
        ("warp error, e-3", "2.50 (source 100)"),
        ("colour flicker, e-5", "99.99 (source 1,234)"),
    ]
    assert found.text() == "\n".join(f"{label}: {value}" for label, value in found.rows())


def test_what_cannot_be_judged_is_a_dash():
    found = EditFigures(7)
    found.add({PSNR: None, FIVE: None, PIXELS: 0, CHANGED: None, CHANGED_SHARE: None, MASK_SHARE: 1.0})
    assert [value for _, value in found.rows()] == ["-", "-", "-", "100.0% of the frame", "-", "-"]
    assert found.notes() == [
        "No background in 1 of 1 frames: the mask, grown by 7 px, covers all.",
        "One frame has no next one: nothing is said of warp error and flicker.",
    ]
    found.add({WARP: 0.25, WARP_SOURCE: None, FLICKER: None, FLICKER_SOURCE: 0.25})
    assert [value for _, value in found.rows()][4:] == ["-", "-"]


def test_figures_are_written_with_six_digits_and_counts_whole():
    found = EditFigures(7, (3, 5))
    found.add({PSNR: 41.23456789, FIVE: 40.0, PIXELS: 12345678, CHANGED: 0, CHANGED_SHARE: 0.0, MASK_SHARE: 1 / 3})
    tree = json.loads(found.as_json())
    assert (tree["height_px"], tree["width_px"]) == (3, 5)
    assert tree["per_frame"][PSNR] == [41.2346] and tree["per_frame"][PIXELS] == [12345678] and tree["per_frame"][MASK_SHARE] == [0.333333]
    assert tree["summary"][PSNR] == 41.2346 and tree["summary"][WARP] is None
    assert "NaN" not in found.as_json() and found.as_json().splitlines()[1] == ' "frames": 1,'


def test_a_background_without_a_changed_pixel_and_a_mask_of_just_a_half():
    found = figures(masks=np.where(MASKS > 0, 0.5, 0.0))
    assert found.summary()[CHANGED_SHARE] == 0
    assert found.per_frame[MASK_SHARE] == [0] * FRAMES
    assert found.per_step[WARP] == [None] * (FRAMES - 1)


# The chart


@pytest.fixture
def chart(monkeypatch):
    """The figure of an edit's chart, before it becomes a picture: its axes by their titles."""

    def of(found):
        kept = []
        monkeypatch.setattr(edit_chart, "drawn", kept.append)
        plot(found)
        return kept[0], {axes.get_title(): axes for axes in kept[0].axes}

    return of


GROUNDS, CHANGES, SIZES = "background against the source", "background pixels that changed", "size of the mask"
WARPS, FLICKERS = "warp error inside the mask", "colour flicker inside the mask"


def curves(axes):
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}


def test_the_chart_draws_each_figure_in_its_unit_by_frame_or_by_step(chart):
    edited = np.clip(CLIP + 40 * np.random.default_rng(1).standard_normal((FRAMES, 1, 1, 3)), 0, 255).astype(np.uint8)
    found = figures(edited=edited)
    figure, axes = chart(found)
    assert list(axes) == ["the whole clip", GROUNDS, CHANGES, SIZES, WARPS, FLICKERS]
    frames, steps = [0, 1, 2, 3], [1, 2, 3]
    assert curves(axes[GROUNDS]) == {
        "its pixels alone": (frames, found.per_frame[PSNR]),
        "FiVE's convention": (frames, found.per_frame[FIVE]),
    }
    for title, key, scale in ((CHANGES, CHANGED_SHARE, 100), (SIZES, MASK_SHARE, 100)):
        ((shown, values),) = curves(axes[title]).values()
        assert shown == frames and values == pytest.approx([scale * value for value in found.per_frame[key]])
    for title, keys, scale in ((WARPS, (WARP, WARP_SOURCE), 1e3), (FLICKERS, (FLICKER, FLICKER_SOURCE), 1e5)):
        for label, key in zip(("edited", "source"), keys, strict=True):
            shown, values = curves(axes[title])[label]
            assert shown == steps and values == pytest.approx([scale * value for value in found.per_step[key]])
        assert axes[title].get_xlabel() == "frame, compared with the one before"
    assert figure.get_suptitle() == f"4 frames of {WIDTH}x{HEIGHT}; the background is what lies more than 8 px outside the mask"


def test_the_charts_axes_leave_room_for_zero_and_for_the_legend(chart):
    found = figures()
    _, axes = chart(found)
    assert axes[GROUNDS].get_ylim() == pytest.approx((94, 108.4))  # 100 dB in the middle of 12, and a fifth more
    assert axes[CHANGES].get_ylim() == pytest.approx((-0.005, 0.135))  # 0.1 % at least
    top = 100 * 16 * 16 / (HEIGHT * WIDTH)
    assert axes[SIZES].get_ylim() == pytest.approx((-0.05 * top, 1.35 * top))
    assert all(axes[title].get_xlim() == (-0.5, 3.5) for title in (GROUNDS, CHANGES, SIZES, WARPS, FLICKERS))
    assert [text.get_text() for text in axes[WARPS].get_legend().get_texts()] == ["source", "edited"]
    assert axes[SIZES].get_legend() is None
    colours = {line.get_label(): line.get_color() for title in (GROUNDS, WARPS) for line in axes[title].lines}
    assert len({colours[label] for label in ("its pixels alone", "edited", "source")}) == 3


def test_the_chart_says_where_there_is_nothing_to_judge(chart):
    figure, axes = chart(figures(CLIP[:1], CLIP[:1], np.ones((1, HEIGHT, WIDTH))))
    said = {title: [text.get_text() for text in part.texts] for title, part in axes.items()}
    for title in (GROUNDS, CHANGES, WARPS, FLICKERS):
        assert said[title] == ["nothing to judge"] and not len(axes[title].get_yticks())
    assert said[SIZES] == [] and len(axes[SIZES].get_yticks())
    assert axes[SIZES].get_xlim() == (-0.5, 1.5)  # room for two frames at least
    assert figure.get_suptitle().startswith("1 frame of ")


def test_the_charts_words_are_the_summary_in_lines_that_do_not_touch(chart):
    found = figures(CLIP[:1], CLIP[:1], np.ones((1, HEIGHT, WIDTH)))
    figure, axes = chart(found)
    words = axes["the whole clip"]
    *rows, notes = words.texts
    assert [(one.get_text(), other.get_text()) for one, other in zip(rows[::2], rows[1::2], strict=True)] == found.rows()
    assert notes.get_text().replace("\n", " ") == " ".join(found.notes())
    assert not words.axison and {text.get_fontsize() for text in rows} == {10} and notes.get_fontsize() == 8
    assert [text.get_weight() for text in rows[:2]] == ["normal", "bold"]
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in (*rows, notes)]
    inside = words.get_window_extent()
    assert all(box.x0 >= inside.x0 - 1 and box.x1 <= inside.x1 + 1 and box.y0 >= inside.y0 - 1 and box.y1 <= inside.y1 for box in boxes)
    lefts = [*boxes[:-1:2], boxes[-1]]
    assert all(above.y0 >= below.y1 for above, below in pairwise(lefts))
    assert all(label.x1 < value.x0 for label, value in zip(boxes[:-1:2], boxes[1:-1:2], strict=True))


@pytest.mark.parametrize(("values", "low", "high"), [([30, 34], 26, 38), ([20, 50], 19, 51), ([np.nan, 40], 34, 46)])
def test_a_psnr_has_ten_decibels_and_a_margin_of_one(values, low, high):
    axes = new_figure(400, 300).subplots()
    draw_psnr(axes, {"one": values})
    assert axes.get_ylim() == pytest.approx((low, high))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("frame", "PSNR, dB")


def test_frames_have_a_dot_each_as_long_as_they_can_be_told_apart_and_whole_numbers_below():
    axes = new_figure(400, 300).subplots()
    draw_frames(axes, {"few": np.zeros(64), "many": np.zeros(65)}, first=5)
    few, many = axes.lines
    assert (few.get_marker(), many.get_marker()) == ("o", "None")
    assert few.get_xdata()[[0, -1]].tolist() == [5, 68]
    axes.set_xlim(0, 2)
    assert all(tick == round(tick) for tick in axes.get_xticks())
