"""The wrapped model alone, on a written-out Euler solver: core's own solvers are in tests/host/test_alignment.py."""

import pytest
import torch

from blade.blending.blend import SOLVERS, BlendedModel, blend, check_solver, foreground_start, sample_blended
from blade.inversion.trajectory import Trajectory

SIGMAS = torch.tensor([10.0, 4.0, 1.0, 0.2, 0.0])
torch.manual_seed(0)
TRAJECTORY = Trajectory(SIGMAS.flip(0), torch.randn(5, 3, 4, 6, 6) * (1 + SIGMAS.flip(0)).view(-1, 1, 1, 1, 1))


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)))
        x = x + (sigmas[i + 1] - sigmas[i]) * (x - denoised) / sigmas[i]
    return x


def network(x, sigma):
    return torch.tanh(x) * 0.9


def edit(mask, model=network, start=None):
    return sample_blended(
        model,
        TRAJECTORY.latents[-1] if start is None else start,
        SIGMAS,
        solver=euler,
        background=TRAJECTORY.at,
        mask=lambda step: mask[step] if isinstance(mask, list) else mask,
    )


def test_an_empty_mask_gives_back_the_clip_to_the_bit():
    assert torch.equal(edit(torch.zeros(3, 1, 6, 6)), TRAJECTORY.latents[0])


def test_a_full_mask_is_the_unblended_sampler_to_the_bit():
    x = TRAJECTORY.latents[-1]
    assert torch.equal(edit(torch.ones(3, 1, 6, 6)), euler(network, x, SIGMAS))


def test_outside_a_changing_mask_every_model_input_is_the_trajectory_at_that_sigma():
    """Also pins the last blend: what comes back outside the last mask is the clip."""
    masks = [(torch.rand(3, 1, 6, 6) > 0.5).float() for _ in range(4)]
    seen = []

    def recording(x, sigma):
        seen.append((x.clone(), sigma[0]))
        return network(x, sigma)

    result = edit(masks, recording)
    for (x, sigma), mask in zip(seen, masks, strict=True):
        outside = (mask == 0).expand_as(x)
        torch.testing.assert_close(x[outside], TRAJECTORY.at(sigma)[outside], rtol=0, atol=1e-6)
    outside = (masks[-1] == 0).expand_as(result)
    assert torch.equal(result[outside], TRAJECTORY.latents[0][outside])


def test_outside_the_mask_the_solver_itself_rides_the_trajectory():
    """The solver's own state, not only what the model is shown: else a solver with memory would mix levels."""
    states = []

    def watched(model, x, sigmas, **_):
        for i in range(len(sigmas) - 1):
            states.append(x.clone())
            denoised = model(x, sigmas[i] * x.new_ones(len(x)))
            x = x + (sigmas[i + 1] - sigmas[i]) * (x - denoised) / sigmas[i]
        return x

    sample_blended(network, TRAJECTORY.latents[-1], SIGMAS, solver=watched, background=TRAJECTORY.at,
                   mask=lambda step: torch.zeros(3, 1, 6, 6))  # fmt: skip
    for state, level in zip(states, range(4, 0, -1), strict=True):
        torch.testing.assert_close(state, TRAJECTORY.latents[level], rtol=1e-5, atol=1e-5)


def test_the_mask_is_asked_once_a_step_and_frozen_for_the_steps_further_calls():
    asked = []

    def mask(step):
        asked.append(step)
        return torch.full((1, 1, 1, 1), float(step % 2))

    inputs = []

    def heun_like(model, x, sigmas, **_):
        for i in range(len(sigmas) - 1):
            model(torch.full_like(x, 7.0), sigmas[i] * x.new_ones(len(x)))
            if sigmas[i + 1] > 0:
                model(torch.full_like(x, 7.0), sigmas[i + 1] * x.new_ones(len(x)))
        return x

    sample_blended(lambda x, s: inputs.append(bool((x == 7).all())) or x, TRAJECTORY.latents[-1], SIGMAS, solver=heun_like,
                   background=TRAJECTORY.at, mask=mask)  # fmt: skip
    assert asked == [0, 1, 2, 3]
    assert inputs == [False, True, True, False, False, True, True]  # one mask a noise level


def test_a_solver_that_writes_into_its_sigmas_harms_nobody():
    def vandal(model, x, sigmas, **_):
        sigmas.zero_()
        return model(x, torch.full((3,), 10.0))

    sigmas = SIGMAS.clone()
    sample_blended(network, TRAJECTORY.latents[-1], sigmas, solver=vandal, background=TRAJECTORY.at,
                   mask=lambda step: torch.ones(3, 1, 6, 6))  # fmt: skip
    assert torch.equal(sigmas, SIGMAS)


def test_blending_is_exact_at_both_ends():
    a, b = torch.randn(100), torch.randn(100)
    assert torch.equal(blend(a, b, torch.ones(100)), a)
    assert torch.equal(blend(a, b, torch.zeros(100)), b)


@pytest.mark.parametrize("name", ["euler_ancestral", "lcm", "dpm_fast", "euler_cfg_pp"])
def test_solvers_that_cannot_ride_a_trajectory_are_refused_with_those_that_can(name):
    with pytest.raises(ValueError, match=f"'{name}'.*{', '.join(SOLVERS)}"):
        check_solver(name)


INVERTED, CLIP, NOISE = (torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
SIGMA = torch.tensor(8.0)


def start_of(amount, inverted=CLIP + SIGMA * INVERTED):
    return foreground_start(inverted, CLIP, SIGMA, NOISE, torch.full((1, 1, 64, 64), amount))


def test_without_fresh_noise_an_edit_begins_at_the_inverted_latent_to_the_bit():
    assert torch.equal(start_of(0.0), CLIP + SIGMA * INVERTED)


def test_with_nothing_but_fresh_noise_it_begins_at_the_clip_under_that_and_knows_no_more_of_the_inversion():
    torch.testing.assert_close(start_of(1.0), CLIP + SIGMA * NOISE, rtol=0, atol=1e-5)
    assert torch.equal(start_of(1.0), start_of(1.0, CLIP - 3 * SIGMA * INVERTED))


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_however_much_is_fresh_the_starts_noise_has_unit_variance(amount):
    assert ((start_of(amount) - CLIP) / SIGMA).var().item() == pytest.approx(1, abs=0.03)


def test_more_fresh_noise_remembers_less_of_the_inverted():
    alike = [torch.corrcoef(torch.stack([(start_of(a) - CLIP).flatten(), INVERTED.flatten()]))[0, 1].item() for a in (0.0, 0.25, 0.75, 1.0)]
    assert alike == pytest.approx([1, 0.75**0.5, 0.5, 0], abs=0.02)


def test_each_cell_gets_its_own_amount_of_fresh_noise():
    amount = torch.zeros(2, 1, 64, 64)
    amount[1, :, :32] = 1
    found = foreground_start(CLIP + SIGMA * INVERTED, CLIP, SIGMA, NOISE, amount)
    assert torch.equal(found[0], (CLIP + SIGMA * INVERTED)[0])
    assert torch.equal(found[1, :, 32:], (CLIP + SIGMA * INVERTED)[1, :, 32:])
    assert torch.equal(found[1, :, :32], start_of(1.0)[1, :, :32])


def test_frames_agree_before_the_blend_and_at_the_calls_own_sigma():
    asked, mask = [], (torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(4)) > 0.5).float()

    def agree(denoised, sigma):
        asked.append(sigma)
        return torch.full_like(denoised, 9.0)

    result = sample_blended(network, TRAJECTORY.latents[-1], SIGMAS, solver=euler, background=TRAJECTORY.at,
                            mask=lambda step: mask, agree=agree)  # fmt: skip
    inside = (mask > 0).expand_as(result)
    assert asked == pytest.approx(SIGMAS[:-1].tolist())
    torch.testing.assert_close(result[inside], torch.full_like(result[inside], 9.0))
    assert torch.equal(result[~inside], TRAJECTORY.latents[0][~inside])


@pytest.mark.parametrize("name", ["lcm", "dpmpp_sde_turbo", "LCM", "TCD", "hyper_sd"])
def test_few_step_sampling_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"'{name}'.*Few-step sampling.*20 steps or more.*euler"):
        check_solver(name)


def test_a_soft_mask_leaves_just_its_share_of_the_edit():
    """A network that always draws the same: what is left of it is the mask, not the mask squared."""
    mask, drawn = torch.linspace(0, 1, 5).view(1, 1, 1, 5).expand(3, 1, 6, 5), 3.0
    clip = TRAJECTORY.latents[..., :5]
    found = sample_blended(
        lambda x, sigma: torch.full_like(x, drawn), clip[-1], SIGMAS, solver=euler,
        background=lambda sigma: TRAJECTORY.at(sigma)[..., :5], mask=lambda step: mask,
    )  # fmt: skip
    torch.testing.assert_close(found, mask * drawn + (1 - mask) * clip[0])


def test_a_model_that_gives_no_numbers_is_told_of_at_once_though_the_mask_leaves_them_out():
    calls = []

    def failing(x, sigma):
        calls.append(float(sigma[0]))
        return network(x, sigma) * (torch.nan if len(calls) == 3 else 1)

    with pytest.raises(ValueError, match=r"not finite .* at sigma 1\.0000, step 3 of 4\. .*--force-fp32"):
        edit(torch.zeros(3, 1, 6, 6), failing)
    assert calls == [10.0, 4.0, 1.0]


def model_of(mask=lambda step: torch.full((1, 1, 1, 1), float(step)), model=network):
    return BlendedModel(model, SIGMAS, TRAJECTORY.at, mask)


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ([10.0, 4.0, 1.0, 0.2], [0, 1, 2, 3]),
        ([10.0, 0.5, 0.5, 0.1, 0.0], [0, 2, 2, 3, 3]),
        ([10.0, 5.0, 10.0, 3.9, 10.0], [0, 0, 0, 1, 1]),
        ([4.0 * (1 + 2e-4), 4.0 * (1 + 5e-5), 1.0001], [0, 1, 2]),
    ],
    ids=["one call a step", "levels are passed over", "never back", "a rounding above"],
)
def test_a_call_belongs_to_the_step_that_leaves_from_its_sigma_or_passes_it(asked, steps):
    drawn = []
    blended = model_of(lambda step: drawn.append(step) or torch.full((1, 1, 1, 1), float(step)))
    found = []
    for sigma in asked:
        blended.arrive(sigma)
        found.append(blended.step)
        assert blended.mask.item() == blended.step
    assert found == steps
    assert drawn == list(range(steps[-1] + 1))


@pytest.mark.parametrize(("sigma", "following"), [(10.0, 4.0), (4.0, 1.0), (1.0, 0.2), (2.0, 1.0), (1.0 + 5e-7, 0.2), (1.0 + 1e-5, 1.0)])
def test_behind_the_mask_the_denoised_leads_to_the_grids_next_level(sigma, following):
    behind = TRAJECTORY.at(sigma)
    denoised = model_of().denoised_behind(torch.tensor(sigma), behind)
    there = behind + (following - sigma) * (behind - denoised) / sigma  # one step of Euler
    torch.testing.assert_close(there, TRAJECTORY.at(following), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("sigma", [0.2, 0.1, 0.0])
def test_behind_the_mask_the_last_denoised_is_the_clip_to_the_bit(sigma):
    assert torch.equal(model_of().denoised_behind(torch.tensor(sigma), TRAJECTORY.at(sigma)), TRAJECTORY.latents[0])


def test_the_solver_is_given_what_the_sampler_was_and_reaches_through_to_the_model():
    class Network:
        inner_model = "core's own"

        def __call__(self, x, sigma, **extra):
            assert extra == {"seed": 3}
            return network(x, sigma)

    given = {}

    def solver(model, x, sigmas, extra_args, callback, disable):
        given.update(inner=model.inner_model, sigmas=sigmas.tolist(), callback=callback, disable=disable)
        return model(x, sigmas[0] * x.new_ones(len(x)), **extra_args)

    options = {"solver": solver, "background": TRAJECTORY.at, "mask": lambda step: torch.ones(3, 1, 6, 6)}
    found = sample_blended(Network(), TRAJECTORY.latents[-1], SIGMAS, {"seed": 3}, print, True, **options)
    assert given == {"inner": "core's own", "sigmas": SIGMAS.tolist(), "callback": print, "disable": True}
    assert torch.equal(found, network(TRAJECTORY.latents[-1], SIGMAS[0]))


def test_what_the_solver_returns_is_blended_with_the_grids_last_level():
    start, seen = torch.full((3, 4, 6, 6), 5.0), []
    mask = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(5))

    def solver(model, x, sigmas, **_):
        seen.append(x)
        return torch.full_like(x, 7.0)

    sigmas = SIGMAS[:-1]  # to be gone on with by another sampler
    found = sample_blended(network, start, sigmas, solver=solver, background=TRAJECTORY.at, mask=lambda step: mask)
    torch.testing.assert_close(seen[0], mask * start + (1 - mask) * TRAJECTORY.at(10.0))
    torch.testing.assert_close(found, mask * 7.0 + (1 - mask) * TRAJECTORY.at(0.2))


def test_heun_and_dpm_2_ask_the_model_twice_in_a_step_and_the_others_once():
    assert {name for name, calls in SOLVERS.items() if calls == 2} == {"heun", "dpm_2"}
    assert set(SOLVERS.values()) == {1, 2}
