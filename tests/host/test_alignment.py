"""METHOD: foreground and background are on the same level, for every solver of core's that is offered. Run with core's own solver functions."""

from types import SimpleNamespace

import pytest
import torch

from blade.blending.blend import SOLVERS, sample_blended
from blade.inversion.trajectory import Trajectory

SIGMAS = torch.tensor([11.0, 6.0, 3.0, 1.5, 0.7, 0.3, 0.05, 0.0])
torch.manual_seed(0)
TRAJECTORY = Trajectory(SIGMAS.flip(0), torch.randn(8, 3, 4, 6, 6) * (1 + SIGMAS.flip(0)).view(-1, 1, 1, 1, 1))
START = TRAJECTORY.latents[-1]


def network(x, sigma, **_):
    return torch.tanh(x.roll(1, -1)) * 0.9


def asked_by_core(model):
    """With what solvers of newer ComfyUI look up at their model: its sampling, which names no scale for noise."""
    model.inner_model = SimpleNamespace(model_patcher=SimpleNamespace(get_model_object=lambda name: None))
    return model


@pytest.fixture(params=SOLVERS)
def solver(request, comfy):
    from blade.host.sampling import solver_function

    return request.param, solver_function(request.param)


def edit(solver, mask, model=network, sigmas=SIGMAS):
    return sample_blended(asked_by_core(model), START, sigmas, solver=solver[1], background=TRAJECTORY.at, mask=mask,
                          disable=True)  # fmt: skip


def test_an_empty_mask_gives_back_the_clip_to_the_bit(solver):
    assert torch.equal(edit(solver, lambda step: torch.zeros(3, 1, 6, 6)), TRAJECTORY.latents[0])


def test_a_full_mask_is_the_stock_solver_to_the_bit(solver):
    stock = solver[1](network, START, SIGMAS.clone(), extra_args={}, disable=True)
    assert torch.equal(edit(solver, lambda step: torch.ones(3, 1, 6, 6)), stock)


def test_outside_a_changing_mask_every_model_input_is_the_trajectory_at_that_sigma(solver):
    masks = [(torch.rand(3, 1, 6, 6) > 0.5).float() for _ in range(len(SIGMAS) - 1)]
    current, calls = [], []

    def mask(step):
        current.append(masks[step])
        return masks[step]

    def recording(x, sigma, **_):
        calls.append((x.clone(), sigma[0], current[-1]))
        return network(x, sigma)

    edit(solver, mask, recording)
    assert len(current) == len(masks)
    assert len(calls) >= len(masks)
    for x, sigma, used in calls:
        outside = (used == 0).expand_as(x)
        torch.testing.assert_close(x[outside], TRAJECTORY.at(sigma)[outside], rtol=0, atol=1e-6)


def test_a_step_begins_with_a_call_at_its_own_sigma(solver):
    """Masks change exactly where the solver's steps do, or, for heun, with the call before that looks ahead at that very level."""
    starts, pending = [], []

    def mask(step):
        pending.append(step)
        return torch.ones(1, 1, 1, 1)

    def recording(x, sigma, **_):
        if pending:
            starts.append((pending.pop(), sigma[0].item()))
        return network(x, sigma)

    edit(solver, mask, recording)
    assert starts == [(i, SIGMAS[i].item()) for i in range(len(SIGMAS) - 1)]


def test_fewer_steps_than_the_inversion_had_still_end_on_the_clip(solver):
    result = edit(
        solver,
        lambda step: torch.zeros(1, 1, 1, 1),
        sigmas=SIGMAS[::2].clone() if len(SIGMAS) % 2 else torch.cat([SIGMAS[:-1:2], SIGMAS[-1:]]),
    )
    assert torch.equal(result, TRAJECTORY.latents[0])


def test_a_blend_after_the_last_step_only_would_be_noticed(comfy):
    """The measure itself: the half-mask test fails for the loop that blends once, at the end."""
    from blade.host.sampling import solver_function

    seen = []
    mask = (torch.rand(3, 1, 6, 6) > 0.5).float()

    def recording(x, sigma, **_):
        seen.append((x.clone(), sigma[0]))
        return network(x, sigma)

    result = solver_function("euler")(recording, START, SIGMAS.clone(), disable=True)
    assert torch.equal(
        (mask * result + (1 - mask) * TRAJECTORY.latents[0])[(mask == 0).expand_as(result)],
        TRAJECTORY.latents[0][(mask == 0).expand_as(result)],
    )
    outside = (mask == 0).expand_as(result)
    assert any(not torch.allclose(x[outside], TRAJECTORY.at(sigma)[outside], rtol=0, atol=1e-6) for x, sigma in seen)
