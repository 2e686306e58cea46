"""The pack's inversion on ComfyUI's model against diffusers' on the same weights."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.quality.reference import diffusers_unet, invert_with_diffusers, sample_with_diffusers
from blade.inversion.coordinates import Coordinates
from blade.inversion.ddim import invert_ddim
from blade.inversion.schedule import ddim_sigmas

STEPS = 10


@pytest.fixture(scope="module")
def weights(checkpoint):
    return load_file(checkpoint)


@pytest.fixture(scope="module")
def config(comfy):
    from demo.model_pack.architecture import UNET_CONFIG

    return UNET_CONFIG


@pytest.fixture(scope="module")
def unet(weights, config):
    return diffusers_unet(weights, config)


@pytest.fixture(scope="module")
def loaded(comfy, checkpoint):
    """ComfyUI's model in fp32, and the context of a prompt."""
    patcher, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False)
    assert patcher.model.get_dtype() == torch.float32
    return patcher.model, clip.encode_from_tokens(clip.tokenize("a red circle on grass")).float()


@pytest.fixture(scope="module")
def clip():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[("eps", False), ("v", False), ("v", True)], ids=["eps", "v", "v of zero terminal SNR"])
def kind(request, comfy, loaded):
    """family, diffusers' words for it, and ComfyUI's denoiser of that family: the same network, its output read otherwise."""
    import comfy.model_sampling as core

    family, zero_snr = request.param

    class Sampling(core.ModelSamplingDiscrete, core.EPS if family == "eps" else core.V_PREDICTION):
        pass

    model, context = loaded
    model.model_sampling = Sampling(zsnr=zero_snr)

    @torch.no_grad()
    def denoiser(x, sigma, **_):
        return model.apply_model(x, sigma, c_crossattn=context.expand(len(x), -1, -1))

    theirs = {"prediction": "epsilon" if family == "eps" else "v_prediction", "zero_snr": zero_snr}
    return family, theirs, denoiser, ddim_sigmas(model.model_sampling.sigmas, STEPS)


def relative_errors(ours, theirs):
    """Per level, the largest difference in parts of the largest value."""
    return ((ours - theirs).flatten(1).abs().amax(1) / theirs.flatten(1).abs().amax(1)).tolist()


def test_every_tensor_of_the_demo_unet_is_converted(weights, unet):
    given = [value for key, value in weights.items() if key.startswith("model.diffusion_model.")]
    assert len(unet.state_dict()) == len(given)
    assert sum(p.numel() for p in unet.parameters()) == sum(value.numel() for value in given)
    assert {p.dtype for p in unet.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_weights_of_another_unet_are_refused(weights, config, change):
    key = "model.diffusion_model.out.2.bias"
    changed = {k: v for k, v in weights.items() if k != key} if change == "missing" else {**weights, key + "2": weights[key]}
    with pytest.raises(RuntimeError, match=r"conv_out\.bias|287 U-Net tensors diffusers converts 286"):
        diffusers_unet(changed, config)


@torch.no_grad()
def test_the_converted_unet_is_comfyui_unet(loaded, unet, clip):
    model, context = loaded
    context = context.expand(2, -1, -1)
    for timestep in (1.0, 401.0, 999.0):
        ours = model.diffusion_model(clip, torch.full((2,), timestep), context=context)
        theirs = unet(clip, timestep, encoder_hidden_states=context).sample
        assert max(relative_errors(ours[None], theirs[None])) < 1e-4


def test_inversion_is_diffusers_at_every_level(loaded, unet, clip, kind):
    family, words, denoiser, sigmas = kind
    ours = {}
    invert_ddim(denoiser, clip, sigmas, coordinates=Coordinates(family), keep=lambda level, x: ours.setdefault(level, x.clone()))
    theirs = invert_with_diffusers(unet, clip, loaded[1], STEPS, **words)
    errors = relative_errors(torch.stack([ours[level] for level in range(STEPS + 1)]), theirs)
    assert errors[0] == 0 and max(errors) < 1e-4, errors


def test_core_euler_is_diffusers_ddim_at_every_level(loaded, unet, clip, kind):
    """So the reference's way down is the way down of the pack, whose inversions are sampled with core's solvers."""
    from comfy.k_diffusion.sampling import sample_euler

    _, words, denoiser, sigmas = kind
    start = clip * (1 + sigmas[0] ** 2) ** 0.5
    passed = []
    clean = sample_euler(denoiser, start, sigmas, callback=lambda state: passed.append(state["x"].clone()), disable=True)
    theirs = sample_with_diffusers(unet, start, loaded[1], STEPS, **words)
    assert max(relative_errors(torch.stack([*passed, clean]).flip(0), theirs)) < 1e-4
