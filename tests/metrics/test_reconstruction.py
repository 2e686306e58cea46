import numpy as np
import pytest
import torch

from metrics.reconstruction import drift, latent_psnr, plot

CLIP = torch.linspace(-2, 2, 2 * 4 * 3 * 3).view(2, 4, 3, 3)


def test_latent_psnr_is_of_the_frames_range():
    """A frame whose values span r, moved by r / 100 everywhere: 40 dB."""
    ranges = CLIP.amax((1, 2, 3)) - CLIP.amin((1, 2, 3))
    torch.testing.assert_close(latent_psnr(CLIP, CLIP + ranges.view(2, 1, 1, 1) / 100), torch.tensor([40.0, 40.0]), rtol=1e-4, atol=1e-3)


def test_equal_latents_have_a_finite_psnr():
    assert latent_psnr(CLIP, CLIP).tolist() == pytest.approx([140.0, 140.0])


def test_drift_is_relative_to_the_levels_own_size():
    assert drift(CLIP, CLIP + 0.5, 0.0) == pytest.approx(0.5, rel=1e-5)
    assert drift(CLIP, CLIP + 0.5, 3.0) == pytest.approx(0.5 / 10**0.5, rel=1e-5)


def test_the_plot_shows_its_curves():
    sigmas, drifts = np.array([10.0, 3.0, 1.0, 0.0]), np.array([0, 1e-3, 1e-2, 2e-2])
    one, other = (plot({"latents": np.array([40.0, 41.0, worst])}, sigmas, drifts, "a title") for worst in (39.0, 25.0))
    assert one.dtype == np.uint8
    assert one.shape == other.shape == (400, 1000, 3)
    assert (one != other)[:, :500].any()  # the left panel is the frames'
    np.testing.assert_array_equal(one[100:, 520:], other[100:, 520:])
