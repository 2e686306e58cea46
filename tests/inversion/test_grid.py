"""What cells of a latent cover."""

import pytest
import torch

from blade.inversion.grid import Grid

IMAGE, VIDEO = Grid(), Grid(cell=8, time=4)


def test_cells_are_squares_of_pixels():
    assert IMAGE.pixels((16, 12)) == (128, 96) and Grid(cell=16).pixels((5, 4, 2, 3)) == (32, 48)


@pytest.mark.parametrize(("latent_frames", "frames"), [(1, 1), (2, 5), (4, 13)])
def test_the_first_latent_frame_covers_one_frame_and_each_other_four(latent_frames, frames):
    assert VIDEO.frames(latent_frames) == frames and IMAGE.frames(latent_frames) == latent_frames


def test_a_latent_frames_mask_is_the_union_of_those_of_its_frames():
    masks = torch.zeros(9, 1, 4)
    masks[0, 0, 0] = masks[1, 0, 1] = masks[4, 0, 2] = 1.0
    masks[5:, 0, 3] = torch.tensor([0.1, 0.7, 0.2, 0.0])
    assert torch.equal(VIDEO.to_latent_frames(masks)[:, 0], torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0.7]]))
    assert VIDEO.to_latent_frames(masks[:1]).shape == (1, 1, 4)


def test_a_latent_frames_mask_is_that_of_each_of_its_frames():
    masks = torch.arange(3.0).view(3, 1, 1)
    assert VIDEO.to_frames(masks).flatten().tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert torch.equal(VIDEO.to_latent_frames(VIDEO.to_frames(masks)), masks)


def test_where_each_frame_has_a_latent_of_its_own_masks_stay_as_they_are():
    masks = torch.rand(3, 2, 2)
    assert IMAGE.to_latent_frames(masks) is masks and IMAGE.to_frames(masks) is masks
