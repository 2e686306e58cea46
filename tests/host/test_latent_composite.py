"""Latent Composite on the demo checkpoint's VAE: a sampled edit whose ground decodes to the source's."""

import numpy as np
import pytest
import torch

from metrics.background import dilate, psnr_outside
from tests.host.helpers import progress_seen

SIDE = 128


@pytest.fixture(scope="module")
def source(studio):
    from demo.scenes import Thing
    from tests.clips import render_clip

    pictures, _ = render_clip(900_100, [Thing("red", "circle", 0.4, 0.45, 0.24)], "grass", studio.frames, (0.03, 0.02))
    return torch.from_numpy(pictures).float() / 255


@pytest.fixture(scope="module")
def edited(studio):
    """The thing made blue in its exact mask."""
    return studio.latents(mask=studio.truth, target=studio.prompt("a blue circle on grass"), trajectory=studio.invert(steps=10), steps=10)


@torch.inference_mode()
def composite(studio, latent, source, mask, **inputs):
    from blade.nodes.latent_composite import LatentComposite

    return LatentComposite.execute({"samples": latent}, studio.vae, source, mask, **inputs).result[0]["samples"]


def background(studio, latent, source):
    """PSNR of what lies more than 8 pixels from the thing, dB."""
    with torch.inference_mode():
        frames = studio.vae.decode(latent).float().numpy()
    return psnr_outside(source.numpy(), frames, dilate(studio.truth.numpy(), 8)).mean()


def test_the_ground_decodes_as_after_the_vae_alone_and_the_thing_stays(studio, edited, source):
    vae, blended = (background(studio, latent, source) for latent in (studio.latent, edited))
    found = composite(studio, edited, source, studio.truth)
    assert background(studio, found, source) > max(blended, vae - 0.1)
    with torch.inference_mode():
        before, after = (studio.vae.decode(latent) for latent in (edited, found))
    core = torch.from_numpy(1 - dilate(1 - studio.truth.numpy(), 8)) > 0.5
    assert (after - before)[core].abs().mean() < 0.02


@pytest.mark.parametrize("reach", [0, 1])
def test_cells_out_of_reach_are_the_clips_to_the_bit(studio, edited, source, reach):
    found = composite(studio, edited, source, studio.truth, reach=reach)
    near = dilate((found != edited).any(1).numpy(), 0)
    allowed = dilate((edited != studio.clips_own()).any(1).numpy(), 1.5 if reach else 0)
    assert near.any()
    assert not (near & ~allowed).any()


def test_in_chunks_of_frames_it_is_that_of_the_whole_clip(studio, edited, source):
    parts, whole = (composite(studio, edited, source, studio.truth, chunk_frames=size) for size in (1, 3))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def test_frames_that_vae_encode_crops_are_taken_in_their_middle(studio, edited, source):
    wide = torch.nn.functional.pad(source.movedim(-1, 1), (2, 3, 1, 2), mode="replicate").movedim(1, -1)
    mask = torch.nn.functional.pad(studio.truth, (2, 3, 1, 2))
    expected = composite(studio, edited, source, studio.truth)
    assert torch.equal(composite(studio, edited, wide, mask), expected)
    assert torch.equal(composite(studio, edited, wide, studio.truth), expected)


def test_it_can_be_cancelled_and_counts_frames(studio, edited, source, monkeypatch):
    import comfy.model_management as management

    seen = progress_seen(monkeypatch)
    composite(studio, edited, source, studio.truth, chunk_frames=2)
    assert seen == [(count, studio.frames) for count in range(1, studio.frames + 1)]
    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            composite(studio, edited, source, studio.truth)
    finally:
        management.interrupt_current_processing(False)


FRAMES = torch.zeros(3, SIDE, SIDE, 3)
WRONG = {
    "latent of another kind": ({"latent": torch.zeros(3, 16, 16, 16)}, r"input latent: its shape is \[3, 16, 16, 16\]"),
    "latent of another size": ({"latent": torch.zeros(3, 4, 8, 16)}, "input latent: it is 128x64 pixels, but source is 128x128"),
    "latent without numbers": ({"latent": torch.full((3, 4, 16, 16), torch.nan)}, "input latent: it holds values that are not finite"),
    "fewer frames": ({"source": FRAMES[:2]}, "input source: it has 2 frames, but latent has 3"),
    "alpha": ({"source": torch.zeros(3, SIDE, SIDE, 4)}, "input source: it has 4 channels"),
    "mask of a picture without one": ({"mask": torch.zeros(1, 64, 64)}, "input mask: it is 64x64 pixels and empty.* no alpha channel"),
    "masks of other frames": ({"mask": torch.zeros(2, SIDE, SIDE)}, "input mask: it has 2 frames, but the clip has 3"),
}


@pytest.mark.parametrize(("wrong", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_with_the_input(studio, wrong, sentence):
    given = {"latent": torch.zeros(3, 4, 16, 16), "source": FRAMES, "mask": torch.zeros(1, SIDE, SIDE)} | wrong
    with pytest.raises(ValueError, match=rf"^Latent Composite \(BLADE\), {sentence}"):
        composite(studio, **given)


def test_frames_that_the_cpus_memory_cannot_hold_are_refused(studio, edited, source, monkeypatch):
    monkeypatch.setattr(studio.vae, "device", torch.device("cpu"))
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: 2**20)
    with pytest.raises(
        ValueError, match=r"^Latent Composite \(BLADE\), input latent: to decode one frame of 128x128 pixels on the CPU takes"
    ):
        composite(studio, edited, source, studio.truth)


def test_a_vae_that_decodes_to_no_numbers_is_named(studio, edited, source):
    class Broken:
        latent_channels, downscale_ratio, device, vae_dtype = 4, 8, torch.device("cpu"), torch.float32

        def decode(self, samples):
            return torch.full((len(samples), SIDE, SIDE, 3), np.nan)

    from blade.nodes.latent_composite import LatentComposite

    with pytest.raises(ValueError, match=r"^Latent Composite \(BLADE\), input vae: it decodes frames 0 to 0 .*--fp32-vae"):
        LatentComposite.execute({"samples": edited}, Broken(), source, studio.truth)


def test_a_vae_that_encodes_to_no_numbers_is_named(studio, edited, source, monkeypatch):
    real = studio.vae.encode
    monkeypatch.setattr(studio.vae, "encode", lambda pixels: real(pixels) * torch.inf)
    with pytest.raises(ValueError, match=r"^Latent Composite \(BLADE\), input vae: it encodes frames 0 to 2 .*--fp32-vae"):
        composite(studio, edited, source, studio.truth)
