import pytest
import torch

from blade.inversion.schedule import check_grid, ddim_sigmas

ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
TABLE = ((1 - ALPHA_BAR) / ALPHA_BAR).sqrt().float()


def test_the_grid_is_diffusers_leading_grid_with_offset_one():
    sigmas = ddim_sigmas(TABLE, 50)
    timesteps = [1 + 20 * i for i in range(50)]  # 1, 21, ..., 981
    assert torch.equal(sigmas, torch.cat([TABLE[timesteps].flip(0), torch.zeros(1)]))


def test_one_step_is_allowed():
    assert ddim_sigmas(TABLE, 1).tolist() == [TABLE[1].item(), 0.0]


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_step_counts_are_refused_with_the_range(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}.*between 1 and 999"):
        ddim_sigmas(TABLE, steps)


def test_a_grid_that_falls_to_zero_is_walked():
    check_grid(torch.tensor([10.0, 3.0, 0.5, 0.0]), 10.0)


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ([], "0 steps .it is empty.*at least 2"),
        ([5.0, 0.0], "1 steps .5, 0.*at least 2"),
        ([5.0, 3.0, 3.0, 0.0], "does not fall.*5, 3, 3, 0"),
        ([1.0, 3.0, 0.0], "does not fall"),
        ([5.0, float("nan"), 0.0], "does not fall"),
        ([5.0, 3.0, 0.1], "ends at 0.1 instead of 0"),
        ([12.0, 3.0, 0.0], "begins at sigma 12, but this model knows noise up to 10"),
        (list(range(20, 0, -1)), "20, 19, 18, 17, 3, 2, 1"),
    ],
)
def test_a_grid_that_cannot_be_walked_is_refused(grid, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_grid(torch.tensor(grid), 10.0)


def test_as_many_steps_as_the_table_has_but_one_are_allowed():
    table = torch.arange(1.0, 6.0)
    assert ddim_sigmas(table, 4).tolist() == [5, 4, 3, 2, 0]
    assert ddim_sigmas(table, 2).tolist() == [4, 2, 0]


@pytest.mark.parametrize("highest", [10.0, 9.9995])
def test_a_grid_may_begin_a_rounding_above_the_models_highest_level(highest):
    check_grid(torch.tensor([10.0, 3.0, 0.0]), highest)
    with pytest.raises(ValueError, match="begins at sigma 10"):
        check_grid(torch.tensor([10.0, 3.0, 0.0]), 9.998)


@pytest.mark.parametrize(
    ("levels", "shown"), [(8, "(8, 7, 6, 5, 4, 3, 2, 1)"), (9, "(9, 8, 7, 6, 3, 2, 1)")], ids=["eight levels whole", "nine in part"]
)
def test_of_a_long_grid_both_ends_are_shown(levels, shown):
    with pytest.raises(ValueError, match="ends at 1 instead of 0") as caught:
        check_grid(torch.arange(levels, 0, -1.0), 10.0)
    assert shown in str(caught.value)


@pytest.mark.parametrize(("grid", "sentence"), [([[2.0, 1.0, 0.0]], r"shape is \[1, 3\]"), ([5.0], "0 steps .5.*at least 2")])
def test_a_grid_of_another_shape_or_of_one_level_is_refused(grid, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_grid(torch.tensor(grid), 10.0)
