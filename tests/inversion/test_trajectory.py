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


def test_above_the_top_is_refused_with_both_values():
    with pytest.raises(ValueError, match="12.0000.*10.0000"):
        TRAJECTORY.at(12)


def test_frames_and_steps_are_those_of_the_tensors():
    assert (TRAJECTORY.frames, TRAJECTORY.steps) == (3, 3)
