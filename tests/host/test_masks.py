"""Cross-Attention Mask and the sampler's masks on a real inversion: what they draw, what they refuse, and that drawing runs no model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS
from demo.check import iou

CLIP = DEVELOPMENT_CLIPS["two"][0]
FRAMES, STEPS, SIDE = 4, 8, 128
OTHER = next(f"{path.thing.colour} {path.thing.shape}" for path in CLIP.paths if path.thing != CLIP.thing)


@pytest.fixture(scope="module")
def made(comfy, checkpoint):
    """A clip of two things, inverted, and the nodes' execute functions as the host calls them."""
    import blade.nodes.invert
    import blade.nodes.mask
    import blade.nodes.prompt
    import blade.nodes.sampler

    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    frames = torch.from_numpy(CLIP.render(FRAMES)).float() / 255
    target = CLIP.source_prompt.replace(CLIP.words, f"black {CLIP.thing.shape}")
    with torch.inference_mode():
        source, goal, empty = (blade.nodes.prompt.Prompt.execute(clip, text).result[0] for text in (CLIP.source_prompt, target, ""))
        trajectory = blade.nodes.invert.DDIMInvert.execute(model, source, {"samples": vae.encode(frames)}, STEPS).result[0]

    @torch.inference_mode()
    def sample(steps=STEPS, **inputs):
        """The sampler's latent and mask."""
        more = {"source_words": CLIP.words, "target_words": f"black {CLIP.thing.shape}", "grow": 0, "consensus": 0.0, **inputs}
        execute = blade.nodes.sampler.BlendedSampler.execute
        return execute(model, goal, empty, trajectory, steps, 5.0, "euler", 1.0, **more).result

    def draw(words=CLIP.words, **inputs):
        """The node's four outputs."""
        return blade.nodes.mask.CrossAttentionMask.execute(inputs.pop("trajectory", trajectory), words, **inputs).result

    return SimpleNamespace(
        frames=frames, trajectory=trajectory, sample=sample, draw=draw, truth=CLIP.truth(FRAMES), other=CLIP.other(FRAMES)
    )


def covered(mask, exact):
    """The share of a thing that a mask covers."""
    return float((mask.numpy() * (exact > 0.5)).sum() / (exact > 0.5).sum())


def left_half():
    matte = torch.zeros(1, SIDE, SIDE)
    matte[..., : SIDE // 2] = 1
    return matte


def test_words_and_frames_give_the_thing_to_the_pixel(made):
    mask, *_ = made.draw(frames=made.frames)
    assert mask.shape == (FRAMES, SIDE, SIDE)
    assert iou(mask.numpy(), made.truth).min() > 0.9
    assert covered(mask, made.other) < 0.02


def test_without_frames_the_mask_is_coarser_and_still_of_the_right_thing(made):
    mask, *_ = made.draw()
    assert 0.7 < iou(mask.numpy(), made.truth).mean() < iou(made.draw(frames=made.frames)[0].numpy(), made.truth).mean()
    assert covered(mask, made.other) < 0.05


def test_two_phrases_give_both_things_and_a_negative_one_takes_its_own_away(made):
    both, *_ = made.draw(f"{CLIP.words}, {OTHER}", frames=made.frames)
    assert iou(both.numpy(), np.maximum(made.truth, made.other)).min() > 0.9
    less, *_ = made.draw(f"{CLIP.words}, -{OTHER}", frames=made.frames)
    assert iou(less.numpy(), made.truth).min() > 0.9


def test_the_same_inputs_give_the_same_mask(made):
    first, second = (made.draw(frames=made.frames)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("mode", "inside"), [("limit", "left"), ("subtract", "right")])
def test_a_matte_keeps_the_mask_on_one_side(made, mode, inside):
    mask, *_ = made.draw(f"{CLIP.words}, {OTHER}", frames=made.frames, matte=left_half(), matte_mode=mode)
    here, there = mask[..., : SIDE // 2], mask[..., SIDE // 2 :]
    if inside == "right":
        here, there = there, here
    assert there.sum() == 0
    assert here.sum() > 0


def test_a_matte_that_adds_is_all_inside(made):
    mask, *_ = made.draw(matte=left_half(), matte_mode="add")
    assert (mask[..., : SIDE // 2] == 1).all()


def test_the_pictures_are_of_the_clip_of_each_phrase_and_of_the_noise_levels(made):
    _, heat_map, by_step, contours = made.draw(f"{CLIP.words}, {OTHER}", frames=made.frames)
    assert contours.shape == (FRAMES, SIDE, SIDE, 3)
    assert heat_map.shape[0] == FRAMES and heat_map.shape[2] == 2 * SIDE
    assert by_step.shape[0] == 1 and by_step.shape[2] == STEPS * SIDE
    for pictures in (heat_map, by_step, contours):
        assert pictures.min() >= 0 and pictures.max() <= 1 and pictures.std() > 0.05


def test_a_trajectory_from_a_file_draws_the_same_mask(made, tmp_path):
    from blade.attention.record import CrossAttentionRecord
    from blade.inversion.file import load_trajectory, save_trajectory

    save_trajectory(tmp_path / "t.safetensors", made.trajectory)
    loaded = load_trajectory(tmp_path / "t.safetensors", CrossAttentionRecord.from_tensors)
    assert torch.equal(made.draw(frames=made.frames)[0], made.draw(frames=made.frames, trajectory=loaded)[0])


def test_drawing_runs_no_model(made, comfy, monkeypatch):
    import comfy.model_base

    def fail(*_, **__):
        raise AssertionError("a model ran")

    monkeypatch.setattr(comfy.model_base.BaseModel, "apply_model", fail)
    assert made.draw(frames=made.frames)[0].sum() > 0


def test_it_can_be_cancelled(made, comfy):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            made.draw(frames=made.frames)
    finally:
        comfy.model_management.interrupt_current_processing(False)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"words": "dog"}, "input words: the word 'dog' is not in the prompt"),
        ({"words": "-red dog"}, "input words: the phrase 'red dog' is not in the prompt"),
        ({"frames": torch.zeros(FRAMES, 64, SIDE, 3)}, "input frames: they are 128x64 pixels.*128x128"),
        ({"frames": torch.zeros(FRAMES + 1, SIDE, SIDE, 3)}, "input frames: there are 5 frames, but the trajectory has 4"),
        ({"matte": torch.zeros(1, 64, 64)}, "input matte: it is 64x64 pixels and empty.* no alpha channel"),
        ({"matte": torch.zeros(2, SIDE, SIDE)}, "input matte: it has 2 frames"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_input(made, inputs, sentence):
    with pytest.raises(ValueError, match=rf"^Cross-Attention Mask \(BLADE\), {sentence}"):
        made.draw(**inputs)


def test_the_samplers_mask_stays_in_a_matte_or_is_joined_with_it(made):
    alone = made.sample()[1]
    limited = made.sample(mask=left_half(), mask_mode="limit")[1]
    added = made.sample(mask=left_half(), mask_mode="add")[1]
    assert alone.sum() > 0
    assert limited[..., SIDE // 2 :].sum() == 0
    assert (added[..., : SIDE // 2] == 1).all()


def test_a_widened_mask_ends_as_narrow_as_one_that_is_not(made):
    from blade.attention.masks import grow_mask

    exact = torch.from_numpy(made.truth > 0.5).float()
    plain, widened = (made.sample(mask=exact, widen=pixels) for pixels in (0, 16))
    assert torch.equal(plain[1], widened[1])
    assert not torch.equal(plain[0]["samples"], widened[0]["samples"])
    apart = (plain[0]["samples"] - widened[0]["samples"]).abs().amax(1) > 0
    far = grow_mask(exact, 16)[:, 4::8, 4::8] == 0
    assert not apart[far].any()


def test_the_masks_of_all_steps_come_out_as_a_picture(made):
    exact = torch.from_numpy(made.truth > 0.5).float()
    *_, by_step = made.sample(mask=exact, widen=24)
    assert by_step.shape[0] == 1 and by_step.shape[2] == STEPS * SIDE
    first, last = by_step[0, -SIDE:, :SIDE], by_step[0, -SIDE:, -SIDE:]
    assert first.mean() > last.mean() > 0
