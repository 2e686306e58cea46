"""A second family (tests/host/toy_family.py), which is no U-Net, has frames along another axis and predicts a flow, through the nodes as they are."""

import pytest
import torch

from blade.attention.words import PromptWords, Word
from blade.inversion.coordinates import FLOW
from blade.inversion.grid import Grid

FRAMES, SIDE, STEPS, COLUMNS = 3, 8, 4, 77
CLIP = (9, 8 * SIDE, 8 * SIDE)  # what the artist's masks are: frames, height, width


def prompt(*words: str):
    generator = torch.Generator().manual_seed(sum(map(ord, "".join(words))))
    spoken = PromptWords(" ".join(words), tuple(Word(word, (place,)) for place, word in enumerate(words, 1)), COLUMNS)
    return [[torch.randn(1, COLUMNS, 6, generator=generator), {"blade_words": spoken}]]


SOURCE, TARGET, NEGATIVE = prompt("red", "dot"), prompt("blue", "dot"), prompt("dot")


@pytest.fixture(scope="module")
def model(comfy):
    import blade.host.families as families
    from tests.host.toy_family import Toy, toy_model

    served = families.FAMILIES
    families.FAMILIES = (*served, Toy())
    yield toy_model()
    families.FAMILIES = served


@pytest.fixture(scope="module")
def latent():
    return {"samples": torch.randn(1, 4, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))}


@torch.inference_mode()
def invert(model, latent, source=SOURCE, **inputs):
    from blade.nodes.invert import DDIMInvert

    return DDIMInvert.execute(model, source, latent, STEPS, schedule="simple", **inputs).result[0]


@pytest.fixture(scope="module")
def trajectory(model, latent):
    return invert(model, latent, method="refined", refine=8)


@torch.inference_mode()
def sample(model, trajectory, solver="euler", **inputs):
    from blade.nodes.sampler import BlendedSampler

    words = {"source_words": "", "target_words": ""} | inputs
    return BlendedSampler.execute(model, TARGET, NEGATIVE, trajectory, STEPS, 3.0, solver, 1.0, **words).result


@torch.inference_mode()
def stock(model, trajectory, solver):
    from comfy.samplers import KSAMPLER, CFGGuider, sampler_object

    def from_the_trajectory(denoiser, x, sigmas, **more):
        start = trajectory.at(sigmas[0]).movedim(0, 1)[None]
        return sampler_object(solver).sampler_function(denoiser, start, sigmas.clone(), **more)

    guider = CFGGuider(model)
    guider.set_conds(TARGET, NEGATIVE)
    guider.set_cfg(3.0)
    zeros, sigmas = torch.zeros(1, 4, FRAMES, SIDE, SIDE), trajectory.sampling_sigmas(STEPS)
    return guider.sample(zeros, model.model.process_latent_out(zeros + 1), KSAMPLER(from_the_trajectory), sigmas, disable_pbar=True, seed=0)


def clips_own(model, trajectory):
    return model.model.process_latent_out(trajectory.clip.movedim(0, 1)[None])


def test_a_model_of_no_family_is_refused(comfy):
    from blade.nodes.invert import DDIMInvert
    from tests.host.toy_family import toy_model

    with pytest.raises(ValueError, match=r"DDIM Invert \(BLADE\), input model: the model is a BaseModel \(ToyNetwork\), not a U-Net"):
        DDIMInvert.execute(toy_model(), SOURCE, {"samples": torch.zeros(1, 4, FRAMES, SIDE, SIDE)}, STEPS)


def test_a_trajectory_has_frames_first_and_says_what_they_cover(model, trajectory, latent):
    assert trajectory.latents.shape == (STEPS + 1, FRAMES, 4, SIDE, SIDE)
    assert (trajectory.coordinates, trajectory.grid) == (FLOW, Grid(8, 4))
    assert torch.equal(trajectory.clip.movedim(0, 1)[None], model.model.process_latent_in(latent["samples"]))
    assert float(trajectory.sigmas[-1]) == 1.0 and torch.isfinite(trajectory.latents).all()


def test_refinement_leads_back_to_the_clip(model, trajectory, latent):
    """From pure noise, where core hands a sampler function nothing of the clip."""
    assert len(trajectory.origin.residuals) == STEPS and max(trajectory.origin.residuals) < 1e-3
    plain = invert(model, latent)
    assert not torch.equal(plain.latents[-1], trajectory.latents[-1])


def test_recording_changes_no_bit_and_sees_every_level(model, trajectory, latent):
    mute = [[SOURCE[0][0], {}]]
    silent = invert(model, latent, mute, method="refined", refine=8)
    assert silent.record is None and torch.equal(silent.latents, trajectory.latents)
    record = trajectory.record
    assert len(record.levels) == STEPS and record.coordinates == FLOW
    assert all(maps.keys() == {(SIDE, SIDE)} and maps[SIDE, SIDE].shape == (FRAMES, 2, SIDE, SIDE) for maps in record.levels)
    assert len({float(maps[SIDE, SIDE].float().mean()) for maps in record.levels}) == STEPS


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm_2", "dpmpp_2m", "uni_pc"])
def test_a_full_mask_is_cores_sampling_and_an_empty_one_the_clip(model, trajectory, solver):
    full = sample(model, trajectory, solver, mask=torch.ones(1, *CLIP[1:]))[0]["samples"]
    assert torch.equal(full, stock(model, trajectory, solver))
    assert not torch.allclose(full, clips_own(model, trajectory), atol=0.05)
    empty = sample(model, trajectory, solver, mask=torch.ones(1, *CLIP[1:]), mask_mode="subtract")[0]["samples"]
    assert torch.equal(empty, clips_own(model, trajectory))


def test_a_mask_of_the_clips_frames_covers_each_latent_frame_that_shows_them(model, trajectory):
    mask = torch.zeros(CLIP)
    mask[0, :16], mask[3, 16:32], mask[4, 32:40] = 1, 1, 1
    found, used, _ = sample(model, trajectory, mask=mask)
    inside = torch.zeros(FRAMES, SIDE, dtype=torch.bool)
    inside[0, :2] = inside[1, 2:5] = True
    changed = (found["samples"] != clips_own(model, trajectory))[0].any(0).any(-1)
    assert torch.equal(changed, inside)
    assert (
        used.shape == CLIP
        and torch.equal(used[1], used[4])
        and torch.equal(used[3], torch.maximum(mask[3], mask[4]))
        and not used[5:].any()
    )


def test_words_draw_a_mask_and_confine_finds_its_layers(model, trajectory):
    found, mask, _ = sample(model, trajectory, mask_size="latent cells", confine=0.5, renoise=0.5)
    assert mask.shape == (9, SIDE, SIDE) and 0 < mask.mean() < 1
    cells = mask[[0, 1, 5]]
    outside = (cells[None, None] == 0).expand_as(found["samples"])
    assert torch.equal(found["samples"][outside], clips_own(model, trajectory)[outside])
    assert not torch.equal(found["samples"], sample(model, trajectory, renoise=0.5)[0]["samples"])


def test_structure_asks_the_source_and_says_that_keys_of_the_whole_clip_are_left_alone(model, trajectory, caplog):
    found = sample(model, trajectory, structure=0.5, source=SOURCE)[0]["samples"]
    assert "structure had no effect" in caplog.text
    assert torch.equal(found, sample(model, trajectory)[0]["samples"])


def test_the_artists_model_stays_as_it_is(model, trajectory):
    before, options = {name: value.clone() for name, value in model.model.state_dict().items()}, repr(model.model_options)
    sample(model, trajectory)
    assert repr(model.model_options) == options
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_core_samples_it_with_our_sampler(model, trajectory):
    from comfy_extras.nodes_custom_sampler import CFGGuider, Noise_RandomNoise, SamplerCustomAdvanced

    from blade.nodes.edit import EditNode
    from blade.nodes.sampler_select import BlendedSamplerSelect

    with torch.inference_mode():
        edits = EditNode.execute(TARGET, "", "", mask=torch.ones(1, *CLIP[1:])).result[0]
        sampler, positive, sigmas, latent = BlendedSamplerSelect.execute(model, trajectory, edits, STEPS, "euler", 1.0).result
        guider = CFGGuider.execute(model, positive, NEGATIVE, 3.0).result[0]
        sampled = SamplerCustomAdvanced.execute(Noise_RandomNoise(5), guider, sampler, sigmas, latent).result[0]["samples"]
    assert torch.equal(sampled, stock(model, trajectory, "euler"))


def test_its_trajectory_comes_back_from_a_file(model, trajectory, tmp_path):
    from blade.attention.record import CrossAttentionRecord
    from blade.inversion.file import load_trajectory, save_trajectory

    save_trajectory(tmp_path / "a.safetensors", trajectory)
    found = load_trajectory(tmp_path / "a.safetensors", CrossAttentionRecord.from_tensors)
    assert (found.coordinates, found.grid, found.record.coordinates) == (FLOW, Grid(8, 4), FLOW)
    assert torch.equal(sample(model, found)[0]["samples"], sample(model, trajectory)[0]["samples"])
