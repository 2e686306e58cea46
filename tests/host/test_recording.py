"""The recorder keeps the softmax that the layers really compute for the prompt's words, however core lays out conds and frames, and changes
nothing of what is sampled."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from tests.host.windows import context_windows

FRAMES, SIGMA, CFG = 3, 3.0, 4.0
SIZE = (28, 28)  # the least of which two resolutions are kept
PLAIN = "a red circle on grass"
PLAIN_WORDS = {"red": (2,), "circle": (3,), "grass": (5,)}  # in CLIP's vocabulary a token each, after the start token
OTHER = "two green squares by the blue sea"
LONG, LONG_WORDS = "a red circle on grass and " * 20, {"circle": tuple(77 * (n // 75) + n % 75 + 1 for n in range(2, 120, 6))}


@pytest.fixture(scope="module")
def host(comfy, checkpoint, one_thread):
    """The host's parts that the tests below use, with the demo checkpoint loaded."""
    import comfy.context_windows
    import comfy.model_management
    import comfy.sample
    import comfy.samplers

    import blade.attention.record
    import blade.host.attention
    import blade.host.frames
    import blade.host.sampling
    import blade.host.words

    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False)

    class Host:
        core, record, frames = comfy, blade.attention.record, blade.host.frames

        def __init__(self):
            self.model, self.clip = model, clip
            self.batches = blade.host.frames.with_frame_batches(model, size=FRAMES)

        @torch.inference_mode()
        def prompt(self, text):
            return blade.host.words.encode_prompt(self.clip, text)

        def recorder(self, words, size, frames=FRAMES):
            return self.record.MapRecorder(words, self.record.recorded_sizes(*size), frames)

        def recording(self, model, recorder):
            """The MODEL with the recorder, and what a sampler function has to do before it calls the model."""
            conds = set()
            recorded = blade.host.attention.record_cross_attention(model, recorder, conds)
            return recorded, lambda denoiser: conds.update(blade.host.sampling.positive_conds(denoiser, recorder.words))

        @torch.inference_mode()
        def once(self, model, conds, size, recorder=None, windows=None, cfg=CFG):
            """The denoised clip of a single model call of one noise level, with what a recorder has seen of it. conds: positive, negative."""
            recorded, prepare = self.recording(model, recorder) if recorder else (model, lambda _: None)

            def sampler(denoiser, x, sigmas, extra_args, **_):
                prepare(denoiser)
                options = extra_args["model_options"]
                if windows:
                    options = {**options, "context_handler": windows}
                    options["transformer_options"] = {**options["transformer_options"], "sample_sigmas": sigmas[:1]}
                if recorder:
                    recorder.begin(SIGMA)
                return denoiser(x, SIGMA * torch.ones(len(x)), **{**extra_args, "model_options": options})

            noise = clip_noise(size)
            return comfy.sample.sample_custom(
                recorded, noise, cfg, comfy.samplers.KSAMPLER(sampler), torch.tensor([SIGMA, 0.0]), *conds, torch.zeros_like(noise),
                disable_pbar=True, seed=0,
            )  # fmt: skip

    return Host()


def clip_noise(size):
    return torch.randn(FRAMES, 4, *size, generator=torch.Generator().manual_seed(2))


@contextmanager
def projected(model):
    """What every cross-attention layer projects, call by call of the U-Net: by hooks on its modules, past all patches."""
    unet, calls = model.get_model_object("diffusion_model"), []

    def called(module, args, kwargs):
        calls.append(SimpleNamespace(x=args[0], context=kwargs["context"], q=[], k=[], heads=[]))

    hooks = [unet.register_forward_pre_hook(called, with_kwargs=True)]
    for name, layer in unet.named_modules():
        if name.endswith("attn2"):
            hooks.append(
                layer.to_q.register_forward_hook(
                    lambda _, args, out, heads=layer.heads: (calls[-1].q.append(out), calls[-1].heads.append(heads)) and None
                )
            )
            hooks.append(layer.to_k.register_forward_hook(lambda _, args, out: calls[-1].k.append(out) and None))
    yield calls
    for hook in hooks:
        hook.remove()


def expected_maps(calls, embedding, words, size):
    """The mean over heads, layers and views of the softmax in float64, by resolution: [words, frames, h, w]. words: the columns of each.

    Which row is which frame of which prompt is read off what the U-Net was given."""
    clip = clip_noise(size) * SIGMA / (SIGMA**2 + 1) ** 0.5
    sizes = {
        height * width: (height, width) for height, width in (size, [(side + 1) // 2 for side in size], [(side + 3) // 4 for side in size])
    }
    found = {}  # by resolution, of each frame the views
    length = embedding.shape[1]
    for call in calls:
        whole = call.x.shape[1:] == clip.shape[1:]
        rows = [row for row, context in enumerate(call.context) if whole and torch.equal(context[:length], embedding[0])]
        frames = [int((clip - call.x[row]).abs().amax((1, 2, 3)).argmin()) for row in rows]
        for q, k, heads in zip(call.q, call.k, call.heads, strict=True):
            for row, frame in zip(rows, frames, strict=True):
                a, b = (t[row].double().unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k))
                weights = (a @ b.transpose(-1, -2) * a.shape[-1] ** -0.5).softmax(-1).mean(0)  # [cells, context]
                once = weights.unflatten(-1, (-1, length)).sum(-2)  # where core has repeated the context
                of_words = torch.stack([once[:, list(columns)].sum(-1) for columns in words])
                found.setdefault(sizes[len(once)], [[] for _ in clip])[frame].append(of_words.unflatten(-1, sizes[len(once)]))
    return {shape: torch.stack([torch.stack(views).mean(0) for views in frames], 1) for shape, frames in found.items()}


def check(host, positive, negative, words=None, size=SIZE, model=None, own=0, **more):
    """Maps of the prompt that is the positive's entry `own` equal the test's own softmax; what is denoised is what it is unrecorded."""
    model = model or host.batches
    embedding, prompt_words = positive[own][0], positive[own][1]["blade_words"]
    unrecorded = host.once(model, (positive, negative), size, **more)
    recorder = host.recorder(prompt_words, size)
    with projected(model) as calls:
        assert torch.equal(host.once(model, (positive, negative), size, recorder, **more), unrecorded)
    recorded = recorder.finish()
    assert recorded.sigma == SIGMA
    assert recorded.maps.keys() == recorder.sizes
    words = (words or PLAIN_WORDS).values()
    expected = expected_maps(calls, embedding, words, size)
    for number, columns in enumerate(words):
        for shape, found in host.record.pick_columns(recorded.maps, prompt_words, columns).items():
            wanted = expected[shape][number]
            assert float((found - wanted).abs().max() / wanted.max()) <= 1e-3
    return calls


def short_of_memory(host, monkeypatch):
    monkeypatch.setattr(host.core.model_management, "get_free_memory", lambda *a, **k: 1)


def rows_and_contexts(calls):
    return [(len(call.x), call.context.shape[1]) for call in calls]


def with_entry(conds, **entry):
    return [[embedding, {**options, **entry}] for embedding, options in conds]


def half_mask():
    mask = torch.zeros(1, 8 * SIZE[0], 8 * SIZE[1])
    mask[..., 64:] = 1
    return mask


# Conds and uncond


def test_joined_cond_and_uncond(host):
    calls = check(host, host.prompt(PLAIN), host.prompt("blurred"))
    assert rows_and_contexts(calls) == [(2 * FRAMES, 77)]


def test_cond_and_uncond_in_calls_of_their_own_each_frame_too(host, monkeypatch):
    short_of_memory(host, monkeypatch)
    calls = check(host, host.prompt(PLAIN), host.prompt("blurred"), model=host.frames.with_frame_batches(host.model))
    assert rows_and_contexts(calls) == [(1, 77)] * 2 * FRAMES


def test_without_uncond(host):
    calls = check(host, host.prompt(PLAIN), host.prompt(""), cfg=1.0)
    assert rows_and_contexts(calls) == [(FRAMES, 77)]


@pytest.mark.parametrize(("positive", "negative", "columns"), [(PLAIN, LONG, 154), (LONG, "", 154), (LONG, 25 * f"{OTHER} ", 462)])
def test_prompts_of_unequal_length_which_core_repeats_to_their_least_common_multiple(host, positive, negative, columns):
    calls = check(host, host.prompt(positive), host.prompt(negative), LONG_WORDS if positive is LONG else None)
    assert rows_and_contexts(calls) == [(2 * FRAMES, columns)]


def test_a_prompt_over_77_tokens_in_calls_of_its_own(host, monkeypatch):
    short_of_memory(host, monkeypatch)
    calls = check(host, host.prompt(LONG), host.prompt(""), LONG_WORDS)
    assert rows_and_contexts(calls) == [(FRAMES, 77), (FRAMES, 154)]


def test_weighted_words(host):
    check(host, host.prompt("a (red:1.2) (circle on:0.7) grass"), host.prompt(""))


def test_a_textual_inversion_and_the_words_behind_it(host, tmp_path, monkeypatch):
    vectors = torch.randn(3, host.prompt("")[0][0].shape[-1], generator=torch.Generator().manual_seed(4))
    safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "style.safetensors")
    monkeypatch.setattr(host.clip.tokenizer.clip_l, "embedding_directory", str(tmp_path))
    check(host, host.prompt("a embedding:style red circle"), host.prompt(""), {"embedding:style": (2, 3, 4), "red": (5,), "circle": (6,)})


@pytest.mark.parametrize("size", [(16, 24), (15, 17), (31, 27)])
def test_a_latent_that_is_no_square_or_odd(host, size):
    check(host, host.prompt(PLAIN), host.prompt(""), size=size)


# Several conds: only those of the recorder's own prompt count


OTHERS = {
    "on the whole picture": {},
    "on an area": {"area": (20, 28, 6, 0)},
    "on an area of a coarser layer's size": {"area": (14, 14, 7, 7)},
    "under a mask": {"mask": half_mask(), "mask_strength": 1.0},
    "under a mask, within its bounds": {"mask": half_mask(), "mask_strength": 1.0, "set_area_to_bounds": True},
    "of steps that are over": {"start_percent": 0.0, "end_percent": 0.1},
}


@pytest.mark.parametrize(("place", "memory"), [("first", "long"), ("last", "short")])
@pytest.mark.parametrize("entry", OTHERS.values(), ids=OTHERS)
def test_another_prompt_beside_it(host, entry, place, memory, monkeypatch):
    if memory == "short":
        short_of_memory(host, monkeypatch)
    ours, other = host.prompt(PLAIN), with_entry(host.prompt(OTHER), **entry)
    positive, own = (ours + other, 0) if place == "first" else (other + ours, 1)
    check(host, positive, host.prompt(""), own=own)


@pytest.mark.parametrize("memory", ["long", "short"])
def test_the_same_prompt_twice_under_masks(host, memory, monkeypatch):
    if memory == "short":
        short_of_memory(host, monkeypatch)
    ours = host.prompt(PLAIN)
    check(host, ours + with_entry(ours, mask=half_mask(), mask_strength=0.5), host.prompt(""))


def test_the_negatives_words_are_not_recorded(host):
    ours, recorder = host.prompt(PLAIN), host.recorder(host.prompt(PLAIN)[0][1]["blade_words"], (16, 16))
    host.once(host.batches, (host.prompt(OTHER), ours), (16, 16), recorder)
    assert recorder.finish() is None


def test_a_prompt_whose_time_has_not_come_is_not_recorded_and_no_other_in_its_place(host):
    ours = with_entry(host.prompt(PLAIN), start_percent=0.9, end_percent=1.0)
    recorder = host.recorder(ours[0][1]["blade_words"], (16, 16))
    host.once(host.batches, (ours + host.prompt(OTHER), host.prompt("")), (16, 16), recorder)
    assert recorder.finish() is None


@pytest.mark.parametrize("together", [True, False])
def test_tiles_of_another_pack_are_not_taken_for_the_whole_picture(host, together):
    """Quarters, in one batch or in turn: the finest layer of each has as many cells as the picture's next one."""

    def tiled(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        tiles = [x[..., y : y + 14, z : z + 14] for y in (0, 14) for z in (0, 14)]
        if together:
            parts = apply_model(torch.cat(tiles), t.repeat(4), **{**c, "c_crossattn": c["c_crossattn"].repeat(4, 1, 1)}).chunk(4)
        else:
            parts = [apply_model(tile, t, **c) for tile in tiles]
        return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)

    ours, model = host.prompt(PLAIN), host.batches.clone()
    model.set_model_unet_function_wrapper(tiled)
    recorder = host.recorder(ours[0][1]["blade_words"], SIZE)
    host.once(model, (ours, host.prompt("")), SIZE, recorder)
    assert recorder.finish() is None


def test_a_prompt_on_an_area_alone_is_not_taken_for_one_on_the_whole_picture(host):
    """The area's finest layer has as many cells as the picture's next one."""
    ours = with_entry(host.prompt(PLAIN), area=(14, 14, 7, 7))
    recorder = host.recorder(ours[0][1]["blade_words"], SIZE)
    host.once(host.batches, (host.prompt(OTHER) + ours, host.prompt("")), SIZE, recorder)
    assert recorder.finish() is None


# Frames


@pytest.mark.parametrize("size", [1, 2])
def test_frames_in_batches(host, size):
    calls = check(host, host.prompt(PLAIN), host.prompt(""), model=host.frames.with_frame_batches(host.model, size=size))
    assert [len(call.x) for call in calls] == {1: [2, 2, 2], 2: [4, 2]}[size]


@pytest.mark.parametrize(
    ("schedule", "fix", "retained", "size"),
    [
        ("standard_uniform", False, "", 1),
        ("standard_uniform", True, "", FRAMES),
        ("standard_uniform", False, "0", 1),
        ("standard_uniform", True, "0, 1", 2),
        ("looped_uniform", False, "", FRAMES),
        ("looped_uniform", True, "", FRAMES),
        ("looped_uniform", True, "-2", 1),
    ],
)
def test_frames_in_cores_overlapping_context_windows(host, schedule, fix, retained, size):
    handler = context_windows(schedule, 2, 1, fix, retained, loop=schedule == "looped_uniform")
    model = host.frames.with_frame_batches(host.model, size=size)
    calls = check(host, host.prompt(PLAIN), host.prompt(""), model=model, windows=handler)
    assert sum(len(call.x) for call in calls) > 2 * FRAMES


# Other packs' patches


def adapter(model):
    """As IPAdapter works: in some blocks the output of another attention is added to that of the prompt's."""

    def patch(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, options["n_heads"])
        return out + 0.5 * optimized_attention(q, k.flip(1)[:, :4], v.flip(1)[:, :4], options["n_heads"])

    model = model.clone()
    for block in ("input", 1), ("input", 3), ("middle", 0), ("output", 3):
        model.set_model_attn2_replace(patch, *block)
    return model


def other_context(model):
    """A patch before the projections, which changes what keys and values are made of."""

    def patch(n, context, value, options):
        return n, context + 0.3 * context.roll(1, -1), 0.5 * value

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


@pytest.mark.parametrize("patch", [adapter, other_context])
@pytest.mark.parametrize("order", ["above", "beneath"])
def test_with_another_packs_cross_attention_patch(host, patch, order, monkeypatch):
    """Set on the model after the recorder ("above") and before it ("beneath")."""
    batches, conds = host.batches, (host.prompt(PLAIN), host.prompt(""))
    patched = patch(batches)
    assert not torch.allclose(host.once(patched, conds, (16, 16)), host.once(batches, conds, (16, 16)), atol=1e-3)
    if order == "beneath":
        check(host, *conds, model=patched)
    else:
        record = host.recording
        monkeypatch.setattr(
            host, "recording", lambda model, recorder: (lambda on, prepare: (patch(on), prepare))(*record(batches, recorder))
        )
        check(host, *conds, model=patched)


# SDXL


@pytest.fixture(scope="module")
def sdxl(comfy):
    """SDXL's U-Net, small and with random weights: several transformers a block, heads of 64, a pooled embedding beside the context."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
            "transformer_depth": [1, 2], "transformer_depth_middle": 2, "transformer_depth_output": [1, 1, 2, 2], "context_dim": 2048,
            "use_spatial_transformer": True, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816,
            "use_temporal_attention": False, "legacy": False,
        }
    )  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    model, generator = config.get_model({}), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        wide = weight.ndim > 1
        weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator) if wide else weight.data.fill_(1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


@pytest.mark.parametrize(("text", "words"), [(PLAIN, PLAIN_WORDS), (LONG, LONG_WORDS)])
def test_sdxls_two_encoders(host, sdxl, text, words):
    """Their embeddings stand side by side in the columns that both tokenizers share."""
    import comfy.sdxl_clip

    import blade.host.words

    clip, generator = SimpleNamespace(tokenizer=comfy.sdxl_clip.SDXLTokenizer()), torch.Generator().manual_seed(1)
    tokens = clip.tokenizer.tokenize_with_weights(text)
    assert tokens.keys() == {"l", "g"}

    def cond(length):
        two = [torch.randn(1, length, width, generator=generator) for width in (768, 1280)]
        return torch.cat(two, -1), {"pooled_output": torch.randn(1, 1280, generator=generator)}

    embedding, options = cond(77 * len(tokens["l"]))
    positive = [[embedding, {**options, "blade_words": blade.host.words.tokenised_words(clip, text, tokens)}]]
    model = host.frames.with_frame_batches(sdxl, size=FRAMES)
    calls = check(host, positive, [list(cond(77))], words, model=model)
    assert [len(call.x) for call in calls] == [2 * FRAMES]


# What is sampled


@torch.inference_mode()
def test_a_recorder_on_or_off_gives_the_same_latents_along_a_whole_sampling(host):
    import comfy.k_diffusion.sampling

    size, steps = (16, 16), 4
    positive, negative = host.prompt(PLAIN), host.prompt("blurred")
    batches = host.frames.with_frame_batches(host.model, size=2)
    sigmas = host.core.samplers.calculate_sigmas(host.model.get_model_object("model_sampling"), "normal", steps)

    def sample(recorder):
        model, prepare = host.recording(batches, recorder) if recorder else (batches, lambda _: None)
        found, walked = [], []

        def solver(denoiser, x, sigmas, extra_args, **_):
            prepare(denoiser)
            if recorder:
                recorder.begin(sigmas[0])

            def after_step(step):
                walked.append(step["x"].clone())
                if recorder:
                    found.append(recorder.finish())
                    recorder.begin(sigmas[step["i"] + 1])

            return comfy.k_diffusion.sampling.sample_heun(denoiser, x, sigmas, extra_args, after_step, True)

        noise = clip_noise(size)
        kind = host.core.samplers.KSAMPLER(solver)
        out = host.core.sample.sample_custom(
            model, noise, CFG, kind, sigmas, positive, negative, torch.zeros_like(noise), disable_pbar=True, seed=0
        )
        return [*walked, out], found

    recorded, found = sample(host.recorder(positive[0][1]["blade_words"], size))
    unrecorded, _ = sample(None)
    assert [level.sigma for level in found] == sigmas[:-1].tolist()
    assert len(recorded) == len(unrecorded) == steps + 1
    assert all(torch.equal(a, b) for a, b in zip(recorded, unrecorded, strict=True))


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (32, 20)], ids=str)
def test_the_blocks_of_a_size_are_those_whose_layers_have_it(host, size):
    """Self-attention is watched in those alone, so that the others keep what they keep without a recorder."""
    from blade.host.attention import with_attention
    from blade.host.families.unet import blocks_where

    seen = set()

    def note(q, k, v, attend, layer):
        seen.add((layer.name[0], layer.size))
        return attend(q, k, v)

    unet, prompt = host.model.get_model_object("diffusion_model"), host.prompt(PLAIN)
    for height, width in {size, tuple((side + 1) // 2 for side in size)}:
        found = blocks_where(unet, size, lambda other, wanted=(height, width): other == wanted)
        chosen = with_attention(host.batches, "test", self_attention=note, self_where=lambda other, wanted=(height, width): other == wanted)
        seen.clear()
        host.once(chosen, (prompt, prompt), size)
        assert seen and {block for block, _ in seen} <= found
        assert {layer for _, layer in seen} == {(height, width)}
        everywhere = with_attention(host.batches, "test", self_attention=note)
        seen.clear()
        host.once(everywhere, (prompt, prompt), size)
        assert {block for block, layer in seen if layer == (height, width)} <= found
        assert not {block for block, layer in seen if layer != (height, width)} & found
