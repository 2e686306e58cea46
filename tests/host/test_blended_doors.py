"""The blended sampler on the demo checkpoint: one core behind two nodes, under any guider, on any sigmas, with every solver."""

import pytest
import torch

from runner.host import REPOSITORY
from tests.host.helpers import EDITED, SOURCE, TARGET, changed, counting, in_cells

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
    edits = studio.edits(mask=torch.ones(2, 128, 128))
    with pytest.raises(ValueError, match="Edit .BLADE., input mask: it has 2 frames, but the trajectory has 3"):
        studio.select(edits)


# Every solver, eps and v


@pytest.fixture(scope="module")
def small(studio, comfy):
    """For either family a MODEL and a trajectory of a corner of the clip, which is enough to compare bits."""
    twin = comfy.sd.load_diffusion_model(str(REPOSITORY / "demo" / "blade_demo_v.safetensors"))
    corner = studio.latent[:2, :, 4:12, 2:10]
    return {family: (model, studio.invert(model, latent=corner, steps=4)) for family, model in (("eps", studio.model), ("v", twin))}


def solvers():
    from blade.blending.blend import SOLVERS

    return list(SOLVERS)


@pytest.mark.parametrize("family", ["eps", "v"])
@pytest.mark.parametrize("solver", solvers())
def test_every_solvers_full_mask_is_cores_sampling_and_its_empty_mask_the_clip(studio, small, family, solver):
    model, trajectory = small[family]
    assert trajectory.coordinates.prediction == family
    sample = lambda mode, steps: studio.latents(  # noqa: E731
        trajectory=trajectory, model=model, solver=solver, steps=steps, mask=torch.ones(1, 64, 64), mask_mode=mode
    )
    clip = model.model.process_latent_out(trajectory.clip)
    for steps in (4, 3):
        full = sample("alone", steps)
        assert torch.equal(full, studio.stock(trajectory, model, solver=solver, sigmas=trajectory.sampling_sigmas(steps)))
        assert (full - clip).abs().mean() > EDITED
    assert torch.equal(sample("subtract", 3), clip)  # of which nothing is left; one that is empty from the start is refused


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
