"""Frames pass in batches as if the whole clip passed at once, however core lays out conds, masks, hints and windows."""

import copy

import pytest
import torch

FRAMES, SIGMA = 5, 3.0
SIZES = (1, 3)
CAUSAL = {
    "first+previous": (("first", "previous"), 0),
    "self+first+previous": (("self", "first", "previous"), 0),
    "self+middle": (("self", "middle"), 0),
    "anchor_every=3": (("self",), 3),
}

TWO = ("self+first+previous", "self+middle")  # of which one carries frames on and the other sends one ahead


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Clips this small pass faster on one thread, the more so where the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def host(comfy, checkpoint):
    """The host's parts that the tests below use, with the demo checkpoint loaded."""
    import comfy.cldm.cldm
    import comfy.context_windows
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops
    import comfy.sample
    import comfy.samplers

    import blade.attention.temporal
    import blade.host.attention
    import blade.host.frames
    import nodes
    from demo.model_pack.architecture import UNET_CONFIG

    class Host:
        config = UNET_CONFIG
        core, core_nodes, attention, frames = comfy, nodes, blade.host.attention, blade.host.frames
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False)
        latent = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))

        @classmethod
        def prompt(cls, text):
            with torch.inference_mode():
                return nodes.CLIPTextEncode().encode(cls.clip, text)[0]

        @classmethod
        def temporal(cls, variant="first+previous", size=0, model=None, **more):
            kinds, anchors = CAUSAL[variant] if variant in CAUSAL else ((variant,), 0)
            keys = blade.attention.temporal.KeyFrames(kinds, anchors)
            return blade.host.attention.with_temporal_attention(model or cls.model, keys, size, **more)

        @classmethod
        @torch.inference_mode()
        def inside(cls, model, conds, body, frames=FRAMES, sigma=SIGMA):
            """What body(guider, x, sigmas, extra_args) gives where a sampler runs. conds: positive, negative, cfg."""

            def sampler(denoiser, x, sigmas, extra_args, **_):
                extra = {k: v for k, v in extra_args.items() if k != "denoise_mask"}
                return body(denoiser.inner_model, x, sigma * torch.ones(len(x)), extra)

            noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2))[:frames]
            kind = comfy.samplers.KSAMPLER(sampler)
            positive, negative, cfg = conds
            sigmas = torch.tensor([sigma, 0.0])
            return comfy.sample.sample_custom(
                model, noise, cfg, kind, sigmas, positive, negative, cls.latent[:frames], disable_pbar=True, seed=0
            )

        @classmethod
        def once(cls, model, conds, frames=FRAMES, sigma=SIGMA):
            """The denoised clip of a single model call."""
            return cls.inside(model, conds, lambda guider, x, sigmas, extra: guider(x, sigmas, **extra), frames, sigma)

        @classmethod
        def stock(cls, conds, model=None):
            """A clip from core's own KSampler."""
            positive, negative, cfg = conds
            with torch.inference_mode():
                return comfy.sample.sample(
                    model or cls.model, cls.latent.flip(0), 2, cfg, "euler", "normal", positive, negative, cls.latent, disable_pbar=True, seed=3
                )  # fmt: skip

    return Host


@pytest.fixture(scope="module")
def plain(host):
    return host.prompt("a blue circle on grass"), host.prompt("red"), 4.0


def difference(a, b):
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


def spy_on_rows(host, monkeypatch):
    """The number of rows and of conds of each call of the model, as they come."""
    calls, cls = [], host.core.model_base.BaseModel
    run = cls._apply_model

    def spy(self, x, t, *args, **kwargs):
        options = kwargs.get("transformer_options") or args[3]
        calls.append((len(x), len(options["cond_or_uncond"])))
        return run(self, x, t, *args, **kwargs)

    monkeypatch.setattr(cls, "_apply_model", spy)
    return calls


def short_of_memory(host, monkeypatch):
    monkeypatch.setattr(host.core.model_management, "get_free_memory", lambda *a, **k: 1)


def with_entry(conds, **entry):
    return [[embedding, {**options, **entry}] for embedding, options in conds]


def area(height, width, y, x):
    return {"area": (height // 8, width // 8, y // 8, x // 8)}


def one_mask():
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:46, 15:50] = 1
    return mask


def moving_masks():
    return torch.stack([one_mask()[0].roll(4 * frame, 1) for frame in range(FRAMES)])


def rows_for(host, texts):
    return [[torch.cat([host.prompt(text)[0][0] for text in texts]), {}]]


LONG = "a red circle on grass and " * 20
LAYOUTS = {
    "no negative at CFG 1": lambda h, p: (p[0], p[1], 1.0),
    "several positives": lambda h, p: (p[0] + h.prompt("a red star on sand"), p[1], 4.0),
    "prompts of 77 and 154 tokens": lambda h, p: (h.prompt(LONG), p[1], 4.0),
    "an area": lambda h, p: (p[0] + with_entry(h.prompt("a star"), **area(32, 40, 16, 24)), p[1], 4.0),
    "two areas, one of them the negative's": lambda h, p: (
        p[0] + with_entry(h.prompt("a star"), **area(32, 40, 16, 24)),
        p[1] + with_entry(h.prompt("sand"), **area(24, 64, 0, 0)),
        4.0,
    ),
    "one mask for the clip": lambda h, p: (p[0] + with_entry(h.prompt("a star"), mask=one_mask(), mask_strength=1.0), p[1], 4.0),
    "a mask for each frame": lambda h, p: (p[0] + with_entry(h.prompt("a star"), mask=moving_masks(), mask_strength=0.8), p[1], 4.0),
    "a mask for each frame, within its bounds": lambda h, p: (
        p[0] + with_entry(h.prompt("a star"), mask=moving_masks(), mask_strength=0.8, set_area_to_bounds=True),
        p[1],
        4.0,
    ),
    "a positive whose time has come, one whose has not": lambda h, p: (
        with_entry(p[0], start_percent=0.0, end_percent=0.9)
        + with_entry(h.prompt("a star"), start_percent=0.1)
        + with_entry(h.prompt("sand"), start_percent=0.95),
        p[1],
        4.0,
    ),
    "an embedding for each frame": lambda h, p: (rows_for(h, [f"a star {n}" for n in "abcde"]), rows_for(h, list("fghij")), 4.0),
    "fewer embeddings than frames": lambda h, p: (rows_for(h, ["a star", "sand"]), p[1], 4.0),
}


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


def test_rows_that_a_wrapper_has_changed_keep_their_own_attention(host, plain):
    """Two tiles in one call: which row is whose frame cannot be known then, and nothing may be mixed."""

    def tiled(apply_model, args):
        x, c = args["input"], dict(args["c"])
        c["c_crossattn"] = c["c_crossattn"].repeat(2, 1, 1)
        left, right = apply_model(torch.cat([x[..., :4], x[..., 4:]]), args["timestep"].repeat(2), **c).chunk(2)
        return torch.cat([left, right], -1)

    def under(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(tiled)
        return host.once(model, plain)

    stock = under(host.model)
    assert torch.equal(under(host.temporal(size=FRAMES)), stock)
    assert difference(under(host.temporal(size=3)), stock) <= 1e-5


# ControlNet


@pytest.fixture(scope="module")
def control_net(host):
    """A ControlNet of the demo model's shape with random weights, its zero convolutions' too."""
    config = {k: v for k, v in host.config.items() if k not in ("out_channels", "transformer_depth_output")}
    net = host.core.cldm.cldm.ControlNet(**config, hint_channels=3, dtype=torch.float32, operations=host.core.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            wide = weight.ndim > 1
            weight.normal_(0, weight[0].numel() ** -0.5 if wide else 0.1, generator=generator)
            if not wide and name.endswith("weight"):
                weight += 1
    return host.core.controlnet.ControlNet(net.eval(), load_device=torch.device("cpu"))


def hints(frames, seed=6):
    return torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def controlled(host, plain, control_net, *images, strength=0.5):
    positive, negative, cfg = plain
    for image in images:
        positive, negative = host.core_nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control_net, image, strength, 0.0, 1.0
        )
    return positive, negative, cfg


CONTROLS = {
    "a hint for each frame": [hints(FRAMES)],
    "one hint for all": [hints(1)],
    "fewer hints than frames": [hints(2)],
    "two chained": [hints(FRAMES), hints(1, 7)],
    "two chained, a hint for each frame": [hints(FRAMES), hints(FRAMES, 7)],
}


@pytest.mark.parametrize("variant", TWO)
@pytest.mark.parametrize("images", CONTROLS.values(), ids=CONTROLS)
def test_under_controlnets_batches_give_what_the_whole_clip_gives(host, plain, control_net, images, variant):
    conds = controlled(host, plain, control_net, *images)
    whole = host.once(host.temporal(variant, FRAMES), conds)
    assert difference(host.once(host.temporal(variant, FRAMES), plain), whole) > 1e-3
    for size in SIZES:
        assert difference(host.once(host.temporal(variant, size), conds), whole) <= 1e-5


def test_under_a_controlnet_cond_and_uncond_still_share_a_batch(host, plain, control_net, monkeypatch):
    conds = controlled(host, plain, control_net, *CONTROLS["two chained"])
    calls = spy_on_rows(host, monkeypatch)
    host.once(host.temporal(size=3), conds)
    assert calls == [(6, 2), (4, 2)]


def test_a_hint_steers_its_own_frame_and_those_that_look_at_it(host, plain, control_net):
    other = hints(FRAMES).clone()
    other[3] = 1 - other[3]
    for size in SIZES:
        a, b = (host.once(host.temporal(size=size), controlled(host, plain, control_net, images)) for images in (hints(FRAMES), other))
        assert torch.equal(a[:3], b[:3])
        assert difference(a[3], b[3]) > 1e-3


def test_a_controlnet_is_unchanged_afterwards_and_works_without_our_patch(host, plain, control_net):
    conds = controlled(host, plain, control_net, *CONTROLS["two chained, a hint for each frame"])
    before = host.once(host.model, conds)
    chain = [conds[0][0][1]["control"], conds[0][0][1]["control"].previous_controlnet]
    states = [{name: copy.copy(value) for name, value in vars(part).items() if isinstance(value, (list, dict))} for part in chain]
    values = [dict(vars(part)) for part in chain]
    for size in (*SIZES, FRAMES):
        host.once(host.temporal(size=size), conds)
    for part, state, value in zip(chain, states, values, strict=True):
        assert vars(part).keys() == value.keys()
        assert all(vars(part)[name] is held for name, held in value.items())
        assert all(vars(part)[name] == held for name, held in state.items() if name != "extra_concat_orig")
    assert torch.equal(host.once(host.model, conds), before)


@pytest.mark.parametrize(("images", "masks"), [(1, FRAMES), (3, FRAMES), (FRAMES, 2), (FRAMES, FRAMES)])
def test_the_mask_beside_a_hint_follows_it_as_in_core(host, images, masks):
    """An inpainting ControlNet's mask goes with the hint's rows: core repeats it to their number, then both to the clip's."""
    hint, mask = torch.arange(images).float(), torch.arange(masks).float()
    control = host.core.controlnet.ControlBase().set_cond_hint(hint[:, None], extra_concat=[mask[:, None]])

    def pairs(part):
        rows = len(part.cond_hint_original)
        repeated = host.core.utils.repeat_to_batch_size(part.extra_concat_orig[0], rows)
        return torch.cat([part.cond_hint_original, repeated], 1)

    whole = host.core.utils.repeat_to_batch_size(pairs(control), FRAMES)
    rows = [2, 3, 4]
    part = host.frames.rows_of_control(control, rows, FRAMES, {})
    assert torch.equal(host.core.utils.repeat_to_batch_size(pairs(part), len(rows)), whole[rows])


def test_an_advanced_controlnet_is_told_the_batchs_frames_on_a_copy(host):
    control = host.core.controlnet.ControlBase().set_cond_hint(hints(FRAMES))
    control.sub_idxs = control.full_latent_length = control.context_length = None
    part = host.frames.rows_of_control(control, [3, 4], FRAMES, {})
    assert (part.sub_idxs, part.full_latent_length, part.context_length) == ([3, 4], FRAMES, 2)
    assert len(part.cond_hint_original) == FRAMES
    assert control.sub_idxs is control.full_latent_length is control.context_length is None


# Windows


def windows_of(host, name, **more):
    windows = host.core.context_windows
    schedule, fuse = windows.get_matching_context_schedule(name), windows.get_matching_fuse_method("flat")
    return windows.IndexListContextHandler(schedule, fuse, context_length=4, context_overlap=2, **more)


def denoised_conds(guider, conds, x, sigmas, options):
    return torch.cat(comparable(guider, conds, x, sigmas, options), 1)


def comparable(guider, conds, x, sigmas, options):
    import comfy.samplers

    return comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigmas, options)


@pytest.mark.parametrize("variant", TWO)
@pytest.mark.parametrize(
    ("schedule", "loop"), [("standard_uniform", False), ("standard_static", False), ("looped_uniform", True), ("batched", False)]
)
def test_in_cores_context_windows_the_frames_are_a_clip_of_their_own(host, plain, schedule, loop, variant):
    handler = windows_of(host, schedule, closed_loop=loop)
    windows = [window.index_list for window in handler.get_context_windows(None, torch.empty(FRAMES, 1), {})]
    assert len(windows) > 1
    assert loop == any(window != sorted(window) for window in windows)

    def by_hand(guider, x, sigmas, extra):
        total, count = torch.zeros_like(x).repeat(1, 2, 1, 1), torch.zeros(FRAMES, 1, 1, 1)
        for window in map(sorted, windows):
            outputs = comparable(guider, list(guider.conds.values()), x[window], sigmas[window], extra["model_options"])
            total[window] += torch.cat(outputs, 1)
            count[window] += 1
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
    handler, table = windows_of(host, "looped_uniform", closed_loop=True), table_of(host)

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


# What the patch leaves alone


@pytest.mark.parametrize("layout", ["cond and uncond together", *LAYOUTS])
def test_strength_0_and_keys_from_self_are_stock_to_the_bit(host, plain, layout):
    conds = LAYOUTS[layout](host, plain) if layout in LAYOUTS else plain
    stock = host.once(host.model, conds)
    assert torch.equal(host.once(host.temporal("first+previous", FRAMES, strength=0.0), conds), stock)
    assert torch.equal(host.once(host.temporal("self", FRAMES), conds), stock)
    for size in SIZES:
        assert difference(host.once(host.temporal("self", size), conds), stock) <= 1e-5


def test_strength_a_half_mixes_each_layers_two_results_equally(host, plain, monkeypatch):
    from comfy.ldm.modules.attention import optimized_attention

    outputs = {}

    def run(strength):
        layers = outputs.setdefault(strength, [])

        class Watch(host.attention._Everywhere):
            def __getitem__(self, block):
                inner = super().__getitem__(block)

                def replacement(q, k, v, options):
                    out = inner(q, k, v, options)
                    alone = optimized_attention(q, k, v, options["n_heads"], transformer_options=options)
                    layers.append((alone, out))
                    return out

                return replacement

        monkeypatch.setattr(host.attention, "_Everywhere", Watch)
        return host.once(host.temporal(size=FRAMES, strength=strength), plain)

    half, full, stock = run(0.5), run(1.0), host.once(host.model, plain)
    assert 0 < difference(half, stock) < difference(full, stock)
    (alone, mixed), (_, temporal) = outputs[0.5][0], outputs[1.0][0]  # the first layer has the same input in both runs
    assert difference(mixed, (alone + temporal) / 2) <= 1e-6
    whole = half
    for size in SIZES:
        assert difference(host.once(host.temporal(size=size, strength=0.5), plain), whole) <= 1e-5


def spy_on_layers(host, monkeypatch):
    """Each layer that temporal attention is computed in: how many cells it has."""
    cells, run = [], host.attention.temporal_attention

    def spy(q, *args, **kwargs):
        cells.append(q.shape[1])
        return run(q, *args, **kwargs)

    monkeypatch.setattr(host.attention, "temporal_attention", spy)
    return cells


@pytest.mark.parametrize(("scales", "cells"), [((1, 8), {64, 16}), ((1, 1), {64}), ((2, 2), {16}), ((4, 8), set())])
def test_only_the_blocks_of_the_chosen_scales_change(host, plain, scales, cells, monkeypatch):
    computed = spy_on_layers(host, monkeypatch)
    whole = host.once(host.temporal(size=FRAMES, scales=scales), plain)
    assert set(computed) == cells
    assert torch.equal(whole, host.once(host.model, plain)) == (not cells)
    for size in SIZES:
        assert difference(host.once(host.temporal(size=size, scales=scales), plain), whole) <= 1e-5


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
def test_outside_its_share_of_the_steps_it_is_stock_to_the_bit(host, plain, offset, active):
    middle = share_of(host, SIGMA)
    percent = tuple(min(max(middle + by, 0), 1) for by in offset)
    stock = host.once(host.model, plain)
    whole = host.once(host.temporal(size=FRAMES, percent=percent), plain)
    assert torch.equal(whole, stock) != active
    for size in SIZES:
        assert difference(host.once(host.temporal(size=size, percent=percent), plain), whole) <= 1e-5


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
def test_other_patches_run_as_well_in_whichever_order(host, plain, other):
    whole = host.once(other(host, host.temporal(size=FRAMES)), plain)
    assert difference(host.once(host.temporal(size=FRAMES), plain), whole) > 1e-3
    assert difference(host.once(other(host, host.model), plain), whole) > 1e-3
    assert torch.equal(host.once(host.temporal(size=FRAMES, model=other(host, host.model)), plain), whole)
    for size in SIZES:
        assert difference(host.once(other(host, host.temporal(size=size)), plain), whole) <= 1e-5
        assert difference(host.once(host.temporal(size=size, model=other(host, host.model)), plain), whole) <= 1e-5


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
