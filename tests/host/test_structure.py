"""Structure injection on the demo checkpoint: inside the mask, self-attention looks where the clip's own pass looks."""

import copy

import pytest
import torch

from tests.host.helpers import EDITED, SOURCE, counting, in_cells, temporal


@pytest.fixture(scope="module")
def source(studio):
    return studio.prompt(SOURCE)


def test_no_structure_is_no_change_even_with_a_source_prompt(studio, box, source):
    assert torch.equal(studio.latents(mask=box, structure=0.0, source=source), studio.latents(mask=box))


def test_structure_without_a_source_prompt_is_refused_at_both_doors(studio, box):
    with pytest.raises(ValueError, match="^Blended Sampler .BLADE., input source: structure is 0.5.*set structure to 0"):
        studio.sample(mask=box, structure=0.5)
    with pytest.raises(ValueError, match="^Blended Sampler Select .BLADE., input source: structure is 0.5"):
        studio.select(studio.edits(mask=box, structure=0.5))
    with pytest.raises(ValueError, match="^Blended Sampler .BLADE., input source: structure is 0.25"):
        studio.sample(mask=box, edits=studio.edits(mask=box, structure=0.25))


def test_structure_is_kept_for_its_share_of_the_way_and_only_then_is_the_source_asked(studio, box, source):
    counts = []
    for share in (0.0, 0.5, 1.0):
        counted, rows = counting(studio.model)
        studio.sample(model=counted, mask=box, structure=share, source=source if share else None)
        counts.append(len(rows))
    assert counts[0] == studio.steps
    assert counts[0] < counts[1] < counts[2] == 2 * studio.steps


def test_of_several_source_prompts_the_first_one_gives_the_structure(studio, box, source):
    other = studio.prompt("a white star on snow")
    first, alone, second = (studio.latents(mask=box, structure=1.0, source=given) for given in (source + other, source, other + source))
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-3)  # larger batches round otherwise
    assert (second - alone).abs().max() > EDITED


def test_structure_leaves_the_background_and_nothing_for_the_next_run(studio, box, outside, source):
    options = copy.deepcopy(studio.model.model_options)
    before = studio.latents(mask=box)
    kept = studio.latents(mask=box, structure=0.6, source=source)
    assert torch.equal(kept[outside], studio.clips_own()[outside])
    assert (kept - before)[~outside].abs().mean() > 1e-3
    assert studio.model.model_options == options
    assert torch.equal(studio.latents(mask=box), before)


@pytest.mark.parametrize("kinds", [("self",), ("first", "previous"), ("next",)])
def test_structure_in_batches_of_frames_is_structure_of_the_whole_clip(studio, box, source, kinds):
    """The trajectory is the same, so that the batches of the edit alone are judged."""
    whole, parts = (studio.latents(model=temporal(studio.model, size, *kinds), mask=box, structure=0.6, source=source) for size in (3, 2))
    plain = studio.latents(model=temporal(studio.model, 3, *kinds), mask=box)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)
    assert (whole - plain).abs().max() > EDITED


def test_where_the_edit_is_still_the_clips_own_path_structure_is_no_change(studio, source):
    """In the very first call, of the source prompt: queries and keys that are put in are those that were there."""
    full = torch.ones(1, 128, 128)
    plain, kept = (studio.latents(target=source, mask=full, cfg=1.0, steps=1, structure=share, source=source) for share in (0.0, 1.0))
    torch.testing.assert_close(kept, plain, rtol=0, atol=1e-4)
    other = studio.latents(mask=full, cfg=1.0, steps=1, structure=1.0, source=source)
    assert (other - studio.latents(mask=full, cfg=1.0, steps=1)).abs().mean() > 1e-3


def attended(studio, edits, source, **inputs):
    """Of each self-attention layer and call of the model: queries and keys as the attention itself got them, by the number of rows."""
    model, seen = studio.model.clone(), []

    def note(func, q, k, v, heads, *args, **kwargs):
        if q.shape == k.shape:
            seen.append((q.clone(), k.clone(), v.clone()))
        return func(q, k, v, heads, *args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = note
    sampler, positive, sigmas, latent = studio.select(edits, source=source, steps=1)
    studio.advanced(studio.guided(positive, cfg=1.0, model=model), sampler, sigmas, latent)
    return seen


def test_inside_the_mask_and_nowhere_else_queries_and_keys_are_the_clips_own_pass(studio, source):
    """Of two edits the right one keeps structure. Values are the edit's own."""
    left, right = studio.pixels(0, 128, 0, 48), studio.pixels(0, 128, 80, 128)
    kept, free = (
        studio.edits(mask=right, structure=share, renoise=1.0, previous=studio.edits(mask=left, renoise=1.0)) for share in (1.0, 0.0)
    )
    seen, plain = attended(studio, kept, source), attended(studio, free, None)
    clips_own, edited = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(clips_own) == len(edited) == len(plain)
    inside = in_cells(right).expand(3, -1, -1, -1).flatten(1)
    q, k, v = edited[0]  # later layers get what this one gives
    assert q.shape[1] == inside.shape[1]
    conds = len(q) // 3
    inside = inside.repeat(conds, 1)
    for found, own, was in ((q, clips_own[0][0], plain[0][0]), (k, clips_own[0][1], plain[0][1])):
        torch.testing.assert_close(found[inside], own.repeat(conds, 1, 1)[inside], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[~inside], was[~inside], rtol=0, atol=1e-5)
        assert not torch.allclose(own.repeat(conds, 1, 1)[inside], was[inside], atol=1e-3)
    torch.testing.assert_close(v, plain[0][2], rtol=0, atol=1e-5)


def test_with_structure_another_shape_stays_closer_to_the_outline_of_the_old(studio, source):
    """A star in the place of a circle, in a mask far wider than both. The mean of two variations."""
    trajectory, room, overlap = studio.invert(steps=10, method="refined"), studio.pixels(8, 120, 8, 120), []
    for share in (0.0, 0.6):
        found = [
            studio.latents(
                trajectory=trajectory, steps=10, target=studio.prompt("a blue star on grass"), mask=room, renoise=0.5, seed=seed,
                structure=share, source=source, consensus=0.0,
            )
            for seed in (1, 2)
        ]  # fmt: skip
        with torch.inference_mode():
            pictures = studio.vae.decode(torch.cat(found))
        blue, thing = pictures[..., 2] - pictures[..., :2].amax(-1) > 0.1, (studio.truth > 0.5).repeat(2, 1, 1)
        overlap.append(float((blue & thing).sum() / (blue | thing).sum()))
    assert overlap[1] > overlap[0]
