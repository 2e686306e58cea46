import gc
import os
from types import SimpleNamespace

import pytest
import torch

from blade.inversion.grid import Grid
from blade.inversion.trajectory import MappedFile, Origin, Trajectory

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


def test_twice_the_highest_level_is_as_far_as_the_path_is_followed():
    torch.testing.assert_close(TRAJECTORY.at(20.0), 2 * LATENTS[3] - LATENTS[0])
    with pytest.raises(ValueError, match="20.0010.*Begin at most at 2 times"):
        TRAJECTORY.at(20.001)


@pytest.mark.parametrize("sigma", [2.0 * (1 + 5e-7), 2.0 * (1 - 5e-7)])
def test_a_rounding_error_beside_a_level_is_the_level_to_the_bit(sigma):
    assert torch.equal(TRAJECTORY.at(sigma), LATENTS[2])


@pytest.mark.parametrize(("sigma", "low"), [(2.0 * (1 + 2e-5), 2), (2.0 * (1 - 2e-5), 1), (0.5 * (1 - 2e-5), 0), (1e-5, 0), (9.99, 2)])
def test_what_is_farther_from_a_level_lies_on_the_line_between_both(sigma, low):
    share = (torch.tensor(sigma) - SIGMAS[low]) / (SIGMAS[low + 1] - SIGMAS[low])
    found = TRAJECTORY.at(sigma)
    assert not torch.equal(found, LATENTS[low]) and not torch.equal(found, LATENTS[low + 1])
    assert torch.equal(found, torch.lerp(LATENTS[low], LATENTS[low + 1], float(share)))


def test_a_trajectory_says_what_its_cells_cover_and_what_it_takes():
    trajectory = Trajectory(SIGMAS, torch.zeros(4, 3, 4, 5, 7), grid=Grid(16), record=SimpleNamespace(nbytes=5))
    assert (trajectory.size, trajectory.pixels, trajectory.frames) == ((5, 7), (80, 112), 3)
    assert trajectory.nbytes == 4 * 4 * 3 * 4 * 5 * 7 + 5


@pytest.mark.parametrize(
    ("origin", "told"),
    [(Origin(), "DDIM"), (Origin(method="predicted", refine=0), "predicted"), (Origin(method="refined", refine=3), "refined, refine 3")],
)
def test_the_method_is_told_with_its_calls_where_it_has_any(origin, told):
    assert origin.told == told


def test_what_made_a_trajectory_is_not_known_unless_it_is_said():
    origin = Origin()
    assert len(origin.weights) == 0 and (origin.patches, origin.prompt, origin.schedule) == ({}, None, "")
    assert (origin.method, origin.refine, origin.tolerance, origin.residuals) == ("DDIM", 0, 0.0, ())


@pytest.mark.parametrize(("start", "steps"), [(1.0, 8), (0.99, 8), (0.9, 7), (0.5, 4), (0.07, 1), (0.0, 1)])
def test_a_start_is_a_share_of_the_steps(start, steps):
    levels = torch.arange(17.0)
    found = Trajectory(levels, torch.zeros(17, 1, 4, 2, 2)).sampling_sigmas(8, start)
    assert found.tolist() == [2.0 * step for step in range(steps, -1, -1)]
    assert torch.equal(Trajectory(levels, torch.zeros(17, 1, 4, 2, 2)).sampling_sigmas(16), levels.flip(0))


def test_a_level_is_fp32_and_the_lowest_the_exact_clip():
    half = Trajectory(SIGMAS, LATENTS.half(), exact_clip=LATENTS[0])
    assert torch.equal(half.level(0), LATENTS[0]) and half.level(2).dtype == torch.float32
    assert torch.equal(half.level(2), LATENTS[2].half().float())


def test_a_mapped_file_is_let_go_of_with_the_trajectory(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with open(tmp_path / "a", "rb") as file:
        mapped = MappedFile(file)
    descriptor = mapped.descriptor
    assert mapped.look()[0] == os.fstat(descriptor).st_size == 5
    del mapped
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(descriptor)
