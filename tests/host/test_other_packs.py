"""The habits of other packs, each done by a stand-in at the patch points that the pack uses: composes with every stage, or is told of in a sentence."""

import contextlib
import copy
import inspect
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from runner.host import REPOSITORY
from tests.host.habits import (
    BLOCKS,
    HABITS,
    SILENT,
    attend,
    compiled,
    compiled_object,
    image_adapter,
    merged,
    normalised,
    self_guided,
    tried_again,
)  # fmt: skip
from tests.host.helpers import SOURCE, TARGET, Studio, in_cells, temporal

EFFECT = 1e-3  # a mean difference of latents, whose deviation is about 1: far above rounding
BATCHES = 1e-3  # batches of another size round otherwise
HINDERED = "since another pack's patch on the model splits the frames"


@pytest.fixture(scope="module")
def studio(comfy, checkpoint, one_thread):
    return Studio(comfy, checkpoint, steps=2)


@pytest.fixture(scope="module")
def plain(studio):
    """What core samples of the unpatched model from the trajectory's top."""
    return studio.stock()


@pytest.fixture
def told(monkeypatch):
    """What artists are told in the nodes."""
    from blade.host import job

    sentences = []
    monkeypatch.setattr(job, "show_in_node", lambda sentence, node_id: sentences.append(sentence))
    return lambda: "\n".join(sentences)


SEVEN = 7  # layers of each kind
habit = pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)


def seeded(make):
    """HyperTile and token merging draw from the global generator."""
    torch.manual_seed(0)
    return make()


def in_batches(model, size):
    from blade.host.frames import with_frame_batches

    return with_frame_batches(model, size=size)


def unchanged(model):
    """Fails where the block leaves anything in a MODEL."""

    @contextlib.contextmanager
    def watched():
        options, wrappers = copy.copy(model.model_options["transformer_options"]), copy.deepcopy(model.wrappers)
        yield
        assert model.model_options["transformer_options"] == options
        assert model.wrappers == wrappers

    return watched()


@habit
def test_a_full_mask_is_cores_sampling_and_outside_a_mask_is_the_clip(studio, box, outside, habit, told):
    model = habit(studio, studio.model)
    with unchanged(model):
        stock = seeded(lambda: studio.stock(model=model))
        assert torch.equal(seeded(lambda: studio.latents(model=model, mask=torch.ones(1, 128, 128))), stock)
        part = seeded(lambda: studio.latents(model=model, mask=box))
    assert torch.equal(part[outside], studio.clips_own()[outside])
    assert (part - studio.clips_own())[~outside].abs().mean() > EFFECT
    assert HINDERED not in told()


@habit
def test_structure_confine_and_masks_of_words_stay_inside_and_have_their_effect(studio, habit, told):
    model = habit(studio, studio.model)
    found, mask, _ = seeded(
        lambda: studio.sample(
            model=model, structure=0.6, confine=0.6, source=studio.prompt(SOURCE), mask_size="latent cells", consensus=0.0
        )
    )
    outside = (mask[:, None] == 0).expand_as(found["samples"])
    assert mask[in_cells(studio.truth)[:, 0]].mean() > 0.7
    assert mask.mean() < 0.4
    assert torch.equal(found["samples"][outside], studio.clips_own()[outside])
    cut = habit.__name__ in (
        "tiles",
        "merged",
    )  # self-attention's cells are not the clip's own pass's: a layer is left alone, and that is told
    assert (f"structure had no effect, {HINDERED}" in told()) == cut
    assert told().count(HINDERED) == told().count(f"structure had no effect, {HINDERED}")


SIGMA = 3.0


def record(studio, model=None, **inputs):
    """What an inversion of two levels records; the first call is made at the clip itself."""
    return studio.invert(model, sigmas=torch.tensor([SIGMA, 1.0, 0.0]), **inputs).record


@pytest.fixture(scope="module")
def maps(studio):
    return record(studio).levels[0]


@habit
def test_words_are_recorded_and_where_the_attention_is_the_same_to_the_same_maps(studio, maps, habit, told):
    with unchanged(model := habit(studio, studio.model)):
        found = seeded(lambda: record(studio, model)).levels[0]
    assert found.keys() == maps.keys()
    for size, recorded in found.items():
        assert torch.isfinite(recorded).all()
        if habit in SILENT:  # layers that ran before a stumble count twice
            torch.testing.assert_close(recorded, maps[size], rtol=0, atol=0.05 if habit is tried_again else 1e-3)
    assert HINDERED not in told()


def one_step(studio, model):
    """Core's sampler, a single call of the model from the middle of the trajectory."""
    return seeded(lambda: studio.stock(model=model, sigmas=torch.tensor([float(studio.trajectory.sigmas[-2]), 0.0])))


KINDS = ("self", "first", "previous")


@pytest.mark.parametrize("order", ["the pack's patch first", "ours first"])
@habit
def test_frames_see_each_other_in_batches_as_in_the_whole_clip(studio, habit, order, caplog):
    def patched(size):
        if order == "ours first":
            return habit(studio, temporal(studio.model, size, *KINDS))
        return temporal(habit(studio, studio.model), size, *KINDS)

    alone, whole = one_step(studio, habit(studio, studio.model)), one_step(studio, patched(3))
    assert (whole - alone).abs().mean() > EFFECT
    assert HINDERED not in caplog.text
    if habit is self_guided:
        with pytest.raises(
            ValueError, match="^Self-Attention Guidance looks at the whole clip at once, but its 3 frames pass in batches of 2"
        ):
            one_step(studio, patched(2))
    elif habit not in (merged, normalised):  # these look at the whole batch
        torch.testing.assert_close(one_step(studio, patched(2)), whole, rtol=0, atol=BATCHES)


# The attention of others' choice


@pytest.fixture
def put_in(plain, monkeypatch):
    """Another function in the place of the host's attention, as packs put it there while models are loaded. Counts its calls."""
    import comfy.ldm.modules.attention as host

    calls = []

    def fast(q, k, v, heads, *args, **kwargs):
        calls.append(len(k))
        return attend(q, k, v, heads)

    monkeypatch.setattr(host, "optimized_attention", fast)
    return calls


def test_a_function_put_into_the_hosts_module_is_asked_in_every_layer(studio, put_in):
    one_step(studio, studio.model)
    assert len(put_in) == 2 * SEVEN
    put_in.clear()
    one_step(studio, temporal(studio.model, 3, "first", "previous"))
    assert len(put_in) == 2 * SEVEN
    put_in.clear()
    assert torch.equal(studio.latents(mask=torch.ones(1, 128, 128), confine=1.0), studio.stock())
    put_in.clear()
    record(studio)
    assert len(put_in) == 2 * 2 * SEVEN


@pytest.mark.parametrize("make", [compiled, compiled_object], ids=lambda make: make.__name__)
def test_a_compiled_models_unet_is_known_and_its_words_are_recorded(studio, maps, make, told):
    """Run untraced: tracing takes minutes on a CPU."""
    with torch.compiler.set_stance("force_eager"):
        for size, recorded in record(studio, make(studio, studio.model)).levels[0].items():
            torch.testing.assert_close(recorded, maps[size], rtol=0, atol=1e-3)
    assert HINDERED not in told()


# Habits that take the model's layers out of our reach


def row_by_row(studio, model):
    """For little memory: each row of the batch by itself."""

    def rows_of(value, row, rows):
        return value[row : row + 1] if isinstance(value, torch.Tensor) and len(value) == rows else value

    def wrapper(apply, given):
        x, rows = given["input"], len(given["input"])
        parts = [
            apply(
                x[row : row + 1],
                given["timestep"][row : row + 1],
                **{name: rows_of(value, row, rows) for name, value in given["c"].items()},
            )
            for row in range(rows)
        ]
        return torch.cat(parts)

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def taken_inside(studio, model):
    """Writes every layer's replacement inside the call of the U-Net, past what stood there."""

    def wrapper(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        replace = {block: lambda q, k, v, options: attend(q, k, v, options["n_heads"]) for block in BLOCKS}
        return executor(
            x, timesteps, context, y, control, {**transformer_options, "patches_replace": {"attn1": replace, "attn2": replace}}, **kwargs
        )

    # Some do it in the U-Net's own method, beyond all wrappers.
    unet = model.get_model_object("diffusion_model")
    made = copy.copy(unet)
    inner = unet._forward
    made._forward = lambda x, timesteps=None, context=None, y=None, control=None, transformer_options={}, **kwargs: wrapper(
        inner, x, timesteps, context, y, control, transformer_options, **kwargs
    )
    model = model.clone()
    model.add_object_patch("diffusion_model", made)
    return model


@pytest.mark.parametrize("make", [row_by_row, taken_inside], ids=lambda make: make.__name__)
def test_what_does_not_reach_the_layers_is_told_of_and_the_rest_is_right(studio, box, outside, make, told, caplog):
    model = make(studio, studio.model)
    with unchanged(model):
        assert record(studio, model) is None
    assert f"Warning: words were recorded at 0 of 2 levels, {HINDERED}" in told()
    part, free = (
        studio.latents(model=model, mask=box, structure=share, confine=share, source=studio.prompt(SOURCE)) for share in (1.0, 0.0)
    )
    assert torch.equal(part[outside], studio.clips_own()[outside])
    torch.testing.assert_close(part, free, rtol=0, atol=BATCHES)
    for name in "structure", "confine":
        assert f"Warning: {name} had no effect, {HINDERED}" in told()
    studio.sample(model=model, consensus=0.0)
    assert f"Warning: the target's words could not widen the mask, {HINDERED}" in told()
    name = f"Warning: Temporal-Spatial Attention had no effect, {HINDERED}"
    assert name not in told() + caplog.text
    across = temporal(model, 2, *KINDS)
    torch.testing.assert_close(one_step(studio, across), one_step(studio, model), rtol=0, atol=BATCHES)
    assert caplog.text.count(name) == 1
    studio.latents(model=across, mask=box)
    assert name in told()


def test_without_other_packs_nothing_is_told_of_them(studio, box, told, caplog):
    across = temporal(studio.model, 2, *KINDS)
    studio.latents(model=across, structure=0.5, confine=0.5, source=studio.prompt(SOURCE), mask_size="latent cells", consensus=0.0)
    studio.invert(across)
    one_step(studio, across)
    assert HINDERED not in told() + caplog.text


# Caches that answer in the model's place


def cached(studio, model):
    """As TeaCache's kin: every other call gets what the one before got."""
    held = []

    def wrapper(apply, given):
        if len(held) == 1 and held[0].shape == given["input"].shape:
            return held.pop()
        held[:] = [apply(given["input"], given["timestep"], **given["c"])]
        return held[0]

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def easily_cached(studio, model):
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0]


CACHES = pytest.mark.parametrize("make", [cached, easily_cached], ids=lambda make: make.__name__)


@CACHES
def test_a_cache_is_refused_where_frames_pass_in_batches(studio, box, make):
    first = {"ours first": make(studio, in_batches(studio.model, 1)), "theirs first": in_batches(make(studio, studio.model), 1)}
    for model in first.values():
        with pytest.raises(
            ValueError, match="^Blended Sampler .BLADE., input model: another pack's patch answers in the model's place, from a cache"
        ):
            studio.sample(model=model, mask=box)
        with pytest.raises(ValueError, match="^DDIM Invert .BLADE., input model: another pack's patch answers in the model's place"):
            studio.invert(model)


def test_a_cache_is_refused_where_structure_asks_the_model_for_another_prompt(studio, box):
    with pytest.raises(ValueError, match="^Blended Sampler .BLADE., input model: another pack's patch answers in the model's place"):
        studio.sample(model=cached(studio, studio.model), mask=box, cfg=1.0, structure=1.0, source=studio.prompt(SOURCE))


def test_a_cache_of_the_whole_clip_is_the_artists_choice_and_the_levels_it_leaves_out_are_told_of(studio, box, outside, told):
    full = studio.latents(model=cached(studio, studio.model), mask=torch.ones(1, 128, 128))
    assert torch.equal(full, studio.stock(model=cached(studio, studio.model)))
    part = studio.latents(model=cached(studio, studio.model), mask=box)
    assert torch.equal(part[outside], studio.clips_own()[outside])
    found = studio.invert(cached(studio, studio.model)).record
    assert len(found.levels) == 1
    assert f"Warning: words were recorded at 1 of 2 levels, {HINDERED}" in told()


@pytest.mark.parametrize("make", [self_guided], ids=lambda make: make.__name__)
def test_guidance_that_looks_at_the_whole_clip_is_refused_in_batches(studio, box, make):
    with pytest.raises(ValueError, match="^Blended Sampler .BLADE., input model: Self-Attention Guidance looks at the whole clip at once"):
        studio.sample(model=in_batches(make(studio, studio.model), 2), mask=box)


# Windows, adapters in the prompt, branches


def test_in_cores_context_windows_the_edit_is_cores_sampling_and_stays_inside(studio, box, outside):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    newer = {"freenoise": False} if "freenoise" in inspect.signature(ContextWindowsManualNode.execute).parameters else {}
    model = ContextWindowsManualNode.execute(studio.model, 2, 1, "standard_static", 1, False, "pyramid", 0, **newer).result[0]
    assert torch.equal(studio.latents(model=model, mask=torch.ones(1, 128, 128)), studio.stock(model=model))
    part = studio.latents(model=model, mask=box, structure=0.6, confine=0.6, source=studio.prompt(SOURCE))
    assert torch.equal(part[outside], studio.clips_own()[outside])


class Hints(torch.nn.Module):
    """A T2I adapter's network: features of a hint for the U-Net's input blocks."""

    unshuffle_amount = 8

    def forward(self, hint):
        feature = F.adaptive_avg_pool2d(hint, 16).mean(1, keepdim=True).expand(-1, 64, -1, -1)
        return {"input": [None, feature]}


@pytest.mark.parametrize("hints", [1, 3])
def test_a_t2i_adapters_hints_follow_their_frames(studio, box, outside, plain, hints):
    import comfy.controlnet

    import nodes

    adapter = comfy.controlnet.T2IAdapter(Hints(), 3, 8, "nearest-exact")
    pictures = torch.rand(hints, 128, 128, 3, generator=torch.Generator().manual_seed(6))
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        studio.prompt(TARGET), studio.prompt(""), adapter, pictures, 1.0, 0.0, 1.0
    )
    stock = studio.stock(target=positive, negative=negative)
    assert (stock - plain).abs().mean() > EFFECT
    assert torch.equal(studio.latents(target=positive, negative=negative, mask=torch.ones(1, 128, 128)), stock)
    whole, parts = (studio.latents(model=in_batches(studio.model, size), target=positive, negative=negative, mask=box) for size in (3, 2))
    assert torch.equal(whole[outside], studio.clips_own()[outside])
    torch.testing.assert_close(parts, whole, rtol=0, atol=BATCHES)


def test_branches_of_one_model_know_nothing_of_each_other(studio, box):
    across = temporal(studio.model, 2, *KINDS)
    before, alone = one_step(studio, across), one_step(studio, studio.model)
    branch = image_adapter(studio, across)
    with unchanged(across), unchanged(studio.model):
        assert (one_step(studio, branch) - before).abs().mean() > EFFECT
        studio.latents(model=branch, mask=box, confine=1.0)
        assert torch.equal(one_step(studio, across), before)
        assert torch.equal(one_step(studio, studio.model), alone)


# The pack installed twice


@pytest.fixture
def twin(comfy):
    """The modules of a second copy of the pack, under another name."""
    package = types.ModuleType("blade_again")
    package.__path__ = [str(REPOSITORY)]
    sys.modules["blade_again"] = package
    import blade_again.nodes

    yield blade_again
    for name in [name for name in sys.modules if name.split(".")[0] == "blade_again"]:
        del sys.modules[name]


def test_two_copies_of_the_pack_take_each_others_models_trajectories_prompts_and_edits(studio, twin, monkeypatch, told):
    from blade.nodes.edit import EditNode
    from blade.nodes.sampler import BlendedSampler
    from blade.nodes.temporal import TemporalAttention

    assert twin.nodes.sampler.BlendedSampler is not BlendedSampler
    settings = (True, True, True, False, False, False, 0, 1.0, "all", 0.0, 1.0, 2)

    def edited(patch, invert, edit, sample):
        model = patch.execute(studio.model, *settings).result[0]
        with torch.inference_mode():
            trajectory = invert.execute(model, studio.prompt(SOURCE), {"samples": studio.latent}, 2).result[0]
            edits = edit.execute(studio.prompt("a yellow circle on grass"), "", "").result[0]
            edits = edit.execute(studio.prompt("a red star on grass"), "", "", mask=studio.pixels(0, 24, 0, 64), previous=edits).result[0]
            return sample.execute(
                model, studio.prompt(TARGET), studio.prompt(""), trajectory, 2, 7.5, "euler", 1.0, "", "", confine=0.5, edits=edits
            ).result  # fmt: skip

    from blade.nodes.invert import DDIMInvert

    own = (TemporalAttention, DDIMInvert, EditNode, BlendedSampler)
    others = (
        twin.nodes.temporal.TemporalAttention,
        twin.nodes.invert.DDIMInvert,
        twin.nodes.edit.EditNode,
        twin.nodes.sampler.BlendedSampler,
    )
    expected = edited(*own)
    for chosen in ((0, 0, 0, 1), (1, 1, 1, 0)):
        found = edited(*(others[place] if other else own[place] for place, other in enumerate(chosen)))
        assert torch.equal(found[0]["samples"], expected[0]["samples"])
        assert torch.equal(found[1], expected[1])
    assert HINDERED not in told()


def test_a_model_patched_by_both_copies_looks_across_frames_once(studio, twin):
    settings = (True, True, True, False, False, False, 0, 1.0, "all", 0.0, 1.0, 2)
    once = temporal(studio.model, 2, *KINDS)
    twice = twin.nodes.temporal.TemporalAttention.execute(once, *settings).result[0]
    assert torch.equal(one_step(studio, twice), one_step(studio, once))
