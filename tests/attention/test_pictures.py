import cv2
import numpy as np
import pytest
import torch

from blade.attention.heat import WordsHeat, level_heat
from blade.attention.pictures import (
    LINE,
    STRIP_LEVELS,
    contour_pictures,
    heat_pictures,
    mask_strip,
    name,
    paint_heat,
    step_strip,
    titled,
    to_image,
)
from blade.attention.record import CrossAttentionRecord
from blade.attention.words import Phrase, PromptWords, Word
from blade.video.pictures import picked

HEIGHT, WIDTH = 32, 48
WORDS = PromptWords("red cat", (Word("red", (1,)), Word("cat", (2,))), 77)
RED, CAT = Phrase("red", (1,)), Phrase("cat", (2,))


def maps(frames=3):
    """Red is warm to the left, cat to the right. {(4, 6): [frames, 2, 4, 6]}"""
    found = torch.zeros(frames, 2, 4, 6)
    found[:, 0, :, :3], found[:, 1, :, 3:] = 1, 1
    return {(4, 6): found}


def heat_of(*phrases, frames=3):
    heat = WordsHeat(phrases, HEIGHT, WIDTH)
    heat.add(WORDS, maps(frames), 1.0)
    return heat


def box(frames=3):
    mask = torch.zeros(frames, HEIGHT, WIDTH)
    mask[:, 8:24, 10:30] = 1
    return mask


def title(picture, at=0):
    return picture[at : at + LINE]


def test_hotter_is_lighter():
    ramp = paint_heat(torch.linspace(0, 1, 16)[None].expand(2, 16)).astype(int).sum(-1)[0]
    assert (np.diff(ramp) > 0).all()


def test_heat_pictures_have_the_phrases_side_by_side_under_a_line_of_text():
    pictures = heat_pictures(heat_of(RED, CAT), box())
    assert pictures.shape == (3, LINE + HEIGHT, 2 * WIDTH, 3)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < pictures.max() <= 1
    for left in (0, WIDTH):
        assert title(pictures[0])[:, left : left + WIDTH].max() > 0.5
    below, light = pictures[0, LINE:], pictures[0, LINE:].sum(-1)
    assert light[2, 4] > light[2, WIDTH - 4]  # red's heat lies to the left
    assert light[2, WIDTH + 4] < light[2, 2 * WIDTH - 4]
    assert torch.equal(below[8, 15], torch.ones(3))  # the mask's outline, on both
    assert torch.equal(below[8, WIDTH + 15], torch.ones(3))


def test_contours_dim_what_is_outside_and_draw_the_outline():
    pictures = contour_pictures(torch.full((3, HEIGHT, WIDTH, 3), 0.8), box())
    assert pictures.shape == (3, HEIGHT, WIDTH, 3)
    assert pictures[0, 16, 20].tolist() == pytest.approx([0.8] * 3, abs=0.01)
    assert pictures[0, 2, 2].tolist() == pytest.approx([0.36] * 3, abs=0.01)
    assert pictures[0, 8, 20].tolist() == [1, 0, 1]


def test_frames_with_alpha_or_beyond_the_range_are_shown():
    pictures = contour_pictures(torch.full((1, HEIGHT, WIDTH, 4), 1.7), box(1))
    assert pictures.shape == (1, HEIGHT, WIDTH, 3)
    assert pictures[0, 16, 20].tolist() == [1, 1, 1]


def test_an_empty_mask_has_no_outline():
    pictures = contour_pictures(torch.full((1, HEIGHT, WIDTH, 3), 0.8), torch.zeros(1, HEIGHT, WIDTH))
    assert pictures.std() < 1e-6


def record_of(levels):
    """A record in which red's heat is where the level's number says, column 0 to 5, in the middle frame alone."""
    stored = []
    for level in range(levels):
        found = torch.zeros(3, 2, 4, 6)
        found[1, 0, :, level % 6], found[1, 1, 0] = 1, 1
        stored.append({(4, 6): found})
    return CrossAttentionRecord(WORDS, [0.1 * (level + 1) for level in range(levels)], stored)


@pytest.mark.parametrize(("levels", "shown"), [(1, 1), (4, 4), (25, STRIP_LEVELS)])
def test_the_strip_has_a_column_for_each_level_it_shows_and_a_row_for_each_phrase(levels, shown):
    strip = step_strip(record_of(levels), [RED, CAT], HEIGHT, WIDTH)
    assert strip.shape == (1, LINE + 2 * (LINE + HEIGHT), shown * WIDTH, 3)
    for column in range(shown):
        part = strip[0, :, column * WIDTH : (column + 1) * WIDTH]
        assert all(title(part, at).max() > 0.5 for at in (0, LINE, LINE + LINE + HEIGHT))


def test_the_strip_shows_each_levels_own_heat_from_clip_to_noise():
    strip = step_strip(record_of(6), [RED], HEIGHT, WIDTH)[0, 2 * LINE :].sum(-1).mean(0)
    warmest = [int(strip[level * WIDTH : (level + 1) * WIDTH].argmax()) // 8 for level in range(6)]
    assert warmest == [0, 1, 2, 3, 4, 5]


def test_a_title_tells_the_weight_where_there_is_one():
    assert name(RED) == "red"
    assert name(Phrase("road", (1,), -0.5)) == "road -0.5"
    assert name(Phrase("wheels", (1,), 2.0)) == "wheels +2"


@pytest.mark.parametrize("text", ["Käfer", "\u732b", "voiture\u202f\U0001f697"])
def test_words_beyond_ascii_have_pictures_too(text):
    phrase = Phrase(text, (1,))
    assert name(phrase).isascii()
    assert heat_pictures(heat_of(phrase), box()).shape[0] == 3
    assert step_strip(record_of(2), [phrase], HEIGHT, WIDTH).shape[0] == 1


def test_heat_is_painted_in_opencvs_inferno_as_red_green_blue():
    painted = paint_heat(torch.tensor([[0.0, 0.5, 1.0, 1.5, -0.5]]))
    steps = cv2.applyColorMap(np.array([[0, 127, 255, 255, 0]], np.uint8), cv2.COLORMAP_INFERNO)
    assert np.array_equal(painted, steps[..., ::-1])


def test_a_title_is_white_on_black_and_lies_whole_above_the_picture():
    picture = np.full((20, 60, 3), 7, np.uint8)
    found = titled(picture, "sgjW")
    assert found.shape == (20 + LINE, 60, 3) and np.array_equal(found[LINE:], picture)
    rows, columns = np.nonzero(found[:LINE].max(-1))
    assert (found[:LINE].max(-1) == found[:LINE].min(-1)).all() and found[:LINE].max() > 200
    assert 1 <= rows.min() <= 3 and 10 <= rows.max() < LINE - 1  # also what hangs below the line
    assert 2 <= columns.min() <= 3 and columns.max() < 40


def test_the_strip_shows_the_frame_in_the_middle_under_its_sigma():
    one, other = (
        step_strip(record_of(2), [RED], HEIGHT, WIDTH),
        heat_pictures(level_heat(record_of(2), 1, [RED], HEIGHT, WIDTH), torch.zeros(3, HEIGHT, WIDTH)),
    )
    assert torch.equal(one[0, LINE:, WIDTH:], other[1])
    assert torch.equal(one[0, :LINE, :WIDTH], to_image([titled(np.zeros((0, WIDTH, 3), np.uint8), "sigma 0.1")])[0])


def test_the_strip_of_masks_shows_cells_as_squares_of_their_shade_by_step():
    masks = [torch.tensor([[0.0, 1.0], [0.5, 0.25]]) * (step < 2) for step in range(3)]
    strip = mask_strip(masks, [14.614, 2.5, 0.03], 8, 50)
    assert strip.shape == (1, LINE + 8, 150, 3)
    shown = (strip[0, LINE:] * 255).round().int()
    assert [shown[row, column].tolist() for row, column in ((0, 0), (3, 25), (4, 24), (7, 49))] == [
        [value] * 3 for value in (0, 255, 127, 63)
    ]
    assert torch.equal(shown[:, 50:100], shown[:, :50]) and shown[:, 100:].max() == 0
    assert torch.equal(strip[0, :LINE, :50], to_image([titled(np.zeros((0, 50, 3), np.uint8), "sigma 14.6")])[0])


@pytest.mark.parametrize(
    ("count", "places"), [(1, [0]), (2, [0, 1]), (10, list(range(10))), (11, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]), (28, list(range(0, 28, 3)))]
)
def test_a_strip_shows_at_most_ten_levels_from_the_first_to_the_last(count, places):
    assert picked(count, STRIP_LEVELS) == places


@pytest.mark.parametrize("frames", [1, 2, 6, 7])
def test_the_strips_frame_is_the_one_half_way_through_the_clip(frames):
    maps = torch.zeros(frames, 2, 4, 6)
    maps[frames // 2, 0] = torch.linspace(0, 1, 24).view(4, 6)
    strip = step_strip(CrossAttentionRecord(WORDS, [0.5], [{(4, 6): maps}]), [RED], HEIGHT, WIDTH)
    assert strip[0, 2 * LINE :].std() > 0.1
