"""The blended sampler with what artists patch onto a model and a prompt: LoRA, ControlNet, IPAdapter-like patches, regions, other guidance; and
with the other families and precisions."""

from types import SimpleNamespace

import pytest
import torch

from tests.host.helpers import TARGET, Studio, in_cells

BOX = (24, 88, 0, 72)  # the thing's own place and more of the picture's left
EFFECT = 1e-3  # a mean difference of latents, whose deviation is about 1: far above rounding


@pytest.fixture(scope="module")
def plain(studio):
    """What core samples of the unpatched model from the trajectory's top."""
    return studio.stock()


# Patches of a MODEL: each gives a clone


def weights(studio, model):
    """Weight patches as core's LoRA loader makes them, of both the U-Net and the text encoder."""
    return lora(studio, model)[0]


def lora(studio, model):
    import comfy.lora
    import comfy.sd

    generator, made = torch.Generator().manual_seed(0), {}
    for part, keys in (
        (model.model, comfy.lora.model_lora_keys_unet(model.model, {})),
        (studio.clip.cond_stage_model, comfy.lora.model_lora_keys_clip(studio.clip.cond_stage_model, {})),
    ):
        shapes, done = part.state_dict(), set()
        for name, key in keys.items():
            if isinstance(key, str) and ("attn2.to_k" in key or "self_attn.v_proj" in key) and key not in done:
                done.add(key)
                rows, columns = shapes[key].shape
                made[f"{name}.lora_up.weight"] = 0.3 * torch.randn(rows, 2, generator=generator)
                made[f"{name}.lora_down.weight"] = 0.3 * torch.randn(2, columns, generator=generator)
    found, clip = comfy.sd.load_lora_for_models(model, studio.clip, made, 1.0, 1.0)
    assert found.patches and clip.patcher.patches
    return found, clip, made


def free_u(studio, model):
    from comfy_extras.nodes_freelunch import FreeU_V2

    return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]


def image_prompt(studio, model):
    """As IPAdapter works: beside the prompt's, attention to an image of each frame, which frames are told by sub_idxs."""
    from comfy.ldm.modules.attention import optimized_attention

    images = torch.randn(studio.frames, 4, 128, generator=torch.Generator().manual_seed(1))

    def patch(q, k, v, options):
        frames = (options.get("ad_params") or {}).get("sub_idxs") or range(studio.frames)
        own = images[list(frames), :, : q.shape[-1]].repeat(len(q) // len(frames), 1, 1).to(q)
        return optimized_attention(q, k, v, options["n_heads"]) + 0.7 * optimized_attention(q, own, own, options["n_heads"])

    model = model.clone()
    for block in ("input", 1), ("input", 3), ("middle", 0), ("output", 3):
        model.set_model_attn2_replace(patch, *block)
    return model


def discrete(studio, model):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, "eps", True)[0]


def tiles(studio, model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 64, 2, 0, False)[0]


def merged(studio, model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return TomePatchModel.execute(model, 0.4).result[0]


def perturbed(studio, model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0).result[0]


def rescaled(studio, model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


def self_guided(studio, model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.7, 2.0).result[0]


PATCHES = (weights, free_u, image_prompt, discrete, tiles, merged, perturbed, rescaled, self_guided)


# Patches of a prompt: each gives positive and negative


def hinted(studio, net, frames):
    import nodes

    hints = torch.rand(frames, 128, 128, 3, generator=torch.Generator().manual_seed(6))
    return nodes.ControlNetApplyAdvanced().apply_controlnet(studio.prompt(TARGET), studio.prompt(""), net, hints, 0.6, 0.0, 1.0)


def of_areas(studio, net):
    import nodes

    left = nodes.ConditioningSetArea().append(studio.prompt("a yellow star"), 64, 128, 0, 0, 1.0)[0]
    return nodes.ConditioningCombine().combine(studio.prompt(TARGET), left)[0], studio.prompt("")


def of_masks(studio, net):
    """Whose masks move from frame to frame."""
    import nodes

    moving = torch.cat([studio.pixels(0, 128, 16 * frame, 16 * frame + 64) for frame in range(studio.frames)])
    parts = [
        nodes.ConditioningSetMask().append(studio.prompt(text), mask, bounds, 0.9)[0]
        for text, mask, bounds in ((TARGET, 1 - moving, "default"), ("a yellow star on sand", moving, "mask bounds"))
    ]
    return nodes.ConditioningCombine().combine(*parts)[0], studio.prompt("")


def in_turn(studio, net):
    import nodes

    first = nodes.ConditioningSetTimestepRange().set_range(studio.prompt("a yellow star on sand"), 0.0, 0.5)[0]
    then = nodes.ConditioningSetTimestepRange().set_range(studio.prompt(TARGET), 0.5, 1.0)[0]
    return nodes.ConditioningCombine().combine(first, then)[0], studio.prompt("")


def of_its_own_weights(studio, net):
    """A LoRA that works for the positive prompt alone, as core's hooks have it."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora(studio, studio.model)[2], 1.0, 0.0)
    return comfy.hooks.set_hooks_for_conditioning(studio.prompt(TARGET), hooks), studio.prompt("")


PROMPTS = {
    "a hint for each frame": lambda studio, net: hinted(studio, net, studio.frames),
    "one hint for the clip": lambda studio, net: hinted(studio, net, 1),
    "an area": of_areas,
    "masks that move": of_masks,
    "prompts in turn": in_turn,
    "a LoRA hook": of_its_own_weights,
    "a LoRA's text encoder": lambda studio, net: (
        studio.prompt(TARGET, lora(studio, studio.model)[1]),
        studio.prompt("", lora(studio, studio.model)[1]),
    ),
}


@pytest.fixture(scope="module")
def net(comfy):
    """A ControlNet of the demo model's shape with random weights, its zero convolutions' too."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    from demo.model_pack.architecture import UNET_CONFIG

    config = {name: value for name, value in UNET_CONFIG.items() if name not in ("out_channels", "transformer_depth_output")}
    made = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    fill(made, 5)
    return comfy.controlnet.ControlNet(made.eval(), load_device=torch.device("cpu"))


def fill(module, seed):
    """Random weights that keep a signal's size."""
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.data.fill_(1).add_(torch.randn(weight.shape, generator=generator), alpha=0.1)


def check(studio, stock, **inputs):
    """A full mask is core's sampling, and outside a half mask is the clip, both to the bit. Returns what was sampled under the half mask."""
    trajectory, model = inputs.get("trajectory", studio.trajectory), inputs.get("model")
    seeded = lambda **given: torch.manual_seed(0) and studio.latents(**(inputs | given))  # noqa: E731
    size = [8 * side for side in trajectory.clip.shape[-2:]]
    full = seeded(mask=torch.ones(1, *size))
    assert torch.isfinite(full).all()
    assert torch.equal(full, stock)
    half = torch.zeros(1, *size)
    half[:, BOX[0] : BOX[1], BOX[2] : BOX[3]] = 1
    part, outside = seeded(mask=half), ~in_cells(half).expand_as(full)
    clip = studio.clips_own(trajectory, model)
    assert torch.equal(part[outside], clip[outside])
    assert (part - clip)[~outside].abs().mean() > EFFECT
    return part


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_with_a_patched_model_the_edit_is_cores_sampling_of_it_and_stays_inside(studio, plain, patch):
    model = patch(studio, studio.model)
    torch.manual_seed(0)  # HyperTile and token merging draw from the global generator
    stock = studio.stock(model=model)
    check(studio, stock, model=model)
    assert (stock - plain).abs().mean() > EFFECT


@pytest.mark.parametrize("make", PROMPTS.values(), ids=PROMPTS)
def test_with_a_patched_prompt_the_edit_is_cores_sampling_of_it_and_stays_inside(studio, plain, net, make):
    positive, negative = make(studio, net)
    stock = studio.stock(target=positive, negative=negative)
    check(studio, stock, target=positive, negative=negative)
    assert (stock - plain).abs().mean() > EFFECT


def test_all_together_the_edit_is_cores_sampling_and_stays_inside(studio, plain, net):
    model = rescaled(studio, image_prompt(studio, free_u(studio, weights(studio, studio.model))))
    positive, negative = hinted(studio, net, studio.frames)
    positive = positive + of_masks(studio, net)[0]
    stock = studio.stock(model=model, target=positive, negative=negative, solver="dpmpp_2m")
    check(studio, stock, model=model, target=positive, negative=negative, solver="dpmpp_2m")


@pytest.mark.parametrize("patch", [weights, free_u, image_prompt, perturbed], ids=lambda patch: patch.__name__)
def test_with_a_patched_model_batches_of_frames_are_the_whole_clip(studio, patch):
    from blade.host.frames import with_frame_batches

    model, box = patch(studio, studio.model), studio.pixels(*BOX)
    whole, parts = (studio.latents(model=with_frame_batches(model, size=size), mask=box) for size in (3, 2))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["a hint for each frame", "masks that move", "a LoRA hook"])
def test_with_a_patched_prompt_batches_of_frames_are_the_whole_clip(studio, net, name):
    from blade.host.frames import with_frame_batches

    positive, negative = PROMPTS[name](studio, net)
    box = studio.pixels(*BOX)
    whole, parts = (
        studio.latents(model=with_frame_batches(studio.model, size=size), target=positive, negative=negative, mask=box) for size in (3, 2)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PROMPTS)
def test_with_a_patched_prompt_structure_and_a_second_edit_stay_inside_too(studio, net, name):
    positive, negative = PROMPTS[name](studio, net)
    left, right = studio.pixels(24, 88, 0, 56), studio.pixels(24, 88, 72, 112)
    edits = studio.edits(mask=right, structure=0.5)
    found = studio.latents(
        target=positive, negative=negative, mask=left, structure=0.8, source=studio.prompt("a red circle on grass"), edits=edits
    )
    outside = ~in_cells(torch.maximum(left, right)).expand_as(found)
    assert torch.isfinite(found).all()
    assert torch.equal(found[outside], studio.clips_own()[outside])


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_with_a_patched_model_words_draw_the_mask_and_structure_is_kept(studio, patch):
    torch.manual_seed(0)
    found, mask, _ = studio.sample(
        model=patch(studio, studio.model), structure=0.6, source=studio.prompt("a red circle on grass"), mask_size="latent cells"
    )
    outside = (mask[:, None] == 0).expand_as(found["samples"])
    thing = in_cells(studio.truth)[:, 0]
    assert (mask[thing] == 1).float().mean() > 0.7
    assert mask.mean() < 0.4
    assert torch.equal(found["samples"][outside], studio.clips_own()[outside])


# Families


def tiny(comfy, config, state=None, **unet):
    """A small U-Net of a family, with random weights."""
    import comfy.model_patcher

    made = config(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
            "transformer_depth": [1, 1], "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1], "use_spatial_transformer": True,
            "use_linear_in_transformer": True, "use_temporal_attention": False, "legacy": False, **unet,
        }
    )  # fmt: skip
    made.set_inference_dtype(torch.float32, None)
    model, cpu = made.get_model(state or {}), torch.device("cpu")
    fill(model, 0)
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def sd2(comfy):
    """SD2.x that predicts v, told as core tells it: by the deviation of a norm's bias."""
    import comfy.supported_models

    sign = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.randn(64)}
    return tiny(comfy, comfy.supported_models.SD20, sign, context_dim=1024, adm_in_channels=None)


def sdxl(comfy):
    import comfy.supported_models

    return tiny(comfy, comfy.supported_models.SDXL, context_dim=2048, num_classes="sequential", adm_in_channels=2816)


FAMILIES = {"SD2.x, v": (sd2, "v", 1024, 0), "SDXL": (sdxl, "eps", 2048, 1280)}


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def family(request, comfy):
    """A MODEL, what it predicts, and a function that makes it a CONDITIONING of a text, with words of SDXL's or SD2's tokenizer."""
    import comfy.sdxl_clip
    import comfy.text_encoders.sd2_clip

    import blade.host.words

    make, predicts, width, pooled = request.param
    tokenizer = comfy.sdxl_clip.SDXLTokenizer() if pooled else comfy.text_encoders.sd2_clip.SD2Tokenizer()

    def prompt(text):
        tokens = tokenizer.tokenize_with_weights(text)
        generator = torch.Generator().manual_seed(len(text))
        words = blade.host.words.tokenised_words(SimpleNamespace(tokenizer=tokenizer), text, tokens)
        options = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return [[torch.randn(1, 77, width, generator=generator), {**options, "blade_words": words}]]

    return make(comfy), predicts, prompt


def test_in_every_family_the_edit_is_cores_sampling_and_stays_inside(studio, family):
    from blade.host.families import coordinates_of

    model, predicts, prompt = family
    assert coordinates_of(model).prediction == predicts
    source, target, negative = (prompt(text) for text in ("a red circle on grass", TARGET, ""))
    trajectory = studio.invert(model, source)
    stock = studio.stock(trajectory, model, target, negative)
    check(studio, stock, trajectory=trajectory, model=model, target=target, negative=negative)


def test_in_every_family_words_draw_masks_and_structure_and_several_edits_stay_inside(studio, family):
    model, _, prompt = family
    source, target, negative = (prompt(text) for text in ("a red circle on grass", TARGET, ""))
    trajectory = studio.invert(model, source)
    found, mask, _ = studio.sample(
        trajectory=trajectory, model=model, target=target, negative=negative, structure=0.5, source=source, mask_size="latent cells",
        renoise=0.5, edits=studio.edits(prompt("a red star on grass"), mask=studio.pixels(0, 24, 0, 128)),
    )  # fmt: skip
    outside = (mask[:, None] == 0).expand_as(found["samples"])
    assert 0.15 < mask.mean() < 1
    assert torch.isfinite(found["samples"]).all()
    assert torch.equal(found["samples"][outside], studio.clips_own(trajectory, model)[outside])


# Precisions


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def half(request, comfy, checkpoint, one_thread):
    return Studio(comfy, checkpoint, model_options={"dtype": request.param}), request.param


def test_in_half_precision_the_edit_is_cores_sampling_and_stays_inside(half):
    studio, dtype = half
    assert studio.model.model_dtype() == dtype
    assert studio.trajectory.latents.dtype == torch.float32
    part = check(studio, studio.stock())
    assert part.dtype == torch.float32


def test_in_half_precision_words_draw_the_mask_and_structure_stays_inside(half):
    studio, _ = half
    found, mask, _ = studio.sample(structure=0.6, source=studio.prompt("a red circle on grass"), renoise=0.3, mask_size="latent cells")
    outside = (mask[:, None] == 0).expand_as(found["samples"])
    thing = in_cells(studio.truth)[:, 0]
    assert (mask[thing] == 1).float().mean() > 0.7
    assert mask.mean() < 0.4
    assert torch.isfinite(found["samples"]).all()
    assert torch.equal(found["samples"][outside], studio.clips_own()[outside])
