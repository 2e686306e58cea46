"""Latents of models that predict noise, v and flow: x = signal * clip + sigma * noise."""

import math

import pytest
import torch

from blade.inversion.coordinates import EPS, FLOW, Coordinates, V
from blade.inversion.ddim import invert_ddim, solve_step

CLIP, NOISE = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 4, 3, 3, dtype=torch.float64)
ALL = pytest.mark.parametrize("coordinates", [EPS, V, FLOW], ids=lambda one: one.prediction)


def test_another_prediction_is_refused():
    with pytest.raises(ValueError, match="'x0', not 'eps', 'v' or 'flow'"):
        Coordinates("x0")


@pytest.mark.parametrize(
    ("coordinates", "sigma", "signal", "share", "scale"),
    [
        (EPS, 3.0, 1.0, 0.1, math.sqrt(10)),
        (V, 1.0, 1.0, 0.5, math.sqrt(2)),
        (FLOW, 0.25, 0.75, 0.9, math.sqrt(0.625)),
        (FLOW, 1.0, 0.0, 0.0, 1.0),
    ],
    ids=str,
)
def test_signal_share_and_scale_of_a_level(coordinates, sigma, signal, share, scale):
    assert coordinates.signal(sigma) == signal
    assert coordinates.share(sigma) == pytest.approx(share) and coordinates.scale(sigma) == pytest.approx(scale)


@ALL
def test_noise_is_what_was_put_in(coordinates):
    sigma = torch.tensor(0.6, dtype=torch.float64)
    latent = coordinates.noised(CLIP, NOISE, sigma)
    torch.testing.assert_close(latent, coordinates.signal(sigma) * CLIP + 0.6 * NOISE)
    torch.testing.assert_close(coordinates.noise_of(latent, CLIP, sigma), NOISE)


def gaussian(coordinates, sigma):
    """The ideal denoiser of clips whose values are Gaussian of variance 1."""
    return lambda latent: latent * (coordinates.signal(sigma) / coordinates.scale(sigma) ** 2)


@ALL
@pytest.mark.parametrize(("leaving", "arriving"), [(0.0, 0.05), (0.2, 0.3), (0.4, 0.95)])
def test_the_gain_solves_a_step_of_gaussian_latents_at_once(coordinates, leaving, arriving):
    best, _, _ = solve_step(gaussian(coordinates, arriving), CLIP, 5 * CLIP, leaving, arriving, 1, 0.0, coordinates)
    r = leaving / arriving
    torch.testing.assert_close(r * best + (1 - r) * gaussian(coordinates, arriving)(best), CLIP)


@ALL
def test_the_residual_is_relative_to_a_latents_size_at_the_leaving_level(coordinates):
    r = 0.2 / 0.3
    _, _, residual = solve_step(lambda y: 0 * y, CLIP, CLIP, 0.2, 0.3, 1, 0.0, coordinates)
    expected = (r * CLIP - CLIP).square().mean((1, 2, 3)).sqrt().max() / coordinates.scale(0.2)
    assert residual == pytest.approx(float(expected))


def test_plain_inversion_of_flow_asks_with_the_leaving_latent_under_the_arriving_label():
    asked, levels = [], {}

    def model(x, sigma):
        asked.append((x.clone(), float(sigma[0])))
        return 0.5 * x

    sigmas = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)
    invert_ddim(model, CLIP, sigmas, coordinates=FLOW, keep=lambda level, x: levels.setdefault(level, x.clone()))
    assert [sigma for _, sigma in asked] == [0.4, 1.0]
    assert torch.equal(asked[0][0], CLIP) and torch.equal(asked[1][0], levels[1])
    torch.testing.assert_close(levels[1], CLIP + 0.4 * (CLIP - 0.5 * CLIP) / 0.4)
    torch.testing.assert_close(levels[2], levels[1] + 0.6 * (levels[1] - 0.5 * levels[1]) / 1.0)
