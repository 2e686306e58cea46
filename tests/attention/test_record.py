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
