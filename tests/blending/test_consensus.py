import math

import pytest
import torch

from blade.blending.consensus import REACH, Consensus, carried, object_places, steady

FRAMES, SIZE = 13, 64


def disc(x, y, radius):
    """A blurred disc, so that it can be carried by parts of a cell. [SIZE, SIZE]; centre and radius in shares from -1 to 1"""
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
    assert not places[0].isfinite().all()
    assert places[1].isfinite().all()


def test_a_straight_motion_is_left_as_it_is_and_jitter_is_taken_out():
    straight = torch.stack([torch.linspace(-0.5, 0.5, 20), torch.linspace(0.3, -0.2, 20), torch.full((20,), 0.2)], 1)
    torch.testing.assert_close(steady(straight), straight)
    jittered = straight + 0.02 * torch.randn(straight.shape, generator=torch.Generator().manual_seed(0))
    assert (steady(jittered) - straight).pow(2).mean() < 0.4 * (jittered - straight).pow(2).mean()


def test_an_object_is_carried_to_where_it_is_in_another_frame():
    clip = moving(lambda frame: 0.2 + 0.02 * frame)
    there, here = clip[2:3], clip[9:10]
    places = torch.tensor([[-0.4 + 0.06 * f, -0.2 + 0.03 * f, 0.2 + 0.02 * f] for f in (9, 2)])
    out = carried(there, places[:1], places[1:])
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
    clip, places = torch.zeros(2 * REACH + 3, 1, 8, 8), torch.tensor([[0.0, 0.0, 0.3]]).repeat(2 * REACH + 3, 1)
    clip[0] = 1
    agreed = Consensus(places, 1.0, 0.0)(clip, 5.0)
    assert agreed[REACH].min() > 0
    assert torch.equal(agreed[REACH + 1 :], clip[REACH + 1 :])


def test_a_single_frame_is_left_alone():
    clip = torch.randn(1, 4, 8, 8)
    assert torch.equal(Consensus(torch.zeros(1, 3), 1.0, 0.0)(clip, 5.0), clip)
