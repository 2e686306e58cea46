import cv2
import numpy as np
import pytest
import torch

from blade.attention.masks import fade_out, grow_mask
from blade.blending.composite import ALPHA, METHODS, POISSON, colour_shift, composite, poisson, window
from demo.scenes import Thing
from tests.clips import render_clip

FRAMES, SIDE = 3, 128
THINGS = [Thing("red", "star", 0.45, 0.55, 0.22)]
PLANE = np.array([[0.04, 0.02, 0.0], [-0.03, 0.0, 0.01], [0.02, -0.03, 0.02]], np.float32)  # channel: constant, down, across


@pytest.fixture(scope="module")
def scene():
    """A clip whose values are no multiples of 1/255, the same with a blue star, and the exact masks."""
    source, masks = render_clip(5, THINGS, "water", FRAMES, (0.02, 0.01))
    generator = torch.Generator().manual_seed(0)
    source = (torch.from_numpy(source).float() / 255 * 0.8 + 0.1) + 1e-3 * torch.rand(source.shape, generator=generator)
    mask = torch.from_numpy(masks)
    return source, mask[..., None] * torch.tensor([0.1, 0.2, 0.8]) + (1 - mask[..., None]) * source, mask


def shifted(edited, plane=PLANE):
    """The clip with a plane added to each channel."""
    along = torch.linspace(-1, 1, SIDE)
    field = torch.from_numpy(plane) @ torch.stack(
        [torch.ones(SIDE, SIDE), along[:, None].expand(SIDE, SIDE), along.expand(SIDE, SIDE)]
    ).reshape(3, -1)
    return edited + field.reshape(3, SIDE, SIDE).permute(1, 2, 0)


def distance(where):
    """Of each pixel to the nearest where it is set, by the definition. [height, width]"""
    y, x = np.nonzero(where)
    rows, columns = np.indices(where.shape)
    return np.sqrt(((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(-1))


def same_bits(one, other):
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@pytest.mark.parametrize("method", METHODS)
def test_outside_the_used_mask_every_bit_is_the_sources(scene, method):
    source, edited, mask = scene
    result, used = composite(source, shifted(edited), mask, method=method)
    outside = used == 0
    assert 0.5 < outside.float().mean() < 0.95
    assert same_bits(result[outside], source[outside])
    assert (result[mask == 1] != source[mask == 1]).any(-1).float().mean() > 0.99


def test_where_the_mask_is_one_the_edit_comes_through_unchanged(scene):
    source, edited, mask = scene
    edited = shifted(edited)
    result, used = composite(source, edited, mask, colour_match=0)
    assert same_bits(result[used == 1], edited[used == 1])
    between = (used > 0) & (used < 1)
    share = used[between][:, None]
    torch.testing.assert_close(result[between], (1 - share) * source[between] + share * edited[between])


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_mask_gives_the_source_and_one_frame_of_it_does_too(scene, method):
    source, edited, mask = scene
    assert same_bits(composite(source, edited, torch.zeros(1, SIDE, SIDE), method=method)[0], source)
    mask = mask.clone()
    mask[1] = 0
    result, used = composite(source, edited, mask, method=method)
    assert same_bits(result[1], source[1]) and used[1].sum() == 0
    assert not torch.equal(result[2], source[2])


def test_a_full_mask_gives_the_edit(scene):
    source, edited, _ = scene
    edited = shifted(edited)
    full = torch.ones(1, SIDE, SIDE)
    assert same_bits(composite(source, edited, full)[0], edited)
    assert (composite(source, edited, full, method=POISSON)[0] - edited).abs().max() < 3 / 255


def test_one_mask_serves_all_frames(scene):
    source, edited, mask = scene
    one = composite(source, edited, mask[:1])
    each = composite(source, edited, mask[:1].expand(FRAMES, -1, -1))
    assert torch.equal(one[0], each[0]) and torch.equal(one[1], each[1])
    assert one[1].shape == (FRAMES, SIDE, SIDE)


@pytest.mark.parametrize("plane", [PLANE, PLANE * np.array([1, 0, 0], np.float32)], ids=["gradient", "constant"])
def test_the_colour_match_takes_a_shift_off(scene, plane):
    source, edited, mask = scene
    ideal, _ = composite(source, edited, mask, colour_match=0)
    before, after = ((composite(source, shifted(edited, plane), mask, colour_match=amount)[0] - ideal).abs().max() for amount in (0, 1))
    assert before > 0.02
    assert after < 0.001


def test_half_the_colour_match_takes_half_of_the_shift_off(scene):
    source, edited, mask = scene
    edited = shifted(edited)
    none, half, whole = (composite(source, edited, mask, colour_match=amount)[0] for amount in (0, 0.5, 1))
    torch.testing.assert_close(half, (none + whole) / 2, rtol=0, atol=1e-6)


def test_the_colour_match_does_nothing_where_nothing_shifted(scene):
    source, edited, mask = scene
    one, other = (composite(source, edited, mask, colour_match=amount)[0] for amount in (0, 1))
    assert (one - other).abs().max() < 1e-5


def test_the_colour_match_ignores_what_was_edited_around_the_mask(scene):
    """A shadow that the edit drew beside the object, over a fifth of the ring."""
    source, edited, mask = scene
    mask = mask[:1, ...]
    edited = shifted(edited)[:1]
    clean = colour_shift(source[0].numpy(), edited[0].numpy(), mask[0].numpy())
    shadowed = edited.clone()
    shadowed[:, 90:] *= 0.5
    marred = colour_shift(source[0].numpy(), shadowed[0].numpy(), mask[0].numpy())
    assert np.abs(marred - clean).max() < 0.004


def test_the_colour_match_is_steady_under_noise(scene):
    """Frames that differ by camera noise alone (2 of 255) get the same correction, to a tenth of that."""
    source, edited, mask = (clip[0].numpy() for clip in scene)
    rng = np.random.default_rng(0)
    fields = [
        colour_shift(source + rng.normal(0, 2 / 255, source.shape).astype(np.float32), shifted(torch.from_numpy(edited)).numpy(), mask)
        for _ in range(6)
    ]
    assert np.std(fields, 0)[mask == 1].max() < 0.2 / 255


def test_a_ring_of_hardly_any_pixels_corrects_hardly_anything():
    source, edited = np.full((16, 16, 3), 0.5, np.float32), np.full((16, 16, 3), 0.3, np.float32)
    mask = np.ones((16, 16), np.float32)
    assert (colour_shift(source, edited, mask) == 0).all()
    mask[0, 0] = 0
    found = colour_shift(source, edited, mask)
    left = 0.2 - float(found[0, 0, 0])
    weight = (1 - (left / (1.4826 * left + 1e-4) / 4.685) ** 2) ** 2  # Tukey's, of a pixel whose error is the median of all
    np.testing.assert_allclose(found, 0.2 * weight / (weight + 8), rtol=1e-4)  # one pixel against the eight that say "no shift"


def test_the_colours_are_compared_up_to_32_pixels_from_the_mask():
    rng, mask = np.random.default_rng(0), np.zeros((4, 60), np.float32)
    mask[:, :10] = 0.001  # above 0 is where the edit shows
    source, edited = (rng.normal(0.5, 0.05, (4, 60, 3)).astype(np.float32) for _ in range(2))
    before = colour_shift(source, edited, mask)
    for columns, has_a_say in ((np.s_[:10], False), (np.s_[10:11], True), (np.s_[41:42], True), (np.s_[42:], False)):
        other = source.copy()
        other[:, columns] += 0.05
        assert np.array_equal(colour_shift(other, edited, mask), before) != has_a_say


def test_the_plane_ends_at_the_rings_own_extremes():
    """Far from a ring that slopes, the plane would go on rising."""
    source = np.zeros((40, 90, 3), np.float32)
    source[:] = np.linspace(0, 0.3, 90, dtype=np.float32)[None, :, None]
    mask = np.zeros((40, 90), np.float32)
    mask[:, 34:] = 1  # the ring is columns 2 to 33, the object all to the right of them
    found = colour_shift(source, np.zeros_like(source), mask)
    np.testing.assert_allclose(found[:, 2:34], source[:, 2:34], atol=2e-3)
    np.testing.assert_allclose(found[:, 34:], found[0, 33, 0], atol=1e-6)
    np.testing.assert_allclose(found[:, :2], found[0, 2, 0], atol=1e-6)


def test_left_to_itself_the_mask_grows_by_two_pixels_and_fades_over_four_and_the_whole_shift_goes(scene):
    source, edited, mask = scene
    edited = shifted(edited)
    for one, other in zip(composite(source, edited, mask), composite(source, edited, mask, 2, 4.0, 1.0, ALPHA), strict=True):
        assert same_bits(one, other)


def test_the_used_mask_is_the_grown_one_faded_out(scene):
    source, edited, mask = scene
    _, used = composite(source, edited, mask, grow=3, feather=5.0)
    assert torch.equal(used, fade_out(grow_mask(mask, 3), 5.0))


def test_poisson_carries_the_ground_into_the_object(scene):
    """What defeats a colour edit, and hides a difference of the ground: with colour_match 0 the seam goes all the same."""
    source, edited, mask = scene
    edited = edited + torch.tensor([0.1, -0.1, 0.05])
    alpha, cloned = (composite(source, edited, mask, grow=6, colour_match=0, method=method) for method in (ALPHA, POISSON))
    ring = (alpha[1] == 1) & torch.from_numpy(np.stack([cv2.dilate(frame, np.ones((5, 5))) for frame in mask.numpy()]) == 0)
    seam = [(result[ring] - source[ring]).abs().mean() for result, _ in (alpha, cloned)]
    assert seam[0] > 0.07
    assert seam[1] < 0.02


MASKS = {
    "one pixel": np.s_[60:61, 40:41],
    "left border": np.s_[20:70, :30],
    "corner": np.s_[100:, 101:],
    "bottom, odd": np.s_[77:, 11:90],
    "all but a rim": np.s_[1:-1, 1:-1],
    "full": np.s_[:, :],
}


@pytest.mark.parametrize("where", MASKS)
def test_poisson_of_the_source_itself_moves_nothing(scene, where):
    """A clone in another place than its own, by a pixel even, would show in the stripes."""
    source = scene[0][0].numpy()
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[MASKS[where]] = 1
    assert np.abs(poisson(source, source, mask) - source).max() < 3 / 255


def test_poisson_changes_all_of_the_mask_and_as_little_around_it_to_every_side():
    rng, mask = np.random.default_rng(0), np.zeros((40, 50), np.float32)
    mask[12:28, 15:31] = 1
    source, edited = (rng.integers(0, 256, (40, 50, 3)).astype(np.float32) / 255 for _ in range(2))
    changed = (np.abs(poisson(source, edited, mask) - source) > 1e-6).any(-1)
    assert changed[mask > 0].mean() > 0.98
    rows, columns = np.nonzero(changed)
    assert (12 - rows.min(), rows.max() - 27, 15 - columns.min(), columns.max() - 30) == (2, 2, 2, 2)


def test_poisson_takes_colours_beyond_the_range_for_its_ends():
    mask = np.zeros((20, 20), np.float32)
    mask[6:14, 6:14] = 1
    beyond, ends = np.full((20, 20, 3), 1.3, np.float32), np.ones((20, 20, 3), np.float32)
    assert np.array_equal(poisson(beyond, -beyond, mask), poisson(ends, 0 * ends, mask))
    assert (poisson(beyond, beyond, mask) == 1).all()


def test_poisson_with_a_hole_in_the_mask(scene):
    source, edited, _ = scene
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 10:110, 10:110] = 1
    mask[:, 40:80, 40:80] = 0
    result, used = composite(source, edited, mask, method=POISSON)
    hole = used[:, 40:80, 40:80] == 0
    assert hole.any()
    assert same_bits(result[:, 40:80, 40:80][hole], source[:, 40:80, 40:80][hole])


def test_poisson_keeps_the_edits_colours_at_the_frames_border(scene):
    """Else the old object, which is all that the source has there, would bleed into the new one."""
    source = torch.full((1, 64, 64, 3), 0.5)
    edited, mask = source.clone(), torch.zeros(1, 64, 64)
    mask[:, 20:44, 44:] = 1
    source[:, 22:42, 46:] = torch.tensor([1.0, 0.0, 0.0])
    edited[:, 22:42, 46:] = torch.tensor([0.0, 0.0, 1.0])
    result, _ = composite(source, edited, mask, grow=0, method=POISSON)
    assert (result[:, 24:40, 50:] - edited[:, 24:40, 50:]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("size", "kept", "corner"), [((128, 128), (128, 128), (0, 0)), ((135, 129), (128, 128), (3, 0)), ((101, 128), (96, 128), (2, 0))]
)
def test_a_cropped_edit_lies_where_vae_encode_took_it_from(size, kept, corner):
    rows, columns = window(size, kept)
    assert (rows.start, columns.start) == corner
    assert (rows.stop - rows.start, columns.stop - columns.start) == kept


@pytest.mark.parametrize(
    ("size", "kept"), [((128, 128), (136, 128)), ((128, 128), (120, 128)), ((135, 128), (130, 128)), ((128, 64), (64, 128))]
)
def test_another_size_is_refused_with_both(size, kept):
    with pytest.raises(ValueError, match=f"{kept[1]}x{kept[0]} pixels, but source is {size[1]}x{size[0]}"):
        window(size, kept)


def test_beside_a_cropped_edit_the_source_stays(scene):
    source, edited, mask = (clip[:, :126, :127] for clip in scene)
    rows, columns = slice(3, 123), slice(3, 123)
    result, used = composite(source, edited[:, rows, columns], torch.ones(1, 120, 120), colour_match=0)
    assert result.shape == source.shape and used.shape == mask.shape
    assert same_bits(result[:, rows, columns], edited[:, rows, columns])
    outside = used == 0
    assert outside.sum() == FRAMES * (126 * 127 - 120 * 120)
    assert same_bits(result[outside], source[outside])


def test_the_inputs_are_left_as_they_were(scene):
    copies = [clip.clone() for clip in scene]
    composite(*scene)
    assert all(torch.equal(*pair) for pair in zip(copies, scene, strict=True))


def test_each_frame_ticks_and_a_tick_may_end_the_work(scene):
    class Cancelled(BaseException):
        pass

    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        composite(*scene, tick=tick)
    ticks.extend([1] * 7)
    composite(*scene, tick=tick)
    assert len(ticks) == 9 + FRAMES


def test_an_edit_of_another_number_of_frames_is_refused(scene):
    source, edited, mask = scene
    for one, other in ((source, edited[:-1]), (source[:-1], edited)):
        with pytest.raises(ValueError, match="shorter|longer"):
            composite(one, other, mask)
