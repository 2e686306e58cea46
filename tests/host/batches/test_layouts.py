"""Frames pass in batches as if the whole clip passed at once, however core lays out conds, masks and windows."""

import pytest
import torch

from tests.host.batches.small_clip import (
    CAUSAL,
    FRAMES,
    LAYOUTS,
    SIZES,
    TWO,
    area,
    difference,
    moving_masks,
    short_of_memory,
    spy_on_rows,
    with_entry,
)
from tests.host.windows import context_windows, frames_of


@pytest.fixture(scope="module")
def host(in_double):
    return in_double


@pytest.mark.parametrize(
    ("layout", "variant"),
    [("cond and uncond together", variant) for variant in CAUSAL] + [(layout, variant) for layout in LAYOUTS for variant in TWO],
)
def test_batches_give_what_the_whole_clip_gives(host, plain, layout, variant):
    conds = LAYOUTS[layout](host, plain) if layout in LAYOUTS else plain
    whole = host.once(host.temporal(variant, FRAMES), conds)
    assert difference(host.once(host.model, conds), whole) > 1e-3
    for size in SIZES:
        assert difference(host.once(host.temporal(variant, size), conds), whole) <= 1e-5


def test_cond_and_uncond_share_a_batch_where_memory_allows_and_take_turns_where_not(host, plain, monkeypatch):
    whole = host.once(host.temporal(size=FRAMES), plain)
    calls = spy_on_rows(host, monkeypatch)
    together = host.once(host.temporal(size=3), plain)
    assert calls == [(6, 2), (4, 2)]
    calls.clear()
    short_of_memory(host, monkeypatch)
    apart = host.once(host.temporal(size=3), plain)
    assert calls == [(3, 1), (3, 1), (2, 1), (2, 1)]
    assert difference(together, whole) <= 1e-5
    assert difference(apart, whole) <= 1e-5


def test_without_a_size_short_memory_makes_batches_of_one(host, plain, monkeypatch):
    whole = host.once(host.temporal(size=FRAMES), plain)
    calls = spy_on_rows(host, monkeypatch)
    assert difference(host.once(host.temporal(), plain), whole) <= 1e-5
    assert calls == [(2 * FRAMES, 2)]
    calls.clear()
    short_of_memory(host, monkeypatch)
    assert difference(host.once(host.temporal(), plain), whole) <= 1e-5
    assert calls == [(1, 1)] * 2 * FRAMES


@pytest.mark.parametrize("memory", ["long", "short"])
@pytest.mark.parametrize("size", [*SIZES, FRAMES])
def test_what_one_cond_gives_does_not_depend_on_the_others(host, plain, size, memory, monkeypatch):
    """Also with an area: core then makes a negative cond of the same uuid."""
    if memory == "short":
        short_of_memory(host, monkeypatch)
    region = with_entry(host.prompt("a star"), **area(32, 40, 16, 24))
    outputs = []

    def denoised(negative):
        model = host.temporal(size=size)
        model.set_model_sampler_post_cfg_function(lambda args: outputs.append(args["cond_denoised"]) or args["denoised"])
        host.once(model, (plain[0] + region, negative, 4.0))
        return outputs.pop()

    assert difference(denoised(host.prompt("a green square on snow")), denoised(host.prompt(""))) <= 1e-6


def test_a_default_cond_that_only_later_frames_need_is_run_for_these(host, plain):
    """Core leaves out a default cond where masks cover all of a batch: its first frames have then no keys to carry."""
    masks = moving_masks()
    masks[:3] = 1
    conds = with_entry(plain[0], mask=masks, mask_strength=1.0) + with_entry(host.prompt("sand"), default=True), plain[1], 4.0
    whole = host.once(host.temporal(size=FRAMES), conds)
    batches = host.once(host.temporal(size=3), conds)
    assert difference(batches[:3], whole[:3]) <= 1e-5
    assert torch.isfinite(batches).all()


@pytest.mark.parametrize("variant", CAUSAL)
def test_tiles_of_a_model_function_wrapper_keep_their_keys_apart(host, plain, variant):
    """As Tiled Diffusion calls the model: several times for the same conds, each time on another part of the picture."""

    def tiled(apply_model, args):
        x, halves = args["input"], []
        for part in (slice(0, 4), slice(4, 8)):
            halves.append(apply_model(x[..., part], args["timestep"], **args["c"]))
        return torch.cat(halves, -1)

    def patched(size):
        model = host.temporal(variant, size)
        model.set_model_unet_function_wrapper(tiled)
        return host.once(model, plain)

    whole = patched(FRAMES)
    for size in SIZES:
        assert difference(patched(size), whole) <= 1e-5


def test_core_loads_the_model_for_a_batch_and_not_for_the_clip(host, plain, monkeypatch):
    asked, load = [], host.core.model_management.load_models_gpu

    def spy(models, memory_required=0, **kwargs):
        asked.append((memory_required, kwargs["minimum_memory_required"]))
        return load(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(host.core.model_management, "load_models_gpu", spy)
    host.once(host.temporal(size=3), plain)
    host.once(host.model, plain, frames=3)
    host.once(host.model, plain)
    batch, three, clip = asked
    assert batch == three
    assert clip > batch


def test_frames_sent_ahead_that_are_the_whole_clip_are_not_sent_twice(host, plain, monkeypatch):
    """A clip of four looks at its next frames: all four would go ahead; their result is the clip's, and what records it is told so."""
    conds = plain[0], plain[1], 4.0
    whole = host.once(host.temporal("next", 4), conds, frames=4)
    passes = []
    run = host.attention.temporal_attention

    def spy(q, k, v, conds, batch, *args, **kwargs):
        passes.append((batch.frames, batch.pilot))
        return run(q, k, v, conds, batch, *args, **kwargs)

    monkeypatch.setattr(host.attention, "temporal_attention", spy)
    assert difference(host.once(host.temporal("next", 1), conds, frames=4), whole) <= 1e-5
    assert set(passes) == {((0, 1, 2, 3), False)}


# Windows


def denoised_conds(guider, conds, x, sigmas, options):
    return torch.cat(comparable(guider, conds, x, sigmas, options), 1)


def comparable(guider, conds, x, sigmas, options):
    import comfy.samplers

    return comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigmas, options)


@pytest.mark.parametrize("variant", TWO)
@pytest.mark.parametrize(
    ("schedule", "loop", "fix"),
    [
        ("standard_uniform", False, True),
        ("standard_static", False, True),
        ("batched", False, True),
        ("looped_uniform", True, True),
        ("looped_uniform", True, False),
    ],
)
def test_in_cores_context_windows_the_frames_are_a_clip_of_their_own(host, plain, schedule, loop, fix, variant):
    handler = context_windows(schedule, 4, 2, fix, loop=loop)
    windows = frames_of(handler, FRAMES)
    assert len(windows) > 1
    assert loop == any(passed[dropped:] != sorted(passed[dropped:]) for passed, dropped in windows)
    assert fix == any(dropped for _, dropped in windows)

    def by_hand(guider, x, sigmas, extra):
        total, count = torch.zeros_like(x).repeat(1, 2, 1, 1), torch.zeros(FRAMES, 1, 1, 1)
        for passed, dropped in windows:
            rows = sorted(range(len(passed)), key=passed.__getitem__)
            ordered, out = [passed[row] for row in rows], torch.zeros(len(passed), 8, *x.shape[2:], dtype=x.dtype)
            out[rows] = torch.cat(comparable(guider, list(guider.conds.values()), x[ordered], sigmas[ordered], extra["model_options"]), 1)
            total[passed[dropped:]] += out[dropped:]
            count[passed[dropped:]] += 1
        return total / count

    def by_core(guider, x, sigmas, extra):
        options = {**extra["model_options"], "context_handler": handler}
        options["transformer_options"]["sample_sigmas"] = sigmas[:1]  # else 0.3.75 compares the steps with the frames
        return torch.cat(comparable(guider, list(guider.conds.values()), x, sigmas, options), 1)

    wanted = host.inside(host.temporal(variant, FRAMES), plain, by_hand)
    for size in (*SIZES, FRAMES):
        assert difference(host.inside(host.temporal(variant, size), plain, by_core), wanted) <= 1e-5


def tokens_by_frame(host, model, table):
    """As IPAdapter adds a row of its own to each frame: by sub_idxs where the batch is told them, else by its place in the batch."""

    def patch(n, context, value, options):
        conds, params = len(options["cond_or_uncond"]), options.get("ad_params")
        places = params["sub_idxs"] if params else list(range(len(n) // conds))
        assert len(places) * conds == len(n)
        assert max(places) < (params["full_length"] if params else FRAMES)
        context = torch.cat([context, table[places].repeat(conds, 1, 1)], 1)
        return n, context, context

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def table_of(host):
    return 5 * torch.randn(FRAMES, 2, host.config["context_dim"], generator=torch.Generator().manual_seed(9))


def test_a_patch_that_takes_its_rows_by_sub_idxs_gets_each_batchs_frames(host, plain):
    table = table_of(host)
    whole = host.once(tokens_by_frame(host, host.temporal(size=FRAMES), table), plain)
    assert difference(host.once(host.temporal(size=FRAMES), plain), whole) > 1e-3
    for size in SIZES:
        assert difference(host.once(tokens_by_frame(host, host.temporal(size=size), table), plain), whole) <= 1e-5


def test_a_patch_that_takes_its_rows_by_sub_idxs_is_served_in_cores_windows_as_by_stock(host, plain):
    """Core does not tell it of its windows: with our batches it must get what the window at once would give it."""
    handler, table = context_windows("looped_uniform", 4, 2, loop=True), table_of(host)

    def by_core(guider, x, sigmas, extra):
        options = {**extra["model_options"], "context_handler": handler}
        options["transformer_options"]["sample_sigmas"] = sigmas[:1]
        return torch.cat(comparable(guider, list(guider.conds.values()), x, sigmas, options), 1)

    stock = host.inside(tokens_by_frame(host, host.model, table), plain, by_core)
    for size in (*SIZES, FRAMES):
        assert difference(host.inside(tokens_by_frame(host, host.temporal("self", size), table), plain, by_core), stock) <= 1e-5


@pytest.mark.parametrize("variant", CAUSAL)
@pytest.mark.parametrize("window", [[1, 2, 3, 4], [3, 4, 0, 1]])
def test_an_animatediff_window_passes_whole_in_its_own_order_as_a_clip_of_its_own(host, plain, window, variant, monkeypatch):
    """A motion module sees the window's rows where it expects them, and a patch by sub_idxs its frames; temporal attention counts the
    frames in the order of the clip."""
    table, seen = table_of(host), []
    in_order = sorted(window)
    run = host.core.model_base.BaseModel._apply_model

    def spy(self, x, *args, **kwargs):
        seen.append(x)
        return run(self, x, *args, **kwargs)

    monkeypatch.setattr(host.core.model_base.BaseModel, "_apply_model", spy)

    def outputs(size, params, rows):
        def body(guider, x, sigmas, extra):
            options = extra["model_options"]
            if params:
                options["transformer_options"]["ad_params"] = {"sub_idxs": rows, "full_length": FRAMES}
            out = torch.zeros_like(x).repeat(1, 2, 1, 1)
            seen.clear()
            out[rows] = torch.cat(comparable(guider, list(guider.conds.values()), x[rows], sigmas[rows], options), 1)
            assert len(seen) == 1
            assert torch.equal(seen[0], x[rows].repeat(2, 1, 1, 1))
            return out

        model = host.temporal(variant, size)
        return host.inside(tokens_by_frame(host, model, table if params else table[in_order]), plain, body)

    wanted = outputs(FRAMES, False, in_order)
    for size in (1, FRAMES):
        assert difference(outputs(size, True, window), wanted) <= 1e-5
