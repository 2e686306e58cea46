"""The target prompt is heard inside the mask only, for a share of the way: what the handler does to a layer, and what comes of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from demo.check import colour_in
from tests.host.helpers import in_cells, temporal

SIZE, HEARD, UNHEARD = (4, 4), "target", "negative"


def heard_in(cells):
    """The cells of the latent that hear an edit which is seen in some. [frames or 1, 1, h, w] to [3, h * w] of bool"""
    return cells.expand(3, -1, -1, -1).flatten(1)


# The handler


@pytest.fixture
def layer(comfy):
    """Calls the handler as a layer of two frames does, with a negative and a target prompt in the batch."""
    from blade.host.attention import confining
    from blade.host.layers import FRAMES, FramePass, Layer, ModelCall

    torch.manual_seed(0)
    q, k, v = torch.randn(4, 16, 8), torch.randn(4, 77, 8), torch.randn(4, 77, 8)

    def attend(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def call(heard, cells=16, original=(4, 4), known=True):
        passing = FramePass(SimpleNamespace(pilot=()), (5, 6), (4, 4), None, None, None)
        options = {"uuids": [UNHEARD, HEARD], "cond_or_uncond": [1, 0]} | ({FRAMES: passing} if known else {})
        layer = Layer(ModelCall(options, original), (("input", 1), 0), SIZE, heads=1, batch=4, rows=4)
        handler = confining(heard, {(HEARD, 0)})
        return handler(q[:, :cells], k, v, attend, layer), attend(q[:, :cells], k, v), v

    return call


def test_where_a_prompt_is_not_heard_a_cell_gets_the_start_tokens_value(layer):
    inside = torch.zeros(2, 16, dtype=torch.bool)
    inside[0, :5] = inside[1, 9:] = True
    asked = []
    out, plain, v = layer(lambda clip, size: asked.append((clip, size)) or inside)
    assert asked == [((5, 6), SIZE)]
    assert torch.equal(out[:2], plain[:2])  # the negative prompt's rows
    assert torch.equal(out[2:][inside], plain[2:][inside])
    assert torch.equal(out[2:][~inside], v[2:, :1].expand(-1, 16, -1)[~inside])


NO_PLACE = {
    "everywhere": {"heard": lambda clip, size: None},
    "cells that another patch has merged": {"cells": 12},
    "a part of the picture": {"original": (4, 2)},
    "a call that is not the sampler's": {"known": False},
}


@pytest.mark.parametrize("case", NO_PLACE.values(), ids=NO_PLACE)
def test_without_a_place_a_layer_is_left_alone(layer, case):
    out, plain, _ = layer(**{"heard": lambda clip, size: torch.zeros(2, 16, dtype=torch.bool)} | case)
    assert torch.equal(out, plain)


# In the sampler


@pytest.fixture
def asked(monkeypatch):
    """What the layers of one size were told at each step: {edit: [None or bool [frames, cells]]}, one entry for each call of the model."""
    from blade.host.blended import HearingPlaces

    found, heard = {}, HearingPlaces.heard

    def note(self, edit, clip, size):
        place = heard(self, edit, clip, size)
        calls = found.setdefault(edit, [])
        if not calls or calls[-1][0] is not self.known:  # one entry a step, of the layers that ask first: those of the latent's own size
            calls.append((self.known, place))
        return place

    monkeypatch.setattr(HearingPlaces, "heard", note)
    return lambda edit=0: [place for _, place in found[edit]]


@pytest.mark.parametrize(("share", "steps"), [(0.0, None), (0.5, 2), (1.0, 4)])
def test_for_its_share_of_the_way_the_prompt_is_heard_in_the_mask_only(studio, box, asked, share, steps):
    studio.sample(mask=box, confine=share)
    if steps is None:
        with pytest.raises(KeyError):
            asked()
        return
    told = asked()
    assert [place is not None for place in told] == [step < steps for step in range(studio.steps)]
    for place in told[:steps]:
        assert torch.equal(place, heard_in(in_cells(box)))


def test_it_changes_the_edit_and_leaves_the_background_and_nothing_for_the_next_run(studio, box):
    outside = ~in_cells(box).expand_as(studio.latent)
    before = studio.latents(mask=box, confine=0.0)
    confined = studio.latents(mask=box, confine=1.0)
    assert torch.equal(confined[outside], studio.clips_own()[outside])
    assert (confined - before)[~outside].abs().mean() > 1e-3
    assert torch.equal(studio.latents(mask=box, confine=0.0), before)


def test_in_a_full_mask_it_is_stock_sampling_to_the_bit(studio):
    assert torch.equal(studio.latents(mask=studio.pixels(0, 128, 0, 128), confine=1.0), studio.stock())


@pytest.mark.parametrize("kinds", [("self",), ("first", "previous"), ("next",)])
def test_in_batches_of_frames_it_is_that_of_the_whole_clip(studio, kinds):
    moving = (studio.truth > 0.5).float()
    whole, parts = (studio.latents(model=temporal(studio.model, size, *kinds), mask=moving, confine=1.0) for size in (3, 2))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)


def test_each_of_several_edits_is_heard_in_its_own_place_under_later_ones(studio, asked):
    left, right = studio.pixels(32, 96, 16, 80), studio.pixels(32, 96, 64, 112)
    later = studio.edits(target=studio.prompt("a yellow star on grass"), mask=right, confine=1.0)
    studio.sample(mask=left, confine=1.0, edits=later, consensus=0.0)
    assert all(torch.equal(place, heard_in(in_cells(left) & ~in_cells(right))) for place in asked(0))
    assert all(torch.equal(place, heard_in(in_cells(right))) for place in asked(1))


def test_where_no_mask_holds_it_is_heard_everywhere(studio, box, asked):
    studio.sample(mask=box, confine=1.0, blend_from=0.25, blend_until=0.75)
    assert [place is not None for place in asked()] == [False, True, True, False]


def test_a_feathered_mask_is_heard_as_far_as_the_edit_is_seen(studio, box, asked):
    _, mask, *_ = studio.sample(mask=box, confine=1.0, feather=16.0, mask_size="latent cells")
    assert torch.equal(asked()[0], heard_in(mask[:, None] > 0))
    assert (mask > 0).sum() > studio.frames * in_cells(box).sum()


def test_a_thing_comes_out_at_its_place_that_else_is_drawn_beside_it(studio):
    """White made black on plain sand: heard everywhere, the prompt draws a triangle that is far too small."""
    edit, frames, steps = DEVELOPMENT_COLOUR_EDITS[1], 8, 25
    assert (edit.source_words, edit.target_words) == ("white triangle", "black triangle")
    with torch.inference_mode():
        latent = studio.vae.encode(torch.from_numpy(edit.clip.render(frames)).float() / 255)
    model = temporal(studio.model, 0, "self", "first", "previous")
    trajectory = studio.invert(model, studio.prompt(edit.clip.source_prompt), latent, steps)
    right = []
    for share in (0.0, 0.3):
        found = studio.latents(
            trajectory=trajectory, model=model, target=studio.prompt(edit.target_prompt), source_words=edit.source_words,
            target_words=edit.target_words, steps=steps, confine=share,
        )  # fmt: skip
        with torch.inference_mode():
            pictures = (studio.vae.decode(found) * 255).round().to(torch.uint8).numpy()
        right.append(
            np.mean([colour_in(frame, mask) == edit.colour for frame, mask in zip(pictures, edit.clip.truth(frames), strict=True)])
        )
    assert right[1] == 1.0
    assert right[0] < 0.5
