"""Pictures of an edit: where the panels lie, and that their pixels are the clip's."""

import numpy as np
import pytest
import torch

from blade.video.pictures import (
    INK,
    LINE,
    MAGENTA,
    PAPER,
    THUMBNAIL,
    THUMBNAIL_LINE,
    contact_sheet,
    line_of,
    masked,
    panels,
    picked,
    side_by_side,
    text_width,
    thumbnail_size,
    to_bytes,
    to_fit,
)

HEIGHT, WIDTH = 96, 128
RNG = np.random.default_rng(0)
SOURCE, EDITED = (RNG.integers(30, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2))
BOX = np.zeros((HEIGHT, WIDTH), np.float32)
BOX[20:60, 30:90] = 1


def shown(mask=BOX, size=(HEIGHT, WIDTH)):
    return panels(SOURCE, EDITED, mask, size)


def test_bytes_are_the_nearest_and_never_leave_the_range():
    frame = torch.tensor([[[-0.5, 1.5, 0.2]]], dtype=torch.float16)
    assert to_bytes(frame).tolist() == [[[0, 255, 51]]]


def test_the_mask_is_a_contour_and_dims_what_is_outside():
    picture = masked(np.full((HEIGHT, WIDTH, 3), 200, np.uint8), BOX)
    assert picture[40, 60].tolist() == [200] * 3
    assert picture[5, 5].tolist() == [90] * 3
    assert picture[20, 60].tolist() == list(MAGENTA)


def test_a_clip_of_its_own_size_keeps_every_pixel():
    picture = side_by_side(shown(), 7)
    gap = LINE // 4
    assert picture.shape == (LINE + HEIGHT, 3 * WIDTH + 2 * gap, 3)
    assert np.array_equal(picture[LINE:, :WIDTH], SOURCE)
    assert np.array_equal(picture[LINE:, WIDTH + gap : 2 * WIDTH + gap], masked(SOURCE, BOX))
    assert np.array_equal(picture[LINE:, -WIDTH:], EDITED)
    assert (picture[LINE:, WIDTH : WIDTH + gap] == PAPER).all()


def test_every_panel_has_its_label_and_the_last_the_frame_s_number():
    labels = [side_by_side(shown(), frame)[:LINE] for frame in (0, 7)]
    gap = LINE // 4
    for left in (0, WIDTH + gap, 2 * (WIDTH + gap)):
        assert (labels[0][:, left : left + 40] > INK[0] // 2).any()
    differing = np.flatnonzero((labels[0] != labels[1]).any((0, 2)))
    assert differing.min() > 2 * (WIDTH + gap) + text_width("edited", LINE)


def test_without_a_mask_two_panels_are_shown():
    assert list(shown(None)) == ["source", "edited"]
    assert side_by_side(shown(None), 0).shape[1] == 2 * WIDTH + LINE // 4


@pytest.mark.parametrize("size", [(1, 1), (95, 127), (33, 20), (200, 21)])
def test_the_sides_are_even_whatever_the_clip_s_are(size):
    picture = side_by_side(panels(SOURCE, EDITED, BOX, size), 123)
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    sheet = contact_sheet({3: panels(SOURCE, EDITED, BOX, size)}, 1)
    assert sheet.shape[0] % 2 == sheet.shape[1] % 2 == 0


def test_text_grows_with_the_picture():
    assert line_of(128) == LINE
    assert line_of(1920) == 96


@pytest.mark.parametrize(
    ("size", "longest", "expected"), [((96, 128), 512, (96, 128)), ((1080, 1920), 512, (288, 512)), ((1080, 1920), 0, (1080, 1920))]
)
def test_a_clip_is_made_smaller_and_never_larger(size, longest, expected):
    assert to_fit(*size, longest) == expected


@pytest.mark.parametrize(("size", "expected"), [((128, 128), (256, 256)), ((1080, 1920), (180, 320)), ((THUMBNAIL, 40), (THUMBNAIL, 40))])
def test_small_frames_grow_in_the_sheet_by_whole_pixels(size, expected):
    assert thumbnail_size(*size) == expected


def test_enlarged_pixels_are_squares_and_the_contour_is_drawn_on_them():
    large = shown(size=(2 * HEIGHT, 2 * WIDTH))
    assert np.array_equal(large["source"], SOURCE.repeat(2, 0).repeat(2, 1))
    assert large["mask"][40, 100].tolist() == list(MAGENTA)


def test_frames_of_the_sheet_are_spread_from_the_first_to_the_last():
    assert picked(12, 4) == [0, 4, 7, 11]
    assert picked(3, 4) == [0, 1, 2]
    assert picked(1, 4) == [0]
    assert picked(12, 1) == [0]


def test_the_sheet_has_a_row_for_each_frame_with_source_mask_and_edit():
    sheet = contact_sheet({frame: shown() for frame in (0, 5, 11)}, 1)
    gap, left = THUMBNAIL_LINE // 3, text_width("frame 11", THUMBNAIL_LINE)
    for row in range(3):
        top = THUMBNAIL_LINE + row * (HEIGHT + gap)
        for column, picture in enumerate((SOURCE, masked(SOURCE, BOX), EDITED)):
            at = left + column * (WIDTH + gap)
            assert np.array_equal(sheet[top : top + HEIGHT, at : at + WIDTH], picture)
        assert (sheet[top : top + THUMBNAIL_LINE, :left] > INK[0] // 2).any()  # its number


def test_several_frames_a_row_leave_no_column_without_a_frame():
    one, two, many = (contact_sheet({frame: shown() for frame in range(3)}, columns) for columns in (1, 2, 9))
    assert two.shape[1] == 2 * one.shape[1]
    assert many.shape == (THUMBNAIL_LINE + HEIGHT + THUMBNAIL_LINE // 3, 3 * one.shape[1], 3)
    assert (two[THUMBNAIL_LINE + HEIGHT + THUMBNAIL_LINE // 3 :, one.shape[1] :] == PAPER).all()  # the fourth place of two rows is empty
