import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from blade.attention.record import CrossAttentionRecord, LevelMaps, MapRecorder, clear, recorded_sizes, spread_maps, token_maps
from blade.attention.words import PromptWords, Word
from blade.inversion.coordinates import EPS

WORDS = PromptWords("a cat", (Word("a", (1,)), Word("cat", (2, 3))), 77)


def softmax_maps(q, k, heads):
    """Every column of the full softmax, averaged over heads. [frames, cells, columns]"""
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)


def test_kept_columns_equal_those_of_the_whole_softmax():
    q, k = torch.randn(2, 12, 32), torch.randn(2, 77, 32)
    expected = softmax_maps(q, k, 4)[..., [1, 5]].transpose(1, 2)
    torch.testing.assert_close(token_maps(q, k, 4, torch.tensor([[1, 5]])), expected)


def test_copies_of_a_repeated_context_are_summed_to_the_unrepeated_map():
    """ComfyUI repeats the shorter of two contexts; the weight of a word is spread over its copies."""
    q, k = torch.randn(1, 12, 16), torch.randn(1, 77, 16)
    once = token_maps(q, k, 2, torch.tensor([[3]]))
    twice = token_maps(q, k.repeat(1, 2, 1), 2, torch.tensor([[3], [80]]))
    torch.testing.assert_close(once, twice)


def test_layers_are_averaged_per_resolution_and_other_resolutions_left_out():
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 2)
    layers = [(torch.randn(2, 12, 16), torch.randn(2, 77, 16)) for _ in range(3)]
    recorder.begin(1.5)
    for q, k in layers:
        recorder.add(q, k, 2, (3, 4), 1.5, range(2))
    recorder.add(torch.randn(2, 48, 16), torch.randn(2, 77, 16), 2, (6, 8), 1.5, range(2))
    found = recorder.finish()
    assert found.sigma == 1.5
    assert set(found.maps) == {(3, 4)}
    expected = torch.stack([softmax_maps(q, k, 2)[..., [2, 3]].sum(-1) for q, k in layers]).mean(0).view(2, 3, 4)
    picked = CrossAttentionRecord(WORDS, [found.sigma], [found.maps]).pick(0, (2, 3))[(3, 4)]
    torch.testing.assert_close(picked, expected, rtol=2e-3, atol=2e-3)  # kept in fp16


def test_batches_of_frames_add_up_to_the_whole_clip_however_often_a_frame_is_shown():
    q, k = torch.randn(5, 12, 16), torch.randn(5, 77, 16)
    whole, parts = (MapRecorder(WORDS, frozenset([(3, 4)]), 5) for _ in range(2))
    for recorder, passes in ((whole, [[0, 1, 2, 3, 4]]), (parts, [[0, 1, 2], [3, 4], [2, 1]])):
        recorder.begin(1.0)
        for clip in passes:
            recorder.add(q[clip], k[clip], 2, (3, 4), 1.0, clip)
    torch.testing.assert_close(parts.finish().maps[(3, 4)], whole.finish().maps[(3, 4)])


def affinity(q, k, heads):
    """Self-attention of each head, in float64. [frames, heads, cells, cells]"""
    q, k = (t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


@pytest.mark.parametrize("tokens", [1, 4, 11], ids=["fewer than a head is wide", "as many", "more, and no multiple"])
def test_spreading_is_the_heads_mean_self_attention_times_the_maps(tokens):
    q, k, maps = torch.randn(2, 12, 8), torch.randn(2, 12, 8), torch.rand(2, tokens, 12)
    expected = torch.einsum("fhij,ftj->fti", affinity(q, k, 2), maps.double()) / 2
    torch.testing.assert_close(spread_maps(q, k, 2, maps).double(), expected, rtol=1e-5, atol=1e-6)


def seen(*calls, sigma=0.4, frames=2, sizes=((3, 4),)):
    """What a recorder hands over after calls of its methods at a noise level: (name, q, k, size, clip)."""
    recorder = MapRecorder(WORDS, frozenset(sizes), frames)
    recorder.begin(sigma)
    for name, q, k, size, clip in calls:
        getattr(recorder, name)(q, k, 2, size, sigma, clip)
    return recorder.finish()


def self_attention(frames=2, cells=12):
    return 3 * torch.randn(frames, cells, 16), 3 * torch.randn(frames, cells, 16)


def cross_attention(frames=2, cells=12):
    return torch.randn(frames, cells, 16), torch.randn(frames, 77, 16)


def test_a_layers_maps_are_spread_along_the_self_attention_before_it():
    (q, k), (q_words, k_words) = self_attention(), cross_attention()
    found = seen(("look", q, k, (3, 4), range(2)), ("add", q_words, k_words, (3, 4), range(2)))
    words = softmax_maps(q_words, k_words, 2)[..., [1, 2, 3]].transpose(1, 2).double()
    expected = torch.einsum("fhij,ftj->fti", affinity(q, k, 2), words) / 2
    torch.testing.assert_close(found.maps[3, 4].flatten(2).double(), words, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(found.spread[3, 4].flatten(2).double(), expected, rtol=2e-3, atol=1e-4)


def test_layers_without_self_attention_in_view_count_in_the_spread_as_they_are():
    layers = [("add", *cross_attention(), (3, 4), range(2)) for _ in range(2)]
    found = seen(*layers)
    assert torch.equal(found.spread[3, 4], found.maps[3, 4])


@pytest.mark.parametrize(
    "looked_at",
    [
        [("look", *self_attention(cells=48), (6, 8), range(2))],
        [("look", *self_attention(), (3, 4), (1, 0))],
        [("look", *self_attention(), (4, 3), range(2))],
        [("look", *self_attention(cells=7), (3, 4), range(2))],
        [("look", self_attention()[0], self_attention(cells=24)[1], (3, 4), range(2))],
        [("look", *self_attention(), (3, 4), range(2)), ("look", *self_attention(cells=48), (6, 8), range(2))],
        [("look", *self_attention(), (3, 4), range(2)), ("add", *cross_attention(cells=48), (6, 8), range(2))],
    ],
    ids=["other size", "other frames", "other shape", "merged tokens", "keys of several frames", "not the last", "of the layer before"],
)
def test_a_self_attention_of_something_else_is_not_used(looked_at):
    found = seen(*looked_at, ("add", *cross_attention(), (3, 4), range(2)), sizes=((3, 4), (6, 8)))
    assert torch.equal(found.spread[3, 4], found.maps[3, 4])


def test_a_self_attention_is_used_once():
    look = ("look", *self_attention(), (3, 4), range(2))
    first, second = (("add", *cross_attention(), (3, 4), range(2)) for _ in range(2))
    both, without, alone = seen(look, first, second), seen(second), seen(look, first)
    torch.testing.assert_close(
        both.spread[3, 4].float(), (without.maps[3, 4].float() + alone.spread[3, 4].float()) / 2, rtol=5e-3, atol=1e-4
    )


def test_each_threads_maps_are_spread_along_its_own_self_attention():
    """Two conds of one prompt, which a host with several devices runs at once: their layers come mixed."""
    layers = [[("look", *self_attention(), (3, 4), range(2)), ("add", *cross_attention(), (3, 4), range(2))] for _ in range(2)]
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 2)
    recorder.begin(0.4)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for name, number in (("look", 0), ("look", 1), ("add", 0), ("add", 1)):
            call = layers[number][name == "add"]
            (one, other)[number].submit(getattr(recorder, name), call[1], call[2], 2, call[3], 0.4, call[4]).result()
    mixed, first, second = recorder.finish(), seen(*layers[0]), seen(*layers[1])
    expected = (first.spread[3, 4].float() + second.spread[3, 4].float()) / 2
    torch.testing.assert_close(mixed.spread[3, 4].float(), expected, rtol=5e-3, atol=1e-4)
    assert not torch.equal(mixed.spread[3, 4], mixed.maps[3, 4])


def test_batches_of_frames_are_spread_as_the_whole_clip_is():
    (q, k), (q_words, k_words) = self_attention(3), cross_attention(3)
    calls = [(name, a[clip], b[clip], (3, 4), clip) for clip in ([0, 1], [2]) for name, a, b in (("look", q, k), ("add", q_words, k_words))]
    whole = seen(("look", q, k, (3, 4), range(3)), ("add", q_words, k_words, (3, 4), range(3)), frames=3)
    torch.testing.assert_close(seen(*calls, frames=3).spread[3, 4], whole.spread[3, 4])


@pytest.mark.parametrize(("sigma", "spread"), [(0.51, False), (0.49, True)])
def test_nothing_is_spread_where_noise_is_more_than_a_fifth(sigma, spread):
    found = seen(("look", *self_attention(), (3, 4), range(2)), ("add", *cross_attention(), (3, 4), range(2)), sigma=sigma)
    assert (found.spread is not None) == spread
    assert set(found.maps) == {(3, 4)}


def test_signals_share_is_all_without_noise_a_half_at_equal_parts_and_falls():
    assert EPS.share(0.0) == 1
    assert EPS.share(1.0) == 0.5
    assert EPS.share(3.0) == pytest.approx(0.1)


def test_calls_at_another_noise_level_are_not_recorded():
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 2)
    recorder.begin(2.0)
    recorder.add(torch.randn(1, 12, 16), torch.randn(1, 77, 16), 2, (3, 4), 1.0, range(1))
    assert recorder.finish() is None


def test_merged_tokens_are_left_out_instead_of_misread():
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 2)
    recorder.begin(2.0)
    recorder.add(torch.randn(1, 7, 16), torch.randn(1, 77, 16), 2, (3, 4), 2.0, range(1))
    assert recorder.finish() is None


def test_sd15_at_512_keeps_the_quarter_and_the_half():
    assert recorded_sizes(64, 64) == {(32, 32), (16, 16)}


def test_a_tiny_latent_keeps_its_finest_maps():
    assert recorded_sizes(8, 8) == {(8, 8)}


def keep(record, *levels):
    for level in levels:
        record.add(level, len(levels), lambda shape, dtype: torch.empty(shape, dtype=dtype))
    return record


def half_maps(*sizes):
    return {size: torch.rand(2, 3, *size).half() for size in sizes}


def filled(levels=2, allocated=3, only_first=(), spread=False):
    """A record of two resolutions; of those in only_first, at the first level alone."""
    record = CrossAttentionRecord(WORDS)
    for level in range(levels):
        sizes = [size for size in ((3, 4), (6, 8)) if level == 0 or size not in only_first]
        found = LevelMaps(1 / (level + 3), half_maps(*sizes), half_maps(*sizes) if spread else None)
        record.add(found, allocated, lambda shape, dtype: torch.empty(shape, dtype=dtype))
    return record


def test_the_spread_of_a_record_is_the_levels_mean_by_their_share_of_signal():
    levels = [LevelMaps(sigma, half_maps((3, 4)), half_maps((3, 4))) for sigma in (0.1, 0.3, 0.5)]
    record = keep(CrossAttentionRecord(WORDS), *levels, LevelMaps(2.0, half_maps((3, 4))))
    weights = [1 / (1 + level.sigma**2) for level in levels]
    expected = sum(weight * level.spread[3, 4].double() for weight, level in zip(weights, levels, strict=True)) / sum(weights)
    assert len(record.levels) == 4 and record.sigmas == [0.1, 0.3, 0.5, 2.0]
    assert record.spread[3, 4].dtype == torch.float32
    torch.testing.assert_close(record.spread[3, 4].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_resolution_that_only_some_levels_have_is_the_mean_of_those():
    late = half_maps((6, 8))
    record = keep(
        CrossAttentionRecord(WORDS),
        LevelMaps(0.1, half_maps((3, 4)), half_maps((3, 4))),
        LevelMaps(0.4, half_maps((3, 4), (6, 8)), half_maps((3, 4)) | late),
    )
    torch.testing.assert_close(record.spread[6, 8], late[6, 8].float())


def test_the_spread_counts_among_a_records_bytes():
    assert filled(spread=True).nbytes == filled().nbytes + 4 * 2 * 3 * (3 * 4 + 6 * 8)


def same_record(a, b):
    assert (a.words, a.sigmas, len(a.levels)) == (b.words, b.sigmas, len(b.levels))
    for one, other in zip((*a.levels, a.spread), (*b.levels, b.spread), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[size], other[size]) for size in one)


@pytest.mark.parametrize(
    "record",
    [
        filled(),
        filled(only_first=[(6, 8)]),
        filled(spread=True),
        CrossAttentionRecord(WORDS, [0.5, 0.2], [{(3, 4): torch.rand(2, 3, 3, 4)}, {(6, 8): torch.rand(2, 3, 6, 8)}]),
        CrossAttentionRecord(PromptWords("", (), 77)),
    ],
    ids=["whole", "a resolution that ends", "spread", "a resolution that begins late, no stores", "nothing"],
)
def test_a_record_comes_back_from_its_tensors_to_the_bit(record):
    tensors, description = record.to_tensors()
    found = CrossAttentionRecord.from_tensors(tensors, json.loads(json.dumps(description)))
    same_record(found, record)
    same_record(CrossAttentionRecord.from_tensors(*found.to_tensors()), record)


def test_levels_that_were_only_allocated_are_left_out_and_the_others_not_copied():
    record = filled(levels=2, allocated=9)
    tensors, _ = record.to_tensors()
    assert {name: len(maps) for name, maps in tensors.items()} == {"3x4": 2, "6x8": 2}
    assert tensors["3x4"].data_ptr() == record.stores[(3, 4)].data_ptr()


TENSORS, DESCRIPTION = filled().to_tensors()


@pytest.mark.parametrize(
    ("name", "maps", "sentence"),
    [
        ("6x8", None, "should have"),
        ("9x9", torch.rand(2, 2, 3, 9, 9), "should have"),
        ("6x8", torch.rand(2, 2, 3, 48), "[2, 2, 3, 48]"),
        ("6x8", torch.rand(2, 1, 3, 6, 8), "[2, 1, 3, 6, 8]"),
        ("6x8", torch.rand(2, 2, 4, 6, 8), "3 tokens"),
        ("6x8", torch.rand(2, 2, 3, 8, 6), "[2, 2, 3, 8, 6]"),
        ("6x8", torch.rand(1, 2, 3, 6, 8), "1 levels"),
    ],
)
def test_maps_that_do_not_fit_the_record_are_refused(name, maps, sentence):
    tensors = {key: value for key, value in (TENSORS | {name: maps}).items() if value is not None}
    with pytest.raises(ValueError) as caught:
        CrossAttentionRecord.from_tensors(tensors, DESCRIPTION)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("spread 6x8", torch.rand(2, 2, 3, 6, 8)),
        ("spread 6x8", torch.rand(2, 3, 6, 8)),
        ("spread 6x8", torch.rand(1, 1, 3, 6, 8)),
        ("spread 6x8", torch.rand(1, 2, 4, 6, 8)),
        ("spread 6x8", torch.rand(1, 2, 3, 8, 6)),
    ],
    ids=["two levels", "no level", "another number of frames", "of tokens", "another size than its name"],
)
def test_a_spread_that_does_not_fit_the_record_is_refused(name, maps):
    with pytest.raises(ValueError, match=name):
        CrossAttentionRecord.from_tensors(TENSORS | {name: maps}, DESCRIPTION)


def test_a_record_from_before_there_was_a_spread_has_none():
    assert CrossAttentionRecord.from_tensors(TENSORS, DESCRIPTION).spread == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sigmas",), None),
        (("sigmas",), [0.3, float("nan")]),
        (("sigmas",), [0.3]),
        (("sigmas",), [0.3, 0.2, 0.1]),
        (("levels",), []),
        (("levels", "6x8"), [0, 2]),
        (("levels", "6x8"), [1, 0]),
        (("levels", "6x8"), [[0], [1]]),
        (("levels", "6x8"), 2),
        (("words",), "a cat"),
        (("words", "length"), 78),
        (("words", "length"), "77"),
        (("words", "text"), 5),
        (("words", "words"), [["a", [1]], ["cat", [2, 77]]]),
        (("words", "words"), [["a", [2]], ["cat", [1, 3]]]),
        (("words", "words"), [["a", [-1]], ["cat", [1, 3]]]),
        (("words", "words"), [["a", [0.5]], ["cat", [1, 3]]]),
        (("words", "words"), [["a"], ["cat"]]),
    ],
)
def test_a_description_that_does_not_fit_the_record_is_refused(path, value):
    description = copy.deepcopy(DESCRIPTION)
    inner = description
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError):
        CrossAttentionRecord.from_tensors(TENSORS, description)


def test_maps_of_a_fine_resolution_are_not_spread():
    """Its queries and keys would have to be held back, which shows in the peak of memory."""
    size = (24, 24)
    recorder = MapRecorder(WORDS, frozenset([size]), 1)
    recorder.begin(0.3)
    recorder.look(torch.randn(1, 576, 16), torch.randn(1, 576, 16), 2, size, 0.3, range(1))
    recorder.add(torch.randn(1, 576, 16), torch.randn(1, 77, 16), 2, size, 0.3, range(1))
    found = recorder.finish()
    assert found.spread is None and found.maps[size].any()


@pytest.mark.parametrize(
    ("latent", "sizes"),
    [
        ((18, 40), {(18, 40), (9, 20)}),  # 180 cells are just enough
        ((26, 50), {(26, 50), (13, 25)}),  # 1300
        ((25, 53), {(13, 27)}),  # 1325
        ((2, 179), {(2, 179)}),
        ((65, 63), {(33, 32), (17, 16)}),
        ((128, 72), {(32, 18)}),
        ((4000, 3000), {(500, 375)}),
        ((1, 3), {(1, 3)}),
        ((2, 50), {(2, 50)}),
        ((50, 2), {(50, 2)}),
    ],
)
def test_maps_of_180_to_1300_cells_are_kept_or_the_finest_that_is_not_too_fine(latent, sizes):
    assert recorded_sizes(*latent) == sizes


def test_a_level_is_clear_to_a_fifth_of_noise():
    assert clear(0.5) and not clear(0.5001)


@pytest.mark.parametrize(("size", "spread"), [((16, 32), True), ((19, 27), False), ((7, 9), False)])
def test_maps_of_up_to_512_cells_are_spread(size, spread):
    assert MapRecorder(WORDS, frozenset([(16, 32), (19, 27)]), 1).spreads_at(size) == spread


@pytest.mark.parametrize(("sigma", "seen"), [(2.0, True), (2.0 + 1e-6, True), (2.0 - 1e-6, True), (2.0 + 4e-6, False), (2.0 - 4e-6, False)])
def test_a_level_is_the_same_to_a_millionth(sigma, seen):
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 1)
    q = torch.zeros(1, 12, 4)
    assert not recorder.watches(q, (3, 4), sigma)
    recorder.begin(2.0)
    assert recorder.watches(q, (3, 4), sigma) == seen
    assert not recorder.watches(q, (4, 3), sigma) and not recorder.watches(q[:, 1:], (3, 4), sigma)
    recorder.words = PromptWords("", (), 77)
    assert not recorder.watches(q, (3, 4), sigma)


def test_a_frame_that_no_layer_has_shown_is_cold():
    q, k = cross_attention(1)
    found = seen(("add", q, k, (3, 4), [1]))
    assert found.maps[3, 4][0].eq(0).all() and found.maps[3, 4][1].gt(0).all()
    assert found.maps[3, 4].dtype == torch.float16 and found.spread[3, 4].dtype == torch.float16


def test_a_level_ends_with_finish_and_another_begins_anew():
    recorder = MapRecorder(WORDS, frozenset([(3, 4)]), 1)
    one, other = cross_attention(1), cross_attention(1)
    recorder.begin(2.0)
    recorder.add(*one, 2, (3, 4), 2.0, [0])
    recorder.begin(1.0)
    recorder.add(*other, 2, (3, 4), 1.0, [0])
    found = recorder.finish()
    assert found.sigma == 1 and torch.equal(found.maps[3, 4], seen(("add", *other, (3, 4), [0]), sigma=1.0, frames=1).maps[3, 4])
    assert recorder.finish() is None and not recorder.layers and not any(recorder.sums.values())  # nothing waits in memory
    recorder.add(*other, 2, (3, 4), 1.0, [0])
    assert recorder.finish() is None


def test_columns_that_are_no_multiple_of_the_prompts_are_left_out():
    q, k = cross_attention()
    assert seen(("add", q, k[:, :-1], (3, 4), range(2))) is None
    assert seen(("add", q, k.repeat(1, 2, 1), (3, 4), range(2))) is not None


def test_a_records_bytes_are_those_of_the_maps_it_shows():
    assert filled(levels=2, allocated=9).nbytes == 2 * 2 * 2 * 3 * (3 * 4 + 6 * 8)
    assert CrossAttentionRecord(WORDS).nbytes == 0


def test_what_a_record_without_stores_has_is_stacked_by_level():
    maps = [torch.rand(2, 3, 3, 4) for _ in range(3)]
    record = CrossAttentionRecord(
        WORDS, [0.5, 0.2, 0.1], [{(3, 4): maps[0]}, {(3, 4): maps[1], (6, 8): torch.rand(2, 3, 6, 8)}, {(3, 4): maps[2]}]
    )
    tensors, description = record.to_tensors()
    assert torch.equal(tensors["3x4"], torch.stack(maps))
    assert description["levels"] == {"3x4": [0, 1, 2], "6x8": [1]}
    back = CrossAttentionRecord.from_tensors(tensors, description)
    assert set(back.stores) == {(3, 4)} and back.stores[3, 4].data_ptr() == tensors["3x4"].data_ptr()


@pytest.mark.parametrize("sigma", [0.0, -0.1, float("inf")])
def test_a_sigma_that_is_not_positive_is_refused(sigma):
    with pytest.raises(ValueError, match="not positive"):
        CrossAttentionRecord.from_tensors(TENSORS, {**DESCRIPTION, "sigmas": [0.3, sigma]})


def test_a_level_of_which_nothing_was_kept_is_refused():
    tensors = {name: maps[:1] for name, maps in TENSORS.items()}
    with pytest.raises(ValueError, match="level without maps"):
        CrossAttentionRecord.from_tensors(tensors, {**DESCRIPTION, "levels": {name: [0] for name in tensors}})
