"""On a VAE of closed form, whose decoder mixes neighbouring cells as real ones do."""

import pytest
import torch
import torch.nn.functional as F

from blade.attention.masks import grow_mask
from blade.blending.latent_composite import composite_latents

CELLS, SIDE = 8, 64


def encode(frames):
    return F.avg_pool2d(frames.movedim(-1, 1), 8)


def decode(latents):
    return F.interpolate(latents, scale_factor=8, mode="bilinear").movedim(1, -1)


@pytest.fixture
def clip():
    """Source, its latent with an edit blended into whole cells, and the edit's mask, whose outline lies within cells."""
    generator = torch.Generator().manual_seed(0)
    source = decode(torch.rand(2, 3, CELLS, CELLS, generator=generator))
    mask = torch.zeros(2, SIDE, SIDE)
    mask[0, 20:44, 20:44] = mask[1, 12:36, 28:52] = 1
    cells = F.max_pool2d(mask[:, None], 8)
    latents = torch.lerp(encode(source), torch.rand(2, 3, CELLS, CELLS, generator=generator), cells)
    return source, latents, mask, cells


def error(latents, source, where):
    return (decode(latents) - source)[where].square().mean()


@pytest.mark.parametrize("reach", [0, 1])
def test_the_ground_around_the_mask_decodes_to_the_sources_and_the_edit_stays(clip, reach):
    source, latents, mask, _ = clip
    found = [latents, *(composite_latents(latents, source, mask, encode, decode, 0, reach, rounds) for rounds in (1, 2, 8))]
    ground = [error(one, source, mask == 0) for one in found]
    assert ground[1] < 0.7 * ground[0]
    assert ground[3] < ground[2] < ground[1]
    core = torch.zeros_like(mask, dtype=torch.bool)
    core[0, 28:36, 28:36] = core[1, 20:28, 36:44] = True
    assert error(found[2], decode(latents), core) < 0.1 * error(latents, source, core)


def test_a_wider_reach_keeps_more_of_the_ground(clip):
    source, latents, mask, _ = clip
    ground = [error(composite_latents(latents, source, mask, encode, decode, 0, reach), source, mask == 0) for reach in (0, 1)]
    assert ground[1] < ground[0]


@pytest.mark.parametrize("grow", [0, 3])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_beyond_its_reach_every_cell_stays_to_the_bit(clip, reach, grow):
    source, latents, mask, cells = clip
    found = composite_latents(latents, source, mask, encode, decode, grow, reach)
    near = F.max_pool2d(cells, 2 * reach + 1, 1, reach).bool().expand_as(latents)
    assert torch.equal(found[~near], latents[~near])
    assert (found != latents).any()


def test_what_lies_within_grow_of_the_mask_stays_the_edit(clip):
    """Of the rim around the mask, the mended latent keeps the edit where the widened mask is, and the source where it is not."""
    source, latents, mask, _ = clip
    rim = F.max_pool2d(mask[:, None], 9, 1, 4)[:, 0].bool() & (mask == 0)
    kept, cut = (composite_latents(latents, source, mask, encode, decode, grow) for grow in (6, 0))
    assert error(kept, decode(latents), rim) < 0.2 * error(cut, decode(latents), rim)
    assert error(cut, source, rim) < 0.8 * error(kept, source, rim)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_under_an_empty_and_a_full_mask_nothing_changes(clip, value):
    source, latents, mask, _ = clip
    assert torch.equal(composite_latents(latents, source, torch.full_like(mask, value), encode, decode), latents)


def test_a_correct_latent_is_left_alone(clip):
    """Where nothing was edited, what the VAE loses is no reason to change a latent."""
    source, _, mask, _ = clip
    latents = encode(source)
    kept = composite_latents(latents, decode(latents), mask, encode, decode)
    torch.testing.assert_close(kept, latents, rtol=0, atol=1e-6)


def test_one_mask_serves_all_frames(clip):
    source, latents, mask, _ = clip
    one = composite_latents(latents, source, mask[:1], encode, decode)
    assert torch.equal(one, composite_latents(latents, source, mask[:1].expand(2, -1, -1), encode, decode))


def test_a_round_adds_what_the_target_has_more_than_what_was_decoded(clip):
    source, latents, _, _ = clip
    mask = torch.zeros(2, SIDE, SIDE)
    mask[:, 17:40, 24:48] = 1  # of whole cells but for the rows at its top
    goal = encode(torch.lerp(source, decode(latents), grow_mask(mask, 3)[..., None]))
    once = latents + goal - encode(decode(latents))
    room = torch.zeros_like(latents, dtype=torch.bool)
    room[:, :, 1:6, 2:7] = True
    first = torch.where(room, once, latents)
    torch.testing.assert_close(composite_latents(latents, source, mask, encode, decode, 3, 1, 1), first)
    second = torch.where(room, first + goal - encode(decode(first)), latents)
    torch.testing.assert_close(composite_latents(latents, source, mask, encode, decode, 3, 1, 2), second)


def test_left_to_itself_the_mask_grows_by_two_pixels_and_a_cell_more_is_mended_in_two_rounds(clip):
    source, latents, mask, _ = clip
    found = composite_latents(latents, source, mask, encode, decode)
    assert torch.equal(found, composite_latents(latents, source, mask, encode, decode, 2, 1, 2))
    assert not torch.equal(found, composite_latents(latents, source, mask, encode, decode, 3, 1, 2))
