"""What is told of a checkpoint by a few KB of its weights: the same file in another precision, one with a LoRA merged into it, another one."""

import logging
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter

from blade.inversion.coordinates import V
from runner.host import REPOSITORY

PRECISIONS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
ATTENTION = r"attn[12]\.(to_[qkv]|to_out\.0)\.weight$"
OLD = 388  # values of a sample in a trajectory file of before, of the demo checkpoint: its four small tensors


@pytest.fixture(scope="module")
def weights(comfy, checkpoint):
    """The demo checkpoint's U-Net, by names."""
    held, prefix = comfy.utils.load_torch_file(str(checkpoint)), "model.diffusion_model."
    return {name.removeprefix(prefix): weight for name, weight in held.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def other(comfy):
    """Those of another checkpoint of the same architecture."""
    return comfy.utils.load_torch_file(str(REPOSITORY / "demo" / "blade_demo_v.safetensors"))


@pytest.fixture(scope="module")
def load(comfy):
    """A MODEL of a U-Net's weights, in a precision."""

    def made(weights, precision="fp32"):
        copies = {name: weight.clone() for name, weight in weights.items()}
        return comfy.sd.load_diffusion_model_state_dict(copies, model_options={"dtype": PRECISIONS[precision]})

    return made


@pytest.fixture(scope="module")
def sample(load):
    from blade.host.fingerprint import weights_sample

    known = {}

    def of(weights, precision="fp32"):
        key = id(weights), precision
        if key not in known:
            known[key] = weights, weights_sample(load(weights, precision))  # the weights too, so that their id stays theirs
        return known[key][1]

    return of


def with_lora(weights, strength, layers=ATTENTION, size=0.02, rank=4):
    """Weights with a LoRA merged into them, and rounded as files are. size: of what it adds at strength 1, as a share of each weight's own."""
    noise, merged = torch.Generator().manual_seed(1), dict(weights)
    for name, weight in weights.items():
        if re.search(layers, name):
            added = torch.randn(len(weight), rank, generator=noise) @ torch.randn(rank, weight.shape[1], generator=noise)
            added *= strength * size * weight.float().norm() / added.norm()
            merged[name] = (weight.float() + added).half()
    assert any(merged[name] is not weights[name] for name in weights)
    return merged


def told_of(model, trajectory):
    from blade.nodes.checks import check_model

    return check_model("Node", model, trajectory)


@pytest.fixture(scope="module")
def path(studio):
    """A short trajectory of a few cells."""
    return studio.invert(latent=studio.latent[:1, :, :8, :8], steps=2)


def of_weights(path, sample):
    return replace(path, origin=replace(path.origin, weights=sample))


@pytest.mark.parametrize("here", PRECISIONS)
@pytest.mark.parametrize("there", PRECISIONS)
def test_one_file_in_any_two_precisions_is_one_checkpoint_to_the_last_value(weights, sample, there, here):
    from blade.host.fingerprint import precision, same_weights, shares_apart

    one, two = sample(weights, there), sample(weights, here)
    assert shares_apart(one, two) == (0.0, 0.0)
    assert same_weights(one, two)
    held = "fp16" if here == "fp32" else here  # the file's own precision, which fp32 only holds
    assert precision(two) == held


@pytest.mark.parametrize("twin", ["fp16", "bf16"])
@pytest.mark.parametrize("here", PRECISIONS)
def test_a_twin_of_the_file_that_was_rounded_before_is_one_checkpoint_too(weights, sample, twin, here):
    """What is rounded twice may end up one step away from what is rounded once; that is warned of at most."""
    from blade.host.fingerprint import same_weights

    noise = torch.Generator().manual_seed(3)
    exact = {name: weight.float() * (1 + 1e-4 * torch.randn(weight.shape, generator=noise)) for name, weight in weights.items()}
    rounded = {name: weight.to(PRECISIONS[twin]) for name, weight in exact.items()}
    for there in PRECISIONS:
        assert same_weights(sample(exact, there), sample(rounded, here))


def test_the_same_file_in_fp8_edits_and_the_node_names_the_precision(studio, load, weights, caplog):
    """The trajectory by Load Diffusion Model's default, the edit by its fp8_e4m3fn."""
    caplog.set_level(logging.INFO)
    trajectory = studio.invert(load(weights), latent=studio.latent[:1, :, :8, :8], steps=2)
    studio.latents(trajectory=trajectory, model=load(weights), steps=1, mask=torch.ones(1, 64, 64))
    assert "Warning" not in caplog.text
    studio.latents(trajectory=trajectory, model=load(weights, "fp8_e4m3fn"), steps=1, mask=torch.ones(1, 64, 64))
    assert "Warning: the model is not quite the one that inverted the clip (its weights are in fp8_e4m3fn, and were in fp16)" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("layers", [ATTENTION, r"attn2\.to_[kv]\.weight$", r"attn1\.to_q\.weight$"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_lora_that_was_merged_into_attention_is_another_checkpoint(weights, sample, load, path, precision, layers, strength):
    merged = with_lora(weights, strength, layers)
    with pytest.raises(ValueError, match="^Node, input trajectory: it was inverted by another checkpoint"):
        told_of(load(merged, precision), of_weights(path, sample(weights, precision)))


@pytest.mark.parametrize(("precision", "strength"), [("fp32", 0.1), ("fp16", 0.1), ("bf16", 0.1), ("fp8_e4m3fn", 1.0), ("fp8_e5m2", 1.0)])
def test_a_weak_lora_shows_in_any_precision(weights, sample, precision, strength):
    from blade.host.fingerprint import weights_difference

    found = weights_difference(sample(weights, precision), sample(with_lora(weights, strength), precision))
    assert found == "its weights differ a little, as those of another file of the checkpoint, or with a weak LoRA merged in, do"


@pytest.mark.parametrize("here", PRECISIONS)
@pytest.mark.parametrize("there", PRECISIONS)
def test_another_checkpoint_is_another_in_any_two_precisions(weights, other, sample, there, here):
    from blade.host.fingerprint import same_weights, shares_apart

    one, two = sample(weights, there), sample(other, here)
    assert not same_weights(one, two) and not same_weights(two, one)
    assert shares_apart(one, two)[1] > 0.3


# Trajectory files of before, whose samples are of four tensors


def test_a_sample_of_before_is_compared_by_what_it_has(weights, other, sample, load, path, tmp_path):
    from blade.attention.record import CrossAttentionRecord
    from blade.inversion.file import load_trajectory, save_trajectory

    file = tmp_path / "old.safetensors"
    save_trajectory(file, of_weights(path, sample(weights)[:OLD].clone()))
    old = load_trajectory(file, CrossAttentionRecord.from_tensors)
    assert len(old.origin.weights) == OLD
    assert told_of(load(weights), old) == "" == told_of(load(with_lora(weights, 1.0)), old)
    assert "its weights are in fp8_e5m2, and were in fp16" in told_of(load(weights, "fp8_e5m2"), old)
    with pytest.raises(ValueError, match="another checkpoint"):
        told_of(load(other), replace(old, coordinates=V))


def test_a_sample_with_unknown_values_comes_back_from_a_file(weights, sample, load, path, tmp_path):
    from blade.attention.record import CrossAttentionRecord
    from blade.inversion.file import load_trajectory, save_trajectory

    holed = sample(weights).clone()
    holed[OLD:] = torch.nan
    file = tmp_path / "holed.safetensors"
    save_trajectory(file, of_weights(path, holed))
    kept = load_trajectory(file, CrossAttentionRecord.from_tensors)
    assert torch.equal(kept.origin.weights.isnan(), holed.isnan())
    assert told_of(load(weights), kept) == ""


def test_the_old_sample_is_where_it_was(weights, sample):
    names = ("time_embed.2.bias", "out.0.weight", "out.0.bias", "out.2.bias")
    assert torch.equal(sample(weights)[:OLD], torch.cat([weights[name].float().flatten() for name in names]))


# Weights as hosts hold them


def test_a_sample_is_small_and_of_every_attention_layer(weights, sample, load):
    from blade.host.fingerprint import weights_sample

    assert sample(weights).nbytes < 16_000
    model, before = load(weights), sample(weights)
    held = model.get_key_patches("diffusion_model.")
    for name in filter(re.compile(ATTENTION).search, held):
        with torch.no_grad():
            held[name][0][0].mul_(1.5)
        after = weights_sample(model)
        assert not torch.equal(after, before), name
        before = after


def test_a_lora_on_a_model_that_is_loaded_is_left_out(comfy, weights, sample, load):
    import comfy.model_management as management

    from blade.host.fingerprint import weights_sample

    model, key = load(weights), "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    patched = model.clone()
    patched.add_patches({key: (torch.ones_like(model.model.state_dict()[key]),)}, 1.0)
    management.load_models_gpu([patched])
    assert not torch.equal(model.model.state_dict()[key].float(), weights[key.removeprefix("diffusion_model.")].float())
    assert torch.equal(weights_sample(patched), sample(weights))
    patched.detach()


def test_weights_that_stay_as_the_file_has_them_count_as_they_are_used(weights, sample, load, monkeypatch):
    """Dynamic VRAM, since 0.16, keeps the file's own tensors and casts each on its way to the device."""
    from blade.host.fingerprint import precision, weights_sample

    model = load(weights, "fp16")
    monkeypatch.setattr(model, "model_dtype", lambda: torch.float8_e4m3fn)
    assert torch.equal(weights_sample(model), sample(weights, "fp8_e4m3fn"))
    assert precision(weights_sample(model)) == "fp8_e4m3fn"


class Packed(torch.Tensor):
    """Another pack's weight, whose numbers mean nothing to others."""


def packed(held, name):
    held[name] = [(Packed(torch.zeros(3, dtype=torch.uint8)), held[name][0][1])]


def absent(held, name):
    held[name] = [(held[name][0][0].to("meta"), held[name][0][1])]


def scaled(held, name):
    held[name] = [(Parameter(held[name][0][0] / 3), held[name][0][1])]
    held[name.removesuffix("weight") + "scale_weight"] = [(torch.tensor(3.0), held[name][0][1])]


@pytest.mark.parametrize("kind", [packed, absent, scaled])
def test_weights_that_cannot_be_read_count_as_the_same_and_the_others_are_compared(weights, other, sample, load, monkeypatch, kind):
    from blade.host.fingerprint import same_weights, weights_sample

    def sampled(weights):
        model = load(weights)
        held = model.get_key_patches("diffusion_model.")
        for name in [name for name in held if re.search(ATTENTION, name)]:
            kind(held, name)
        monkeypatch.setattr(model, "get_key_patches", lambda prefix: held)
        return weights_sample(model)

    found = sampled(weights)
    assert found.isnan().any() and len(found) == len(sample(weights))
    assert same_weights(found, sample(weights)) and same_weights(sample(weights), found)
    assert not same_weights(sampled(other), sample(weights))
