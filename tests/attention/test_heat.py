import numpy as np
import pytest
import torch

from blade.attention import heat as module
from blade.attention.heat import HeatMap, WordsHeat, add_level, histogram, level_heat, normalise, record_heat, resize, spans
from blade.attention.record import CrossAttentionRecord, LevelMaps
from blade.attention.words import Phrase, PromptWords, Word
from blade.inversion.coordinates import EPS

WORDS = PromptWords("a red cat", (Word("a", (1,)), Word("red", (2,)), Word("cat", (3, 4))), 77)
RED, CAT = Phrase("red", (2,)), Phrase("cat", (3, 4))
WHOLE = slice(None)


def cell(row, column, value=1.0, frames=1):
    """A map with one warm cell. [frames, 4, 4]"""
    maps = torch.zeros(frames, 4, 4)
    maps[:, row, column] = value
    return maps


def tokens(a=None, red=None, cat=None):
    """Maps of the prompt's four tokens, of which both of cat's hold half. {(4, 4): [frames, 4, 4, 4]}"""
    none = torch.zeros_like(next(maps for maps in (a, red, cat) if maps is not None))
    rows = [none if a is None else a, none if red is None else red]
    return {(4, 4): torch.stack([*rows, *[none if cat is None else cat / 2] * 2], 1)}


def heat_of(phrases, maps, size=(4, 4)):
    heat = WordsHeat(phrases, *size)
    heat.add(WORDS, maps, 1.0)
    return heat


def test_maps_count_by_their_weight():
    heat = HeatMap(4, 4)
    heat.add({(4, 4): cell(0, 0)}, 1.0)
    heat.add({(4, 4): cell(3, 3)}, 0.25)
    found = heat.at(WHOLE)[0]
    assert found[3, 3] / found[0, 0] == 0.25
    assert heat.weight == 1.25


def test_resolutions_count_alike_however_many_cells_they_have():
    fine, coarse = torch.zeros(1, 8, 8), torch.zeros(1, 4, 4)
    fine[:, :4], coarse[:, 2:] = 1, 1
    heat = HeatMap(8, 8)
    heat.add({(8, 8): fine, (4, 4): coarse}, 1.0)
    found = heat.at(WHOLE)[0]
    assert torch.allclose(found[0], found[-1])


def test_a_long_clips_heat_is_the_same_in_pieces_as_at_once(monkeypatch):
    monkeypatch.setattr(module, "SPAN", 3)
    heat = heat_of([RED], tokens(red=torch.rand(8, 4, 4)), (24, 24))
    whole = heat.at(WHOLE)
    assert (float(whole.min()), float(whole.max())) == (0, 1)
    assert torch.equal(torch.cat([heat.at(span) for span in spans(8)]), whole)


def test_spans_cover_each_frame_once_and_hold_no_more_than_span():
    parts = spans(2 * module.SPAN + 5)
    assert [frame for part in parts for frame in range(part.start, part.stop)] == list(range(2 * module.SPAN + 5))
    assert max(part.stop - part.start for part in parts) == module.SPAN
    assert spans(0) == []


def test_a_phrases_tokens_are_summed():
    columns = torch.stack([torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), cell(0, 0, 0.3), cell(0, 0, 0.1) + cell(3, 3, 0.2)], 1)
    found = heat_of([CAT], {(4, 4): columns}).at(WHOLE)[0]
    assert found[0, 0] == 1
    assert found[3, 3] == pytest.approx(0.5)


def test_each_phrase_is_brought_to_its_own_scale():
    found = heat_of([RED, CAT], tokens(red=cell(0, 0, 0.5), cat=0.1 + cell(3, 3, 0.02))).at(WHOLE)[0]
    assert found[0, 0] == pytest.approx(1)
    assert found[3, 3] == pytest.approx(1)
    assert found[2, 0] == pytest.approx(0, abs=1e-6)


def test_a_phrases_scale_is_the_whole_clips_so_a_frame_without_the_object_stays_cold():
    maps = torch.full((2, 4, 4), 0.01)
    maps[0, 1:3, 1:3] = 1
    found = heat_of([RED], tokens(red=maps), (32, 32)).at(WHOLE)
    assert found[0].max() == 1
    assert found[1].max() < 0.02


def test_scales_follow_what_is_added_later():
    heat = heat_of([RED], tokens(red=cell(0, 0, 0.1)))
    assert heat.at(WHOLE)[0, 0, 0] == 1
    heat.add(WORDS, tokens(red=cell(3, 3, 0.4)), 1.0)
    found = heat.at(WHOLE)[0]
    assert found[3, 3] == 1
    assert found[0, 0] == pytest.approx(0.25)


def test_of_several_phrases_the_hottest_counts_times_its_weight():
    phrases = [RED, Phrase("cat", (3, 4), 0.5)]
    found = heat_of(phrases, tokens(red=cell(0, 0) + cell(1, 1, 0.2), cat=cell(3, 3) + cell(1, 1))).at(WHOLE)[0]
    assert [found[0, 0], found[3, 3], found[1, 1]] == pytest.approx([1, 0.5, 0.5])


def test_a_negative_phrase_pushes_the_heat_away_where_it_is_hot_itself():
    phrases = [RED, Phrase("cat", (3, 4), -0.5)]
    found = heat_of(phrases, tokens(red=cell(0, 0) + cell(3, 3), cat=cell(3, 3) + cell(2, 2))).at(WHOLE)[0]
    assert [found[0, 0], found[3, 3]] == pytest.approx([1, 0.5])
    assert found[2, 2] == 0  # never below


def test_phrases_are_shown_without_their_weights():
    phrases = [RED, Phrase("cat", (3, 4), -0.5)]
    each = heat_of(phrases, tokens(red=cell(0, 0), cat=cell(3, 3))).of_phrases(WHOLE)
    assert each.shape == (2, 1, 4, 4)
    assert each[1, 0, 3, 3] == 1


def test_heat_without_contrast_is_cold():
    """Resizing rounds; what it rounds by is no heat."""
    assert heat_of([RED], tokens(red=torch.full((2, 4, 4), 0.3)), (32, 32)).at(WHOLE).max() < 0.01


def test_heat_of_which_nothing_was_recorded_says_so():
    heat = WordsHeat([RED], 4, 4)
    assert len(heat) == heat.weight == 0
    with pytest.raises(ValueError, match="no cross-attention maps"):
        heat.at(WHOLE)


def a_record(spread=None):
    levels = [tokens(red=cell(0, 0)), tokens(red=cell(3, 3))]
    return CrossAttentionRecord(WORDS, [0.5, 3.0], levels, spread=spread or {})


def test_without_a_spread_a_records_levels_count_by_their_share_of_signal():
    found = record_heat(a_record(), [RED], 4, 4).at(WHOLE)[0]
    assert found[0, 0] == 1
    assert found[3, 3] == pytest.approx(EPS.share(3.0) / EPS.share(0.5))


def test_where_a_record_has_a_spread_the_heat_is_that_alone():
    found = record_heat(a_record(tokens(red=cell(1, 2))), [RED], 4, 4).at(WHOLE)
    assert torch.equal(found, cell(1, 2))


def test_a_levels_heat_is_its_own():
    assert torch.equal(level_heat(a_record(tokens(red=cell(1, 2))), 1, [RED], 4, 4).at(WHOLE), cell(3, 3))


def test_a_running_heat_takes_a_levels_spread_where_it_has_one_by_its_share_of_signal():
    heat = WordsHeat([RED], 4, 4)
    add_level(heat, WORDS, LevelMaps(2.0, tokens(red=cell(0, 0))))
    add_level(heat, WORDS, LevelMaps(0.4, tokens(red=cell(1, 1)), tokens(red=cell(3, 3))))
    found = heat.at(WHOLE)[0]
    assert found[3, 3] == 1
    assert found[0, 0] == pytest.approx(EPS.share(2.0) / EPS.share(0.4))
    assert found[1, 1] == 0
    assert heat.weight == pytest.approx(EPS.share(2.0) + EPS.share(0.4))


def test_resizing_never_goes_below_zero():
    assert resize(cell(1, 1), (32, 32)).min() == 0


def test_the_histogram_counts_each_step_of_heat_up_to_the_hottest():
    counts = histogram(torch.tensor([[[0.0, 0.5, 0.5, 1.0]]]))
    assert counts.shape == (256,)
    assert {step: int(counts[step]) for step in np.flatnonzero(counts)} == {0: 1, 127: 2, 255: 1}


def test_resolutions_that_were_not_spread_count_with_the_clear_levels_own_maps():
    fine_clear, fine_noisy = torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8)
    coarse = torch.rand(1, 4, 4, 4)
    record = CrossAttentionRecord(WORDS, [5.0, 0.4], [{(8, 8): fine_noisy}, {(8, 8): fine_clear, (4, 4): torch.rand(1, 4, 4, 4)}])
    record.spread = {(4, 4): coarse}
    expected = heat_of([RED], {(4, 4): coarse, (8, 8): fine_clear}, (16, 16))
    assert torch.allclose(record_heat(record, [RED], 16, 16).at(WHOLE), expected.at(WHOLE), atol=1e-6)


@pytest.mark.parametrize(
    "phrases", [[RED], [RED, Phrase("cat", (3, 4), 0.5)], [Phrase("cat", (3, 4), -0.5), RED]], ids=["one", "two", "negative"]
)
def test_heat_is_the_same_to_the_bit_however_often_it_is_asked_for(phrases):
    """It is made in place: nothing that is kept may be written to, also where maps have the size of the pixels."""
    maps = {(side, side): torch.rand(3, 4, side, side) for side in (16, 8, 4)}
    heat, kept = heat_of(phrases, maps, (16, 16)), {size: part.clone() for size, part in maps.items()}
    first = heat.at(WHOLE)
    heat.of_phrases(WHOLE)
    assert torch.equal(heat.at(WHOLE), first)
    assert all(torch.equal(part, kept[size]) for size, part in maps.items())
    weights = torch.tensor([phrase.weight for phrase in phrases])[:, None, None, None]
    parts = []
    for part in heat.parts:
        mean = torch.stack([resize(total, (16, 16)) for total in part.totals.values()]).mean(0)
        parts.append(((mean - mean.min()) / (mean.max() - mean.min())).clamp(0, 1))
    each = weights * torch.stack(parts)
    assert torch.equal(first, (each.clamp(min=0).amax(0) + each.clamp(max=0).amin(0)).clamp(0, 1))


@pytest.mark.parametrize("first", [slice(0, 2), slice(2, 5), slice(1, 5), slice(0, 4), slice(0, 5, 2)])
def test_the_scale_is_the_whole_clips_whichever_frames_are_asked_for_first(first):
    maps = tokens(red=torch.rand(5, 4, 4) * torch.tensor([1.0, 0.2, 0.3, 0.4, 2.0])[:, None, None])
    whole = heat_of([RED], maps, (9, 9)).at(WHOLE)
    assert torch.equal(heat_of([RED], maps, (9, 9)).at(first), whole[first])


def test_a_weight_above_one_saturates():
    found = heat_of([Phrase("red", (2,), 2.0)], tokens(red=cell(0, 0) + cell(1, 1, 0.25) + cell(2, 2, 0.5))).at(WHOLE)[0]
    assert [float(found[place, place]) for place in range(4)] == [1, 0.5, 1, 0]
    both = heat_of([Phrase("red", (2,), 2.0), CAT], tokens(red=cell(0, 0) + cell(1, 1, 0.25), cat=cell(3, 3))).at(WHOLE)[0]
    assert [float(both[place, place]) for place in (0, 1, 3)] == [1, 0.5, 1]


def test_a_scale_spans_a_ten_thousandth_of_the_heat_at_least():
    heat = torch.tensor([1.0, 1 - 2**-15, 0.5])
    normalise(heat, (1 - 2**-14, 1.0))
    assert heat.tolist() == [pytest.approx(2**-14 / 1e-4), pytest.approx(2**-15 / 1e-4), 0]
    cold = torch.tensor([0.0, 5e-13])
    normalise(cold, (0.0, 5e-13))
    assert cold.tolist() == [0, pytest.approx(0.5)]


def test_resizing_takes_a_cell_for_an_area_not_for_a_point():
    ramp = torch.arange(1.0, 9).expand(1, 8, 8)
    found = resize(ramp, (16, 16))[0]
    expected = (torch.arange(16) + 0.5) / 2 + 0.5  # of each pixel's centre
    assert (found[:, 4:12] - expected[4:12]).abs().max() < 0.05
    assert torch.equal(resize(ramp.mT, (16, 16))[0], found.T)


def test_the_heat_of_no_phrase_is_none():
    heat = WordsHeat([], 4, 4)
    assert (len(heat), heat.weight, heat.all_but) == (0, 0, False)


def test_a_record_in_which_nothing_was_seen_says_so():
    with pytest.raises(ValueError, match="no cross-attention maps"):
        record_heat(CrossAttentionRecord(WORDS), [RED], 4, 4)


def test_a_record_with_more_levels_than_maps_is_refused():
    with pytest.raises(ValueError, match="shorter|longer"):
        record_heat(CrossAttentionRecord(WORDS, [0.5, 3.0], [tokens(red=cell(0, 0))]), [RED], 4, 4)
