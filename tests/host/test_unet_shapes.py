"""U-Nets of the real checkpoints' shapes with random weights: every self-attention layer takes part, and batches equal the whole clip."""

import gc

import pytest
import torch

FRAMES = 5
COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_checkpoint": False, "legacy": False,
    "use_spatial_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False, "adm_in_channels": None,
}  # fmt: skip
FOUR_LEVELS = {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}  # fmt: skip
SHAPES = {  # what comfy.model_detection finds in the checkpoints
    "SD15": {**COMMON, **FOUR_LEVELS, "use_linear_in_transformer": False, "context_dim": 768},
    "SD20": {**COMMON, **FOUR_LEVELS, "use_linear_in_transformer": True, "context_dim": 1024},
    "SDXL": {
        **COMMON, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "use_linear_in_transformer": True,
        "context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816,
    },
}  # fmt: skip
LAYERS = {"SD15": 16, "SD20": 16, "SDXL": 70}
KINDS = {"SD15": "EPS", "SD20": "V_PREDICTION", "SDXL": "EPS"}


@torch.no_grad()
def fill(model):
    """Random weights that keep activations of deviation near 1, from a bank of numbers since billions take minutes to draw."""
    bank = torch.randn(8_388_593, generator=torch.Generator().manual_seed(0))
    for number, (name, weight) in enumerate(model.diffusion_model.named_parameters()):
        weight.requires_grad_(False)
        if weight.ndim == 1:
            weight.copy_(bank[number : number + len(weight)]).mul_(0.02).add_(1.0 if name.endswith("weight") else 0.0)
            continue
        flat = weight.view(-1)
        for start in range(0, len(flat), 4_000_000):
            part = flat[start : start + 4_000_000]
            shift = (7919 * number + start) % 4_000_000
            part.copy_(bank[shift : shift + len(part)])
        weight.mul_(weight[0].numel() ** -0.5)


@pytest.fixture(params=list(SHAPES))
def unet(request, comfy):
    """A MODEL of one architecture, its name, and conds for it. Gone before the next is made."""
    import comfy.model_detection
    import comfy.model_management
    import comfy.model_patcher

    config = comfy.model_detection.model_config_from_unet_config(SHAPES[request.param], {})
    assert type(config).__name__ == request.param
    config.set_inference_dtype(torch.float32, None)
    marks = torch.linspace(-1, 1, 320)  # by a norm's deviation core tells SD2.1's v-prediction from SD2.0's noise prediction
    state = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": marks} if KINDS[request.param] == "V_PREDICTION" else {}
    model = config.get_model(state)
    assert model.model_type.name == KINDS[request.param]
    fill(model)
    generator = torch.Generator().manual_seed(1)
    conds = [
        [[torch.randn(1, 77, config.unet_config["context_dim"], generator=generator), {"pooled_output": torch.randn(1, 1280, generator=generator)}]]
        for _ in range(2)
    ]  # fmt: skip
    cpu = torch.device("cpu")
    yield comfy.model_patcher.ModelPatcher(model, cpu, cpu), request.param, conds
    comfy.model_management.unload_all_models()
    del model, config
    gc.collect()


@torch.inference_mode()
def once(comfy, model, conds, height=16, frames=FRAMES):
    """The denoised clip of a single model call."""
    import comfy.sample
    import comfy.samplers

    def sampler(denoiser, x, sigmas, extra_args, **_):
        return denoiser(x, 3.0 * torch.ones(len(x)), **extra_args)

    noise = torch.randn(frames, 4, height, 16, generator=torch.Generator().manual_seed(2))
    return comfy.sample.sample_custom(
        model, noise, 4.0, comfy.samplers.KSAMPLER(sampler), torch.tensor([3.0, 0.0]), *conds, torch.zeros_like(noise), disable_pbar=True, seed=0
    )  # fmt: skip


def difference(a, b):
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.slow
def test_on_real_shapes_every_layer_looks_across_frames_and_batches_equal_the_whole_clip(comfy, unet, monkeypatch):
    import blade.host.attention
    import blade.host.frames
    from blade.attention.temporal import KeyFrames
    from blade.host.attention import with_temporal_attention

    model, name, conds = unet
    keys = KeyFrames(("first", "previous"))
    stock = once(comfy, model, conds)
    assert torch.equal(once(comfy, with_temporal_attention(model, KeyFrames(("self",)), FRAMES), conds), stock)
    whole = once(comfy, with_temporal_attention(model, keys, FRAMES), conds)
    assert difference(whole, stock) > 1e-2

    made, real = [], blade.host.frames.CarriedKeys
    monkeypatch.setattr(blade.host.frames, "CarriedKeys", lambda: made.append(real()) or made[-1])
    batches = once(comfy, with_temporal_attention(model, keys, 2), conds)
    assert difference(batches, whole) <= 1e-5
    (carried,) = made
    layers = {layer for layer, _ in carried.held}
    assert len(layers) == LAYERS[name]
    assert len(carried.held) == 2 * len(layers)  # cond and uncond apart
    assert all(len(key) == len(value) == 2 for key, value in carried.held.values())  # the first frame's and the last one's


@pytest.mark.slow
@pytest.mark.parametrize("unet", ["SD15"], indirect=True)
def test_a_height_that_does_not_divide_by_eight_has_all_four_scales(comfy, unet, monkeypatch):
    import blade.host.attention
    from blade.attention.temporal import KeyFrames

    cells, run = set(), blade.host.attention.temporal_attention

    def spy(q, *args, **kwargs):
        cells.add(q.shape[1])
        return run(q, *args, **kwargs)

    monkeypatch.setattr(blade.host.attention, "temporal_attention", spy)
    model, _, conds = unet
    for scale, height in ((1, 20), (2, 10), (4, 5), (8, 3)):
        cells.clear()
        patched = blade.host.attention.with_temporal_attention(model, KeyFrames(("first",)), scales=(scale, scale))
        once(comfy, patched, conds, height=20, frames=1)
        assert cells == {height * 16 // scale}


@pytest.mark.slow
def test_on_real_shapes_a_clip_is_inverted_with_its_words_and_conditioning(comfy, unet):
    """Of random weights only what does not hang on their values: family, shapes, the record, and that what is conditioned on counts."""
    from blade.attention.words import PromptWords, Word
    from blade.nodes.invert import DDIMInvert

    model, name, ((cond,), _) = unet
    words = PromptWords("a car", (Word("a", (1,)), Word("car", (2,))), 77)
    latent = {"samples": torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(3))}

    @torch.inference_mode()
    def invert(**changed):
        pooled = changed.pop("pooled_output", cond[1]["pooled_output"])
        source = [[cond[0], {"pooled_output": pooled, "blade_words": words, **changed}]]
        return DDIMInvert.execute(model, source, latent, 2, method="refined").result[0]

    trajectory = invert()
    assert trajectory.coordinates.prediction == {"EPS": "eps", "V_PREDICTION": "v"}[KINDS[name]]
    assert trajectory.latents.shape == (3, 2, 4, 32, 32)
    assert torch.isfinite(trajectory.latents).all()
    assert len(trajectory.origin.weights) == 1280 + 320 + 320 + 4
    maps = trajectory.record.levels[0]
    assert set(maps) == ({(16, 16)} if name == "SDXL" else {(32, 32), (16, 16)})  # SDXL's finest layers have no attention
    assert all(tokens.shape[:2] == (2, 2) and tokens.sum() > 0 for tokens in maps.values())
    if name == "SDXL":
        for changed in ({"width": 2048, "height": 512}, {"pooled_output": -cond[1]["pooled_output"]}):
            assert difference(invert(**changed).latents, trajectory.latents) > 1e-3
