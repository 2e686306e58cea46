"""DDIM Invert and Reconstruction Check on the demo checkpoints, in this process: families, grids, refinement, and what a trajectory knows."""

import copy
import logging
from dataclasses import replace

import pytest
import torch

from demo.scenes import Thing
from metrics.reconstruction import latent_psnr
from runner.host import REPOSITORY
from tests.clips import render_clip

FRAMES, STEPS = 3, 6
SOURCE = "a red circle on grass"
REFINED = {"method": "refined"}


@pytest.fixture(scope="module")
def loaded(comfy, checkpoint):
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    frames, _ = render_clip(900_200, [Thing("red", "circle", 0.4, 0.45, 0.24)], "grass", FRAMES, (0.03, 0.02))
    with torch.inference_mode():
        latent = vae.encode(torch.from_numpy(frames).float() / 255)
    return model, clip, vae, latent


@pytest.fixture(scope="module")
def twin(comfy, loaded):
    """The demo model that predicts v, as UNETLoader loads it."""
    return comfy.sd.load_diffusion_model(str(REPOSITORY / "demo" / "blade_demo_v.safetensors"))


@pytest.fixture(scope="module")
def prompt(loaded):
    import blade.nodes.prompt

    return lambda text: torch.inference_mode()(blade.nodes.prompt.Prompt.execute)(loaded[1], text).result[0]


@pytest.fixture(scope="module")
def invert(loaded, prompt):
    import blade.nodes.invert

    @torch.inference_mode()
    def run(model=None, source=None, latent=None, steps=STEPS, **inputs):
        latent = loaded[3] if latent is None else latent
        return blade.nodes.invert.DDIMInvert.execute(
            model or loaded[0], source or prompt(SOURCE), {"samples": latent}, steps, **inputs
        ).result[0]

    return run


@pytest.fixture(scope="module")
def check(loaded, prompt):
    import blade.nodes.reconstruction

    @torch.inference_mode()
    def run(trajectory, model=None, source=None, **inputs):
        return blade.nodes.reconstruction.ReconstructionCheck.execute(
            model or loaded[0], source or prompt(SOURCE), trajectory, **inputs
        ).result

    return run


@pytest.fixture(scope="module")
def edit(loaded, prompt):
    import blade.nodes.sampler

    @torch.inference_mode()
    def run(trajectory, model=None, steps=STEPS, target="a blue circle on grass", cfg=7.5, start=1.0, **inputs):
        return blade.nodes.sampler.BlendedSampler.execute(
            model or loaded[0], prompt(target), prompt(""), trajectory, steps, cfg, "euler", start, "red circle", "", 0, **inputs
        ).result

    return run


def sampling(model, kind, zsnr=False):
    """A MODEL through core's ModelSamplingDiscrete node."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, kind, zsnr)[0]


# Families


def test_the_twin_is_known_as_a_v_model_with_a_zero_terminal_snr(loaded, twin):
    from blade.host.families import coordinates_of
    from blade.host.sampling import sigma_table

    assert coordinates_of(loaded[0]).prediction == "eps"
    assert coordinates_of(twin).prediction == "v"
    assert float(sigma_table(twin)[-1]) > 4000


@pytest.mark.parametrize(("kind", "family"), [("eps", "eps"), ("v_prediction", "v")])
@pytest.mark.parametrize("zsnr", [False, True])
def test_a_prediction_that_a_node_has_set_counts(loaded, kind, family, zsnr):
    from blade.host.families import coordinates_of

    assert coordinates_of(sampling(loaded[0], kind, zsnr)).prediction == family


@pytest.mark.parametrize("kind", ["lcm", "x0", "img_to_img"])
def test_other_predictions_are_refused_by_name(loaded, invert, kind):
    with pytest.raises(ValueError, match="DDIM Invert.*input model.*samples by .*only noise .eps. and v-prediction"):
        invert(sampling(loaded[0], kind))


def test_an_inpainting_unet_is_refused_by_every_node_that_takes_it(loaded, invert, edit, check, monkeypatch):
    trajectory = invert()
    monkeypatch.setattr(loaded[0].model.diffusion_model, "in_channels", 9)
    for use in (invert, lambda: edit(trajectory), lambda: check(trajectory)):
        with pytest.raises(ValueError, match="input model: the model takes 9 channels instead of 4, as inpainting checkpoints do"):
            use()


@pytest.mark.parametrize("zsnr", [False, True])
def test_a_v_models_clip_comes_back(twin, invert, check, zsnr):
    model = sampling(twin, "v_prediction", zsnr)
    plain, refined = (check(invert(model, steps=10, **method), model)[3] for method in ({}, REFINED | {"refine": 2}))
    assert refined > plain + 15
    assert refined > 45


def test_a_v_models_edit_stays_inside_its_mask(loaded, twin, invert, edit):
    trajectory = invert(twin)
    out, cells, _ = edit(trajectory, twin, mask_size="latent cells")
    outside = (cells[:, None] == 0).expand_as(out["samples"])
    assert 0.02 < float(cells.mean()) < 0.6
    assert torch.equal(out["samples"][outside], twin.model.process_latent_out(trajectory.clip)[outside])
    assert (out["samples"] - twin.model.process_latent_out(trajectory.clip))[~outside].abs().mean() > 0.1


# Grids


def test_every_scheduler_of_cores_gives_a_grid_to_walk(loaded, invert):
    from blade.host.sampling import core_sigmas, schedule_names

    for name in schedule_names():
        trajectory = invert(schedule=name, latent=loaded[3][:1])
        assert torch.equal(trajectory.sigmas.flip(0), core_sigmas(loaded[0], name, STEPS)), name
        assert trajectory.origin.schedule == name


def test_depth_is_a_ksamplers_denoise(comfy, loaded, invert):
    import comfy.samplers

    trajectory = invert(schedule="normal", depth=0.6)
    sampler = comfy.samplers.KSampler(loaded[0], STEPS, torch.device("cpu"), "euler", "normal", denoise=0.6)
    assert torch.equal(trajectory.sigmas.flip(0), sampler.sigmas.cpu())


def test_a_partial_trajectory_is_edited_from_its_own_top(loaded, invert, edit):
    near, far = invert(depth=0.2), invert()
    assert near.sigmas[-1] < 0.5 * far.sigmas[-1]
    mask = torch.ones(1, 128, 128)
    moved = [(edit(t, mask=mask)[0]["samples"] - loaded[3]).abs().mean() for t in (near, far)]
    assert 0 < moved[0] < 0.85 * moved[1]


def test_a_grid_of_ones_own_is_walked(invert):
    grid = torch.tensor([7.0, 3.0, 1.0, 0.2, 0.0])
    trajectory = invert(sigmas=grid)
    assert torch.equal(trajectory.sigmas, grid.flip(0))
    assert trajectory.steps == 4
    assert len(trajectory.record.levels) == 4


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"sigmas": torch.tensor([0.0, 1.0, 5.0])}, "input sigmas: the grid does not fall"),
        ({"sigmas": torch.tensor([5.0, 0.0])}, "input sigmas: the grid has 1 steps"),
        ({"sigmas": torch.tensor([99.0, 3.0, 0.0])}, "input sigmas: the grid begins at sigma 99, but this model knows noise up to 14.61"),
        ({"steps": 1}, "input steps: it is 1. Give a whole number from 2 to 999"),
        ({"steps": 600, "depth": 0.1}, "input depth: steps is 6000"),
    ],
)
def test_a_grid_that_cannot_be_walked_is_refused(invert, inputs, sentence):
    with pytest.raises(ValueError, match=f"DDIM Invert.*{sentence}"):
        invert(**inputs)


# Accuracy


def test_refining_brings_the_clip_back(invert, check):
    methods = ({}, {"method": "predicted"}, REFINED, REFINED | {"refine": 3})
    plain, predicted, once, thrice = (check(invert(**method))[3] for method in methods)
    assert predicted > plain + 3
    assert once > predicted + 5
    assert thrice > once + 3


def test_predicting_takes_no_further_call(loaded, invert):
    calls = []
    counted = loaded[0].clone()
    counted.set_model_unet_function_wrapper(lambda apply, given: calls.append(1) or apply(given["input"], given["timestep"], **given["c"]))
    for method, expected in (({}, STEPS), ({"method": "predicted"}, STEPS), (REFINED | {"tolerance": 0.0}, 2 * STEPS)):
        calls.clear()
        invert(counted, **method)
        assert len(calls) == expected


def test_refining_works_across_frames_too(loaded, invert, check):
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    model = with_temporal_attention(loaded[0], KeyFrames(("first", "previous")), 2)
    assert check(invert(model, **REFINED), model)[3] > check(invert(model), model)[3] + 10


def test_a_null_prompt_leads_the_path_and_the_source_prompt_is_recorded(prompt, invert):
    both, alone = invert(null_prompt=prompt("")), invert(source=prompt(""))
    torch.testing.assert_close(both.latents, alone.latents, rtol=1e-4, atol=1e-4)
    assert [word.text for word in both.record.words.words] == SOURCE.split()
    assert both.origin.prompt == ""
    by_source = invert().record
    for mine, other in zip(both.record.levels, by_source.levels, strict=True):
        assert all((mine[size].float() - other[size].float()).abs().mean() < 0.02 for size in other)


def test_in_fp16_the_clip_is_exact_and_the_rest_near(invert, check):
    whole, half = invert(), invert(precision="fp16")
    assert half.latents.dtype == torch.float16
    assert torch.equal(half.clip, whole.clip)
    torch.testing.assert_close(half.latents.float(), whole.latents, rtol=1e-3, atol=1e-4)
    assert half.nbytes - half.record.nbytes == (whole.nbytes - whole.record.nbytes) // 2 + whole.clip.nbytes


# Reconstruction Check


def test_the_check_is_the_psnr_of_sampling_back_with_core(comfy, loaded, prompt, invert, check):
    """Against core's own euler from the trajectory's top, with nothing of ours in between."""
    import comfy.sample
    import comfy.samplers

    model, trajectory = loaded[0], invert()
    latent, plot, report, mean = check(trajectory)
    sigmas = trajectory.sigmas.flip(0)
    top = model.model.process_latent_out(trajectory.latents[-1])
    with torch.inference_mode():  # core scales a latent and the noise apart: all of the top is handed over as the latent, without noise
        stock = comfy.sample.sample_custom(model, torch.zeros_like(top), 1.0, comfy.samplers.sampler_object("euler"), sigmas, prompt(SOURCE),
                                           prompt(SOURCE), top, disable_pbar=True, seed=0)  # fmt: skip
    torch.testing.assert_close(latent["samples"], stock, rtol=1e-4, atol=1e-4)
    back = model.model.process_latent_in(stock)
    assert mean == pytest.approx(float(latent_psnr(trajectory.clip, back).mean()), abs=0.02)
    assert plot.shape == (1, 400, 1000, 3)
    assert [f"| {frame} | " in report for frame in range(FRAMES + 1)] == [True] * FRAMES + [False]


def test_a_model_that_gives_no_numbers_is_told_of_by_the_check(loaded, invert, check):
    broken, calls = loaded[0].clone(), []

    def fail(apply, given):
        calls.append(1)
        return apply(given["input"], given["timestep"], **given["c"]) * (torch.nan if len(calls) == 2 else 1)

    broken.set_model_unet_function_wrapper(fail)
    with pytest.raises(ValueError, match=r"^Reconstruction Check \(BLADE\), input model: the model gives values .* step 2 of"):
        check(invert(), broken)
    assert len(calls) == 2


def test_a_vae_that_gives_no_numbers_is_told_of_by_the_check(loaded, invert, check, monkeypatch):
    real = loaded[2].decode
    monkeypatch.setattr(loaded[2], "decode", lambda samples: real(samples) * torch.nan)
    with pytest.raises(ValueError, match=r"^Reconstruction Check \(BLADE\), input vae: it decodes frames 0 to .* not finite"):
        check(invert(), vae=loaded[2])


def test_frames_that_the_cpus_memory_cannot_hold_are_refused_before_the_check_samples(loaded, invert, check, monkeypatch):
    trajectory = invert()
    monkeypatch.setattr(loaded[2], "device", torch.device("cpu"))
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: 2**20)
    monkeypatch.setattr("blade.nodes.reconstruction.run_sampler", lambda *_: pytest.fail("it samples"))
    with pytest.raises(
        ValueError, match=r"^Reconstruction Check \(BLADE\), input vae: to decode one frame of 128x128 pixels on the CPU takes"
    ):
        check(trajectory, vae=loaded[2])


def test_decoded_frames_are_measured_against_the_vaes_own(loaded, invert, check):
    _, _, report, _ = check(invert(**REFINED), vae=loaded[2])
    decoded = float(report.split("decoded: mean ")[1].split(" dB")[0])
    assert decoded > 45


def test_the_check_says_what_to_turn(invert, check):
    assert "set method of DDIM Invert to refined" in check(invert())[2]
    assert "good for any edit" in check(invert(method="refined", refine=3))[2]


def test_the_check_tells_of_another_prompt(invert, check, prompt):
    assert (
        "inverted with the prompt 'a red circle on grass', and is sampled back with 'a dog'" in check(invert(), source=prompt("a dog"))[2]
    )


# What a trajectory knows


def test_a_solver_that_writes_into_its_latent_leaves_the_trajectory_alone(invert, edit, monkeypatch):
    import blade.host.blended

    trajectory, real = invert(), blade.host.blended.solver_function
    before = trajectory.latents.clone()
    monkeypatch.setattr(
        blade.host.blended, "solver_function", lambda name: lambda model, x, *a, **k: real(name)(model, x.mul_(0.5), *a, **k)
    )
    edit(trajectory)
    assert torch.equal(trajectory.latents, before)


def test_a_trajectory_of_another_checkpoint_is_refused(comfy, checkpoint, invert, edit, check):
    other, _, _, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_clip=False)
    with torch.no_grad():
        other.model.diffusion_model.out[0].weight.mul_(1.02)
    trajectory = invert()
    for use in (edit, check):
        with pytest.raises(ValueError, match="input trajectory: it was inverted by another checkpoint"):
            use(trajectory, other)


def test_the_same_checkpoint_in_another_precision_is_the_same(loaded):
    from blade.host.fingerprint import same_weights, weights_sample

    sample = weights_sample(loaded[0])
    assert len(sample) > 300
    assert same_weights(sample, sample.half().float())
    assert same_weights(sample, sample.bfloat16().float())
    assert not same_weights(sample, sample * 1.02)
    assert same_weights(sample, torch.empty(0))


def test_a_trajectory_of_another_prediction_is_refused(twin, invert, edit):
    with pytest.raises(ValueError, match="inverted by a model that predicts eps, but the model here predicts v"):
        edit(invert(), twin)


def test_a_trajectory_that_reaches_beyond_the_models_noise_is_refused(twin, invert, edit):
    with pytest.raises(ValueError, match="reaches up to sigma .*, but the model here knows noise up to 14.61"):
        edit(invert(twin, schedule="normal"), sampling(twin, "v_prediction", False))


def test_a_trajectory_of_other_channels_is_refused(invert, edit):
    trajectory = invert()
    wide = replace(trajectory, latents=torch.cat([trajectory.latents] * 2, 2))
    with pytest.raises(ValueError, match="its latents have 8 channels, but the model takes 4"):
        edit(wide)


def test_the_sampler_warns_of_other_patches(loaded, invert, edit, caplog):
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    model = with_temporal_attention(loaded[0], KeyFrames(("self", "first")))
    caplog.set_level(logging.INFO)
    edit(invert(model), model)
    assert "Warning" not in caplog.text
    edit(invert(model), loaded[0])
    assert "not patched as the one that inverted the clip (temporal attention: self, first, strength 1" in caplog.text
    assert "there, none here" in caplog.text


def test_patches_are_told_by_what_they_are(loaded):
    from blade.host.fingerprint import difference, patches_of, weights_sample

    model = loaded[0]
    assert patches_of(model) == {}
    key = "diffusion_model.middle_block.1.proj_in.weight"
    weight = model.model.state_dict()[key]
    strong, weak = model.clone(), model.clone()
    strong.add_patches({key: (torch.ones_like(weight),)}, 1.0)
    weak.add_patches({key: (torch.ones_like(weight),)}, 0.5)
    strong.set_model_attn2_replace(lambda q, k, v, options: v, "middle", 0)
    strong.set_model_unet_function_wrapper(lambda apply, arguments: None)
    strong.set_model_sampler_cfg_function(lambda arguments: arguments["cond"])  # guidance: an inversion has none
    told = patches_of(strong)
    assert set(told) == {"weights (LoRA)", "attn2 replacement", "model function wrapper"}
    assert told["weights (LoRA)"].startswith("1 layers")
    assert "weights (LoRA): 1 layers" in difference(told, patches_of(weak))
    assert difference(told, patches_of(strong.clone())) == ""
    assert "sigma up to 4519" in difference({}, patches_of(sampling(model, "v_prediction", True)))
    assert torch.equal(weights_sample(strong), weights_sample(model))


# Leaving


def test_cancelled_at_any_step_it_leaves_the_model_as_it_was(comfy, loaded, invert, monkeypatch):
    import comfy.model_management

    import blade.nodes.invert

    model, before = loaded[0], invert(**REFINED)
    options, real = copy.deepcopy(model.model_options), blade.nodes.invert.run_sampler
    for step in (0, 3, STEPS - 1):

        def run(model, function, *rest, step=step):
            def cancelled(model, x, sigmas, extra_args, callback, disable):
                def press(state):
                    callback(state)
                    if state["i"] == step:
                        comfy.model_management.interrupt_current_processing()

                result = function(model, x, sigmas, extra_args, press, disable)
                comfy.model_management.throw_exception_if_processing_interrupted()
                return result

            return real(model, cancelled, *rest)

        monkeypatch.setattr(blade.nodes.invert, "run_sampler", run)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            invert(**REFINED)
        monkeypatch.setattr(blade.nodes.invert, "run_sampler", real)
        assert model.model_options == options
        assert not any(model.wrappers.get("diffusion_model", {}).values())
        assert torch.equal(invert(**REFINED).latents, before.latents)


def test_a_loaded_trajectory_says_what_fits_it(loaded, invert):
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention
    from blade.nodes.load_trajectory import describe

    told = describe(invert(with_temporal_attention(loaded[0], KeyFrames(("first",))), **REFINED))
    assert told.splitlines() == [
        f"{FRAMES} frames of 128x128, {STEPS} steps (ddim), refined, refine 1",
        f"prompt: {SOURCE!r}",
        "temporal attention: first, strength 1, scales 1 to 8, from 0 to 1",
    ]
