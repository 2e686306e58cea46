from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from blade.attention import heat as heat_module
from blade.attention import online as online_module
from blade.attention.heat import WordsHeat, record_heat
from blade.attention.masks import ADD, LIMIT, SUBTRACT, fade_out, grow_mask
from blade.attention.online import FixedMask, MaskHeat, OnlineMask, widened
from blade.attention.record import CrossAttentionRecord, LevelMaps, MapRecorder
from blade.attention.words import Phrase, PromptWords, Word
from blade.inversion.coordinates import EPS

CELL, CELLS = 8, 8
SIZE = CELL * CELLS
WORDS = PromptWords("cat", (Word("cat", (1,)),), 77)
CAT = Phrase("cat", (1,))
SIGMAS = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])
STEPS = len(SIGMAS) - 1


def area(top, bottom, left, right, cells=CELLS, frames=2):
    found = torch.zeros(frames, cells, cells)
    found[:, top:bottom, left:right] = 1
    return found


def pixels(mask):
    return mask.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


class Told(MapRecorder):
    """A recorder that saw what it is told, and what it was asked for."""

    def __init__(self, *levels):
        super().__init__(WORDS, frozenset([(CELLS, CELLS)]), 2)
        self.levels, self.asked = list(levels), []

    def begin(self, sigma):
        self.asked.append(sigma)

    def finish(self):
        return self.levels.pop(0) if self.levels else None


def seen(sigma, maps):
    return LevelMaps(sigma, {(CELLS, CELLS): maps[:, None]})


def source_heat(maps):
    record = CrossAttentionRecord(WORDS, [0.5], [{tuple(maps.shape[1:]): maps[:, None]}])
    return record_heat(record, [CAT], SIZE, SIZE)


SOURCE, TARGET = pixels(area(2, 5, 1, 4)), area(2, 5, 5, 8)
MATTE = pixels(area(0, 8, 0, 3))


def online(recorder=None, aim=(CAT,), source=SOURCE, sigmas=SIGMAS, **options):
    return OnlineMask(source_heat(source), recorder or Told(), WordsHeat(aim, SIZE, SIZE), sigmas, (CELLS, CELLS), **options)


def in_cells(mask, top, bottom, left, right):
    return mask[:, 0, top:bottom, left:right]


def test_the_source_words_alone_draw_the_first_mask():
    found = online().at_step(0)
    assert found.shape == (2, 1, CELLS, CELLS)
    assert torch.equal(found[:, 0], area(2, 5, 1, 4))


def test_the_recorder_is_opened_at_each_steps_own_noise_level():
    recorder = Told()
    mask = online(recorder)
    for step in range(STEPS):
        mask.at_step(step)
    assert recorder.asked == SIGMAS[:-1].tolist()


def test_the_last_steps_mask_is_the_union_of_source_and_target():
    sigmas = torch.linspace(2, 0, 21)
    mask = online(Told(None, *(seen(float(sigma), TARGET) for sigma in sigmas)), sigmas=sigmas)
    for step in range(20):
        found = mask.at_step(step)
    assert in_cells(found, 2, 5, 1, 4).min() == 1
    assert in_cells(found, 2, 5, 5, 8).min() == 1
    assert in_cells(found, 6, 8, 0, 8).max() == 0


def test_the_targets_heat_counts_by_the_share_of_weight_that_its_levels_have_gathered():
    weights = [EPS.share(float(sigma)) for sigma in SIGMAS[:-1]]
    mask = online(Told(None, seen(4.0, TARGET), seen(2.0, TARGET)))
    hottest = []
    for step in range(3):
        mask.at_step(step)
        hottest.append(float(mask.heat(slice(0, 2))[:, :, 40:].max()))
    assert hottest == pytest.approx([0, weights[0] / sum(weights), sum(weights[:2]) / sum(weights)])


def test_the_targets_first_maps_do_not_decide_where_the_edit_begins():
    mask = online(Told(None, seen(4.0, TARGET)))
    mask.at_step(0)
    assert in_cells(mask.at_step(1), 2, 5, 5, 8).max() == 0


def test_without_target_words_its_maps_are_not_looked_at():
    mask = online(Told(None, *(seen(float(sigma), TARGET) for sigma in SIGMAS[:-1])), aim=())
    for step in range(STEPS):
        found = mask.at_step(step)
    assert torch.equal(found[:, 0], area(2, 5, 1, 4))


def test_the_source_masks_are_the_source_words_alone_in_spans(monkeypatch):
    monkeypatch.setattr(heat_module, "SPAN", 1)
    parts = list(online(grow=9, widen=9).source_masks())
    assert [len(part) for part in parts] == [1, 1]
    assert torch.equal(torch.cat(parts), SOURCE)


def test_the_source_masks_keep_within_a_limiting_matte():
    """The consensus follows what is edited, not what the words see elsewhere."""
    matte = torch.zeros(2, SIZE, SIZE)
    assert torch.cat(list(online(matte=matte, matte_mode=LIMIT).source_masks())).sum() == 0


def test_a_long_clips_masks_are_the_same_in_spans_as_at_once(monkeypatch):
    source, matte = SOURCE.clone(), MATTE.clone()
    source[1] *= 0.6
    matte[1] = 0

    def at_the_second_step():
        mask = online(Told(None, seen(4.0, TARGET)), source=source, grow=3, matte=matte, matte_mode=SUBTRACT)
        mask.at_step(0)
        return mask.at_step(1)

    whole = at_the_second_step()
    monkeypatch.setattr(heat_module, "SPAN", 1)
    assert torch.equal(at_the_second_step(), whole)


@pytest.mark.parametrize(("steps", "expected"), [(5, [12, 9, 6, 3, 0]), (2, [12, 0]), (1, [12])], ids=["evenly", "two steps", "one step"])
def test_widening_falls_from_all_to_none(steps, expected):
    assert [widened(12, step, steps) for step in range(steps)] == expected


def test_a_widened_mask_begins_wide_and_ends_at_its_own_outline():
    mask = online(widen=12, grow=2)
    drawn = []
    for step in range(STEPS):
        mask.at_step(step)
        drawn.append(mask.pixels(slice(0, 2)))
    assert torch.equal(drawn[0], grow_mask(SOURCE, 14))
    assert torch.equal(drawn[-1], grow_mask(SOURCE, 2))
    assert all(wide.sum() > narrow.sum() for wide, narrow in pairwise(drawn))


def test_a_thin_thing_is_in_the_latent_grid_while_widened():
    thin = torch.zeros(2, SIZE, SIZE)
    thin[:, 8:56, 20] = 1
    mask = online(source=thin, widen=8)
    assert in_cells(mask.at_step(0), 1, 7, 2, 3).min() == 1
    assert mask.at_step(STEPS - 1).sum() == 0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (LIMIT, area(2, 5, 1, 3)),
        (ADD, torch.maximum(area(2, 5, 1, 4), area(0, 8, 0, 3))),
        (SUBTRACT, area(2, 5, 3, 4)),
    ],
)
def test_a_matte_is_laid_over_each_steps_mask(mode, expected):
    mask = online(matte=MATTE, matte_mode=mode)
    assert all(torch.equal(mask.at_step(step)[:, 0], expected) for step in range(STEPS))


def test_each_frame_has_its_own_matte():
    matte = MATTE.clone()
    matte[1] = 0
    found = online(matte=matte, matte_mode=LIMIT).at_step(0)
    assert found[0].sum() == 6
    assert found[1].sum() == 0


def test_growing_does_not_cross_a_limiting_matte():
    mask = online(matte=MATTE, matte_mode=LIMIT, grow=9, widen=9)
    mask.at_step(0)
    assert (mask.pixels(slice(0, 2)) * (1 - MATTE)).sum() == 0


# An artist's own mask, and the soft outline


def fixed(mask=SOURCE, **options):
    return FixedMask(mask, STEPS, (CELLS, CELLS), **options)


def test_an_artists_mask_is_the_same_at_every_step():
    mask = fixed()
    assert all(torch.equal(mask.at_step(step)[:, 0], area(2, 5, 1, 4)) for step in range(STEPS))
    assert torch.equal(mask.pixels(slice(0, 2)), SOURCE)
    assert torch.equal(torch.cat(list(mask.source_masks())), SOURCE)


def test_an_artists_mask_grows_and_narrows_as_one_that_draws_itself():
    mine, drawn = fixed(grow=2, widen=12), online(aim=(), grow=2, widen=12)
    for step in range(STEPS):
        assert torch.equal(mine.at_step(step), drawn.at_step(step))
        assert torch.equal(mine.pixels(slice(0, 2)), drawn.pixels(slice(0, 2)))
    assert torch.equal(mine.pixels(slice(0, 2)), grow_mask(SOURCE, 2))


def test_an_artists_mask_that_does_not_change_is_made_once(monkeypatch):
    mask = fixed(grow=2, soft=5.0)
    first = mask.at_step(0)
    monkeypatch.setattr(mask, "outline", None)
    assert mask.at_step(1) is first


@pytest.mark.parametrize("make", [fixed, online])
def test_a_soft_mask_is_whole_inside_its_outline_and_fades_beyond_it(make):
    hard, soft = make().at_step(0), make(soft=9.0).at_step(0)
    assert set(hard.unique().tolist()) == {0, 1}
    assert soft[hard == 1].min() == 1
    between = (soft > 0) & (soft < 1)
    assert between.any()
    rows = soft[0, 0, 3]
    assert rows[3:].diff().max() <= 0  # from the thing outwards it only falls
    assert soft[0, 0, 7, 7] < 0.01


def test_a_thing_smaller_than_its_feather_is_still_wholly_inside():
    thin = torch.zeros(2, SIZE, SIZE)
    thin[:, 8:56, 20:23] = 1
    hard, soft = (fixed(thin, soft=soft).at_step(0) for soft in (0.0, 16.0))
    assert hard.sum() > 0
    assert soft[hard == 1].min() == 1


def test_a_soft_masks_pixels_stay_hard():
    """What comes out of the node is the outline; Pixel Composite has a feather of its own."""
    mask = fixed(soft=9.0)
    mask.at_step(0)
    assert torch.equal(mask.pixels(slice(0, 2)), SOURCE)


def test_a_mask_in_the_place_of_the_source_words_draws_the_first_mask_and_the_target_may_widen_it():
    sigmas = torch.linspace(2, 0, 21)
    recorder = Told(None, *(seen(float(sigma), TARGET) for sigma in sigmas))
    mask = OnlineMask(MaskHeat(SOURCE), recorder, WordsHeat((CAT,), SIZE, SIZE), sigmas, (CELLS, CELLS))
    found = [mask.at_step(step) for step in range(20)]
    assert torch.equal(found[0][:, 0], area(2, 5, 1, 4))
    assert in_cells(found[-1], 2, 5, 1, 4).min() == 1
    assert in_cells(found[-1], 2, 5, 5, 8).min() == 1
    assert torch.equal(torch.cat(list(fixed().source_masks())), SOURCE)


@pytest.mark.parametrize("options", [{}, {"matte": MATTE, "matte_mode": LIMIT}, {"grow": 8, "widen": 16}], ids=["plain", "matte", "grown"])
def test_a_clip_of_one_span_has_the_masks_of_one_whose_heat_is_made_anew(options, monkeypatch):
    levels = [None, *(seen(float(sigma), torch.rand(2, CELLS, CELLS, generator=torch.Generator().manual_seed(3))) for sigma in SIGMAS[:-2])]
    found = []
    for span in (online_module.SPAN, 1):
        monkeypatch.setattr(online_module, "SPAN", span)
        mask = online(Told(*levels), **options)
        assert (mask.heat_of_step is not None) == (span > 1)
        found.append(([mask.at_step(step) for step in range(STEPS)], mask.pixels(slice(0, 2)), mask.threshold))
    (steps, last, threshold), (others, other_last, other_threshold) = found
    assert all(torch.equal(one, other) for one, other in zip(steps, others, strict=True))
    assert torch.equal(last, other_last)
    assert threshold == other_threshold


def test_a_step_makes_each_words_heat_at_pixel_size_once_and_keeps_it_no_longer(monkeypatch):
    """Where a GPU is fast this is what a step costs beside the model."""
    asked = []
    at = heat_module.HeatMap.at
    monkeypatch.setattr(heat_module.HeatMap, "at", lambda heat, frames: asked.append(heat) or at(heat, frames))
    mask = online(Told(None, *(seen(float(sigma), TARGET) for sigma in SIGMAS[:-1])))
    mask.at_step(0)
    for step in range(1, STEPS):
        asked.clear()
        mask.at_step(step)
        assert asked == [*mask.source.parts, *mask.target.parts]
        assert mask.heat_of_step is None


# Everything but some words


def all_but(**options):
    record = CrossAttentionRecord(WORDS, [0.5], [{(SIZE, SIZE): SOURCE[:, None]}])
    heat = record_heat(record, [Phrase("cat", (1,), -1.0)], SIZE, SIZE)
    return OnlineMask(heat, Told(), WordsHeat((), SIZE, SIZE), SIGMAS, (CELLS, CELLS), **options)


def test_everything_but_some_words_is_edited_at_every_step():
    mask = all_but()
    for step in range(STEPS):
        assert torch.equal(mask.at_step(step)[:, 0], 1 - area(2, 5, 1, 4))
    assert torch.equal(torch.cat(list(mask.source_masks())), 1 - SOURCE)


@pytest.mark.parametrize("mode", [LIMIT, SUBTRACT, ADD])
def test_a_matte_is_laid_over_everything_but_some_words(mode):
    found = all_but(matte=MATTE, matte_mode=mode).at_step(0)[:, 0]
    rest, matte = 1 - area(2, 5, 1, 4), area(0, 8, 0, 3)
    assert torch.equal(found, {LIMIT: rest * matte, SUBTRACT: rest * (1 - matte), ADD: torch.maximum(rest, matte)}[mode])


def test_everything_but_some_words_grows_onto_what_they_are():
    assert all_but(grow=8).at_step(0).sum() > all_but().at_step(0).sum() > all_but(grow=-8).at_step(0).sum()


# What the sampler asks of a mask


MOVING = torch.stack([SOURCE[0], pixels(area(3, 6, 1, 4))[0]])


def of_mask(mask, aim=(CAT,)):
    return OnlineMask(MaskHeat(mask), Told(), WordsHeat(aim, SIZE, SIZE), SIGMAS, (CELLS, CELLS))


def test_only_an_artists_mask_of_equal_frames_is_known_to_stand_still():
    assert fixed().still and of_mask(SOURCE).still and fixed(SOURCE[:1]).still
    assert not fixed(MOVING).still and not of_mask(MOVING).still
    assert not online().still


def test_words_of_the_target_are_unseen_until_the_model_has_shown_their_maps():
    mask = online(Told(None, seen(4.0, TARGET)))
    unseen = [mask.unseen]
    for step in range(3):
        mask.at_step(step)
        unseen.append(mask.unseen)
    assert unseen == [True, True, False, False]
    assert not online(aim=()).unseen and not fixed().unseen


def test_a_mask_that_draws_itself_has_a_recorder_and_an_artists_has_none():
    recorder = Told()
    assert online(recorder).recorder is recorder and fixed().recorder is None


def test_the_frames_that_the_last_steps_mask_fills_are_known_beforehand():
    source = SOURCE.clone()
    source[1] = 0
    source[1, 20:23, 20:23] = 1  # less than a fifth of a cell, unless it is widened
    assert online(source=source).filled().tolist() == [True, False]
    assert online(source=source, widen=20).filled().tolist() == [True, False]  # by the last step nothing is left of it
    assert online(source=source, grow=4).filled().tolist() == [True, True]


def test_where_a_matte_leaves_nothing_the_threshold_is_the_hottest():
    halves = torch.full((2, SIZE, SIZE), 0.5)
    assert online(matte=halves, matte_mode=LIMIT).threshold == 1
    assert online(matte=0 * halves, matte_mode=LIMIT).threshold == 1
    assert online(matte=1.2 * halves, matte_mode=LIMIT).threshold < 1
    assert online(matte=0 * halves, matte_mode=ADD).threshold < 1


def test_the_targets_heat_never_counts_more_than_the_sources():
    levels = [seen(0.5, TARGET) for _ in range(STEPS)]
    mask = online(Told(None, *levels, *levels))
    for step in range(STEPS):
        mask.at_step(step)
    assert mask.target.weight > 0.8 * mask.whole_weight
    for _ in range(3):
        mask.at_step(STEPS - 1)
    assert mask.target.weight > mask.whole_weight
    assert float(mask.heat(slice(0, 2)).max()) == 1


def test_a_mask_in_the_place_of_heat_is_as_long_as_it_is_and_means_what_it_covers():
    heat = MaskHeat(MOVING)
    assert len(heat) == 2 and torch.equal(heat.at(slice(1, 2)), MOVING[1:]) and not heat.all_but


def test_a_soft_mask_is_its_cells_or_how_much_of_them_its_fading_covers():
    found = fixed(soft=9.0).at_step(0)
    faded = F.avg_pool2d(fade_out(SOURCE, 9.0)[:, None], CELL)
    torch.testing.assert_close(found[:, 0], torch.maximum(area(2, 5, 1, 4), faded[:, 0]))
