from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from blade.attention.draw import MaskRule, draw_mask
from blade.attention.heat import WordsHeat, record_heat
from blade.attention.masks import ADD, FIXED, HYSTERESIS, LIMIT, OTSU, SUBTRACT, blur_mask, to_latent_mask
from blade.attention.record import CrossAttentionRecord
from blade.attention.refine import along_motion, cut_along_edges
from blade.attention.words import Phrase, PromptWords, Word
from demo.check import iou

SIZE = 64
WORDS = PromptWords("cat", (Word("cat", (1,)),), 77)
CAT = Phrase("cat", (1,))
PLAIN = MaskRule(edges=False, smoothing=0)


def square(top, bottom, left, right, value=1.0, frames=2):
    """An area of pixels. [frames, SIZE, SIZE]"""
    found = torch.zeros(frames, SIZE, SIZE)
    found[:, top:bottom, left:right] = value
    return found


def heat_of(maps):
    """Heat whose recorded maps are those. maps: [frames, h, w]"""
    heat = WordsHeat([CAT], SIZE, SIZE)
    heat.add(WORDS, {tuple(maps.shape[1:]): maps[:, None]}, 1.0)
    return heat


def blurred(maps, sigma):
    return torch.from_numpy(np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in maps.numpy()]))


OBJECT = square(16, 48, 16, 48)


def fit(mask, truth):
    return iou(mask.numpy(), truth.numpy()).mean()


def a_clip(truth):
    """A red textured thing on a green textured ground. [frames, SIZE, SIZE, 3]"""
    specks = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32), (0, 0), 1.5)
    colour = torch.where(truth[..., None] > 0.5, torch.tensor([0.8, 0.2, 0.15]), torch.tensor([0.25, 0.55, 0.2]))
    return (colour + 0.2 * torch.from_numpy(specks)[..., None]).clamp(0, 1)


def test_a_square_of_attention_becomes_a_square_mask():
    maps = torch.zeros(2, 8, 8)
    maps[:, 2:6, 2:6] = 1
    mask, threshold = draw_mask(heat_of(maps), PLAIN)
    assert mask.shape == (2, SIZE, SIZE)
    assert fit(mask, OBJECT) > 0.9
    assert 0.4 < threshold < 0.6


def test_a_frame_without_the_object_stays_empty():
    maps = torch.full((2, 8, 8), 0.01)
    maps[0, 2:6, 2:6] = 1
    shown = OBJECT.clone()
    shown[1] = 0
    mask, _ = draw_mask(heat_of(maps), MaskRule(), a_clip(shown))
    assert mask[0].sum() > 0
    assert mask[1].sum() == 0


def test_heat_without_contrast_gives_an_empty_mask():
    assert draw_mask(heat_of(torch.zeros(2, 8, 8)), MaskRule(), a_clip(OBJECT))[0].sum() == 0


def test_without_frames_edges_and_smoothing_are_left_out():
    heat = heat_of(torch.rand(2, 8, 8))
    assert torch.equal(draw_mask(heat, MaskRule())[0], draw_mask(heat, PLAIN)[0])


def test_frames_bring_the_outline_to_the_edge_of_the_colours():
    heat = heat_of(blurred(square(13, 51, 13, 51), 3))
    frames = a_clip(OBJECT)
    assert fit(draw_mask(heat, PLAIN, frames)[0], OBJECT) < 0.8
    assert fit(draw_mask(heat, MaskRule(), frames)[0], OBJECT) > 0.95


def test_smoothing_lets_frames_agree_with_or_without_edges():
    truth = OBJECT[:1].expand(5, -1, -1)
    maps = blurred(truth, 3)
    maps[2] = 0.02 * maps[2]  # a frame that the attention missed
    frames = a_clip(truth)
    for edges in (True, False):
        alone, _ = draw_mask(heat_of(maps), MaskRule(edges=edges, smoothing=0), frames)
        agreed, _ = draw_mask(heat_of(maps), MaskRule(edges=edges, smoothing=2), frames)
        assert alone[2].sum() == 0
        assert fit(agreed[2:3], truth[:1]) > 0.6


def test_what_the_heat_sees_in_one_frame_alone_is_not_edited():
    """A twin of the thing is in all frames, and the attention errs in one."""
    thing, twin = square(8, 24, 8, 24, frames=9), square(40, 56, 40, 56, frames=9)
    maps = thing.clone()
    maps[4] += twin[4]
    frames = a_clip(thing + twin)
    assert draw_mask(heat_of(blurred(maps, 2)), MaskRule(smoothing=0), frames)[0][4, 48, 48] == 1
    cells = to_latent_mask(draw_mask(heat_of(blurred(maps, 2)), MaskRule(), frames)[0], 8, 8)
    assert cells[:, 0, 1, 1].min() == 1
    assert cells[:, 0, 5, 5].max() == 0


def test_a_fixed_threshold_is_the_heat_above_which_pixels_are_inside():
    ramp = torch.linspace(0, 1, SIZE).expand(2, SIZE, SIZE)
    mask, threshold = draw_mask(heat_of(ramp), replace(PLAIN, threshold=FIXED, fixed=0.7))
    assert threshold == 0.7
    assert torch.equal(mask, (ramp > 0.7).float())


def test_otsus_mask_is_wider_and_hysteresis_leaves_out_of_it_what_is_nowhere_hot():
    maps = blurred(OBJECT, 4) + square(2, 8, 2, 8, 0.45)
    masks = {rule: draw_mask(heat_of(maps), replace(PLAIN, threshold=rule))[0] for rule in (MaskRule.threshold, OTSU, HYSTERESIS)}
    assert masks[OTSU].sum() > masks[MaskRule.threshold].sum()
    assert masks[OTSU][:, 4, 4].min() == 1
    assert masks[HYSTERESIS][:, 4, 4].max() == 0
    assert torch.equal(masks[HYSTERESIS][:, 10:], masks[OTSU][:, 10:])


def test_the_largest_things_stay_and_their_holes_are_filled():
    maps = square(10, 40, 10, 40) - square(20, 30, 20, 30) + square(50, 56, 50, 56)
    mask, _ = draw_mask(heat_of(maps), replace(PLAIN, objects=1, holes=True))
    assert torch.equal(mask, square(10, 40, 10, 40))


def test_growing_and_blurring_come_last():
    maps = square(20, 40, 20, 40)
    grown = draw_mask(heat_of(maps), replace(PLAIN, grow=4))[0]
    assert grown[0, 17, 30] == 1
    assert grown[0, 15, 30] == 0
    soft = draw_mask(heat_of(maps), replace(PLAIN, grow=4, blur=2.0))[0]
    assert torch.equal(soft, blur_mask(grown, 2.0))


TWO = square(10, 26, 10, 26) + square(40, 56, 40, 56, 0.5)  # the other thing, half as hot, is what the artist means
RIGHT = square(32, 64, 32, 64)


def test_a_limiting_matte_keeps_the_mask_inside_it():
    mask, _ = draw_mask(heat_of(TWO), replace(PLAIN, matte=LIMIT, grow=20), matte=RIGHT)
    assert (mask * (1 - RIGHT)).sum() == 0
    assert mask[:, 48, 48].min() == 1


def test_heat_outside_a_limiting_or_beneath_a_subtracting_matte_has_no_say_in_the_threshold():
    heat = heat_of(blurred(TWO, 2))
    alone = draw_mask(heat, PLAIN)[1]
    mask, threshold = draw_mask(heat, replace(PLAIN, matte=LIMIT), matte=RIGHT)
    subtracted, same = draw_mask(heat, replace(PLAIN, matte=SUBTRACT), matte=1 - RIGHT)
    assert threshold == same < 0.6 * alone
    assert fit(mask, square(40, 56, 40, 56)) > 0.9
    assert torch.equal(mask, subtracted)


def test_an_adding_matte_joins_the_mask_and_leaves_the_threshold():
    heat, corner = heat_of(TWO), square(0, 5, 59, 64)
    mask, threshold = draw_mask(heat, PLAIN)
    added, same = draw_mask(heat, replace(PLAIN, matte=ADD), matte=corner)
    assert same == threshold
    assert torch.equal(added, torch.maximum(mask, corner))


def test_a_subtracting_matte_keeps_the_mask_out_of_it():
    mask, _ = draw_mask(heat_of(TWO), replace(PLAIN, matte=SUBTRACT, threshold=FIXED, grow=9), matte=RIGHT)
    assert (mask * RIGHT).sum() == 0
    assert mask[:, 18, 18].min() == 1


@pytest.mark.parametrize(("mode", "matte"), [(LIMIT, 0.0), (SUBTRACT, 1.0)])
def test_a_matte_that_leaves_nothing_gives_an_empty_mask_and_no_warning(mode, matte, recwarn):
    mask, _ = draw_mask(heat_of(TWO), MaskRule(matte=mode), a_clip(OBJECT), torch.full((2, SIZE, SIZE), matte))
    assert mask.shape == (2, SIZE, SIZE)
    assert mask.sum() == 0
    assert not recwarn.list


def test_a_matte_that_allows_everything_changes_nothing():
    heat, frames = heat_of(blurred(OBJECT, 3)), a_clip(OBJECT)
    expected = draw_mask(heat, MaskRule(), frames)
    found = draw_mask(heat, MaskRule(matte=LIMIT), frames, torch.ones(2, SIZE, SIZE))
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize(("edges", "smoothing", "count"), [(True, 2, 6), (True, 0, 3), (False, 2, 3), (False, 0, 0)])
def test_work_ticks_once_a_frame_for_each_of_edges_and_smoothing(edges, smoothing, count):
    ticks = []
    truth = OBJECT[:1].expand(3, -1, -1)
    draw_mask(heat_of(truth), MaskRule(edges=edges, smoothing=smoothing), a_clip(truth), tick=lambda: ticks.append(1))
    assert len(ticks) == count


def test_a_record_without_a_level_says_that_nothing_was_recorded():
    with pytest.raises(ValueError, match="no cross-attention maps"):
        draw_mask(record_heat(CrossAttentionRecord(WORDS), [CAT], SIZE, SIZE), MaskRule())


def test_with_frames_the_outline_is_cut_and_what_most_frames_agree_on_is_made_firm():
    truth = OBJECT[:1].expand(4, -1, -1)
    maps, frames = blurred(truth, 3), a_clip(truth)
    maps[2] *= 0.7
    heat = heat_of(maps)
    warmth = heat.at(slice(0, 4))
    found, threshold = draw_mask(heat, MaskRule(smoothing=2), frames)
    cut = cut_along_edges(frames, warmth, (warmth > threshold).float(), threshold)
    assert torch.equal(found, (1.5 * along_motion(frames, cut, 2) - 0.25).clamp(0, 1))
    assert ((found > 0) & (found < 1)).any()


def test_without_edges_the_heat_itself_is_agreed_on_and_the_threshold_is_of_what_was_recorded():
    truth = OBJECT[:1].expand(4, -1, -1)
    maps, frames = blurred(truth, 3), a_clip(truth)
    maps[2] *= 0.7
    heat = heat_of(maps)
    found, threshold = draw_mask(heat, MaskRule(edges=False, smoothing=2), frames)
    assert threshold == draw_mask(heat, PLAIN)[1]
    assert torch.equal(found, (along_motion(frames, heat.at(slice(0, 4)), 2) > threshold).float())


def test_a_rule_that_is_left_to_itself_is_the_nodes():
    assert MaskRule() == MaskRule("half height", 0.3, True, 6, 0, False, 0, 0.0, "limit")


def test_a_matte_lets_heat_have_a_say_above_a_half_and_without_any_the_threshold_is_the_hottest():
    heat, half = heat_of(TWO), torch.full((2, SIZE, SIZE), 0.5)
    assert draw_mask(heat, PLAIN, matte=half)[1] == 1
    assert draw_mask(heat, PLAIN, matte=torch.full((2, SIZE, SIZE), 0.6))[1] == draw_mask(heat, PLAIN)[1]
    assert draw_mask(heat, PLAIN, matte=half)[0].tolist() == torch.zeros(2, SIZE, SIZE).tolist()


# Everything but some words


def all_but(maps, weight=-1.0):
    heat = WordsHeat([Phrase("cat", (1,), weight)], SIZE, SIZE)
    heat.add(WORDS, {tuple(maps.shape[1:]): maps[:, None]}, 1.0)
    return heat


RINGED = OBJECT - square(28, 36, 28, 36) + square(2, 8, 2, 8)


@pytest.mark.parametrize("rule", [PLAIN, replace(PLAIN, objects=1), replace(PLAIN, holes=True), replace(PLAIN, threshold=OTSU)])
def test_everything_but_some_words_is_the_rest_of_what_the_rule_finds_for_them(rule):
    """What is kept is as large, and as whole, as it would be if it were edited."""
    found, threshold = draw_mask(all_but(RINGED), rule)
    kept, same = draw_mask(heat_of(RINGED), rule)
    assert torch.equal(found, 1 - kept) and threshold == same
    assert 0 < kept.mean() < 0.5


def test_everything_but_a_thing_follows_the_edges_of_its_colours():
    maps = blurred(OBJECT, 4.0)
    found, _ = draw_mask(all_but(maps), MaskRule(), a_clip(OBJECT))
    assert fit(found, 1 - OBJECT) > 0.99 > fit(draw_mask(all_but(maps), PLAIN)[0], 1 - OBJECT)


def test_everything_but_a_thing_grows_onto_it():
    found, _ = draw_mask(all_but(OBJECT), replace(PLAIN, grow=3))
    assert torch.equal(found, 1 - draw_mask(heat_of(OBJECT), replace(PLAIN, grow=-3))[0])


@pytest.mark.parametrize("mode", [LIMIT, SUBTRACT, ADD])
def test_a_matte_is_laid_over_everything_but_a_thing(mode):
    """Also where the thing lies outside of what the matte allows: its heat is what the threshold is found by."""
    matte = square(0, SIZE, 0, 10)
    found, _ = draw_mask(all_but(OBJECT), replace(PLAIN, matte=mode), matte=matte)
    rest = draw_mask(all_but(OBJECT), PLAIN)[0]
    assert torch.equal(found, {LIMIT: rest * matte, SUBTRACT: rest * (1 - matte), ADD: torch.maximum(rest, matte)}[mode])


def test_how_much_what_is_kept_weighs_counts_between_phrases_only():
    two = PromptWords("cat dog", (Word("cat", (1,)), Word("dog", (2,))), 77)
    heat = WordsHeat([Phrase("cat", (1,), -1.0), Phrase("dog", (2,), -0.5)], SIZE, SIZE)
    heat.add(two, {(SIZE, SIZE): torch.stack([OBJECT, square(0, 8, 0, 8)], 1)}, 1.0)
    assert torch.equal(heat.at(slice(0, 2)), torch.maximum(OBJECT, 0.5 * square(0, 8, 0, 8)))
