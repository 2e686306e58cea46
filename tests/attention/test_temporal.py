import pytest
import torch

from blade.attention.temporal import key_frames, temporal_attention

FRAMES, CONDS, CELLS, WIDTH = 5, 2, 6, 8


def plain(q, k, v):
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def tensors():
    torch.manual_seed(0)
    return [torch.randn(CONDS * FRAMES, CELLS, WIDTH) for _ in range(3)]


SEEN = {
    "first_previous": lambda f: [0, max(f - 1, 0)],
    "self_middle": lambda f: [f, FRAMES // 2],
    "all": lambda f: list(range(FRAMES)),
}


@pytest.mark.parametrize("keys_from", SEEN)
def test_each_frame_attends_to_the_frames_it_should_and_to_its_own_cond_only(keys_from):
    q, k, v = tensors()
    out = temporal_attention(q, k, v, FRAMES, keys_from, plain)
    for cond in range(CONDS):
        for frame in range(FRAMES):
            rows = [cond * FRAMES + f for f in SEEN[keys_from](frame)]
            expected = plain(q[cond * FRAMES + frame], k[rows].flatten(0, 1), v[rows].flatten(0, 1))
            torch.testing.assert_close(out[cond * FRAMES + frame], expected)


@pytest.mark.parametrize("keys_from", SEEN)
def test_a_single_frame_is_plain_self_attention(keys_from):
    q, k, v = (t[:1] for t in tensors())
    torch.testing.assert_close(temporal_attention(q, k, v, 1, keys_from, plain), plain(q, k, v))


def test_an_unknown_choice_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'next'.*first_previous, self_middle, all"):
        key_frames(3, "next")
