"""Temporal attention changes what it is told to, and leaves the rest, and other packs' patches, alone."""

import copy

import pytest
import torch

from tests.host.batches.small_clip import FRAMES, LAYOUTS, SIGMA, SIZES, check_batches, difference, with_entry


@pytest.mark.parametrize("layout", ["cond and uncond together", *LAYOUTS])
def test_strength_0_and_keys_from_self_are_stock_to_the_bit(host, in_double, plain, layout):
    conds = LAYOUTS[layout](host, plain) if layout in LAYOUTS else plain
    stock = host.once(host.model, conds)
    assert torch.equal(host.once(host.temporal("first+previous", FRAMES, strength=0.0), conds), stock)
    assert torch.equal(host.once(host.temporal("self", FRAMES), conds), stock)
    stock = in_double.once(in_double.model, conds)
    for size in SIZES:
        assert difference(in_double.once(in_double.temporal("self", size), conds), stock) <= 1e-5


def test_strength_a_half_mixes_each_layers_two_results_equally(host, in_double, plain, monkeypatch):
    from comfy.ldm.modules.attention import optimized_attention

    from blade.host.families import unet

    outputs = {}

    def run(strength):
        layers = outputs.setdefault(strength, [])

        class Watch(unet.Replacements):
            def __getitem__(self, block):
                inner = super().__getitem__(block)

                def replacement(q, k, v, options):
                    out = inner(q, k, v, options)
                    alone = optimized_attention(q, k, v, options["n_heads"], transformer_options=options)
                    layers.append((alone, out))
                    return out

                return replacement

        monkeypatch.setattr(unet, "Replacements", Watch)
        return host.once(host.temporal(size=FRAMES, strength=strength), plain)

    half, full, stock = run(0.5), run(1.0), host.once(host.model, plain)
    assert 0 < difference(half, stock) < difference(full, stock)
    (alone, mixed), (_, temporal) = outputs[0.5][0], outputs[1.0][0]  # the first layer has the same input in both runs
    assert difference(mixed, (alone + temporal) / 2) <= 1e-6
    monkeypatch.undo()
    check_batches(in_double, plain, strength=0.5)


def spy_on_layers(host, monkeypatch):
    """Each layer that temporal attention is computed in: how many cells it has."""
    cells, run = [], host.attention.temporal_attention

    def spy(q, *args, **kwargs):
        cells.append(q.shape[1])
        return run(q, *args, **kwargs)

    monkeypatch.setattr(host.attention, "temporal_attention", spy)
    return cells


@pytest.mark.parametrize(("scales", "cells"), [((1, 8), {64, 16}), ((1, 1), {64}), ((2, 2), {16}), ((4, 8), set())])
def test_only_the_blocks_of_the_chosen_scales_change(host, in_double, plain, scales, cells, monkeypatch):
    computed = spy_on_layers(host, monkeypatch)
    whole = host.once(host.temporal(size=FRAMES, scales=scales), plain)
    assert set(computed) == cells
    assert torch.equal(whole, host.once(host.model, plain)) == (not cells)
    check_batches(in_double, plain, scales=scales)


@pytest.mark.parametrize("height", [3, 5, 7])
def test_a_height_that_does_not_halve_evenly_has_its_scales_all_the_same(host, plain, height, monkeypatch):
    computed = spy_on_layers(host, monkeypatch)
    positive, negative = (with_entry(conds, area=(height, 8, 0, 0)) for conds in plain[:2])
    host.once(host.temporal(size=FRAMES, scales=(2, 2)), (positive, negative, 4.0))
    assert set(computed) == {-(-height // 2) * 4}


def share_of(host, sigma, model=None):
    """The share of the way from noise to clip at which a noise level lies."""
    sampling = (model or host.model).get_model_object("model_sampling")
    return 1 - float(sampling.timestep(torch.tensor(sigma))) / 999


@pytest.mark.parametrize(("offset", "active"), [((-0.1, 0.1), True), ((0.05, 0.2), False), ((-0.2, -0.05), False)])
def test_outside_its_share_of_the_steps_it_is_stock_to_the_bit(host, in_double, plain, offset, active):
    middle = share_of(host, SIGMA)
    percent = tuple(min(max(middle + by, 0), 1) for by in offset)
    stock = host.once(host.model, plain)
    whole = host.once(host.temporal(size=FRAMES, percent=percent), plain)
    assert torch.equal(whole, stock) != active
    check_batches(in_double, plain, percent=percent)


def test_the_share_of_the_steps_is_counted_on_the_schedule_that_the_model_has_at_last(host, plain):
    """A node that gives the model another noise schedule may come before ours or after it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    def other(model):
        return ModelSamplingContinuousEDM().patch(model, "eps", 120.0, 0.002)[0]

    first, second = (0.0, 0.6), (0.6, 1.0)
    stock = host.once(other(host.model), plain, sigma=0.5)  # before the middle of core's schedule for SD, after it in the other one
    ends = [model.get_model_object("model_sampling").percent_to_sigma(0.6) for model in (host.model, other(host.model))]
    assert ends[1] < 0.5 < ends[0]
    for order in (
        lambda percent: other(host.temporal(percent=percent)),
        lambda percent: host.temporal(model=other(host.model), percent=percent),
    ):
        assert difference(host.once(order(first), plain, sigma=0.5), stock) > 1e-3
        assert torch.equal(host.once(order(second), plain, sigma=0.5), stock)


# Other packs


def weight_patch(host, model):
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_k.weight"
    weight = host.model.model.state_dict()[key]
    model = model.clone()
    assert model.add_patches({key: (0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)),)}, 0.7)
    return model


def free_u(host, model):
    from comfy_extras.nodes_freelunch import FreeU_V2

    return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]


def override(host, model):
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *args, **kwargs: 0.9 * func(*args, **kwargs)
    return model


@pytest.mark.parametrize("other", [weight_patch, free_u, override])
def test_other_patches_run_as_well_in_whichever_order(host, in_double, plain, other):
    whole = host.once(other(host, host.temporal(size=FRAMES)), plain)
    assert difference(host.once(host.temporal(size=FRAMES), plain), whole) > 1e-3
    assert difference(host.once(other(host, host.model), plain), whole) > 1e-3
    assert torch.equal(host.once(host.temporal(size=FRAMES, model=other(host, host.model)), plain), whole)
    check_batches(in_double, plain, model=other(in_double, in_double.model))
    whole = in_double.once(other(in_double, in_double.temporal(size=FRAMES)), plain)
    for size in SIZES:
        assert difference(in_double.once(other(in_double, in_double.temporal(size=size)), plain), whole) <= 1e-5


def test_an_attention_override_is_asked_for_every_layer_with_the_keys_of_both_frames(host, plain):
    lengths = []

    def spy(func, q, k, *args, **kwargs):
        lengths.append(k.shape[1] / q.shape[1])
        return func(q, k, *args, **kwargs)

    for model in (host.model, host.temporal(size=FRAMES)):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = spy
        host.once(model, plain)
    stock, ours = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    assert len(stock) == len(ours)
    assert [length for length in ours if length == 2] == [2] * stock.count(1)


def test_rows_that_a_wrapper_has_changed_keep_their_own_attention(host, in_double, plain):
    """Two tiles in one call: which row is whose frame cannot be known then, and nothing may be mixed."""

    def tiled(apply_model, args):
        x, c = args["input"], dict(args["c"])
        c["c_crossattn"] = c["c_crossattn"].repeat(2, 1, 1)
        left, right = apply_model(torch.cat([x[..., :4], x[..., 4:]]), args["timestep"].repeat(2), **c).chunk(2)
        return torch.cat([left, right], -1)

    def under(host, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(tiled)
        return host.once(model, plain)

    assert torch.equal(under(host, host.temporal(size=FRAMES)), under(host, host.model))
    assert difference(under(in_double, in_double.temporal(size=3)), under(in_double, in_double.model)) <= 1e-5


def test_sampling_with_the_patch_leaves_the_model_as_it_was(host, plain):
    before, options = host.stock(plain), copy.deepcopy(host.model.model_options)
    for size in SIZES:
        patched = host.stock(plain, weight_patch(host, host.temporal(size=size)))
        assert difference(patched, before) > 1e-3
    assert torch.equal(host.stock(plain), before)
    assert host.model.model_options == options


def test_after_an_exception_in_the_middle_of_a_batch_the_next_run_is_as_fresh(host, plain):
    fresh, stock = host.once(host.temporal(size=3), plain), host.once(host.model, plain)
    left = [10]  # layers of cross-attention: the model has seven, so that it stumbles in the second batch

    def stumble(n, context, value, options):
        left[0] -= 1
        if not left[0]:
            raise host.core.model_management.InterruptProcessingException()
        return n, context, value

    model = host.temporal(size=3)
    stumbling = model.clone()
    stumbling.set_model_attn2_patch(stumble)
    with pytest.raises(host.core.model_management.InterruptProcessingException):
        host.once(stumbling, plain)
    assert left == [0]
    assert torch.equal(host.once(model, plain), fresh)
    assert torch.equal(host.once(host.model, plain), stock)
