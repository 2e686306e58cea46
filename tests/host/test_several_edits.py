"""Several edits in one pass on the demo checkpoint: each in its own place, by its own prompt, later ones over earlier."""

import pytest
import torch

from demo.check import colour_in
from demo.scenes import Thing
from tests.clips import render_clip
from tests.host.helpers import EDITED, TARGET, Studio, in_cells


@pytest.fixture(scope="module")
def pair(studio):
    """A clip of two things with its masks, and a trajectory long enough that colours come out."""
    things = [Thing("red", "circle", 0.3, 0.35, 0.2), Thing("blue", "square", 0.72, 0.68, 0.18)]
    frames, circle = render_clip(900_300, things, "grass", 3, (0.02, 0.0))
    _, square = render_clip(900_300, things[::-1], "grass", 3, (0.0, 0.0))
    with torch.inference_mode():
        latent = studio.vae.encode(torch.from_numpy(frames).float() / 255)
    trajectory = studio.invert(source=studio.prompt("a red circle and a blue square on grass"), latent=latent, steps=10)
    return trajectory, torch.from_numpy(circle), torch.from_numpy(square)


def colours(studio, latents, mask):
    with torch.inference_mode():
        pictures = (studio.vae.decode(latents) * 255).round().to(torch.uint8).numpy()
    return [colour_in(picture, part.numpy()) for picture, part in zip(pictures, mask, strict=True)]


def hard(mask):
    return (mask > 0.5).float()


def test_each_of_two_edits_follows_its_own_prompt_and_the_background_stays(studio, pair):
    trajectory, circle, square = pair
    first = studio.edits(target=studio.prompt("a yellow circle on grass"), mask=hard(circle), grow=4)
    both = studio.edits(target=studio.prompt("a purple square on grass"), mask=hard(square), grow=4, previous=first)
    sampler, positive, sigmas, latent = studio.select(both, trajectory, steps=10)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert colours(studio, out, circle) == ["yellow"] * 3
    assert colours(studio, out, square) == ["purple"] * 3
    things = torch.maximum(hard(circle), hard(square))
    own = studio.edits(mask=things, grow=4)[0].step_mask(trajectory, sigmas, things).at_step(0)
    outside = (own == 0).expand_as(out)
    assert torch.equal(out[outside], studio.clips_own(trajectory)[outside])


@pytest.mark.parametrize("last", ["yellow", "purple"])
def test_where_two_edits_overlap_the_later_is_seen(studio, pair, last):
    trajectory, circle, _ = pair
    first = {"yellow": "purple", "purple": "yellow"}[last]
    edits = ()
    for colour in (first, last):
        edits = studio.edits(
            target=studio.prompt(f"a {colour} circle and a blue square on grass"), mask=hard(circle), grow=4, previous=edits
        )
    sampler, positive, sigmas, latent = studio.select(edits, trajectory, steps=10)
    assert colours(studio, studio.advanced(studio.guided(positive), sampler, sigmas, latent)[0], circle) == [last] * 3


def test_words_draw_each_of_two_edits_masks(studio, pair):
    trajectory, circle, square = pair
    _, found, _ = studio.sample(
        trajectory=trajectory, target=studio.prompt("a yellow circle and a blue square on grass"), source_words="red circle", steps=10,
        edits=studio.edits(target=studio.prompt("a red circle and a purple square on grass"), source_words="blue square"),
    )  # fmt: skip
    for thing in (circle, square):
        assert (found * hard(thing)).sum() / hard(thing).sum() > 0.6
    assert found.mean() < 2.5 * torch.maximum(circle, square).mean()


def test_an_edit_without_any_place_changes_nothing_of_the_others(studio, box):
    one = studio.latents(mask=box)
    both = studio.latents(mask=box, edits=studio.edits(target=studio.prompt("a star on sand"), mask=torch.zeros(1, 128, 128)))
    torch.testing.assert_close(both, one, rtol=0, atol=1e-4)


def regional(studio, masks=1):
    """A prompt whose left half is of another text than its right half, by core's nodes."""
    import nodes

    halves = [studio.pixels(0, 128, 0, 64), studio.pixels(0, 128, 64, 128)]
    texts = [TARGET, "a yellow star on sand"]
    parts = [
        nodes.ConditioningSetMask().append(studio.prompt(text), half.expand(masks, -1, -1), "default", 1.0)[0]
        for text, half in zip(texts, halves, strict=True)
    ]
    return nodes.ConditioningCombine().combine(*parts)[0]


@pytest.mark.parametrize("masks", [1, 5])
def test_a_prompts_own_regions_hold_among_several_edits_too(studio, box, masks):
    target = regional(studio, masks)
    alone = studio.latents(target=target, mask=box)
    both = studio.latents(target=target, mask=box, edits=studio.edits(mask=torch.zeros(1, 128, 128)))
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-4)
    assert (alone - studio.latents(mask=box)).abs().max() > EDITED


def test_edits_leave_the_prompts_as_they_were(studio, box):
    target = regional(studio)
    edits = studio.edits(mask=box, previous=studio.edits(target=target, mask=box))
    sampler, positive, sigmas, latent = studio.select(edits)
    before = [(embedding, dict(entry)) for embedding, entry in (*positive, *target)]
    studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    for (embedding, entry), (own, kept) in zip((*positive, *target), before, strict=True):
        assert embedding is own
        assert entry.keys() == kept.keys() and all(entry[name] is kept[name] for name in kept)


def test_a_prompts_own_masks_are_repeated_over_the_frames_with_two_edits_as_with_one(comfy, checkpoint):
    studio = Studio(comfy, checkpoint, frames=4)
    own = torch.cat([studio.pixels(0, 128, 0, 64), studio.pixels(0, 128, 64, 128)])
    target = [[embedding, {**options, "mask": own, "mask_strength": 1.0}] for embedding, options in studio.prompt(TARGET)]
    left, right = studio.pixels(32, 96, 16, 56), studio.pixels(32, 96, 72, 112)
    two = studio.latents(target=target, mask=left, edits=studio.edits(mask=right), consensus=0.0)
    four = [[embedding, {**options, "mask": own.repeat(2, 1, 1)}] for embedding, options in target]
    assert torch.equal(two, studio.latents(target=four, mask=left, edits=studio.edits(mask=right), consensus=0.0))


def test_a_negative_prompt_on_an_area_does_not_let_the_first_edit_speak_in_the_second(studio):
    """Core adds a positive cond there with the first's embedding: it belongs to the first edit, and keeps out of the second too."""
    left, right = studio.pixels(32, 96, 16, 56), studio.pixels(32, 96, 72, 112)
    negative = [
        [embedding, {**options, "area": (8, 8, 4, 4), "strength": 1.0}] for embedding, options in studio.prompt("snow")
    ] + studio.prompt("")
    second = studio.edits(studio.prompt("a yellow star on grass"), mask=right)
    one, other = (
        studio.latents(target=studio.prompt(text), negative=negative, mask=left, edits=second, consensus=0.0, steps=1)
        for text in ("a blue circle on grass", "a white square on snow")
    )
    inside = in_cells(right).expand_as(one)
    assert torch.allclose(one[inside], other[inside], atol=1e-5)
