import numpy as np
import pytest
import torch

from metrics import reconstruction
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


def test_a_frame_of_one_value_is_measured_against_a_range_that_is_not_zero():
    flat = torch.ones(1, 4, 3, 3)
    assert latent_psnr(flat, flat).tolist() == pytest.approx([140.0])
    assert latent_psnr(flat, flat + 1e-10).tolist() == pytest.approx([140.0])
    torch.testing.assert_close(latent_psnr(flat, 1 + flat), torch.tensor([-300.0]))


def test_drift_is_a_root_mean_square():
    other = CLIP.clone()
    other[0] += 2.0  # half of all values
    assert drift(CLIP, other, 0.0) == pytest.approx(2**0.5, rel=1e-5)


def test_the_plot_has_the_frames_left_and_the_levels_from_noise_to_clip_right(monkeypatch):
    kept = []
    monkeypatch.setattr(reconstruction, "drawn", kept.append)
    sigmas, drifts = np.linspace(12, 0, 13), np.array([5, 0, *np.linspace(1e-3, 1e-2, 11)])
    plot({"sampled": np.array([40.0, 42.0]), "raw": np.array([30.0, 31.0])}, sigmas, drifts, "a title")
    frames, levels = kept[0].axes
    assert [line.get_label() for line in frames.lines] == ["sampled: 41.0 dB", "raw: 30.5 dB"]
    assert [text.get_text() for text in frames.get_legend().get_texts()] == ["sampled: 41.0 dB", "raw: 30.5 dB"]
    assert (frames.get_title(), levels.get_title(), kept[0].get_suptitle()) == (
        "sampled back, against the clip",
        "distance from the trajectory",
        "a title",
    )
    (line,) = levels.lines
    assert line.get_xdata().tolist() == list(range(1, 13))  # the first is where it starts
    assert line.get_ydata().tolist() == pytest.approx([1e-7, *drifts[2:]])
    assert levels.get_yscale() == "log"
    assert [(int(place), text.get_text()) for place, text in zip(levels.get_xticks(), levels.get_xticklabels(), strict=True)] == [
        (1, "11"),
        (3, "9"),
        (5, "7"),
        (8, "4"),
        (10, "2"),
        (12, "0"),
    ]
