"""The other methods of the tables, on the demo checkpoint: each does to the clip what it is known for."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.bench import FRAMES, Bench, exact_mask, fixed_mask

EDIT = DEVELOPMENT_COLOUR_EDITS[1]


@pytest.fixture(scope="module")
def bench(checkpoint):
    return Bench(checkpoint)


@pytest.fixture(scope="module")
def clip(bench):
    with torch.inference_mode():
        return bench.demo.encode(EDIT.clip.render(FRAMES))


def run(bench, name, value, mask=None):
    with torch.inference_mode():
        return BASELINES[name].run(bench, EDIT, value, mask)


def outside(mask):
    """The cells that a mask does not touch, [frames, 4, h, w]"""
    return (F.max_pool2d(mask[:, None], 8) == 0).expand(-1, 4, -1, -1)


def test_img2img_changes_the_more_the_more_is_denoised_everywhere(bench, clip):
    apart = [(run(bench, "img2img", value)[0] - clip).square().mean() for value in (0.2, 1.0)]
    assert 0 < apart[0] < 0.2 * apart[1]


def test_differential_diffusion_keeps_the_clip_outside_the_mask_and_not_inside(bench, clip):
    """But for its last step, whose threshold is 0: there nothing is blended."""
    mask = exact_mask(EDIT, None)
    found, used = run(bench, "differential_diffusion", 1.0, mask)
    ground, apart = outside(mask), (found - clip).square()
    assert torch.equal(used, mask)
    assert 0 < apart[ground].mean() < 0.005 * apart[~ground].mean() and apart[~ground].mean() > clip.var() / 2


def test_blended_latent_diffusion_leaves_its_last_noise_in_the_ground(bench, clip):
    """As its loop does: of the lowest level, on a clip shrunk by that level's alpha."""
    found, mask = run(bench, "blended_latent_diffusion", 0.25)
    sigma = bench.invert(EDIT, ("self",))[1].sigmas[1]
    left = found * (1 + sigma**2).sqrt() - clip
    ground = (F.interpolate(mask[:, None], clip.shape[-2:], mode="nearest") == 0).expand_as(clip)
    scale = bench.demo.model.model.latent_format.scale_factor
    assert left[ground].std() * scale == pytest.approx(float(sigma), rel=0.1)
    assert torch.equal(left[0][ground[0] & ground[1]] == 0, torch.zeros_like(left[0][ground[0] & ground[1]], dtype=torch.bool))
    assert torch.allclose(left[0][ground[0] & ground[1]], left[1][ground[0] & ground[1]], atol=1e-4)  # one seed for every frame


def test_inversion_without_a_mask_changes_the_ground_too(bench, clip):
    found, used = run(bench, "inversion", 1.0)
    assert used is None and (found - clip)[outside(exact_mask(EDIT, None))].square().mean() > 0.01


def test_fatezeros_blend_draws_in_its_fixed_mask_and_lets_the_ground_drift(bench, clip):
    found, used = run(bench, "fatezero", 0.5)
    trajectory = bench.invert(EDIT, ("first", "previous"))[1]
    assert torch.equal(used, fixed_mask(0.5)(EDIT, trajectory))
    assert used.mean() < fixed_mask(0.3)(EDIT, trajectory).mean()
    ground = outside(used)
    assert ground.any() and 0 < (found - clip)[ground].square().mean() < 0.1 * (found - clip)[~ground].square().mean()
