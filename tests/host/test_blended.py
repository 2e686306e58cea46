"""The blended sampler on the demo checkpoint: one core behind two nodes, any guider and any sigmas, and each of its knobs."""

import copy

import pytest
import torch

from demo.check import colour_in
from demo.host import REPOSITORY
from demo.scenes import Thing, render_clip
from tests.host.helpers import TARGET, Studio, in_cells

BOX = (32, 96, 40, 104)
EDITED = 0.05  # a mean difference of latents, whose deviation is about 1, that tells an edit from rounding


@pytest.fixture(scope="module")
def studio(comfy, checkpoint):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # clips this small pass faster so
    yield Studio(comfy, checkpoint)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def box(studio):
    return studio.pixels(*BOX)


@pytest.fixture(scope="module")
def outside(studio, box):
    return ~in_cells(box).expand_as(studio.latent)


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
    source = studio.prompt("a red circle on grass") if "structure" in inputs else None
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


def counting(model):
    """A clone of a MODEL, and the list that grows with each of its calls."""
    counted, rows = model.clone(), []
    counted.set_model_unet_function_wrapper(lambda apply, given: rows.append(1) or apply(given["input"], given["timestep"], **given["c"]))
    return counted, rows


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


# Several edits


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
    own = studio.edits(mask=torch.maximum(hard(circle), hard(square)), grow=4)[0].step_mask(trajectory, sigmas).at_step(0)
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


# Structure


@pytest.fixture(scope="module")
def source(studio):
    return studio.prompt("a red circle on grass")


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


def temporal(model, batch_frames=0, *kinds):
    from blade.nodes.temporal import TemporalAttention

    chosen = [kind in kinds for kind in ("self", "first", "previous", "next", "middle", "all")]
    return TemporalAttention.execute(model, *chosen, 0, 1.0, "all", 0.0, 1.0, batch_frames).result[0]


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
def test_cancelled_in_mid_sampling_it_leaves_the_model_as_it_was(studio, source, how, share):
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
    inputs = {"model": model, "source_words": "circle", "structure": 0.9, "source": source, "renoise": 0.5, "edits": later, "cfg_end": 3.0}
    before, state = studio.latents(**inputs), settled(model)
    passed = -1 - left[0]
    left[0] = int(share * passed)
    with pytest.raises((Broken, InterruptProcessingException)):
        studio.latents(**inputs)
    left[0] = -1
    assert settled(model) == state
    assert torch.equal(studio.latents(**inputs), before)


# What a review found


@pytest.mark.parametrize("mode", ["alone", "source"])
def test_a_mask_that_stands_still_gives_no_consensus_in_whatever_way_it_is_used(studio, mode):
    still, moving = studio.pixels(40, 88, 40, 88), (studio.truth > 0.5).float()
    agreed, free = (studio.latents(mask=still, mask_mode=mode, consensus=amount) for amount in (1.0, 0.0))
    assert torch.equal(agreed, free)
    agreed, free = (studio.latents(mask=moving, mask_mode=mode, consensus=amount) for amount in (1.0, 0.0))
    assert not torch.equal(agreed, free)


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


def test_a_schedule_of_one_step_has_the_first_guidance(studio, box):
    scheduled, constant = (studio.latents(mask=box, steps=1, cfg=7.5, cfg_end=end) for end in (1.0, -1.0))
    assert torch.equal(scheduled, constant)
