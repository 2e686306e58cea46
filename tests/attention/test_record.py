import copy
import json

import pytest
import torch

from blade.attention.record import CrossAttentionRecord, MapRecorder, recorded_sizes, token_maps
from blade.attention.words import PromptWords, Word

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
    sigma, maps = recorder.finish()
    assert sigma == 1.5
    assert set(maps) == {(3, 4)}
    expected = torch.stack([softmax_maps(q, k, 2)[..., [2, 3]].sum(-1) for q, k in layers]).mean(0).view(2, 3, 4)
    picked = CrossAttentionRecord(WORDS, [sigma], [maps]).pick(0, (2, 3))[(3, 4)]
    torch.testing.assert_close(picked, expected, rtol=2e-3, atol=2e-3)  # kept in fp16


def test_batches_of_frames_add_up_to_the_whole_clip_however_often_a_frame_is_shown():
    q, k = torch.randn(5, 12, 16), torch.randn(5, 77, 16)
    whole, parts = (MapRecorder(WORDS, frozenset([(3, 4)]), 5) for _ in range(2))
    for recorder, passes in ((whole, [[0, 1, 2, 3, 4]]), (parts, [[0, 1, 2], [3, 4], [2, 1]])):
        recorder.begin(1.0)
        for clip in passes:
            recorder.add(q[clip], k[clip], 2, (3, 4), 1.0, clip)
    torch.testing.assert_close(parts.finish()[1][(3, 4)], whole.finish()[1][(3, 4)])


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


def filled(levels=2, allocated=3, only_first=()):
    """A record of two resolutions; of those in only_first, at the first level alone."""
    record = CrossAttentionRecord(WORDS)
    for level in range(levels):
        maps = {size: torch.rand(2, 3, *size).half() for size in ((3, 4), (6, 8)) if level == 0 or size not in only_first}
        record.add(1 / (level + 3), maps, allocated, lambda shape, dtype: torch.empty(shape, dtype=dtype))
    return record


def same_record(a, b):
    assert (a.words, a.sigmas, len(a.levels)) == (b.words, b.sigmas, len(b.levels))
    for one, other in zip(a.levels, b.levels, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[size], other[size]) for size in one)


@pytest.mark.parametrize(
    "record",
    [
        filled(),
        filled(only_first=[(6, 8)]),
        CrossAttentionRecord(WORDS, [0.5, 0.2], [{(3, 4): torch.rand(2, 3, 3, 4)}, {(6, 8): torch.rand(2, 3, 6, 8)}]),
        CrossAttentionRecord(PromptWords("", (), 77)),
    ],
    ids=["whole", "a resolution that ends", "a resolution that begins late, no stores", "nothing"],
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
