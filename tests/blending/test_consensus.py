import math

import pytest
import torch

from blade.blending.consensus import RADIUS, Consensus, object_places, steady, warp

FRAMES, SIZE = 13, 64


def disc(x, y, radius):
    """A blurred disc, so that it can be moved by parts of a cell. [SIZE, SIZE]; centre and radius in shares from -1 to 1"""
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    distance = torch.hypot(axis[None] - x, axis[:, None] - y)
    return torch.sigmoid((radius - distance) * 20)


def moving(radius=lambda frame: 0.3):
    """A disc that moves to the right and down. [FRAMES, 1, SIZE, SIZE]"""
    return torch.stack([disc(-0.4 + 0.06 * f, -0.2 + 0.03 * f, radius(f)) for f in range(FRAMES)])[:, None]


def places_of(clip):
    return object_places([(clip[:, 0] > 0.5).float()])


def test_places_are_centre_and_size_of_what_is_inside():
    mask = torch.zeros(2, 8, 16)
    mask[0, 2:4, 8:12] = 1
    x, y, size = object_places([mask])[0]
    assert (x, y) == (0.25, -0.25)
    assert size == pytest.approx(math.sqrt(8 / 128))


def test_a_frame_without_the_object_has_no_place():
    places = object_places([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    assert not places[0, :2].isfinite().any()
    assert places[1].tolist() == [0, 0, 1]


def test_a_straight_motion_is_left_as_it_is_and_jitter_is_taken_out():
    straight = torch.stack([torch.linspace(-0.5, 0.5, 20), torch.linspace(0.3, -0.2, 20), torch.full((20,), 0.2)], 1)
    torch.testing.assert_close(steady(straight), straight)
    jittered = straight + 0.02 * torch.randn(straight.shape, generator=torch.Generator().manual_seed(0))
    assert (steady(jittered) - straight).pow(2).mean() < 0.4 * (jittered - straight).pow(2).mean()


def test_a_place_is_the_value_there_of_a_line_through_its_neighbours_by_the_cube_of_their_nearness():
    """Around a frame in the middle neighbours lie alike to both sides, so the line's value there is their weighted mean."""
    places = torch.zeros(13, 3)
    places[6] = torch.tensor([0.5, -0.25, 1.0])
    nearness = torch.tensor([(1 - (abs(offset) / 5) ** 3) ** 3 for offset in range(-4, 5)])
    found = steady(places)
    torch.testing.assert_close(found[4:9], (nearness / nearness.sum())[2:7, None] * places[6])
    assert torch.equal(found[:2], torch.zeros(2, 3)) and torch.equal(found[11:], torch.zeros(2, 3))


def test_a_motion_reaches_four_frames_to_either_side_and_over_frames_without_the_object():
    places = torch.tensor([[0.1, 0.2, 0.3]]).repeat(11, 1)
    places[5] = math.nan
    for jump, reached in ((10, [False, True]), (0, [True, False])):
        moved = places.clone()
        moved[jump] += 0.5
        change = (steady(moved) - places).abs().amax(1)
        assert [bool(change[6] > 1e-3), bool(change[4] > 1e-3)] == reached[::-1]
        assert not change[5].isfinite()


def test_what_is_warped_by_whole_cells_is_moved_to_the_bit_and_repeats_the_border():
    latents = torch.rand(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    here, there = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.25, -0.5, 0.5]])  # by a cell across, and a cell down
    found = warp(latents, here, there)
    torch.testing.assert_close(found[:, :, 1:, :-1], latents[:, :, :-1, 1:])
    torch.testing.assert_close(found[:, :, 1:, -1], latents[:, :, :-1, -1])
    torch.testing.assert_close(found[:, :, 0, :-1], latents[:, :, 0, 1:])


def test_what_is_warped_grows_about_the_object_as_the_object_does():
    """Half as large there as here: each of its cells covers two by two."""
    latents = torch.zeros(1, 1, 8, 8)
    latents[0, 0, 4:6, 2:4] = 1
    there = torch.tensor([[-0.25, 0.25, 0.25]])  # the middle of those cells
    found = warp(latents, torch.tensor([[0.25, 0.0, 0.5]]), there)[0, 0]
    middle_x, middle_y = 5, 4
    assert found[middle_y - 1 : middle_y + 1, middle_x - 1 : middle_x + 1].min() == 1
    covered = (found > 0.5).nonzero()
    assert covered.amin(0).tolist() == [middle_y - 2, middle_x - 2]
    assert covered.amax(0).tolist() == [middle_y + 1, middle_x + 1]


def test_an_object_is_warped_to_where_it_is_in_another_frame():
    clip = moving(lambda frame: 0.2 + 0.02 * frame)
    there, here = clip[2:3], clip[9:10]
    places = torch.tensor([[-0.4 + 0.06 * f, -0.2 + 0.03 * f, 0.2 + 0.02 * f] for f in (9, 2)])
    out = warp(there, places[:1], places[1:])
    assert (out - here).abs().mean() < 0.2 * (there - here).abs().mean()  # the blur of the rim grows with the disc


def test_frames_that_differ_by_chance_agree_on_an_object_that_follows_its_motion():
    truth = moving()
    noise = torch.randn(FRAMES, 1, 1, 1, generator=torch.Generator().manual_seed(1)) * 0.3
    drawn = truth * (1 + noise)  # each frame in another shade
    agreed = Consensus(places_of(truth), 1.0, 0.0)(drawn, 5.0)
    inside = truth > 0.9
    shades = lambda clip: torch.stack([clip[f][inside[f]].mean() for f in range(FRAMES)])  # noqa: E731
    assert shades(agreed).var() < 0.1 * shades(drawn).var()
    assert (agreed - truth * shades(agreed).mean()).abs().mean() < 0.02


def test_frames_that_agree_already_stay_as_they_are():
    truth = moving()
    agreed = Consensus(places_of(truth), 1.0, 0.0)(truth, 5.0)
    assert (agreed - truth).abs().mean() < 0.01


@pytest.mark.parametrize("frames", [2, 3, 9, 20])
def test_neighbours_count_the_less_the_farther_they_are(frames):
    """Of a still object: the mean of the frames within reach, the farthest of which counts a ninth of the frame itself."""
    values = torch.rand(frames, generator=torch.Generator().manual_seed(frames))
    clip, places = values.view(-1, 1, 1, 1).expand(-1, 2, 4, 4).contiguous(), torch.tensor([[0.0, 0.0, 0.3]]).repeat(frames, 1)
    for amount in (1.0, 0.25):
        found = Consensus(places, amount, 0.5)(clip, 0.5)  # at the lowest sigma it still acts
        for frame in range(frames):
            weight = (1 - (torch.arange(frames) - frame).abs() / 9).clamp(min=0)
            expected = torch.lerp(values[frame], (weight * values).sum() / weight.sum(), amount)
            torch.testing.assert_close(found[frame], expected.expand(2, 4, 4))


def test_below_its_noise_level_and_without_amount_it_changes_nothing():
    clip = torch.randn(FRAMES, 4, 8, 8)
    places = places_of(moving())
    assert torch.equal(Consensus(places, 1.0, 0.6)(clip, 0.5), clip)
    assert torch.equal(Consensus(places, 0.0, 0.0)(clip, 0.5), clip)


def test_frames_without_the_object_neither_change_nor_have_a_say():
    clip, places = moving(), places_of(moving())
    places[5] = math.nan
    clip[5] = 100
    agreed = Consensus(places, 1.0, 0.0)(clip, 5.0)
    assert torch.equal(agreed[5], clip[5])
    assert agreed[[4, 6]].max() < 2


def test_frames_farther_than_its_reach_have_no_say():
    clip, places = torch.zeros(2 * RADIUS + 3, 1, 8, 8), torch.tensor([[0.0, 0.0, 0.3]]).repeat(2 * RADIUS + 3, 1)
    clip[0] = 1
    agreed = Consensus(places, 1.0, 0.0)(clip, 5.0)
    assert agreed[RADIUS].min() > 0
    assert torch.equal(agreed[RADIUS + 1 :], clip[RADIUS + 1 :])


def test_a_single_frame_is_left_alone():
    clip = torch.randn(1, 4, 8, 8)
    assert torch.equal(Consensus(torch.zeros(1, 3), 1.0, 0.0)(clip, 5.0), clip)
