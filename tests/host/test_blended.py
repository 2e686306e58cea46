"""Each knob of the blended sampler on the demo checkpoint, its preview, and its end before time."""

import copy

import pytest
import torch

from tests.host.helpers import EDITED, SOURCE, changed, in_cells, temporal

# Fresh noise


def test_without_fresh_noise_the_seed_says_nothing(studio, box):
    plain = studio.latents(mask=box)
    assert torch.equal(studio.latents(mask=box, renoise=0.0, seed=9), plain)


def test_each_seed_is_a_variation_inside_and_the_background_stays(studio, box, outside):
    one, again, two = (studio.latents(mask=box, renoise=1.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert torch.equal(one[outside], two[outside])
    assert torch.equal(one[outside], studio.clips_own()[outside])
    assert (one - two)[~outside].abs().mean() > EDITED


def test_a_little_fresh_noise_changes_less_than_much(studio, box, outside):
    plain = studio.latents(mask=box)
    apart = [(studio.latents(mask=box, renoise=amount, seed=1) - plain)[~outside].abs().mean() for amount in (0.1, 1.0)]
    assert 0 < apart[0] < 0.7 * apart[1]


def test_of_two_edits_only_the_one_with_fresh_noise_has_variations(studio):
    left, right = studio.pixels(0, 128, 0, 48), studio.pixels(0, 128, 80, 128)
    both = [studio.latents(mask=left, edits=studio.edits(mask=right, renoise=1.0), seed=seed, cfg=1.0) for seed in (1, 2)]
    noisy = in_cells(right).expand_as(studio.latent)
    assert (both[0] - both[1])[noisy].abs().mean() > EDITED
    assert (both[0] - both[1])[~noisy].abs().mean() < 0.2 * (both[0] - both[1])[noisy].abs().mean()


# Blend window


def test_after_blending_ends_the_background_is_free(studio, box, outside):
    bound, freed = studio.latents(mask=box), studio.latents(mask=box, blend_until=0.75)
    away = (freed - studio.clips_own())[outside].abs().mean()
    assert torch.equal(bound[outside], studio.clips_own()[outside])
    assert away > 1e-3
    assert away < (studio.stock() - studio.clips_own())[outside].abs().mean()


def test_before_blending_begins_the_whole_picture_is_sampled_and_the_background_is_the_clips_again_at_the_end(studio, box, outside):
    later = studio.latents(mask=box, blend_from=0.5)
    assert torch.equal(later[outside], studio.clips_own()[outside])
    assert (later - studio.latents(mask=box))[~outside].abs().mean() > 1e-3


def test_a_window_over_all_steps_is_none(studio, box):
    assert torch.equal(studio.latents(mask=box, blend_from=0.0, blend_until=1.0), studio.latents(mask=box))


@pytest.mark.parametrize("window", [(0.4, 0.45), (0.0, 0.05)])
def test_a_window_narrower_than_a_step_holds_for_one(studio, box, window):
    """Of four steps."""
    held = studio.sample(mask=box, blend_from=window[0], blend_until=window[1])
    assert not torch.equal(held[0]["samples"], studio.stock())


def test_blending_that_begins_at_the_last_step_ends_on_the_clip(studio, box, outside):
    assert torch.equal(studio.latents(mask=box, blend_from=0.99)[outside], studio.clips_own()[outside])


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (0.8, 0.2)])
def test_a_window_that_ends_before_it_begins_is_refused_at_both_doors(studio, box, begin, end):
    for title, door in (
        ("Blended Sampler", lambda **window: studio.sample(mask=box, **window)),
        ("Blended Sampler Select", lambda **window: studio.select(studio.edits(mask=box), **window)),
    ):
        with pytest.raises(ValueError, match=f"^{title} .BLADE., input blend_from: it is {begin}, not before blend_until, which is {end}"):
            door(blend_from=begin, blend_until=end)


# Guidance


def watched_guidance(studio):
    """A MODEL, and the guidance of each of its calls with its sigma."""
    model, seen = studio.model.clone(), []

    def note(args):
        seen.append((float(args["sigma"][0]), args["cond_scale"]))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(note)
    return model, seen


def test_guidance_that_ends_as_it_begins_is_constant(studio, box):
    assert torch.equal(studio.latents(mask=box, cfg=5.0, cfg_end=5.0), studio.latents(mask=box, cfg=5.0))


@pytest.mark.parametrize(("begin", "end"), [(8.0, 2.0), (1.0, 7.0)])
def test_guidance_changes_evenly_over_the_steps(studio, box, begin, end):
    model, seen = watched_guidance(studio)
    studio.sample(model=model, mask=box, cfg=begin, cfg_end=end)
    sigmas = studio.trajectory.sampling_sigmas(studio.steps)[:-1].tolist()
    assert [sigma for sigma, _ in seen] == pytest.approx(sigmas)
    assert [scale for _, scale in seen] == pytest.approx(torch.linspace(begin, end, studio.steps).tolist())


def test_between_levels_guidance_is_between_that_of_both(studio, box):
    model, seen = watched_guidance(studio)
    studio.sample(model=model, mask=box, cfg=8.0, cfg_end=2.0, solver="dpm_2")
    scales = [scale for _, scale in seen]
    assert len(scales) == 2 * studio.steps - 1
    assert scales == sorted(scales, reverse=True)
    assert scales[::2] == pytest.approx([8, 6, 4, 2])
    assert all(8 > scale > 2 for scale in scales[1:-1:2])


def test_the_guider_node_gives_what_the_sampler_does_with_cfg_end(studio, box):
    from blade.nodes.guider import CFGSchedule

    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    guider = CFGSchedule.execute(studio.model, positive, studio.prompt(""), 7.5, 3.0).result[0]
    first, again = (studio.advanced(guider, sampler, sigmas, latent)[0] for _ in range(2))
    assert torch.equal(first, studio.latents(mask=box, cfg_end=3.0))
    assert torch.equal(first, again)
    assert not torch.equal(first, studio.latents(mask=box))


def test_a_schedule_of_one_step_has_the_first_guidance(studio, box):
    scheduled, constant = (studio.latents(mask=box, steps=1, cfg=7.5, cfg_end=end) for end in (1.0, -1.0))
    assert torch.equal(scheduled, constant)


# Feather


def test_a_feathered_edit_changes_cells_beyond_the_outline_and_none_farther_out(studio):
    hard = studio.pixels(40, 88, 40, 88)
    plain, soft = (changed(studio, studio.latents(mask=hard, feather=feather)) for feather in (0.0, 6.0))
    inside = in_cells(hard)[:, 0].expand_as(plain)
    assert torch.equal(plain, inside)
    assert soft[inside].all()
    assert soft.sum() > plain.sum()
    assert not soft[:, :2].any() and not soft[..., :2].any()


def test_the_mask_that_comes_out_of_a_feathered_edit_is_soft_in_cells_and_hard_in_pixels(studio):
    hard = studio.pixels(40, 88, 40, 88)
    cells, pixels = (studio.sample(mask=hard, feather=6.0, mask_size=size)[1] for size in ("latent cells", "pixels"))
    inside = in_cells(hard)[:, 0].expand_as(cells)
    assert cells[inside].min() == 1
    assert ((cells > 0) & (cells < 1)).any()
    assert torch.equal(pixels, hard.expand_as(pixels))
    plain = studio.sample(mask=hard, mask_size="latent cells")[1]
    assert set(plain.unique().tolist()) == {0, 1}


# What a mask does


def test_a_mask_in_the_place_of_the_source_words_is_part_of_the_edit_and_the_target_may_widen_it(studio):
    trajectory, corner = studio.invert(steps=8), studio.pixels(88, 128, 88, 128)
    alone, widened = (
        studio.sample(trajectory=trajectory, steps=8, mask=corner, mask_mode=mode, target_words="blue")[1] for mode in ("alone", "source")
    )
    assert torch.equal(alone, corner.expand_as(alone))
    assert widened[:, 88:, 88:].min() == 1
    assert widened.mean() > corner.mean() + 0.02


def test_a_mask_in_the_place_of_the_source_words_asks_for_none(studio):
    """Words that are only added name no place in the source prompt: the mask does."""
    target = studio.prompt("a red circle on grass today")
    corner = studio.pixels(88, 128, 88, 128)
    assert studio.sample(target=target, mask=corner, mask_mode="source")[1][:, 88:, 88:].min() == 1
    with pytest.raises(ValueError, match="source_words.*only adds words"):
        studio.sample(target=target)


@pytest.mark.parametrize(("mode", "holds"), [("limit", lambda found, box: found[box == 0].max() == 0), ("add", lambda found, box: found[box == 1].min() == 1),
                                             ("subtract", lambda found, box: found[box == 1].max() == 0)])  # fmt: skip
def test_a_matte_limits_adds_or_subtracts(studio, mode, holds):
    matte = studio.pixels(0, 128, 0, 56)
    found = studio.sample(mask=matte, mask_mode=mode)[1]
    assert holds(found, matte.expand_as(found))
    assert not torch.equal(found, matte.expand_as(found))


# Preview


def test_the_preview_shows_the_clips_frames_side_by_side_and_the_denoised_output_is_the_whole_clip(studio, box, outside, monkeypatch):
    import latent_preview

    shown = []

    class Previewer:
        def decode_latent_to_preview_image(self, preview_format, x0):
            shown.append(x0.clone())

    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    out, denoised = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert [tuple(x0.shape) for x0 in shown[:-1]] == [(1, 4, 16, 16)] * (studio.steps - 1)
    for grid in shown[:-1]:
        corners = [grid[0, :, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)]
        assert not torch.equal(corners[0], corners[1])
        assert not corners[3].any()
    assert denoised.shape == out.shape
    assert torch.equal(denoised[outside], studio.clips_own()[outside])


# Cancelling


def settled(model):
    return copy.deepcopy(model.model_options), copy.deepcopy(model.wrappers), len(model.patches)


@pytest.mark.parametrize(("how", "share"), [("an error inside the model", 0.15), ("cancelled", 0.6)])
def test_cancelled_in_mid_sampling_it_leaves_the_model_as_it_was(studio, how, share):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    class Broken(Exception):
        pass

    left = [-1]

    def patch(n, context, value, options):
        left[0] -= 1
        if left[0] == 0:
            if how != "cancelled":
                raise Broken
            interrupt_current_processing()
        return n, context, value

    model = temporal(studio.model, 2, "first", "previous")
    model.set_model_attn2_patch(patch)
    later = studio.edits(target=studio.prompt("a red circle on sand"), source_words="grass", structure=0.5, renoise=0.3)
    inputs = {
        "model": model,
        "source_words": "circle",
        "structure": 0.9,
        "source": studio.prompt(SOURCE),
        "renoise": 0.5,
        "edits": later,
        "cfg_end": 3.0,
    }
    before, state = studio.latents(**inputs), settled(model)
    passed = -1 - left[0]
    left[0] = int(share * passed)
    with pytest.raises((Broken, InterruptProcessingException)):
        studio.latents(**inputs)
    left[0] = -1
    assert settled(model) == state
    assert torch.equal(studio.latents(**inputs), before)


# Consensus


@pytest.mark.parametrize("mode", ["alone", "source"])
def test_a_mask_that_stands_still_gives_no_consensus_in_whatever_way_it_is_used(studio, mode):
    still, moving = studio.pixels(40, 88, 40, 88), (studio.truth > 0.5).float()
    agreed, free = (studio.latents(mask=still, mask_mode=mode, consensus=amount) for amount in (1.0, 0.0))
    assert torch.equal(agreed, free)
    agreed, free = (studio.latents(mask=moving, mask_mode=mode, consensus=amount) for amount in (1.0, 0.0))
    assert not torch.equal(agreed, free)
