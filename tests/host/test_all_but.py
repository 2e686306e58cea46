"""Everything but some words: the ground is edited, and the thing on it is kept."""

import numpy as np
import pytest
import torch

from blade.metrics.background import dilate, psnr_outside
from demo import clips
from demo.check import iou
from demo.scenes import GROUNDS
from tests.host.helpers import Studio, temporal

NAME = "blade_red_circle"
FRAMES = slice(2, 7)


@pytest.fixture(scope="module")
def ground(comfy, checkpoint, one_thread):
    """The demo clip of a red circle on grass, some frames of it, inverted; where its circle is."""
    studio = Studio(comfy, checkpoint, frames=1, steps=15)
    studio.pictures = torch.from_numpy(clips.read_mp4(clips.path(NAME))[FRAMES]).float() / 255
    studio.truth = torch.from_numpy(clips.truth(NAME)[FRAMES]).float()
    with torch.inference_mode():
        studio.latent = studio.vae.encode(studio.pictures)
    studio.model = temporal(studio.model, 0, "self", "first", "previous")
    return studio


def drawn(studio, words, **inputs):
    from blade.nodes.mask import CrossAttentionMask

    with torch.inference_mode():
        return CrossAttentionMask.execute(studio.trajectory, words, **inputs).result[0]


def decoded(studio, latents):
    with torch.inference_mode():
        return studio.vae.decode(latents).float()


def test_grass_becomes_sand_and_the_circle_on_it_stays(ground):
    latents, mask, _ = ground.sample(target=ground.prompt("sand"), source_words="-red circle", confine=0.3, renoise=1.0)
    edited, round_trip = (decoded(ground, found) for found in (latents["samples"], ground.clips_own()))
    thing, rest = (1 - dilate(1 - ground.truth.numpy(), 4)), 1 - dilate(ground.truth.numpy(), 8)
    kept, possible = (psnr_outside(ground.pictures.numpy(), found.numpy(), 1 - thing).mean() for found in (edited, round_trip))
    assert kept > possible - 5  # dB; what is lost is lost at the circle's rim, in the VAE's decoder
    colour = np.array([found[where > 0].mean(0) for found, where in zip(255 * edited.numpy(), rest, strict=True)])
    to_sand, to_grass = (np.linalg.norm(colour - GROUNDS[name], axis=1) for name in ("sand", "grass"))
    assert (to_sand < 0.3 * to_grass).all()
    red = (edited[..., 0] - edited[..., 1:].amax(-1)).numpy() > 0.3
    assert not (red & (rest > 0)).any()  # no second circle
    assert iou(mask.numpy(), 1 - ground.truth.numpy()).min() > 0.97


def test_it_is_cores_inverted_mask_in_the_mask_node_and_in_the_samplers(ground):
    from comfy_extras.nodes_mask import InvertMask

    def inverted(mask):
        return InvertMask.execute(mask).result[0] if hasattr(InvertMask, "execute") else InvertMask().invert(mask)[0]

    refined = {"frames": ground.pictures}
    assert torch.equal(drawn(ground, "-red circle", **refined), inverted(drawn(ground, "red circle", **refined)))
    rest = inverted(drawn(ground, "red circle"))
    target = ground.prompt("sand")
    of_words, used, _ = ground.sample(target=target, source_words="-red circle", steps=2)
    of_mask, same, _ = ground.sample(target=target, mask=rest, steps=2)
    assert torch.equal(used, rest) and torch.equal(used, same)
    assert torch.equal(of_words["samples"], of_mask["samples"])
    edits = ground.edits(target, source_words="-red circle")
    sampler, positive, sigmas, latent = ground.select(edits, steps=2)
    by_select = ground.advanced(ground.guided(positive), sampler, sigmas, latent)[0]
    assert torch.equal(by_select, of_words["samples"])


def test_words_of_the_target_are_refused_where_they_could_widen_nothing(ground):
    with pytest.raises(
        ValueError, match=r"input target_words: source_words \('-red circle'\) says only what is kept.*Leave target_words empty"
    ):
        ground.sample(target=ground.prompt("sand"), source_words="-red circle", target_words="sand")
    with pytest.raises(ValueError, match="input target_words: '-sand' only says where the mask shall not be"):
        ground.sample(target=ground.prompt("sand"), source_words="red circle", target_words="-sand")


def test_that_most_of_the_clip_is_inside_is_no_warning_where_everything_else_was_asked_for(ground):
    from blade.nodes.mask import summary

    whole = torch.ones(1, 8, 8)
    assert "Most of the clip" in summary(whole, "half height", 0.5, False) and "Most of the clip" not in summary(
        whole, "half height", 0.5, False, True
    )
