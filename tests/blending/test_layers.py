"""What several edits draw together, by hand-made masks."""

import pytest
import torch

from blade.blending.consensus import Consensus
from blade.blending.layers import Layer, Layers

FRAMES, CELLS = 3, 4
ALWAYS = (0, 99)


def columns(*values):
    """A mask whose columns of cells have these values. [FRAMES, 1, CELLS, CELLS]"""
    return torch.tensor(values, dtype=torch.float32).expand(FRAMES, 1, CELLS, -1).clone()


def drawn(*masks, window=ALWAYS, step=0, **options):
    layers = Layers([Layer(lambda step, mask=mask: mask, **options) for mask in masks], window)
    return layers, layers.at_step(step)


LEFT, MIDDLE, RIGHT = columns(1, 1, 0, 0), columns(0, 1, 1, 0), columns(0, 0, 0, 1)
SOFT = columns(0.25, 0.5, 0.75, 1), columns(1, 0.5, 0.25, 0), columns(0.1, 0.7, 0, 0.3)


def test_one_edits_mask_is_the_masks():
    layers, found = drawn(SOFT[0])
    assert torch.equal(found, SOFT[0])
    assert torch.equal(layers.shares[0], SOFT[0])
    assert torch.equal(layers.prompt_shares()[0], torch.ones_like(found))


def test_masks_apart_are_all_in_the_whole_mask_and_each_keeps_its_own():
    layers, found = drawn(LEFT, RIGHT)
    assert torch.equal(found, columns(1, 1, 0, 1))
    assert torch.equal(layers.shares[0], LEFT)
    assert torch.equal(layers.shares[1], RIGHT)


@pytest.mark.parametrize("turned", [False, True])
def test_where_masks_overlap_the_later_edit_is_seen(turned):
    earlier, later = (MIDDLE, LEFT) if turned else (LEFT, MIDDLE)
    layers, found = drawn(earlier, later)
    assert torch.equal(found, columns(1, 1, 1, 0))
    assert torch.equal(layers.shares[1], later)
    assert torch.equal(layers.shares[0], earlier * (1 - later))


def test_an_edit_under_two_others_shows_through_what_both_leave():
    layers, found = drawn(*SOFT)
    torch.testing.assert_close(layers.shares[0], SOFT[0] * (1 - SOFT[1]) * (1 - SOFT[2]))
    torch.testing.assert_close(found, sum(layers.shares))


@pytest.mark.parametrize("masks", [(LEFT, MIDDLE), (LEFT, RIGHT, MIDDLE), SOFT])
def test_the_prompts_shares_sum_to_one_and_the_first_speaks_wherever_no_later_one_does(masks):
    layers, _ = drawn(*masks)
    shares = layers.prompt_shares()
    torch.testing.assert_close(sum(shares), torch.ones_like(shares[0]))
    assert all(torch.equal(mine, other) for mine, other in zip(shares[1:], layers.shares[1:], strict=True))
    assert min(float(share.min()) for share in shares) >= 0


@pytest.mark.parametrize(("step", "blended"), [(0, False), (1, True), (2, True), (3, False)])
def test_outside_its_window_nothing_is_blended_and_each_edit_keeps_its_place(step, blended):
    layers, found = drawn(LEFT, MIDDLE, window=(1, 3), step=step)
    assert torch.equal(found, columns(1, 1, 1, 0) if blended else torch.ones_like(found))
    assert torch.equal(layers.shares[0], columns(1, 0, 0, 0))
    assert torch.equal(layers.shares[1], MIDDLE)


def test_each_edit_is_renoised_by_its_own_amount_where_it_is_seen():
    layers = Layers([Layer(lambda step: LEFT, 0.25), Layer(lambda step: MIDDLE, 1.0), Layer(lambda step: RIGHT)], ALWAYS)
    layers.at_step(0)
    assert torch.equal(layers.renoised(), columns(0.25, 1, 1, 0))


def test_one_edit_alone_is_renoised_where_it_is():
    layers, _ = drawn(SOFT[0], renoise=0.5)
    assert torch.equal(layers.renoised(), 0.5 * SOFT[0])


def test_without_fresh_noise_no_cell_is_renoised():
    layers, found = drawn(LEFT, MIDDLE)
    assert torch.equal(layers.renoised(), torch.zeros_like(found))


def still(amount):
    """Frames that agree without being carried: the object does not move."""
    return Consensus(torch.tensor([[0.0, 0.0, 1.0]]).repeat(FRAMES, 1), amount, 0.0)


def test_each_edits_frames_agree_where_it_is_seen_and_nowhere_else():
    clip = torch.randn(FRAMES, 2, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    layers = Layers([Layer(lambda step: LEFT), Layer(lambda step: MIDDLE, consensus=still(1.0))], ALWAYS)
    layers.at_step(0)
    found, agreed = layers.agree(clip, 5.0), still(1.0)(clip, 5.0)
    inside = MIDDLE.expand_as(clip) > 0
    assert torch.equal(found[inside], agreed[inside])
    assert torch.equal(found[~inside], clip[~inside])
    assert (agreed - clip)[inside].abs().min() > 0


def test_two_edits_agree_each_in_its_own_way_and_neither_upon_the_others_result():
    clip = torch.randn(FRAMES, 2, CELLS, CELLS, generator=torch.Generator().manual_seed(1))
    layers = Layers([Layer(lambda step: LEFT, consensus=still(0.5)), Layer(lambda step: RIGHT, consensus=still(1.0))], ALWAYS)
    layers.at_step(0)
    found, right = layers.agree(clip, 5.0), RIGHT.expand_as(clip) > 0
    assert torch.equal(found[right], still(1.0)(clip, 5.0)[right])
    assert torch.equal(found[~right], still(0.5)(clip, 5.0)[~right])


def test_masks_are_asked_once_a_step():
    asked = []
    layers = Layers([Layer(lambda step, name=name: asked.append((name, step)) or LEFT) for name in "ab"], ALWAYS)
    for step in range(3):
        layers.at_step(step)
        layers.prompt_shares()
        layers.renoised()
        layers.agree(torch.zeros(FRAMES, 1, CELLS, CELLS), 1.0)
    assert sorted(asked) == [(name, step) for name in "ab" for step in range(3)]


def test_of_each_step_the_middle_frames_mask_is_kept_and_not_the_whole_clips():
    masks = [columns(*torch.eye(CELLS)[step].tolist()) for step in range(3)]
    for mask in masks:
        mask[0] = mask[2] = 0
    layers = Layers([Layer(lambda step: masks[step])], ALWAYS)
    for step in range(3):
        layers.at_step(step)
    assert [torch.equal(kept, mask[1, 0]) for kept, mask in zip(layers.middle, masks, strict=True)] == [True] * 3
    assert all(kept.untyped_storage().nbytes() == 4 * CELLS * CELLS for kept in layers.middle)


def test_without_an_edit_there_is_nothing_to_do():
    with pytest.raises(ValueError, match="no edit"):
        Layers([], ALWAYS).at_step(0)
