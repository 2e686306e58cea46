import cv2
import numpy as np
import torch

from blade.attention.masks import (
    SPAN,
    HeatMap,
    grow_mask,
    half_height,
    histogram,
    noise_weight,
    paint_heat,
    quantile,
    threshold_mask,
    to_latent_mask,
)


def heat_of(maps, size, sigmas=(1.0,)):
    """maps: [levels, frames, h, w]"""
    heat = HeatMap(*size)
    for sigma, level in zip(sigmas, maps, strict=True):
        heat.add(sigma, {tuple(level.shape[-2:]): level})
    return heat


def drawn(heat):
    """The mask of a whole clip, at its own threshold. heat: [frames, h, w] in 0..1"""
    return threshold_mask(heat, half_height(histogram(heat)))


def normalised(heat):
    return heat.normalised(slice(None), heat.scale())


def test_a_square_of_attention_becomes_a_square_mask():
    maps = torch.zeros(1, 2, 8, 8)
    maps[..., 2:6, 2:6] = 1
    truth = torch.zeros(2, 64, 64, dtype=torch.bool)
    truth[:, 16:48, 16:48] = True
    mask = drawn(normalised(heat_of(maps, (64, 64)))) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_levels_are_weighted_by_signal_times_noise():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, :, 0, 0], maps[1, :, 3, 3] = 1, 1
    found = heat_of(maps, (4, 4), (1.0, 4.0)).at(slice(None))
    assert torch.isclose(found[0, 3, 3] / found[0, 0, 0], torch.tensor(noise_weight(4.0) / noise_weight(1.0)), rtol=1e-3)
    assert noise_weight(1.0) > noise_weight(0.1) > 0
    assert noise_weight(1.0) > noise_weight(12.0) > 0


def test_a_frame_without_the_object_stays_empty():
    maps = torch.full((1, 2, 8, 8), 0.01)
    maps[:, 0, 2:6, 2:6] = 1
    assert drawn(normalised(heat_of(maps, (8, 8))))[1].sum() == 0


def test_a_long_clips_heat_is_the_same_in_pieces_as_at_once():
    maps = torch.rand(1, SPAN + 5, 6, 6)
    heat = heat_of(maps, (24, 24))
    whole = heat.at(slice(None))
    assert heat.scale() == (float(whole.min()), float(whole.max()))
    assert torch.equal(heat.normalised(slice(SPAN, SPAN + 5), heat.scale()), normalised(heat)[SPAN:])


def test_the_split_is_otsus():
    values = np.clip(np.random.default_rng(0).normal([60] * 900 + [170] * 300, 22), 0, 255).astype(np.uint8)
    split, inside = cv2.threshold(values[None], 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    expected = (np.median(values[inside[0] == 0]) + np.quantile(values[inside[0] == 1], 0.9)) / 2 / 255
    assert half_height(np.bincount(values, minlength=256)) == expected
    assert 60 < split < 170


def test_a_quantile_of_counts_is_that_of_the_values():
    values = np.random.default_rng(1).integers(0, 40, 57)
    for share in (0, 0.3, 0.5, 0.9, 1):
        assert np.isclose(quantile(np.bincount(values, minlength=256), share), np.quantile(values, share))


def test_the_threshold_is_half_way_between_background_and_object_whatever_their_areas():
    for width in (2, 5, 12):
        heat = torch.cat([torch.full((1, 10, 20), 0.2), torch.full((1, 10, width), 0.9)], 2)
        assert abs(half_height(histogram(heat)) - 0.55) < 0.01


def test_the_outline_of_a_blurred_object_is_where_the_object_ends():
    truth = torch.zeros(1, 64, 64)
    truth[:, 20:44, 16:40] = 1
    blurred = torch.from_numpy(cv2.GaussianBlur(truth[0].numpy(), (0, 0), 5))[None]
    found = drawn(0.1 + 0.7 * blurred)
    assert (found * truth).sum() / (found + truth).clamp(max=1).sum() > 0.85


def test_heat_without_contrast_gives_no_error():
    assert drawn(torch.zeros(2, 8, 8)).sum() == 0


def test_a_fixed_threshold_is_taken_as_it_is():
    heat = torch.tensor([[[0.2, 0.5, 0.8]]])
    assert threshold_mask(heat, 0.6).tolist() == [[[0, 0, 1]]]


def test_growing_a_pixel_gives_a_disc_and_shrinking_takes_it_back():
    mask = torch.zeros(1, 21, 21)
    mask[0, 10, 10] = 1
    grown = grow_mask(mask, 3)
    assert grown[0, 10, 7] == grown[0, 13, 10] == 1
    assert grown[0, 7, 7] == 0
    assert torch.equal(grow_mask(grown, -3), mask)
    assert torch.equal(grow_mask(mask, 0), mask)


def test_a_latent_cell_is_edited_from_a_fifth_of_its_area():
    mask = torch.zeros(1, 8, 16)
    mask[0, :, :1] = 1  # an eighth of the first cell
    mask[0, :, 8:10] = 1  # a quarter of the second
    assert to_latent_mask(mask, 1, 2).tolist() == [[[[0.0, 1.0]]]]


def test_the_heat_picture_shows_the_outline():
    mask = torch.zeros(1, 16, 16)
    mask[0, 4:12, 4:12] = 1
    picture = paint_heat(torch.zeros(1, 16, 16), mask)
    assert picture.shape == (1, 16, 16, 3)
    assert np.allclose(picture[0, 4, 8], 1)
    assert picture[0, 0, 0].max() < 0.1
