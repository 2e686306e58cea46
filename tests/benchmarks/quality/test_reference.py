"""The diffusers reference by itself: its levels and coordinates. Its weights, and its agreement with ComfyUI, are in tests/host/."""

import pytest
import torch

from benchmarks.quality.reference import invert_with_diffusers, sample_with_diffusers

CONTEXT = torch.zeros(1, 1, 1)


@pytest.fixture(scope="module")
def sigmas():
    """diffusers' timesteps of 10 steps, 1 to 901, on SD's table; 0 before them. In double precision, and not from diffusers."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[1::100]
    return torch.cat([torch.zeros(1), ((1 - alpha_bar) / alpha_bar).sqrt().float()])


def lines(clip, noise, sigmas):
    return clip + sigmas.view(-1, 1, 1, 1, 1) * noise


def test_constant_noise_makes_both_walks_the_straight_line_in_comfyui_coordinates(sigmas):
    clip, noise = torch.randn(2, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    wanted = lines(clip, noise, sigmas)

    def network(z, timestep, **_):
        return (noise,)

    torch.testing.assert_close(invert_with_diffusers(network, clip, CONTEXT, 10, "epsilon"), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample_with_diffusers(network, wanted[-1], CONTEXT, 10, "epsilon"), wanted, rtol=1e-4, atol=1e-4)


def test_the_exact_v_makes_sampling_that_same_line(sigmas):
    """v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * clip."""
    clip, noise = torch.randn(2, 2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    wanted = lines(clip, noise, sigmas)

    def network(z, timestep, **_):
        sigma = sigmas[1 + (int(timestep) - 1) // 100]
        return ((noise - sigma * clip) / (1 + sigma**2).sqrt(),)

    torch.testing.assert_close(sample_with_diffusers(network, wanted[-1], CONTEXT, 10, "v_prediction"), wanted, rtol=1e-4, atol=1e-4)


def test_the_network_gets_every_frame_its_context_and_the_arriving_or_leaving_timestep():
    asked = []

    def network(z, timestep, *, encoder_hidden_states, return_dict):
        asked.append((int(timestep), encoder_hidden_states.shape[0]))
        return (torch.zeros_like(z),)

    for walk in (invert_with_diffusers, sample_with_diffusers):
        walk(network, torch.zeros(3, 4, 2, 2), CONTEXT, 4, "epsilon")
    assert asked == [(t, 3) for t in (1, 251, 501, 751, 751, 501, 251, 1)]
