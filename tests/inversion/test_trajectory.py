import pytest
import torch

from blade.inversion.trajectory import Trajectory

SIGMAS = torch.tensor([0.0, 0.5, 2.0, 10.0])
LATENTS = torch.randn(4, 3, 4, 2, 2)
TRAJECTORY = Trajectory(SIGMAS, LATENTS)


@pytest.mark.parametrize("level", range(4))
def test_a_stored_level_comes_back_to_the_bit(level):
    assert torch.equal(TRAJECTORY.at(SIGMAS[level]), LATENTS[level])


def test_between_levels_it_is_linear_in_sigma():
    torch.testing.assert_close(TRAJECTORY.at(1.25), (LATENTS[1] + LATENTS[2]) / 2)


def test_a_rounding_error_above_the_top_is_the_top():
    assert torch.equal(TRAJECTORY.at(10.000001), LATENTS[3])


def test_a_little_above_the_top_the_path_goes_on_straight_away_from_the_clip():
    """Core's own grids begin above diffusers' DDIM grid, on which clips are inverted."""
    slope = (LATENTS[3] - LATENTS[0]) / 10
    torch.testing.assert_close(TRAJECTORY.at(12), LATENTS[3] + 2 * slope)


def test_far_above_the_top_is_refused_with_both_values():
    with pytest.raises(ValueError, match="21.0000.*10.0000"):
        TRAJECTORY.at(21)


def test_frames_and_steps_are_those_of_the_tensors():
    assert (TRAJECTORY.frames, TRAJECTORY.steps) == (3, 3)


def test_kept_in_fp16_the_clip_is_still_exact():
    half = Trajectory(SIGMAS, LATENTS.half(), exact_clip=LATENTS[0])
    assert torch.equal(half.at(0.0), LATENTS[0])
    assert torch.equal(half.at(2.0), LATENTS[2].half().float())
    assert half.at(1.25).dtype == torch.float32
    assert half.nbytes == LATENTS.nbytes // 2 + LATENTS[0].nbytes


def test_the_sampler_gets_the_stored_levels():
    assert TRAJECTORY.sampling_sigmas(3).tolist() == [10.0, 2.0, 0.5, 0.0]


def test_fewer_steps_are_some_of_the_levels_with_both_ends():
    levels = torch.arange(11.0)
    grid = Trajectory(levels, torch.zeros(11, 1, 4, 2, 2)).sampling_sigmas(4)
    assert grid.tolist() == [10.0, 8.0, 5.0, 2.0, 0.0]


@pytest.mark.parametrize("steps", [0, 4])
def test_steps_that_the_trajectory_has_not_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}, but the trajectory has 3.*1 to 3"):
        TRAJECTORY.sampling_sigmas(steps)


def test_a_grid_that_begins_lower_keeps_the_lowest_steps_and_at_least_one():
    whole = TRAJECTORY.sampling_sigmas(3)
    assert torch.equal(TRAJECTORY.sampling_sigmas(3, 0.67), whole[1:])
    assert torch.equal(TRAJECTORY.sampling_sigmas(3, 0.01), whole[-2:])
