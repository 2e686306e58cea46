import pytest
import torch

from blade.attention.temporal import STAND_INS, CarriedKeys, KeyFrames, plan_batches, temporal_attention

FRAMES, CELLS, WIDTH = 11, 6, 8
CONDS = ["first cond", "second cond"]
SINGLE = {
    "self": lambda f: f,
    "first": lambda f: 0,
    "previous": lambda f: max(f - 1, 0),
    "next": lambda f: min(f + 1, FRAMES - 1),
    "middle": lambda f: FRAMES // 2,
}
CAUSAL = [  # and with them those whose frames ahead need nothing that has not passed
    KeyFrames(("first",)),
    KeyFrames(("previous",)),
    KeyFrames(("first", "previous")),
    KeyFrames(("self", "first", "previous")),
    KeyFrames((), anchor_every=4),
    KeyFrames(("self", "previous"), anchor_every=3),
    KeyFrames(("self", "middle")),
    KeyFrames(("first", "middle")),
    KeyFrames(("self", "first", "middle"), anchor_every=2),
]
VARIANTS = [*CAUSAL, KeyFrames(("all",)), KeyFrames(("next",)), KeyFrames(("self", "next")), KeyFrames(("previous", "next", "middle"), 5)]


def plain(q, k, v):
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v


def tensors(frames=FRAMES, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(len(CONDS) * frames, CELLS, WIDTH, dtype=torch.float64).to(dtype) for _ in range(3)]


def gathered(keys, q, k, v):
    """Attention in float64 over the frames that are written out one by one."""
    q, k, v = (t.double().unflatten(0, (len(CONDS), -1)) for t in (q, k, v))
    out = torch.empty_like(q)
    for frame in range(FRAMES):
        seen = list(range(FRAMES)) if "all" in keys.kinds else [SINGLE[kind](frame) for kind in keys.kinds]
        if keys.anchor_every:
            seen.append(keys.anchor_every * (frame // keys.anchor_every))
        out[:, frame] = plain(q[:, frame], k[:, seen].flatten(1, 2), v[:, seen].flatten(1, 2))
    return out.flatten(0, 1)


def in_batches(keys, size, q, k, v):
    """The clip in batches, as the host passes it: each holds all conds, one after the other."""
    carried, out = CarriedKeys(), torch.empty_like(q).unflatten(0, (len(CONDS), -1))
    for batch in plan_batches(FRAMES, keys, size):
        rows = [t.unflatten(0, (len(CONDS), -1))[:, list(batch.frames)].flatten(0, 1) for t in (q, k, v)]
        part = temporal_attention(*rows, CONDS, batch, plain, carried, "layer")
        if not batch.pilot:
            out[:, list(batch.frames)] = part.unflatten(0, (len(CONDS), -1))
    return out.flatten(0, 1), carried


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("keys", VARIANTS, ids=str)
def test_a_variant_is_plain_attention_over_the_gathered_frames(keys):
    q, k, v = tensors()
    batch = plan_batches(FRAMES, keys, FRAMES)[0]
    assert relative(temporal_attention(q, k, v, CONDS, batch, plain), gathered(keys, q, k, v)) < 1e-5


def test_keys_from_itself_are_the_layers_own_attention_to_the_bit():
    q, k, v = tensors()
    for batch in plan_batches(FRAMES, KeyFrames(("self",)), FRAMES):
        assert torch.equal(temporal_attention(q, k, v, CONDS, batch, plain), plain(q, k, v))


@pytest.mark.parametrize("size", [1, 3, 4, FRAMES])
@pytest.mark.parametrize("keys", CAUSAL, ids=str)
def test_batches_equal_the_whole_clip_where_no_frame_looks_ahead(keys, size):
    q, k, v = tensors()
    found, _ = in_batches(keys, size, q, k, v)
    assert relative(found, gathered(keys, q, k, v)) < 1e-5


def test_frames_of_one_cond_never_reach_another():
    q, k, v = tensors()
    for keys in VARIANTS:
        before, _ = in_batches(keys, 4, q, k, v)
        other_k, other_v = k.clone(), v.clone()
        other_k[FRAMES:] += 5
        other_v[FRAMES:] -= 5
        after, _ = in_batches(keys, 4, q, other_k, other_v)
        assert torch.equal(before[:FRAMES], after[:FRAMES])
        assert not torch.allclose(before[FRAMES:], after[FRAMES:])


@pytest.mark.parametrize("kinds", [("all",), ("self", "next")])
def test_frames_spread_over_the_clip_stand_in_for_those_that_have_not_passed(kinds):
    keys = KeyFrames(kinds)
    batches = plan_batches(100, keys, 10)
    assert batches[0].pilot
    assert batches[0].frames == (0, 33, 66, 99)
    for batch in batches[1:]:
        places = batch.carried + batch.frames
        last = [places[position] for position in batch.seen[-1]]
        if kinds == ("all",):
            assert sorted(set(batch.frames) | set(batches[0].frames)) == sorted(last)
        elif batch is not batches[-1]:
            assert last[0] == batch.frames[-1]
            assert last[1] in (*batches[0].frames, batch.frames[-1])


@pytest.mark.parametrize("keys", VARIANTS, ids=str)
def test_what_is_carried_does_not_grow_with_the_clip(keys):
    assert max(len(batch.carried) for batch in plan_batches(2000, keys, 16)) <= 3 * STAND_INS


def test_what_is_carried_does_not_hold_on_to_its_batch():
    q, k, v = tensors()
    _, carried = in_batches(KeyFrames(("first", "previous")), 10, q, k, v)
    for key, value in carried.held.values():
        assert key.untyped_storage().nbytes() == key.nbytes
        assert value.untyped_storage().nbytes() == value.nbytes


def test_half_precision_stays_half_precision():
    q, k, v = tensors(dtype=torch.float16)
    found, carried = in_batches(KeyFrames(("self", "first", "previous")), 4, q, k, v)
    assert found.dtype == torch.float16
    assert all(key.dtype == torch.float16 for key, _ in carried.held.values())


def test_a_single_frame_is_plain_self_attention():
    q, k, v = tensors(1)
    for keys in VARIANTS:
        out = temporal_attention(q, k, v, CONDS, plan_batches(1, keys, 1)[0], plain)
        torch.testing.assert_close(out, plain(q, k, v))


@pytest.mark.parametrize(
    ("kinds", "anchor", "sentence"),
    [
        (("last",), 0, "'last'; choose from self, first, previous, next, middle, all"),
        ((), 0, "no frame is chosen"),
        (("self",), -1, "anchor_every is -1"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(kinds, anchor, sentence):
    with pytest.raises(ValueError, match=sentence):
        KeyFrames(kinds, anchor)
