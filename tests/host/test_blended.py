"""The blended sampler on the demo checkpoint: one core behind two nodes, any guider and any sigmas, and each of its knobs."""

import copy

import pytest
import torch

from demo.host import REPOSITORY
from tests.host.helpers import EDITED, SOURCE, TARGET, counting, in_cells, temporal


def changed(studio, latents, trajectory=None):
    """The cells that are not the clip's to the bit: the mask. [frames, h, w] of bool"""
    return (latents != studio.clips_own(trajectory)).any(1)


# Two doors


DOORS = {
    "words draw the mask": {},
    "words of one's own": {"source_words": "circle", "target_words": "circle", "grow": 4, "widen": 6},
    "fresh noise": {"renoise": 0.6, "seed": 7},
    "structure, from half way": {"structure": 0.6, "start": 0.75},
    "heun, no consensus": {"solver": "heun", "consensus": 0.0},
    "a window": {"blend_from": 0.25, "blend_until": 0.75, "consensus_until": 0.5},
    "fewer steps": {"steps": 3, "solver": "dpmpp_2m"},
}
RUN = ("seed", "start", "steps", "solver", "consensus", "consensus_until", "blend_from", "blend_until")


@pytest.mark.parametrize("inputs", DOORS.values(), ids=DOORS)
def test_both_doors_give_the_same_latent(studio, inputs):
    source = studio.prompt(SOURCE) if "structure" in inputs else None
    run = {name: value for name, value in inputs.items() if name in RUN}
    edits = studio.edits(**{name: value for name, value in inputs.items() if name not in RUN})
    sampler, positive, sigmas, latent = studio.select(edits, source=source, **run)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert torch.equal(out, studio.latents(source=source, **inputs))
    assert 0 < changed(studio, out).float().mean() < 1 or "blend_until" in inputs


def test_both_doors_give_the_same_latent_of_several_edits(studio, box):
    first = {"mask": box}
    later = studio.edits(target=studio.prompt("a red circle on sand"), mask=studio.pixels(0, 24, 0, 128), renoise=0.5)
    sampler, positive, sigmas, latent = studio.select((*studio.edits(**first), *later), seed=3)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert torch.equal(out, studio.latents(edits=later, seed=3, **first))


def test_the_latent_image_of_the_second_door_is_the_clip(studio):
    _, _, sigmas, latent = studio.select(studio.edits(), start=0.5)
    assert torch.equal(latent["samples"], studio.clips_own())
    assert torch.equal(sigmas, studio.trajectory.sigmas.flip(0)[-(studio.steps // 2 + 1) :])


def test_a_sampler_serves_again(studio, box):
    """Core keeps a node's outputs for the next run of the graph."""
    sampler, positive, sigmas, latent = studio.select(studio.edits(source_words="circle"))
    first, again = (studio.advanced(studio.guided(positive), sampler, sigmas, latent)[0] for _ in range(2))
    assert torch.equal(first, again)


# Any guider


def guiders(studio, positive):
    from comfy_extras.nodes_custom_sampler import BasicGuider, DualCFGGuider
    from comfy_extras.nodes_perpneg import PerpNegGuider

    from blade.nodes.guider import CFGSchedule

    model, negative = studio.model, studio.prompt("")
    return {
        "basic": lambda: BasicGuider.execute(model, positive),
        "dual": lambda: DualCFGGuider.execute(model, positive, studio.prompt("a blue circle"), negative, 3.0, 5.0, "regular"),
        "dual, of one prompt": lambda: DualCFGGuider.execute(model, positive, positive, negative, 3.0, 1.0, "regular"),
        "dual, nested, our prompt second": lambda: DualCFGGuider.execute(model, studio.prompt("a"), positive, negative, 3.0, 5.0, "nested"),
        "perpendicular negative": lambda: PerpNegGuider.execute(model, positive, studio.prompt("red"), negative, 5.0, 1.0),
        "cfg schedule": lambda: CFGSchedule.execute(model, positive, negative, 7.5, 3.0),
    }


GUIDERS = ("basic", "dual", "dual, of one prompt", "dual, nested, our prompt second", "perpendicular negative", "cfg schedule")


@pytest.mark.parametrize("name", GUIDERS)
def test_under_any_guider_the_background_is_the_clips_to_the_bit(studio, box, outside, name):
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    out, _ = studio.advanced(guiders(studio, positive)[name]().result[0], sampler, sigmas, latent)
    assert torch.equal(out[outside], studio.clips_own()[outside])
    assert (out - studio.clips_own())[~outside].abs().mean() > EDITED


@pytest.mark.parametrize("name", GUIDERS)
def test_under_any_guider_words_draw_the_mask_and_each_step_is_recorded_for_the_next(studio, name, monkeypatch):
    from blade.attention.record import MapRecorder

    seen, finish = [], MapRecorder.finish

    def note(self):
        seen.append(finish(self))
        return seen[-1]

    monkeypatch.setattr(MapRecorder, "finish", note)
    sampler, positive, sigmas, latent = studio.select(studio.edits())
    out, _ = studio.advanced(guiders(studio, positive)[name]().result[0], sampler, sigmas, latent)
    assert seen[0] is None
    assert [level.sigma for level in seen[1:]] == pytest.approx(sigmas[:-2].tolist())
    thing = in_cells(studio.truth)[:, 0]
    assert (changed(studio, out) & thing).sum() > 0.7 * thing.sum()
    assert changed(studio, out).float().mean() < 0.4


@pytest.mark.parametrize("name", GUIDERS)
def test_under_any_guider_a_full_mask_is_the_guiders_own_sampling(studio, name):
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=torch.ones(1, 128, 128)), steps=2)
    make = guiders(studio, positive)[name]
    out, _ = studio.advanced(make().result[0], sampler, sigmas, latent)
    assert torch.equal(out, studio.stock(guider=make().result[0], sigmas=sigmas))


# Any sigmas


@pytest.fixture(scope="module")
def long(studio):
    """A trajectory of enough levels that core's grids begin not far above it."""
    return studio.invert(steps=10)


def scheduled(studio, name, steps=5):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    return BasicScheduler.execute(studio.model, name, steps, 1.0).result[0]


GRIDS = {
    "normal": lambda studio: scheduled(studio, "normal"),
    "karras": lambda studio: scheduled(studio, "karras"),
    "the lower part of it": lambda studio: scheduled(studio, "karras")[2:],
    "not to the end": lambda studio: scheduled(studio, "normal")[:-1],
}


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "uni_pc"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_on_any_sigmas_the_background_is_the_trajectory_at_the_last_one(studio, box, outside, long, grid, solver):
    sigmas = grid(studio)
    sampler, positive, _, latent = studio.select(studio.edits(mask=box), long, solver=solver)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    expected = studio.model.model.process_latent_out(long.at(sigmas[-1]))
    assert torch.equal(out[outside], expected[outside])
    assert (out - expected)[~outside].abs().mean() > EDITED


def test_on_a_single_sigma_nothing_is_sampled(studio, box, long):
    """What core's Split Sigmas gives at its ends."""
    for inputs in ({"mask": box}, {}):
        sampler, positive, _, latent = studio.select(studio.edits(**inputs), long)
        out, _ = studio.advanced(studio.guided(positive), sampler, torch.tensor([3.0]), latent)
        assert torch.equal(out, studio.model.model.process_latent_out(long.at(3.0)))


@pytest.mark.parametrize("name", ["normal", "karras"])
def test_on_cores_sigmas_words_draw_the_mask_and_a_full_mask_is_cores_sampling(studio, long, name):
    sigmas = scheduled(studio, name)
    assert sigmas[0] > 1.05 * long.sigmas[-1]
    sampler, positive, _, latent = studio.select(studio.edits(), long)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert 0.02 < changed(studio, out).float().mean() < 0.6
    sampler, positive, _, latent = studio.select(studio.edits(mask=torch.ones(1, 128, 128)), long)
    out, _ = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    assert torch.equal(out, studio.stock(long, sigmas=sigmas))


# What the second door refuses


@pytest.fixture(scope="module")
def other(comfy, checkpoint):
    """Another checkpoint."""
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_clip=False)
    with torch.no_grad():
        model.model.diffusion_model.out[0].weight.mul_(1.02)
    return model


REFUSED = {
    "a guider without the target prompt": (lambda s, given: given | {"positive": s.prompt(TARGET)}, "lacks the target prompt of edit 1 of 1.*positive"),
    "a latent of other frames": (lambda s, given: given | {"latent": {"samples": s.latent[:2]}}, r"latent to sample is \[2, 4, 16, 16\].*\[3, 4, 16, 16\]"),
    "a latent of another size": (lambda s, given: given | {"latent": {"samples": s.latent[..., :8, :]}}, r"is \[3, 4, 8, 16\].*latent_image"),
    "a latent with a noise mask": (
        lambda s, given: given | {"latent": given["latent"] | {"noise_mask": torch.ones(1, 128, 128)}},
        "noise mask.*Edit .BLADE.",
    ),
    "sigmas far above the trajectory": (
        lambda s, given: given | {"sigmas": torch.tensor([2.1 * float(s.trajectory.sigmas[-1]), 1.0, 0.0])},
        "input sigmas: sigma .* lies far above the trajectory's highest level.*invert deeper",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_the_model_is_called(studio, box, wrong, sentence):
    counted, rows = counting(studio.model)
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    given = wrong(studio, {"positive": positive, "sigmas": sigmas, "latent": latent})
    with pytest.raises(ValueError, match=f"(?s)^Blended Sampler Select .BLADE..*{sentence}"):
        studio.advanced(studio.guided(given["positive"], model=counted), sampler, given["sigmas"], given["latent"])
    assert not rows


def test_of_several_edits_the_one_without_a_prompt_is_named(studio, box):
    edits = studio.edits(mask=box, previous=studio.edits(mask=box))
    sampler, positive, sigmas, latent = studio.select(edits)
    with pytest.raises(ValueError, match="Blended Sampler Select.*lacks the target prompt of edit 2 of 2"):
        studio.advanced(studio.guided(positive[:1]), sampler, sigmas, latent)


def test_a_trajectory_of_another_checkpoint_is_refused_at_the_node_and_at_the_guider(studio, box, other):
    with pytest.raises(ValueError, match="Blended Sampler Select.*input trajectory: it was inverted by another checkpoint"):
        studio.select(studio.edits(mask=box), model=other)
    counted, rows = counting(other)
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    with pytest.raises(ValueError, match="Blended Sampler Select.*input trajectory: it was inverted by another checkpoint"):
        studio.advanced(studio.guided(positive, model=counted), sampler, sigmas, latent)
    assert not rows


def test_what_is_wrong_with_an_edit_is_told_with_the_edits_name(studio):
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=torch.ones(2, 128, 128)))
    with pytest.raises(ValueError, match="Edit .BLADE., input mask: it has 2 frames, but the trajectory has 3"):
        studio.advanced(studio.guided(positive), sampler, sigmas, latent)


# Every solver, eps and v


@pytest.fixture(scope="module")
def small(studio, comfy):
    """For either family a MODEL and a trajectory of a corner of the clip, which is enough to compare bits."""
    twin = comfy.sd.load_diffusion_model(str(REPOSITORY / "demo" / "blade_demo_v.safetensors"))
    corner = studio.latent[:2, :, 4:12, 2:10]
    return {family: (model, studio.invert(model, latent=corner, steps=4)) for family, model in (("eps", studio.model), ("v", twin))}


def solvers():
    from blade.blending.blend import CALLS_PER_STEP

    return list(CALLS_PER_STEP)


@pytest.mark.parametrize("family", ["eps", "v"])
@pytest.mark.parametrize("solver", solvers())
def test_every_solvers_full_mask_is_cores_sampling_and_its_empty_mask_the_clip(studio, small, family, solver):
    model, trajectory = small[family]
    assert trajectory.family == family
    sample = lambda value, steps: studio.latents(  # noqa: E731
        trajectory=trajectory, model=model, solver=solver, steps=steps, mask=torch.full((1, 64, 64), value)
    )
    clip = model.model.process_latent_out(trajectory.clip)
    for steps in (4, 3):
        full = sample(1.0, steps)
        assert torch.equal(full, studio.stock(trajectory, model, solver=solver, sigmas=trajectory.grid(steps)))
        assert (full - clip).abs().mean() > EDITED
    assert torch.equal(sample(0.0, 3), clip)


@pytest.mark.parametrize("solver", solvers())
def test_with_every_solver_the_background_is_exact_and_the_denoised_output_is_the_whole_clip(studio, small, solver):
    model, trajectory = small["eps"]
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 24:56] = 1
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=mask), trajectory, solver=solver)
    out, denoised = studio.advanced(studio.guided(positive), sampler, sigmas, latent)
    outside = ~in_cells(mask).expand_as(out)
    clip = model.model.process_latent_out(trajectory.clip)
    assert torch.equal(out[outside], clip[outside])
    assert denoised.shape == out.shape
    assert (out - clip)[~outside].abs().mean() > EDITED


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
    sigmas = studio.trajectory.grid(studio.steps)[:-1].tolist()
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
