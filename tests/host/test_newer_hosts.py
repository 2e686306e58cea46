"""What later ComfyUI does otherwise than the pinned one, acted out on this one: the tests pass on both.

Where a test says "since", that is the version of ComfyUI that began it."""

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from tests.host.helpers import EDITED, SOURCE, Studio, temporal
from tests.host.windows import context_windows

CPU = torch.device("cpu")


# Since 0.13 a clone shares what is neither dict nor list in its model_options


def sharing(value):
    if isinstance(value, dict):
        return {name: sharing(part) for name, part in value.items()}
    return [sharing(part) for part in value] if isinstance(value, list) else value


class Shared:
    """An object of another pack, which may not be copied."""

    def __deepcopy__(self, memo):
        return self


def test_a_clone_that_shares_its_objects_leaves_the_artists_model_untouched(studio, box, monkeypatch):
    patcher, clone = type(studio.model), type(studio.model).clone

    def newer(self, *args, **kwargs):
        made = clone(self, *args, **kwargs)
        made.model_options = sharing(self.model_options)
        return made

    expected = studio.latents(model=temporal(studio.model, 2, "first", "previous"), mask=box)
    model = studio.model.clone()
    model.model_options["transformer_options"]["another_pack"] = {"settings": [Shared()], "shared": Shared()}
    before, wrappers = copy.deepcopy(model.model_options), copy.deepcopy(model.wrappers)
    monkeypatch.setattr(patcher, "clone", newer)
    assert torch.equal(studio.latents(model=temporal(model, 2, "first", "previous"), mask=box), expected)
    assert model.model_options == before
    assert model.wrappers == wrappers


# Since 0.16 weights may not be there to be read


def test_weights_that_are_not_there_to_be_read_count_as_unknown(studio, box, monkeypatch):
    from blade.host.fingerprint import weights_sample

    patcher, held = type(studio.model), type(studio.model).get_key_patches
    absent = lambda *args: {key: [(part[0][0].to("meta"), part[0][1])] for key, part in held(*args).items()}  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(patcher, "get_key_patches", absent)
        assert not len(weights_sample(studio.model))
        made = studio.invert()
        out = studio.latents(trajectory=made, mask=box)
    assert torch.equal(made.latents, studio.trajectory.latents)
    assert torch.equal(out, studio.latents(mask=box))


# Since 0.18 what the VAE gives may be fp16


class HalfVAE:
    """A VAE as it is after --fp16-intermediates."""

    def __init__(self, vae):
        self.vae = vae

    def __getattr__(self, name):
        return getattr(self.vae, name)

    def encode(self, pixels):
        return self.vae.encode(pixels).half()

    def decode(self, samples):
        return self.vae.decode(samples).half()


def test_a_latent_in_fp16_is_inverted_and_edited_as_the_same_in_fp32(studio, box):
    half = studio.latent.half()
    made, expected = studio.invert(latent=half), studio.invert(latent=half.float())
    assert torch.equal(made.latents, expected.latents)
    assert torch.equal(studio.latents(trajectory=made, mask=box.half()), studio.latents(trajectory=expected, mask=box))


@torch.inference_mode()
def test_pictures_and_latents_in_fp16_are_composited_as_the_same_in_fp32(studio, box):
    from blade.nodes.compare import Compare
    from blade.nodes.composite import PixelComposite
    from blade.nodes.latent_composite import LatentComposite

    edited = studio.latents(mask=box).half()
    source, shown = (studio.vae.decode(latent).half() for latent in (studio.latent, edited.float()))
    halves, singles = (shown, source, box.half()), (shown.float(), source.float(), box)
    for half, single in zip(PixelComposite.execute(*halves).result, PixelComposite.execute(*singles).result, strict=True):
        assert torch.equal(half, single)
    vae = HalfVAE(studio.vae)
    out, expected = (
        LatentComposite.execute({"samples": latent}, vae, pictures, box).result[0]["samples"]
        for latent, pictures in ((edited, source), (edited.float(), source.float()))
    )
    assert torch.equal(out, expected)
    sheets = [Compare.execute(*given[:2], 8.0, mask=given[2]).result[0] for given in (halves, singles)]
    assert torch.equal(*sheets)


# Since 0.21 the frame before a context window goes ahead of it, and since 0.26 some of its rows may show others than its own


@pytest.fixture(scope="module")
def longer(comfy, checkpoint, one_thread):
    """A clip of several windows."""
    return Studio(comfy, checkpoint, frames=7, steps=2)


WINDOWS = {"static": ("standard_static", 4, 1), "looped": ("looped_uniform", 5, 2)}


def in_windows(model, schedule, length, overlap):
    model = model.clone()
    model.model_options["context_handler"] = context_windows(schedule, length, overlap, loop=schedule == "looped_uniform")
    return model


def word_mask(trajectory):
    from blade.nodes.mask import CrossAttentionMask

    return CrossAttentionMask.execute(trajectory, "red circle").result[0] > 0.5


@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
def test_words_are_masked_in_context_windows_where_they_are_in_the_whole_clip(longer, settings):
    """A U-Net without a motion module knows no other frames, so that nothing depends on the windows."""
    mask = word_mask(longer.trajectory)
    moved = mask.roll(1, 0)
    assert (mask & moved).sum() < 0.9 * (mask | moved).sum()
    found = longer.invert(in_windows(longer.model, *settings))
    torch.testing.assert_close(found.latents, longer.trajectory.latents, rtol=0, atol=1e-3)
    in_parts = word_mask(found)
    assert (mask & in_parts).sum() >= 0.99 * (mask | in_parts).sum()


@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
def test_an_edit_in_context_windows_is_that_of_the_whole_clip(longer, settings):
    """With all that goes by the frame: a mask that moves, words that widen it, a prompt confined to it, and the clip's own structure."""
    moving = longer.truth.float()
    ask = {"mask": moving, "target_words": "blue circle", "confine": 1.0, "structure": 0.6, "source": longer.prompt(SOURCE)}
    whole = longer.latents(**ask)
    assert (whole - longer.latents(**{**ask, "mask": moving.roll(1, 0)})).abs().max() > EDITED
    parts = longer.latents(model=in_windows(longer.model, *settings), **ask)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)


def test_windows_that_cut_the_pictures_are_refused(longer):
    model = longer.model.clone()
    model.model_options["context_handler"] = context_windows("standard_static", 3, 1, dim=2)
    with pytest.raises(ValueError, match="^DDIM Invert .BLADE., input model: Context Windows cuts the pictures, along dimension 2"):
        longer.invert(model, latent=longer.latent[:, :, :4])


class Unheard:
    """Context windows of another pack, which send another frame along and do not say so."""

    def should_use_context(self, *args):
        return True

    def execute(self, calc_cond_batch, model, conds, x, timestep, model_options):
        model_options["transformer_options"]["context_window"] = SimpleNamespace(index_list=list(range(1, len(x))))
        return calc_cond_batch(model, conds, x, timestep, model_options)


def test_windows_that_do_not_name_their_frames_are_refused(studio, box):
    model = studio.model.clone()
    model.model_options["context_handler"] = Unheard()
    with pytest.raises(
        ValueError, match="^Blended Sampler .BLADE., input model: a context window of another pack passes 3 frames, but names 2"
    ):
        studio.latents(model=model, mask=box)


# Since 0.23 conds may run in threads, each on a device of its own


@pytest.fixture
def conds_in_threads(comfy, monkeypatch):
    """Lets each cond pass the model by itself, in turn or in threads. For conds without areas and masks, whose mean core takes."""
    import comfy.samplers

    run = comfy.samplers._calc_cond_batch

    def begin(threads):
        def calc_cond_batch(model, conds, x, timestep, model_options):
            asked = [(place, cond) for place, listed in enumerate(conds) for cond in listed or ()]

            def one(place, cond):
                with torch.no_grad():  # as core's threads: inference mode is the main thread's own
                    alone = [[cond] if number == place else [] for number in range(len(conds))]
                    return run(model, alone, x, timestep, model_options)[place]

            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(lambda task: one(*task), asked))
            out = [[part for (at, _), part in zip(asked, found, strict=True) if at == place] for place in range(len(conds))]
            return [torch.stack(parts).mean(0) if parts else torch.zeros_like(x) for parts in out]

        monkeypatch.setattr(comfy.samplers, "_calc_cond_batch", calc_cond_batch)

    return begin


def test_an_edit_whose_conds_run_in_threads_is_that_whose_conds_take_turns(studio, conds_in_threads):
    """With all that lives inside the model: words that are watched, structure, a confined prompt, and frames' keys carried on."""
    model, source = temporal(studio.model, 2, "first", "previous"), studio.prompt(SOURCE)
    made = []
    for threads in (1, 4):
        conds_in_threads(threads)
        made.append(studio.latents(model=model, structure=0.6, source=source, confine=0.6, steps=2))
    assert torch.equal(*made)
    assert (made[0] - studio.clips_own()).abs().max() > EDITED


def test_a_prompt_given_twice_is_recorded_in_threads_as_in_turns(studio, conds_in_threads):
    found = []
    for threads in (1, 4):
        conds_in_threads(threads)
        found.append(studio.invert(source=studio.prompt(SOURCE) + studio.prompt(SOURCE), steps=2).record)
    in_turns, in_threads = found
    assert in_threads.sigmas == in_turns.sigmas
    assert in_turns.spread
    for held, expected in ((in_threads.levels, in_turns.levels), ([in_threads.spread], [in_turns.spread])):
        for maps, wanted in zip(held, expected, strict=True):
            torch.testing.assert_close(maps, wanted, rtol=2e-3, atol=1e-4)


def test_of_a_control_net_each_devices_own_follows_the_frames(comfy):
    from comfy.controlnet import ControlNet

    from blade.host.frames import rows_of_control

    def made(start, previous=None):
        control = ControlNet(torch.nn.Identity(), load_device=CPU, manual_cast_dtype=None)
        control.set_cond_hint(torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8) + start)
        control.extra_concat_orig = []
        return control.set_previous_controlnet(previous)

    before, control = made(100), made(0)
    control.set_previous_controlnet(before)
    before.multigpu_clones = {"second": made(300)}
    control.multigpu_clones = {"second": made(200, before.multigpu_clones["second"])}
    kept = copy.copy(control.multigpu_clones), copy.copy(before.multigpu_clones)

    part = rows_of_control(control, [1, 2], 4, {})
    clone = part.multigpu_clones["second"]
    firsts = [found.cond_hint_original[:, 0, 0, 0].tolist() for found in (part, part.previous_controlnet, clone, clone.previous_controlnet)]
    assert firsts == [[1, 2], [101, 102], [201, 202], [301, 302]]
    assert part.previous_controlnet.multigpu_clones["second"] is clone.previous_controlnet
    assert (control.multigpu_clones, before.multigpu_clones) == kept
    assert len(control.multigpu_clones["second"].cond_hint_original) == 4


# After 0.33 a ControlNet keeps its scaled hints by their size


def test_no_batch_of_frames_gets_the_hint_that_a_control_net_keeps_of_others(comfy):
    from comfy.controlnet import ControlNet

    from blade.host.frames import rows_of_control

    class Newer(ControlNet):
        """Scales a hint once for each size. What it kept is shared by copies, as any object's parts are."""

        def get_control(self, height, width):
            if (height, width) not in self.cond_hints:
                self.cond_hints[height, width] = self.cond_hint_original
            return self.cond_hints[height, width]

    control = Newer(torch.nn.Identity(), load_device=CPU, manual_cast_dtype=None)
    control.set_cond_hint(torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8))
    control.extra_concat_orig, control.cond_hints = [], {}
    batches = [rows_of_control(control, rows, 4, {}) for rows in ([0, 1], [2, 3])]
    assert [part.get_control(8, 8)[:, 0, 0, 0].tolist() for part in batches] == [[0, 1], [2, 3]]
    assert not control.cond_hints


# Since 0.28 core looks itself whether a path stays in its folder, and says what it takes for the cause


@pytest.fixture
def folders(comfy, tmp_path, monkeypatch):
    """An input and an output folder, and a file beside them. Core's own look-ups are as they have been since."""
    import folder_paths

    def looked_up(name, default_dir=None):
        place, folder = folder_paths.annotated_filepath(name)
        folder = folder or default_dir or folder_paths.get_input_directory()
        path = os.path.abspath(os.path.join(folder, place))
        return path, os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)

    def path_of(name, default_dir=None):
        path, inside = looked_up(name, default_dir)
        if not inside:
            raise ValueError(f"Invalid file path: {name!r}")
        return path

    monkeypatch.setattr(folder_paths, "get_annotated_filepath", path_of)
    monkeypatch.setattr(folder_paths, "exists_annotated_filepath", lambda name: looked_up(name)[1] and os.path.exists(looked_up(name)[0]))
    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{kind}_directory", lambda kind=kind: str(tmp_path / kind))
    (tmp_path / "secret").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("mark", ["", " [input]", " [output]"])
def test_a_file_outside_the_folders_is_told_from_one_that_is_not_there(folders, mark):
    from blade.nodes.load_trajectory import LoadTrajectory
    from blade.nodes.load_video import LoadVideo

    for name in (f"../secret{mark}", f"a/../../secret{mark}", f"{folders / 'secret'}{mark}"):
        said = f"{name!r} lies outside ComfyUI's output and input folders. Move the file into one of them."
        assert LoadVideo.validate_inputs(name) == f"Load Video (BLADE), input video: {said}"
        assert LoadTrajectory.validate_inputs(name) == f"Load Trajectory (BLADE), input trajectory_file: {said}"
    assert LoadVideo.validate_inputs(f"none{mark}").startswith(f"Load Video (BLADE), input video: there is no clip 'none{mark}'")
    assert LoadTrajectory.validate_inputs(f"none{mark}").startswith(
        f"Load Trajectory (BLADE), input trajectory_file: there is no file 'none{mark}'"
    )
    (folders / "output" / "one").write_bytes(b"")
    (folders / "input" / "one").write_bytes(b"")
    assert LoadVideo.validate_inputs(f"one{mark}") is True
    assert LoadTrajectory.validate_inputs(f"one{mark}") is True


# Since 0.28 the tokenizer gives an inversion's vectors, its name, and what is left of the text


class Tokenizer:
    """As core's, as far as inversions go. named: whether the name is among what it gives."""

    def __init__(self, named):
        self.named = named

    def _try_get_embedding(self, text):
        name, _, behind = text.partition("<")
        vectors = torch.zeros(2, 8) if name.startswith("two") else None
        return (vectors, name, behind) if self.named else (vectors, behind)

    def tokenize_with_weights(self, text):
        for word in text.split():
            if word.startswith("embedding:"):
                self._try_get_embedding(word.removeprefix("embedding:"))


@pytest.mark.parametrize(
    ("named", "text", "expected"),
    [
        (False, "a embedding:two, car embedding:none", ["", "embedding:two</w>"]),
        (True, "a embedding:two, car embedding:none", ["", "embedding:two</w>"]),
        (True, "embedding:two<lora> embedding:two", ["", "embedding:two</w>"] * 2),
    ],
    ids=["before", "since", "with text right behind it"],
)
def test_an_inversion_is_spelled_whether_its_name_comes_with_it_or_not(comfy, named, text, expected):
    from blade.host.words import spell_inversions

    assert spell_inversions(Tokenizer(named), text) == expected


# Since 0.40 a layer tells the attention function which one it would rather have


class Choice(torch.nn.Module):
    function = None


def test_a_layers_own_choice_of_attention_is_told_where_we_handle_it(studio, box, monkeypatch, request):
    import comfy.ldm.modules.attention as core

    layers = [part for part in studio.model.get_model_object("diffusion_model").modules() if isinstance(part, core.CrossAttention)]
    run, under_way, told = core.optimized_attention, [], []

    def spy(q, k, v, heads, *args, **kwargs):
        told.append(kwargs.pop("preferred_attention", None) is under_way[-1].comfy_attention)
        return run(q, k, v, heads, *args, **kwargs)

    for layer in layers:
        monkeypatch.setattr(layer, "comfy_attention", Choice(), raising=False)
        monkeypatch.setattr(layer, "forward", lambda *args, **kwargs: pytest.fail("a layer that nothing handles"))
        request.addfinalizer(layer.to_q.register_forward_pre_hook(lambda *_, layer=layer: under_way.append(layer)).remove)
    monkeypatch.setattr(core, "optimized_attention", spy)
    model = temporal(studio.model, 2, "first", "previous")
    studio.latents(model=model, mask=box, confine=1.0, structure=0.6, source=studio.prompt(SOURCE), target_words="blue circle", steps=2)
    assert len(told) > len(layers)
    assert all(told)


def test_what_a_hosts_call_of_a_replacement_says_besides_is_handed_on(studio, monkeypatch):
    import comfy.ldm.modules.attention as core

    from blade.host.families.unet import UNet

    said = []

    def replacement(q, k, v, options, **more):
        said.append(more)
        return v

    def optimized_attention(q, k, v, heads, attn_precision, transformer_options, **more):
        said.append(more)
        return v

    def call(x, timesteps, context, y, control, options):
        told = {"n_heads": 2, "attn_precision": None, "activations_shape": x.shape, "block": ("input", 1), "block_index": 0}
        for block in (("input", 1, 0), ("input", 2, 0)):
            options["patches_replace"]["attn1"][block](x, x, x, told, low_precision_attention=False)

    monkeypatch.setattr(core, "optimized_attention", optimized_attention)
    wrapper = UNet().attention_wrapper(
        studio.model.get_model_object("diffusion_model"), self_attention=lambda q, k, v, attend, layer: attend(q, k, v)
    )
    wrapper(call, torch.zeros(1, 4, 8, 8), None, None, None, None, {"patches_replace": {"attn1": {("input", 1): replacement}}})
    assert said == [{"low_precision_attention": False}] * 2
