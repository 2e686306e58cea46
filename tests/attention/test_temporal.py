import pytest
import torch

from blade.attention.temporal import STAND_INS, CarriedKeys, FrameBatch, KeyFrames, pick, plan_batches, temporal_attention

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


# Plans, written out


def test_each_kind_names_a_frame_and_the_ends_stand_in_for_what_lies_beyond_them():
    kinds = ("self", "first", "previous", "next", "middle")
    assert [KeyFrames(kinds, 3).seen_by(frame, 8) for frame in (0, 4, 7)] == [(0, 0, 0, 1, 4, 0), (4, 0, 3, 5, 4, 3), (7, 0, 6, 7, 4, 6)]
    assert KeyFrames(("all", "self"), 3).seen_by(2, 4) == (0, 1, 2, 3)
    assert KeyFrames((), 1).seen_by(5, 8) == (5,)


def test_a_choice_is_told_in_words():
    assert [str(keys) for keys in (KeyFrames(("self",)), KeyFrames(("first", "previous"), 4), KeyFrames((), 2))] == [
        "self",
        "first, previous, anchor every 4",
        "anchor every 2",
    ]
    assert [
        keys.plain for keys in (KeyFrames(("self",)), KeyFrames(("self",), 1), KeyFrames(("first",)), KeyFrames(("self", "first")))
    ] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("keys", "ahead"),
    [
        (KeyFrames(("self", "first", "previous")), ()),
        (KeyFrames((), 4), ()),
        (KeyFrames(("middle",)), (10,)),
        (KeyFrames(("first", "middle")), (0, 10)),
        (KeyFrames(("middle",), 4), (8, 10)),
        (KeyFrames(("next",)), (0, 6, 13, 19)),
        (KeyFrames(("next", "middle"), 5), (0, 5, 6, 10, 13, 15, 19)),
        (KeyFrames(("all",)), (0, 6, 13, 19)),
    ],
    ids=str,
)
def test_frames_that_earlier_ones_look_at_are_sent_ahead_with_what_they_see_themselves(keys, ahead):
    assert keys.pilots(20) == ahead


def test_plain_batches_carry_nothing():
    assert plan_batches(5, KeyFrames(("self",)), 2) == (FrameBatch((0, 1)), FrameBatch((2, 3)), FrameBatch((4,)))


def test_a_batch_that_looks_back_is_left_the_last_frame():
    assert plan_batches(5, KeyFrames(("previous",)), 2) == (
        FrameBatch((0, 1), (), ((0,), (0,)), (1,)),
        FrameBatch((2, 3), (1,), ((0,), (1,)), (2,)),
        FrameBatch((4,), (3,), ((0,),), ()),
    )


def test_anchors_are_carried_as_long_as_they_are_seen():
    assert plan_batches(6, KeyFrames(("self",), 3), 2) == (
        FrameBatch((0, 1), (), ((0, 0), (1, 0)), (0,)),
        FrameBatch((2, 3), (0,), ((1, 0), (2, 2)), (2,)),
        FrameBatch((4, 5), (3,), ((1, 0), (2, 0)), ()),
    )


def test_the_middle_frame_goes_ahead_and_is_kept_to_the_end():
    assert plan_batches(5, KeyFrames(("self", "middle")), 2) == (
        FrameBatch((2,), (), ((0, 0),), (0,), pilot=True),
        FrameBatch((0, 1), (2,), ((1, 0), (2, 0)), (0,)),
        FrameBatch((2, 3), (2,), ((1, 1), (2, 1)), (1,)),
        FrameBatch((4,), (2,), ((1, 0),), ()),
    )


def test_where_the_next_frame_has_not_passed_the_nearest_that_has_stands_in():
    plan = plan_batches(12, KeyFrames(("next",)), 4)
    assert plan[0] == FrameBatch((0, 4, 7, 11), (), ((0,), (1,), (2,), (3,)), (0, 1, 2, 3), pilot=True)
    seen = {}
    for batch in plan[1:]:
        places = batch.carried + batch.frames
        seen |= {frame: places[position] for frame, (position,) in zip(batch.frames, batch.seen, strict=True)}
    assert seen == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 7, 8: 9, 9: 10, 10: 11, 11: 11}


@pytest.mark.parametrize("keys", [KeyFrames(("first",)), KeyFrames(("next",)), KeyFrames(("all",))], ids=str)
def test_a_clip_of_one_batch_passes_at_once_and_is_not_sent_ahead(keys):
    for frames, size in ((4, 4), (4, 9)):
        (batch,) = plan_batches(frames, keys, size)
        assert batch == FrameBatch(tuple(range(frames)), seen=tuple(keys.seen_by(frame, frames) for frame in range(frames)))
    assert len(plan_batches(4, keys, 3)) == (2 if keys.kinds == ("first",) else 1)  # the four sent ahead are the whole clip


def test_queries_of_frames_that_see_the_same_are_one_row_unless_they_are_wanted_apart():
    q, k, v = tensors(3)
    shapes = []

    def attend(*rows):
        shapes.append([tuple(row.shape) for row in rows])
        return plain(*rows)

    batch = FrameBatch((0, 1, 2), seen=((0, 2),) * 3)
    together, apart = (temporal_attention(q, k, v, CONDS, batch, attend, apart=apart) for apart in (False, True))
    assert shapes == [[(2, 3 * CELLS, WIDTH), *[(2, 2 * CELLS, WIDTH)] * 2], [(6, CELLS, WIDTH), *[(6, 2 * CELLS, WIDTH)] * 2]]
    torch.testing.assert_close(together, apart)


def test_keys_are_taken_for_each_cond_and_layer_in_the_order_asked_for():
    carried = CarriedKeys()
    keys, values = torch.rand(2, 3, CELLS, WIDTH), torch.rand(2, 3, CELLS, WIDTH)
    carried.put("one layer", CONDS, keys, values)
    carried.put("another", CONDS, keys + 1, values + 1)
    found = carried.take("one layer", CONDS[::-1], torch.device("cpu"))
    assert torch.equal(found[0], keys.flip(0)) and torch.equal(found[1], values.flip(0))
    assert torch.equal(carried.take("another", CONDS[1:], torch.device("cpu"))[0], keys[1:] + 1)


@pytest.mark.parametrize(
    ("positions", "view"), [((0, 1, 2), True), ((1, 2), True), ((3,), True), ((0, 2), False), ((2, 1), False), ((1, 1), False)]
)
def test_frames_in_a_row_are_picked_without_a_copy(positions, view):
    held = torch.rand(2, 4, CELLS, WIDTH)
    found = pick(held, positions)
    assert torch.equal(found, held[:, list(positions)])
    assert (found.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()) == view
