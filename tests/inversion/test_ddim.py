"""Inversion against closed forms, and against the variance-preserving recurrence that diffusers computes."""

import pytest
import torch

from blade.inversion.ddim import invert_ddim

SIGMAS = torch.tensor([14.6, 6.0, 2.5, 1.1, 0.4, 0.03, 0.0])


def run(model, x, family="eps"):
    levels = {}
    invert_ddim(model, x, SIGMAS, family=family, keep=lambda level, value: levels.setdefault(level, value.clone()))
    assert sorted(levels) == list(range(len(SIGMAS)))
    return torch.stack([levels[i] for i in range(len(SIGMAS))])


def test_a_model_of_constant_noise_gives_a_straight_line():
    """eps(x, sigma) = e, so x(sigma) = z0 + sigma * e at every level."""
    z0, e = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    levels = run(lambda x, sigma: x - sigma.view(-1, 1, 1, 1) * e, z0)
    for level, sigma in zip(levels, SIGMAS.flip(0), strict=True):
        torch.testing.assert_close(level, z0 + sigma * e)


@pytest.mark.parametrize("family", ["eps", "v"])
def test_it_is_diffusers_ddim_inverse_recurrence(family):
    """In variance-preserving form: output = net(z_i, t_(i+1)); x0 and eps from it with the alpha of level i; then one DDIM step."""
    torch.manual_seed(0)
    weight = torch.randn(4, 4) * 0.3

    def net(z, sigma):
        return torch.tanh(torch.einsum("oc,fchw->fohw", weight, z)) * (1 + 0.1 * sigma)

    def model(x, sigma):  # ComfyUI's parametrisation of the same network
        s = sigma.view(-1, 1, 1, 1)
        output = net(x / (1 + s**2).sqrt(), s)
        return x - s * output if family == "eps" else x / (1 + s**2) - s * output / (1 + s**2).sqrt()

    z = torch.randn(2, 4, 3, 3)
    levels = run(model, z, family)
    rising = SIGMAS.flip(0)
    alpha_bar = 1 / (1 + rising**2)
    for i in range(len(rising) - 1):
        output, a = net(z, rising[i + 1]), alpha_bar[i]
        if family == "eps":
            x0, eps = (z - (1 - a).sqrt() * output) / a.sqrt(), output
        else:
            x0, eps = a.sqrt() * z - (1 - a).sqrt() * output, a.sqrt() * output + (1 - a).sqrt() * z
        z = alpha_bar[i + 1].sqrt() * x0 + (1 - alpha_bar[i + 1]).sqrt() * eps
        torch.testing.assert_close(levels[i + 1], z / alpha_bar[i + 1].sqrt(), rtol=1e-5, atol=1e-5)


def test_the_network_is_asked_at_the_arriving_level_and_never_at_zero():
    asked = []
    run(lambda x, sigma: asked.append(sigma[0].item()) or x, torch.zeros(1, 4, 2, 2))
    assert asked == SIGMAS.flip(0)[1:].tolist()


def test_progress_is_reported_once_a_step():
    seen = []
    invert_ddim(lambda x, s: x, torch.zeros(1, 4, 2, 2), SIGMAS, callback=lambda state: seen.append(state["i"]), keep=lambda *_: None)
    assert seen == list(range(len(SIGMAS) - 1))
