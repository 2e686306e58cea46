import math

import cv2
import numpy as np
import pytest
import torch

from blade.attention.heat import histogram
from blade.attention.masks import (
    ADD,
    FIXED,
    HALF_HEIGHT,
    HYSTERESIS,
    LIMIT,
    OTSU,
    SUBTRACT,
    blur_mask,
    fade_out,
    fill_holes,
    find_thresholds,
    grow_mask,
    half_height,
    inside,
    keep_largest,
    otsu,
    quantile,
    to_latent_mask,
    with_matte,
)


def box(*areas, size=(24, 24)):
    """A mask of one frame with areas of 1: (top, bottom, left, right)."""
    mask = torch.zeros(1, *size)
    for top, bottom, left, right in areas:
        mask[:, top:bottom, left:right] = 1
    return mask


def ring(outer, inner, size=33):
    y, x = torch.meshgrid(torch.arange(size) - size // 2, torch.arange(size) - size // 2, indexing="ij")
    radius = torch.hypot(x.float(), y.float())
    return ((radius <= outer) & (radius > inner)).float()[None]


def two_humps():
    """Steps of heat, of 900 background and 300 object pixels that overlap a little."""
    return np.clip(np.random.default_rng(0).normal([60] * 900 + [170] * 300, 22), 0, 255).astype(np.uint8)


def test_the_split_is_otsus():
    values = two_humps()
    split, within = cv2.threshold(values[None], 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    expected = (np.median(values[within[0] == 0]) + np.quantile(values[within[0] == 1], 0.9)) / 2 / 255
    counts = np.bincount(values, minlength=256)
    assert otsu(counts) == split
    assert half_height(counts) == expected
    assert 60 < split < 170


def test_each_rule_gives_the_heat_that_may_be_inside_and_the_heat_to_reach():
    counts = np.bincount(two_humps(), minlength=256)
    low, high = otsu(counts) / 255, half_height(counts)
    assert low < high
    assert find_thresholds(counts, HALF_HEIGHT) == (high, high)
    assert find_thresholds(counts, OTSU) == (low, low)
    assert find_thresholds(counts, HYSTERESIS) == (low, high)
    assert find_thresholds(counts, FIXED, 0.3) == (0.3, 0.3)
    assert find_thresholds(counts, FIXED) == (0, 0)


def test_the_background_has_a_say_in_the_split_up_to_the_hottest_step():
    counts = np.zeros(256, int)
    counts[[0, 100, 255]] = 40, 30, 30
    split_above_ground, split_below_top = 0.4 * 0.6 * (0 - 177.5) ** 2, 0.7 * 0.3 * (300 / 7 - 255) ** 2  # variance between the classes
    assert split_below_top > split_above_ground and otsu(counts) == 100


def test_a_clip_without_heat_has_a_threshold_of_zero_and_one_with_a_single_warm_pixel_does_not():
    counts = np.zeros(256, int)
    counts[0] = 100
    assert half_height(counts) == 0
    counts[1] = 1
    assert half_height(counts) == 0.5 / 255


def test_a_quantile_of_counts_is_that_of_the_values():
    values = np.random.default_rng(1).integers(0, 40, 57)
    for share in (0, 0.3, 0.5, 0.9, 1):
        assert np.isclose(quantile(np.bincount(values, minlength=256), share), np.quantile(values, share))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_between_two_values_far_apart_a_quantile_is_on_the_line(share):
    values = np.array([3, 10, 50, 51, 200])
    assert quantile(np.bincount(values, minlength=256), share) == pytest.approx(np.quantile(values, share))


def test_the_threshold_is_half_way_between_background_and_object_whatever_their_areas():
    for width in (2, 5, 12):
        heat = torch.cat([torch.full((1, 10, 20), 0.2), torch.full((1, 10, width), 0.9)], 2)
        assert abs(half_height(histogram(heat)) - 0.55) < 0.01


def test_the_outline_of_a_blurred_object_is_where_the_object_ends():
    truth = torch.zeros(1, 64, 64)
    truth[:, 20:44, 16:40] = 1
    blurred = 0.1 + 0.7 * torch.from_numpy(cv2.GaussianBlur(truth[0].numpy(), (0, 0), 5))[None]
    found = inside(blurred, half_height(histogram(blurred)))
    assert (found * truth).sum() / (found + truth).clamp(max=1).sum() > 0.85


@pytest.mark.parametrize("rule", [HALF_HEIGHT, OTSU, HYSTERESIS])
def test_nothing_is_inside_heat_without_contrast(rule):
    cold = torch.zeros(2, 8, 8)
    assert inside(cold, *find_thresholds(histogram(cold), rule)).sum() == 0


def test_what_exceeds_a_single_threshold_is_inside():
    assert inside(torch.tensor([[[0.2, 0.5, 0.6, 0.8]]]), 0.6).tolist() == [[[0, 0, 0, 1]]]


def test_hysteresis_keeps_whole_the_things_that_somewhere_reach_the_high_threshold():
    heat = 0.5 * box((2, 8, 2, 8), (12, 20, 12, 20))
    heat[:, 4, 4] = 0.9
    assert torch.equal(inside(heat, 0.3, 0.7), box((2, 8, 2, 8)))
    assert torch.equal(inside(heat, 0.3), box((2, 8, 2, 8), (12, 20, 12, 20)))


def test_a_thing_that_only_reaches_a_threshold_does_not_exceed_it():
    heat = torch.zeros(1, 5, 9)
    heat[0, 1, 1:4] = torch.tensor([0.25, 0.5, 0.75])
    heat[0, 3, 5:8] = torch.tensor([0.25, 0.5, 0.625])
    assert inside(heat, 0.25, 0.625).nonzero().tolist() == [[0, 1, 2], [0, 1, 3]]
    assert inside(heat, 0.5).nonzero().tolist() == [[0, 1, 3], [0, 3, 7]]


def test_hysteresis_judges_each_frame_by_itself():
    weak = 0.5 * box((2, 8, 2, 8))
    strong = weak.clone()
    strong[:, 4, 4] = 0.9
    assert torch.equal(inside(torch.cat([strong, weak]), 0.3, 0.7), torch.cat([box((2, 8, 2, 8)), box()]))


def test_corners_that_touch_hang_together():
    heat = 0.5 * box((2, 6, 2, 6), (6, 9, 6, 9))
    heat[:, 3, 3] = 0.9
    assert torch.equal(inside(heat, 0.3, 0.7), box((2, 6, 2, 6), (6, 9, 6, 9)))


def test_the_largest_things_of_each_frame_stay():
    first = box((1, 3, 1, 3), (5, 10, 5, 10), (14, 18, 14, 18))
    second = box((1, 9, 1, 9))
    kept = keep_largest(torch.cat([first, second]), 1)
    assert torch.equal(kept, torch.cat([box((5, 10, 5, 10)), second]))
    assert torch.equal(keep_largest(first, 2), box((5, 10, 5, 10), (14, 18, 14, 18)))
    assert torch.equal(keep_largest(first, 0), first)
    assert torch.equal(keep_largest(first, 9), first)


def test_what_stays_keeps_its_soft_rim():
    mask = box((2, 4, 2, 4))
    mask[:, 9:16, 9:16] = 0.4
    mask[:, 10:15, 10:15] = 1
    kept = keep_largest(mask, 1)
    assert torch.equal(kept[:, 8:], mask[:, 8:])
    assert kept[:, :8].sum() == 0


def test_a_thing_is_what_lies_above_a_half_and_its_rim_one_pixel_around_it():
    mask = torch.zeros(1, 24, 24)
    mask[:, 2:9, 2:9] = 0.5
    mask[:, 14:19, 14:19] = 0.4
    mask[:, 16, 16] = 0.6
    expected = torch.zeros_like(mask)
    expected[:, 15:18, 15:18] = mask[:, 15:18, 15:18]
    assert torch.equal(keep_largest(mask, 1), expected)


def test_of_nothing_nothing_is_kept():
    assert keep_largest(box(), 2).sum() == 0


def test_a_ring_becomes_a_disc():
    assert torch.equal(fill_holes(ring(12, 6)), ring(12, -1))


def test_a_ring_that_only_corners_close_is_closed():
    diamond = torch.zeros(1, 24, 24)
    for step in range(5):
        for row, column in ((7 + step, 12 + step), (7 + step, 12 - step), (15 - step, 12 + step), (15 - step, 12 - step)):
            diamond[:, row, column] = 1
    assert diamond.sum() == 16
    assert fill_holes(diamond).sum() == 41


def test_a_bay_that_is_open_to_the_border_stays():
    bay = box((4, 20, 4, 20)) - box((8, 16, 8, 20))
    reaching_out = box((0, 12, 4, 20)) - box((0, 8, 8, 16))
    assert torch.equal(fill_holes(bay), bay)
    assert torch.equal(fill_holes(reaching_out), reaching_out)


def test_filling_leaves_a_soft_rim_as_it_is():
    mask = ring(12, 6)
    mask[mask == 0] = 0.3
    filled = fill_holes(mask)
    assert filled[0, 16, 16] == 1
    assert filled[0, 0, 0] == np.float32(0.3)


def test_what_encloses_is_what_lies_above_a_half_and_it_stays_as_soft_as_it_was():
    soft, faint = 0.6 * ring(12, 6), 0.5 * ring(12, 6)
    hole = ring(6, -1) > 0
    filled = fill_holes(soft)
    assert (filled[hole] == 1).all()
    assert torch.equal(filled[~hole], soft[~hole])
    assert torch.equal(fill_holes(faint), faint)


def test_growing_by_one_pixel_takes_the_four_neighbours():
    mask = torch.zeros(1, 5, 5)
    mask[0, 2, 2] = 1
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    assert torch.equal(grow_mask(mask, 1)[0, 1:4, 1:4], cross)
    assert grow_mask(mask, 1).sum() == 5
    assert torch.equal(grow_mask(grow_mask(mask, 1), -1), mask)


def test_growing_a_pixel_gives_a_disc_and_shrinking_takes_it_back():
    mask = torch.zeros(1, 21, 21)
    mask[0, 10, 10] = 1
    grown = grow_mask(mask, 3)
    assert grown[0, 10, 7] == grown[0, 13, 10] == 1
    assert grown[0, 7, 7] == 0
    assert torch.equal(grow_mask(grown, -3), mask)
    assert torch.equal(grow_mask(mask, 0), mask)


def test_blurring_softens_the_outline_and_keeps_the_area():
    mask = box((6, 18, 6, 18))
    soft = blur_mask(mask, 1.5)
    assert 0.4 < soft[0, 6, 12] < 0.7
    assert soft[0, 12, 12] > 0.99
    assert soft.sum() == pytest.approx(float(mask.sum()), rel=0.01)
    assert torch.equal(blur_mask(mask, 0), mask)


def test_blurring_is_the_gaussians_integral_down_and_across():
    places = np.arange(48) - 23.5
    edge = torch.from_numpy((places > 0).astype(np.float32)).expand(1, 48, 48).contiguous()
    expected = [0.5 * (1 + math.erf(place / (3 * math.sqrt(2)))) for place in places]
    np.testing.assert_allclose(blur_mask(edge, 3.0)[0, 10].numpy(), expected, atol=0.01)
    np.testing.assert_allclose(blur_mask(edge.mT.contiguous(), 3.0)[0, :, 10].numpy(), expected, atol=0.01)


def test_blurring_does_not_fade_at_the_pictures_border():
    assert torch.allclose(blur_mask(box((0, 24, 0, 24)), 3.0), torch.ones(1, 24, 24))


def test_a_matte_limits_adds_or_subtracts():
    mask, matte = torch.tensor([[[0.0, 0.5, 1.0, 1.0]]]), torch.tensor([[[1.0, 1.0, 1.0, 0.25]]])
    assert with_matte(mask, matte, LIMIT).tolist() == [[[0, 0.5, 1, 0.25]]]
    assert with_matte(mask, matte, ADD).tolist() == [[[1, 1, 1, 1]]]
    assert with_matte(mask, matte, SUBTRACT).tolist() == [[[0, 0, 0, 0.75]]]


def test_a_latent_cell_is_edited_from_a_fifth_of_its_area():
    mask = torch.zeros(1, 8, 16)
    mask[0, :, :1] = 1  # an eighth of the first cell
    mask[0, :, 8:10] = 1  # a quarter of the second
    assert to_latent_mask(mask, 1, 2).tolist() == [[[[0.0, 1.0]]]]


def test_a_share_that_is_just_covered_is_enough():
    mask = torch.zeros(1, 8, 16)
    mask[0, :, 8:10] = 1  # a quarter of the second cell
    assert to_latent_mask(mask, 1, 2, 0.25).tolist() == [[[[0.0, 1.0]]]]
    assert to_latent_mask(mask, 1, 2, 0.26).sum() == 0


@pytest.mark.parametrize("pixels", [1.0, 4.0, 7.5])
def test_a_mask_that_fades_out_ends_where_it_says_and_stays_whole(pixels):
    mask = torch.zeros(1, 40, 40)
    mask[:, 12:20, 15:30] = 1
    faded = fade_out(mask, pixels)[0]
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    away = torch.hypot((12 - y).clamp(min=0) + (y - 19).clamp(min=0), (15 - x).clamp(min=0) + (x - 29).clamp(min=0.0))
    assert (faded[away == 0] == 1).all()
    assert (faded[away >= pixels] == 0).all()
    assert ((faded > 0) & (faded < 1))[(away > 0) & (away < pixels - 0.01)].all()


def test_a_mask_fades_with_the_distance():
    mask = torch.zeros(1, 9, 40)
    mask[..., :10] = 1
    row = fade_out(mask, 8.0)[0, 4]
    assert (row[9:18].diff() < 0).all()
    assert row[13] == pytest.approx(0.5, abs=1e-6)
    assert (row[17:] == 0).all()


def test_a_mask_fades_from_what_lies_above_a_half():
    mask = torch.zeros(1, 1, 30)
    mask[..., 4], mask[..., 20] = 0.6, 0.5
    faded = fade_out(mask, 4.0)[0, 0]
    assert faded[20] == 0.5 and faded[19] == faded[21] == 0
    assert (faded[5:8].diff() < 0).all() and faded[4] == 1 and faded[5] > 0.8


def test_a_thing_one_pixel_wide_stays_whole_and_a_soft_mask_at_least_as_it_was():
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16] = 1
    assert (fade_out(mask, 6.0)[0, :, 16] == 1).all()
    soft = torch.linspace(0, 1, 32).expand(1, 32, 32).contiguous()
    assert torch.equal(fade_out(soft, 0), soft) and (fade_out(soft, 4.0) >= soft).all()


@pytest.mark.parametrize("pixels", [1.0, 6.0, 20.0])
def test_a_blurred_mask_stays_within_its_range(pixels):
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:, 5:] = 1
    softened = blur_mask(mask, pixels)
    assert (float(softened.min()) >= 0, float(softened.max()) <= 1) == (True, True)
