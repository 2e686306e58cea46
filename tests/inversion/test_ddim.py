"""Inversion against closed forms, and against the variance-preserving recurrence that diffusers computes."""

from itertools import pairwise

import pytest
import torch

from blade.inversion.coordinates import EPS, Coordinates
from blade.inversion.ddim import invert_ddim, solve_step

SIGMAS = torch.tensor([14.6, 6.0, 2.5, 1.1, 0.4, 0.03, 0.0])


def run(model, x, coordinates=EPS):
    levels = {}
    invert_ddim(model, x, SIGMAS, coordinates=coordinates, keep=lambda level, value: levels.setdefault(level, value.clone()))
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
    levels = run(model, z, Coordinates(family))
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


def walk_back(model, x, sigmas=SIGMAS):
    """Core's euler, which is DDIM."""
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * (x - model(x, sigma * torch.ones(len(x)))) / sigma
    return x


def bent(x, sigma):
    """A denoiser that is no line: of two points a coordinate, softened, with neighbours that speak in. At sigma 0 it is x itself."""
    s = sigma.view(-1, 1, 1, 1)
    return (x + s**2 * torch.tanh(1.5 * x / (1 + s**2)) + 0.2 * s * x.roll(1, -1)) / (1 + s**2)


def error_of(model, refine, sigmas=SIGMAS, **options):
    torch.manual_seed(1)
    z0, levels = torch.randn(3, 4, 5, 6), []
    top = invert_ddim(model, z0, sigmas, refine=refine, keep=lambda level, x: levels.append(x), **options)
    return float((walk_back(model, top, sigmas) - z0).abs().max())


def test_of_gaussian_latents_one_further_call_leads_back_exactly():
    """D = x / (1 + sigma^2) is what the gain of solve_step is Newton's for."""
    assert error_of(lambda x, s: x / (1 + s.view(-1, 1, 1, 1) ** 2), None) > 0.1
    assert error_of(lambda x, s: x / (1 + s.view(-1, 1, 1, 1) ** 2), 1) < 1e-5


def test_each_further_call_leads_back_closer():
    errors = [error_of(bent, refine) for refine in (None, 1, 3, 8)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 27 * errors[3]


def test_the_last_step_of_a_zero_terminal_snr_converges():
    """From 108 to 4518 the fixed point in eps contracts by 0.976 a call."""
    sigmas = torch.tensor([4518.0, 108.0, 12.0, 3.0, 1.0, 0.3, 0.03, 0.0])
    assert error_of(bent, None, sigmas) > 0.1
    assert error_of(bent, 8, sigmas) < 1e-3


def test_a_predicted_first_call_leads_back_closer_at_the_same_cost():
    fine = torch.cat([torch.logspace(1.1, -1.5, 20), torch.zeros(1)])
    calls = {None: [], 0: []}
    errors = {refine: error_of(lambda x, s, seen=seen: seen.append(1) or bent(x, s), refine, fine) for refine, seen in calls.items()}
    assert errors[0] < 0.5 * errors[None]
    assert len(calls[0]) == len(calls[None])


@pytest.mark.parametrize("refine", [0, 1, 3])
def test_a_step_takes_so_many_further_calls_and_no_more(refine):
    calls = []
    error_of(lambda x, s: calls.append(float(s[0])) or bent(x, s), refine)
    inverting = calls[: -(len(SIGMAS) - 1)]
    assert inverting == [float(sigma) for sigma in SIGMAS.flip(0)[1:] for _ in range(1 + refine)]


def test_a_step_that_is_solved_takes_no_further_call():
    calls, residuals = [], []
    error_of(lambda x, s: calls.append(1) or x - s.view(-1, 1, 1, 1) * 0.3, 5, tolerance=1e-5, residuals=residuals)
    steps = len(SIGMAS) - 1
    assert len(residuals) == steps
    assert max(residuals) <= 1e-5
    assert len(calls) == 1 + steps + steps  # the first step's first guess, one call each that finds nothing to mend, and the way back


def test_residuals_are_those_of_the_steps():
    """What is left of the equation at the latent before the last correction, for a model whose first guess is known."""
    residuals = []
    z0 = torch.full((1, 1, 2, 2), 2.0)
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    invert_ddim(lambda x, s: 0 * x, z0, sigmas, refine=1, keep=lambda *_: None, residuals=residuals)
    # D = 0. First step: relabelled 2 * sqrt(2), eps the same, guess 2 + 2.83; r = 0, so the equation 0 * y + D = x misses by x itself.
    assert residuals[0] == pytest.approx(2.0)


def test_a_step_that_gets_worse_keeps_its_best():
    """A denoiser too steep for any fixed point: refining must not end farther away than it began."""
    torch.manual_seed(3)
    x = torch.randn(2, 4, 3, 3)

    def steep(y):
        return -40 * torch.sin(5 * y)

    y, _, residual = solve_step(steep, x, x.clone(), 1.0, 1.5, 12, 0.0)
    _, _, first = solve_step(steep, x, x.clone(), 1.0, 1.5, 1, 0.0)
    assert torch.isfinite(y).all()
    assert residual <= first


def test_frames_are_refined_apart():
    """Anderson's share is a frame's own, so what one frame is does not change another."""
    torch.manual_seed(2)
    z0 = torch.randn(3, 4, 5, 6)
    together = invert_ddim(bent, z0, SIGMAS, refine=3, keep=lambda *_: None)
    alone = invert_ddim(bent, z0[1:2], SIGMAS, refine=3, keep=lambda *_: None)
    torch.testing.assert_close(together[1:2], alone)


def test_a_model_that_gives_no_numbers_is_told_with_the_level():
    with pytest.raises(ValueError, match=r"not finite.*sigma 0.4000, step 2 of 6.*--force-fp32"):
        invert_ddim(lambda x, s: x * (float("nan") if s[0] > 0.1 else 1.0), torch.zeros(1, 4, 2, 2), SIGMAS, keep=lambda *_: None)


def test_progress_tells_each_steps_latent_level_and_denoised():
    told, kept = [], {}
    extra = {"cond": 7}

    def model(x, sigma, cond):
        assert cond == 7
        return x / (1 + sigma[0])

    x = torch.ones(2, 4, 3, 3)
    last = invert_ddim(model, x, SIGMAS, extra, callback=told.append, keep=lambda level, value: kept.update({level: value}))
    assert [state["sigma"].item() for state in told] == SIGMAS.flip(0)[1:].tolist()
    assert all(torch.equal(state["x"], kept[state["i"] + 1]) for state in told) and torch.equal(last, kept[len(SIGMAS) - 1])
    assert torch.equal(kept[0], x)
    sigma = SIGMAS[-2]
    torch.testing.assert_close(told[0]["denoised"], x * (1 + sigma**2).sqrt() / (1 + sigma))


# The acceleration, on a denoiser D(y) = c * y, of which one step leaves the share 1 - s of the error


def linear(share, leaving=0.4, arriving=1.1):
    """c for which a step without acceleration leaves 1 - share of an error, and the solution for x = 1."""
    r = leaving / arriving
    steepness = (share / EPS.gain(leaving, arriving) - r) / (1 - r)
    return steepness, 1 / (r + (1 - r) * steepness)


@pytest.mark.parametrize(("share", "left"), [(0.5, 0.0), (0.8, 0.0), (1.5, 0.0), (2.0, 0.0), (0.2, 0.8 * 0.4), (0.1, 0.9 * 0.7)])
def test_two_calls_solve_a_linear_step_unless_they_would_have_to_go_more_than_twice_as_far(share, left):
    steepness, solution = linear(share)
    x = torch.ones(1, 4, 3, 3, dtype=torch.float64)
    for calls, expected in ((1, 1 - share), (2, left)):
        y, denoised, _ = solve_step(lambda y: steepness * y, x, solution + x, 0.4, 1.1, calls, 0.0)
        torch.testing.assert_close(y - solution, expected * x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(denoised, steepness * (solution + (1 - share) * x))


def test_each_frame_has_an_acceleration_of_its_own():
    found = [linear(share) for share in (0.5, 0.8, 1.5)]
    steepness, solution = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in zip(*found, strict=True))
    x = torch.ones(3, 4, 3, 3, dtype=torch.float64)
    y, _, _ = solve_step(lambda y: steepness * y, x, solution + torch.rand(3, 1, 1, 1, dtype=torch.float64), 0.4, 1.1, 2, 0.0)
    torch.testing.assert_close(y, solution * x)


def test_a_residual_at_the_tolerance_is_small_enough():
    x, asked = torch.ones(2, 4, 3, 3), []

    def denoise(y):
        asked.append(1)
        return 0.3 * y

    _, _, first = solve_step(denoise, x, 2 * x, 0.4, 1.1, 1, 0.0)
    for tolerance, calls in ((first, 1), (0.999 * first, 2)):
        asked.clear()
        solve_step(denoise, x, 2 * x, 0.4, 1.1, 2, tolerance)
        assert len(asked) == calls


def test_the_residual_is_the_worst_frames_best():
    """Frame 0 is solved from the start, frame 1 only gets worse."""
    x = torch.ones(2, 4, 3, 3)
    values = iter([1.0, 3.0, 9.0])

    def denoise(y):
        worse = next(values)
        return torch.stack([(x[0] - 0.5 * y[0]) / 0.5, (x[1] + worse - 0.5 * y[1]) / 0.5])

    y, _, residual = solve_step(denoise, x, x.clone(), 0.5, 1.0, 3, 0.0)
    assert residual == pytest.approx(1 / EPS.scale(0.5))
    torch.testing.assert_close(y, torch.stack([x[0], x[1] - EPS.gain(0.5, 1.0)]))
