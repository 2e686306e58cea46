"""The nodes on the demo checkpoint, in this process: what they give, and what they leave behind."""

import copy

import numpy as np
import pytest
import torch

from demo.scenes import Thing
from tests.clips import render_clip

FRAMES, STEPS = 4, 6


@pytest.fixture(scope="module")
def loaded(comfy, checkpoint):
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    frames, masks = render_clip(900_100, [Thing("red", "circle", 0.4, 0.45, 0.24)], "grass", FRAMES, (0.03, 0.02))
    with torch.inference_mode():
        latent = vae.encode(torch.from_numpy(frames).float() / 255)
    return model, clip, latent, torch.from_numpy(masks)


@pytest.fixture(scope="module")
def nodes(comfy):
    import blade.nodes.invert
    import blade.nodes.mask
    import blade.nodes.prompt
    import blade.nodes.sampler
    import blade.nodes.temporal

    class Nodes:
        """The nodes' execute functions, as the host calls them: in inference mode."""

        prompt = staticmethod(lambda *a: torch.inference_mode()(blade.nodes.prompt.Prompt.execute)(*a).result[0])

        @staticmethod
        def temporal(model, *kinds, anchor_every=0, strength=1.0, blocks="all", percent=(0.0, 1.0), batch_frames=0):
            chosen = [kind in kinds for kind in ("self", "first", "previous", "next", "middle", "all")]
            node = blade.nodes.temporal.TemporalAttention
            return node.execute(model, *chosen, anchor_every, strength, blocks, *percent, batch_frames).result[0]

        invert = staticmethod(lambda *a, **k: torch.inference_mode()(blade.nodes.invert.DDIMInvert.execute)(*a, **k).result[0])
        mask = staticmethod(lambda *a, **k: blade.nodes.mask.CrossAttentionMask.execute(*a, **k).result)
        sampler = staticmethod(lambda *a, **k: torch.inference_mode()(blade.nodes.sampler.BlendedSampler.execute)(*a, **k).result[:2])

    return Nodes


@pytest.fixture(scope="module")
def inverted(loaded, nodes):
    model, clip, latent, _ = loaded
    patched = nodes.temporal(model, "first", "previous")
    return patched, nodes.invert(patched, nodes.prompt(clip, "a red circle on grass"), {"samples": latent}, STEPS)


@torch.inference_mode()
def stock(comfy, model, positive, negative, latent):
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    return comfy.sample.sample(model, noise, 4, 7.5, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=3)


def test_the_prompt_node_encodes_as_core_does(loaded, nodes):
    import nodes as core_nodes

    _, clip, _, _ = loaded
    ours, core = (
        nodes.prompt(clip, "a (red:1.2) circle on grass"),
        core_nodes.CLIPTextEncode().encode(clip, "a (red:1.2) circle on grass")[0],
    )
    assert torch.equal(ours[0][0], core[0][0])
    assert [word.text for word in ours[0][1]["blade_words"].words] == ["a", "red", "circle", "on", "grass"]


def test_a_prompt_made_by_our_node_samples_like_cores(comfy, loaded, nodes):
    import nodes as core_nodes

    model, clip, latent, _ = loaded
    empty = core_nodes.CLIPTextEncode().encode(clip, "")[0]
    core = core_nodes.CLIPTextEncode().encode(clip, "a red star on sand")[0]
    assert torch.equal(
        stock(comfy, model, nodes.prompt(clip, "a red star on sand"), empty, latent), stock(comfy, model, core, empty, latent)
    )


def test_a_model_is_the_same_before_and_after_all_our_nodes(comfy, loaded, nodes):
    model, clip, latent, _masks = loaded
    source, target, negative = (nodes.prompt(clip, text) for text in ("a red circle on grass", "a blue circle on grass", ""))
    options = copy.deepcopy(model.model_options)
    before = stock(comfy, model, target, negative, latent)
    patched = nodes.temporal(model, "self", "middle")
    trajectory = nodes.invert(patched, source, {"samples": latent}, STEPS)
    nodes.mask(trajectory, "circle")
    nodes.sampler(patched, target, negative, trajectory, STEPS, 7.5, "euler", 1.0, "", "", 0)
    assert torch.equal(stock(comfy, model, target, negative, latent), before)
    assert model.model_options == options
    assert not any(model.wrappers.get("diffusion_model", {}).values())


def test_recording_does_not_change_what_is_sampled(comfy, loaded, nodes):
    """Two inversions, with and without words to record, on the same conditioning: equal to the bit."""
    model, clip, latent, _ = loaded
    source = nodes.prompt(clip, "a red circle on grass")
    silent = [[source[0][0], {k: v for k, v in source[0][1].items() if k != "blade_words"}]]
    recorded, unrecorded = (nodes.invert(model, cond, {"samples": latent}, STEPS) for cond in (source, silent))
    assert unrecorded.record is None
    assert len(recorded.record.levels) == STEPS
    assert torch.equal(recorded.latents, unrecorded.latents)


def test_the_temporal_patch_on_one_frame_is_stock(comfy, loaded, nodes):
    """K/V of the first and previous frame are the frame's own then: equal but for the order of the sums."""
    model, clip, latent, _ = loaded
    positive, negative = nodes.prompt(clip, "a red circle on grass"), nodes.prompt(clip, "")
    plain = stock(comfy, model, positive, negative, latent[:1])
    patched = stock(comfy, nodes.temporal(model, "first", "previous"), positive, negative, latent[:1])
    torch.testing.assert_close(patched, plain, rtol=1e-3, atol=1e-3)


def test_the_temporal_patch_makes_frames_depend_on_the_first(comfy, loaded, nodes):
    model, clip, latent, _ = loaded
    positive, negative = nodes.prompt(clip, "a red circle on grass"), nodes.prompt(clip, "")
    other_first = torch.cat([latent[:1].flip(-1), latent[1:]])
    patched = nodes.temporal(model, "first", "previous")
    a, b = (stock(comfy, patched, positive, negative, z)[-1] for z in (latent, other_first))
    c, d = (stock(comfy, model, positive, negative, z)[-1] for z in (latent, other_first))
    assert not torch.allclose(a, b, atol=1e-3)
    assert torch.equal(c, d)


def test_patches_chain_with_another_packs(comfy, loaded, nodes):
    """A self-attention replacement that was there first is called with the gathered keys, whichever order the packs patched in."""
    model, clip, latent, _ = loaded
    positive, negative = nodes.prompt(clip, "a red circle on grass"), nodes.prompt(clip, "")
    seen = []

    def other(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        seen.append((q.shape[1], k.shape[1]))
        return optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options)

    def patch(m):
        m = m.clone()
        m.set_model_attn1_replace(other, "middle", 0)
        return m

    results = []
    for both in (nodes.temporal(patch(model), "first", "previous"), patch(nodes.temporal(model, "first", "previous"))):
        seen.clear()
        results.append(stock(comfy, both, positive, negative, latent))
        assert seen
        assert all(k == 2 * q for q, k in seen)
    assert torch.equal(*results)
    assert torch.equal(results[0], stock(comfy, nodes.temporal(model, "first", "previous"), positive, negative, latent))


def test_the_trajectory_begins_with_the_clip_in_model_space(loaded, inverted):
    model, _, latent, _ = loaded
    _, trajectory = inverted
    assert torch.equal(trajectory.latents[0], model.model.process_latent_in(latent).cpu())
    assert trajectory.latents.shape == (STEPS + 1, FRAMES, 4, 16, 16)
    assert trajectory.latents[-1].std() > 3  # from a clip of deviation 1 towards noise of sigma 8


def test_inverting_twice_gives_the_same_bits(loaded, nodes, inverted):
    _, clip, latent, _ = loaded
    patched, trajectory = inverted
    again = nodes.invert(patched, nodes.prompt(clip, "a red circle on grass"), {"samples": latent}, STEPS)
    assert torch.equal(again.latents, trajectory.latents)


def test_a_mask_of_which_nothing_is_left_gives_back_the_clip(loaded, nodes, inverted):
    model, clip, _latent, _ = loaded
    patched, trajectory = inverted
    out, used = nodes.sampler(patched, nodes.prompt(clip, "a blue star on sand"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0,
                              "", "", 0, mask=torch.ones(1, 128, 128), mask_mode="subtract")  # fmt: skip
    assert torch.equal(out["samples"], model.model.process_latent_out(trajectory.latents[0]))
    assert used.shape == (FRAMES, 128, 128)
    assert used.sum() == 0


def test_outside_the_mask_the_latent_is_the_clips_and_inside_it_changes(loaded, nodes, inverted):
    model, clip, _latent, _ = loaded
    patched, trajectory = inverted
    mask = torch.zeros(FRAMES, 128, 128)
    mask[:, 32:96, 40:104] = 1
    out, _ = nodes.sampler(patched, nodes.prompt(clip, "a blue circle on grass"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0,
                           "", "", 0, mask=mask)  # fmt: skip
    cells = torch.zeros(16, 16, dtype=torch.bool)
    cells[4:12, 5:13] = True
    clip_latent = model.model.process_latent_out(trajectory.latents[0])
    assert torch.equal(out["samples"][..., ~cells], clip_latent[..., ~cells])
    assert (out["samples"][..., cells] - clip_latent[..., cells]).abs().mean() > 0.1


def test_the_mask_that_draws_itself_lies_on_the_object(loaded, nodes, inverted):
    _, clip, _, truth = loaded
    patched, trajectory = inverted
    _, used = nodes.sampler(patched, nodes.prompt(clip, "a blue circle on grass"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0,
                            "red circle", "blue circle", 0)  # fmt: skip
    inside, object_ = used > 0.5, truth > 0.5
    assert ((inside & object_).sum((1, 2)) / object_.sum((1, 2))).min() > 0.7
    assert (inside & ~object_).float().mean() < 0.2


def blended(nodes, clip, patched, trajectory, consensus=1.0, until=0.8, mask_size="pixels", **mask):
    return nodes.sampler(patched, nodes.prompt(clip, "a blue circle on grass"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0,
                         "red circle", "blue circle", 0, consensus=consensus, consensus_until=until, mask_size=mask_size, **mask)  # fmt: skip


def test_consensus_changes_the_object_and_not_what_is_around_it(loaded, nodes, inverted):
    model, clip, _, _ = loaded
    patched, trajectory = inverted
    agreed, cells = blended(nodes, clip, patched, trajectory, mask_size="latent cells")
    alone, _ = blended(nodes, clip, patched, trajectory, consensus=0.0)
    outside = (cells[:, None] == 0).expand_as(agreed["samples"])
    clips_own = model.model.process_latent_out(trajectory.latents[0])
    assert torch.equal(agreed["samples"][outside], clips_own[outside])
    assert (agreed["samples"] - alone["samples"])[~outside].abs().mean() > 0.01


def test_a_mask_that_does_not_move_gives_no_consensus(loaded, nodes, inverted):
    _, clip, _, _ = loaded
    still = torch.zeros(1, 128, 128)
    still[:, 30:90, 30:90] = 1
    one, other = (blended(nodes, clip, *inverted, consensus=amount, mask=still)[0]["samples"] for amount in (0.0, 1.0))
    assert torch.equal(one, other)


def test_the_mask_in_cells_is_the_one_in_pixels(loaded, nodes, inverted):
    from blade.attention.masks import to_latent_mask

    _, clip, _, _ = loaded
    _, pixels = blended(nodes, clip, *inverted)
    _, cells = blended(nodes, clip, *inverted, mask_size="latent cells")
    assert cells.shape == (FRAMES, 16, 16)
    assert torch.equal(cells, to_latent_mask(pixels, 16, 16)[:, 0])


def test_a_trajectory_in_a_mapped_file_is_the_one_in_memory(loaded, nodes, inverted):
    _, clip, latent, _ = loaded
    patched, trajectory = inverted
    mapped = nodes.invert(patched, nodes.prompt(clip, "a red circle on grass"), {"samples": latent}, STEPS, storage="mapped file")
    assert torch.equal(mapped.latents, trajectory.latents)
    assert mapped.record.sigmas == trajectory.record.sigmas
    for mine, other in zip(mapped.record.levels, trajectory.record.levels, strict=True):
        assert all(torch.equal(mine[size], other[size]) for size in other)
    assert mapped.nbytes == trajectory.nbytes == trajectory.latents.nbytes + trajectory.record.nbytes


def test_a_whole_edit_in_batches_is_the_edit_at_once(loaded, nodes, inverted):
    """Inversion, recorded maps and sampling under a fixed mask: what the solver walks through is the same to fp32 rounding."""
    model, clip, latent, truth = loaded
    _, trajectory = inverted
    patched = nodes.temporal(model, "first", "previous", batch_frames=3)
    parts = nodes.invert(patched, nodes.prompt(clip, "a red circle on grass"), {"samples": latent}, STEPS)
    torch.testing.assert_close(parts.latents, trajectory.latents, rtol=1e-4, atol=1e-4 * float(trajectory.latents.abs().max()))
    for mine, other in zip(parts.record.levels, trajectory.record.levels, strict=True):
        assert all((mine[size].float() - other[size].float()).abs().max() < 2e-3 for size in other)
    results = [blended(nodes, clip, p, t, mask=(truth > 0.5).float())[0]["samples"] for p, t in ((patched, parts), inverted)]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3 * float(results[1].abs().max()))


@pytest.mark.parametrize(
    ("kinds", "options", "sentence"),
    [
        ((), {}, "input self_frame: no frame is chosen"),
        (("self",), {"percent": (0.7, 0.2)}, "input start_percent: it is 0.7, after end_percent, which is 0.2"),
    ],
)
def test_temporal_settings_that_mean_nothing_are_refused(loaded, nodes, kinds, options, sentence):
    with pytest.raises(ValueError, match=f"Temporal-Spatial Attention.*{sentence}"):
        nodes.temporal(loaded[0], *kinds, **options)


def test_words_only_added_name_no_place_and_are_refused(loaded, nodes, inverted):
    _, clip, _, _ = loaded
    patched, trajectory = inverted
    with pytest.raises(ValueError, match="Blended Sampler.*source_words.*only adds words"):
        nodes.sampler(patched, nodes.prompt(clip, "a red circle on grass today"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0,
                      "", "", 0)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((3, 128, 128), "3 frames.*has 4"), ((3, 64, 128), "3 frames.*has 4")],  # another size alone is resized
)
def test_a_mask_that_does_not_fit_is_refused(loaded, nodes, inverted, shape, sentence):
    _, clip, _, _ = loaded
    patched, trajectory = inverted
    with pytest.raises(ValueError, match=f"Blended Sampler.*input mask.*{sentence}"):
        nodes.sampler(patched, nodes.prompt(clip, "a blue circle on grass"), nodes.prompt(clip, ""), trajectory, STEPS, 7.5, "euler", 1.0, "", "",
                      0, mask=torch.ones(shape))  # fmt: skip


def test_more_steps_than_the_inversion_had_are_refused(loaded, nodes, inverted):
    _, clip, _, _ = loaded
    patched, trajectory = inverted
    with pytest.raises(ValueError, match="Blended Sampler.*input steps.*the trajectory has 6.*invert with more steps"):
        nodes.sampler(
            patched, nodes.prompt(clip, "a blue circle on grass"), nodes.prompt(clip, ""), trajectory, 60, 7.5, "euler", 1.0, "", "", 0
        )


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (torch.zeros(0, 4, 16, 16), r"shape is \[0, 4, 16, 16\]"),
        (torch.zeros(2, 16, 16, 16), "needs .frames, 4"),
        (torch.full((2, 4, 16, 16), np.nan), "not finite"),
    ],
)
def test_a_latent_that_is_no_clip_is_refused(loaded, nodes, samples, sentence):
    model, clip, _, _ = loaded
    with pytest.raises(ValueError, match=f"DDIM Invert.*input latent.*{sentence}"):
        nodes.invert(model, nodes.prompt(clip, "a"), {"samples": samples}, STEPS)


def test_a_word_that_is_not_in_the_prompt_is_refused_with_the_words(nodes, inverted):
    with pytest.raises(ValueError, match="Cross-Attention Mask.*input words.*'square'.*a, red, circle, on, grass"):
        nodes.mask(inverted[1], "square")


def test_a_flow_model_is_refused_by_name(comfy, nodes):
    import comfy.model_patcher
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    newer = {name: [] for name in ("txt_ids_dims",) if name in FluxParams.__annotations__}
    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8, "hidden_size": 24, "mlp_ratio": 1.0,
              "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 8, 8], "theta": 10000, "patch_size": 2, "qkv_bias": True,
              "guidance_embed": False, **newer}  # fmt: skip
    model = comfy.supported_models.Flux(config).get_model({})
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="Temporal-Spatial Attention.*input model.*Flux.*not a U-Net"):
        nodes.temporal(patcher, "all")


def test_maps_are_carried_along_each_frames_own_self_attention_under_a_temporal_patch(loaded, nodes):
    """Temporal attention widens the keys; the recorder looks at them before."""
    from blade.attention.record import clear
    from blade.inversion.coordinates import EPS

    model, clip, latent, _ = loaded
    source = nodes.prompt(clip, "a red circle on grass")
    for patched in (model, nodes.temporal(model, "self", "first", "previous", batch_frames=2)):
        record = nodes.invert(patched, source, {"samples": latent}, STEPS).record
        ((size, spread),) = record.spread.items()
        raw = [(EPS.share(sigma), maps[size].float()) for sigma, maps in zip(record.sigmas, record.levels, strict=True) if clear(sigma)]
        mean = sum(share * maps for share, maps in raw) / sum(share for share, _ in raw)
        assert (spread - mean).abs().max() > 0.01
