import cv2
import numpy as np
import pytest
import torch

from blade.attention import heat as heat_module
from blade.attention import refine
from blade.attention.refine import SURELY_OUT, along_motion, box_around, cut_along_edges, neighbours, to_bgr
from demo.check import iou

SIZE = 80
GREEN, RED, BLUE = (0.25, 0.55, 0.2), (0.8, 0.2, 0.15), (0.2, 0.3, 0.85)


def textured(colour, seed, size=SIZE):
    """A picture of one colour with soft specks. [size, size, 3]"""
    specks = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32), (0, 0), 1.5)
    return np.clip(np.array(colour, np.float32) + 0.2 * specks[..., None], 0, 1)


def disc(x, y, radius):
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return np.hypot(columns - x, rows - y) <= radius


def blob(x, y, radius, blur=4.0):
    """Heat of a disc, as coarse as maps are. [1, SIZE, SIZE]"""
    return torch.from_numpy(cv2.GaussianBlur(disc(x, y, radius).astype(np.float32), (0, 0), blur))[None]


def picture(*things, ground=GREEN):
    """A textured ground with discs: (colour, where). [1, SIZE, SIZE, 3]"""
    found = textured(ground, 0)
    for colour, where in things:
        found = np.where(where[..., None], textured(colour, 1), found)
    return torch.from_numpy(found.astype(np.float32))[None]


DISC = disc(38, 42, 15)
FRAME, WIDE = picture((RED, DISC)), blob(40, 41, 18)


def cut(frames, heat, threshold=0.5):
    return cut_along_edges(frames, heat, (heat > threshold).float(), threshold)


def fit(mask, truth):
    return iou(mask.numpy(), truth[None] if truth.ndim == 2 else truth).mean()


def test_an_outline_drawn_too_wide_moves_to_the_edge_of_the_colours():
    assert fit(WIDE > 0.5, DISC) < 0.8
    assert fit(cut(FRAME, WIDE), DISC) > 0.95


def test_an_outline_drawn_too_narrow_moves_outwards_to_the_edge():
    narrow = blob(37, 42, 13)
    assert fit(narrow > 0.5, DISC) < 0.8
    assert fit(cut(FRAME, narrow), DISC) > 0.95


def test_the_cut_is_the_same_whatever_was_drawn_at_random_before():
    noise = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))  # where GrabCut's first guess decides
    found = []
    for seed in range(6):
        cv2.setRNGSeed(seed)
        found.append(cut(noise, WIDE))
    assert all(torch.equal(again, found[0]) for again in found)


def test_a_cut_is_0_or_1_and_each_frames_own():
    frames, heat = torch.cat([FRAME, picture((RED, disc(25, 30, 12)))]), torch.cat([WIDE, blob(26, 31, 15)])
    both = cut(frames, heat)
    assert set(both.unique().tolist()) == {0, 1}
    assert torch.equal(both[1:], cut(frames[1:], heat[1:]))


def test_a_frame_without_heat_stays_empty():
    found = cut(torch.cat([FRAME, FRAME]), torch.cat([torch.zeros_like(WIDE), WIDE]))
    assert found[0].sum() == 0
    assert found[1].sum() > 0


def test_a_frame_that_is_all_inside_stays_so():
    assert cut(FRAME, torch.full_like(WIDE, 0.9)).min() == 1


@pytest.mark.parametrize("pixels", [1, 3])
def test_a_speck_of_heat_or_of_cold_is_no_error(pixels):
    speck = torch.zeros_like(WIDE)
    speck[:, 40, 40 : 40 + pixels] = 1
    assert cut(FRAME, speck).sum() <= pixels
    assert cut(FRAME, 1 - speck).sum() >= SIZE**2 - pixels


def test_nothing_gets_inside_where_the_heat_is_below_half_the_threshold():
    """A twin of the object, of the same colours, that the heat does not see."""
    twin = picture((RED, DISC), (RED, disc(66, 42, 12)))
    heat = torch.maximum(WIDE, 0.2 * blob(66, 42, 12))
    assert cut(twin, heat)[heat < SURELY_OUT * 0.5].sum() == 0


def test_the_hottest_stays_inside_whatever_its_colour():
    patch = disc(38, 42, 3)
    heat = (1.1 * blob(38, 42, 15)).clamp(max=1)
    assert heat[0][torch.from_numpy(patch)].min() > 0.9
    assert cut(picture((RED, DISC), (GREEN, patch)), heat)[0][torch.from_numpy(patch)].min() == 1


def test_where_all_colours_are_alike_the_object_does_not_vanish():
    flat = torch.full_like(FRAME, 0.4)
    assert cut(flat, 0.8 * WIDE).sum() > 0


def test_what_is_cut_ticks_once_a_frame():
    ticks = []
    cut_along_edges(FRAME.expand(3, -1, -1, -1), torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE), 0.5, lambda: ticks.append(1))
    assert len(ticks) == 3


STEP = 3  # pixels of motion from frame to frame


def moving(frames):
    """A textured square that moves over a still textured ground, and its exact mask. [frames, SIZE, SIZE, 3], [frames, SIZE, SIZE]"""
    ground, surface = textured(GREEN, 0), textured(RED, 1)
    clip, truth = [], np.zeros((frames, SIZE, SIZE), np.float32)
    for frame in range(frames):
        left = 8 + STEP * frame
        truth[frame, 28:52, left : left + 24] = 1
        clip.append(np.where(truth[frame, ..., None] > 0, np.roll(surface, left, 1), ground))
    return torch.from_numpy(np.stack(clip).astype(np.float32)), truth


def jittered(truth):
    """Each frame's mask, wider or narrower by what that frame happens to be."""
    widths = np.random.default_rng(3).permutation(np.resize([-3, -1, 1, 3], len(truth)))
    kernels = [np.ones((2 * abs(width) + 1,) * 2) for width in widths]
    return torch.from_numpy(
        np.stack(
            [(cv2.dilate if width > 0 else cv2.erode)(mask, kernel) for mask, width, kernel in zip(truth, widths, kernels, strict=True)]
        )
    )


def unsteadiness(masks, truth):
    """How much of the object's own area, followed exactly, changes sides from one frame to the next."""
    in_its_place = np.stack([np.roll(mask, -STEP * frame, 1) for frame, mask in enumerate(masks.numpy() > 0.5)])
    return (in_its_place[1:] != in_its_place[:-1]).sum() / truth[1:].sum()


def centres(masks):
    columns = np.arange(SIZE)
    inside = masks.numpy() > 0.5
    return np.array([(columns * frame.sum(0)).sum() / frame.sum() for frame in inside])


def test_a_flickering_mask_gets_steadier_and_fits_better():
    frames, truth = moving(8)
    rough = jittered(truth)
    smooth = along_motion(frames, rough, 3)
    assert unsteadiness(smooth, truth) < 0.5 * unsteadiness(rough, truth)
    assert fit(smooth, truth) > fit(rough, truth)


def test_a_smoothed_mask_does_not_lag_behind_the_object():
    frames, truth = moving(8)
    smooth = along_motion(frames, torch.from_numpy(truth), 3)
    assert np.abs(centres(smooth) - centres(torch.from_numpy(truth))).max() < 0.6
    assert iou(smooth.numpy(), truth).min() > 0.95


def test_a_neighbours_mask_is_carried_to_where_the_object_is_now():
    frames, truth = moving(5)
    missed = torch.from_numpy(truth.copy())
    missed[2] = 0
    found = along_motion(frames, missed, 1)[2]
    assert fit((found > 0.4)[None], truth[2]) > 0.8


def test_reversing_the_clip_reverses_what_comes_out():
    frames, truth = moving(5)
    rough = jittered(truth)
    torch.testing.assert_close(along_motion(frames.flip(0), rough.flip(0), 2).flip(0), along_motion(frames, rough, 2))


def test_a_frame_agrees_with_so_many_frames_to_either_side():
    frames = FRAME.expand(7, -1, -1, -1)
    values = torch.zeros(7, SIZE, SIZE)
    values[3] = 1
    reached = [float(frame.mean()) > 0.01 for frame in along_motion(frames, values, 2)]
    assert reached == [False, True, True, True, True, True, False]


def test_a_long_clip_in_spans_is_the_same_as_at_once(monkeypatch):
    frames, truth = moving(8)
    rough = jittered(truth)
    whole = along_motion(frames, rough, 2)
    monkeypatch.setattr(heat_module, "SPAN", 3)
    assert torch.equal(along_motion(frames, rough, 2), whole)


def test_one_frame_or_no_pass_gives_the_values_as_they_are():
    values = torch.rand(3, SIZE, SIZE)
    assert torch.equal(along_motion(FRAME.expand(3, -1, -1, -1), values, 0), values)
    assert torch.equal(along_motion(FRAME, values[:1], 4), values[:1])


def test_the_values_that_are_given_are_not_written_to():
    values = torch.rand(3, SIZE, SIZE)
    before = values.clone()
    along_motion(torch.rand(3, SIZE, SIZE, 3), values, 2)
    assert torch.equal(values, before)


def test_of_a_still_clip_still_values_stay():
    values = blob(38, 42, 15).expand(3, -1, -1)
    found = along_motion(FRAME.expand(3, -1, -1, -1), values, 2)
    torch.testing.assert_close(found, values, atol=0.02, rtol=0)


def test_a_scene_cut_does_not_bleed():
    frames = torch.cat([FRAME, FRAME, picture(ground=BLUE), picture(ground=BLUE)])
    values = torch.zeros(4, SIZE, SIZE)
    values[:2] = 1
    found = along_motion(frames, values, 4)
    assert found[:2].min() > 0.95
    assert found[2:].max() < 0.05


def test_what_appears_from_behind_something_asks_its_neighbour_hardly():
    """The red disc hides the blue one in the first frame."""
    frames = torch.cat([picture((RED, DISC)), picture((BLUE, DISC))])
    shares = [near[0][2][DISC].mean() for near in neighbours(frames)]
    assert max(shares) < 0.02


def test_what_is_smoothed_ticks_once_a_frame(monkeypatch):
    monkeypatch.setattr(heat_module, "SPAN", 2)
    ticks = []
    along_motion(FRAME.expand(5, -1, -1, -1), torch.zeros(5, SIZE, SIZE), 1, lambda: ticks.append(1))
    assert len(ticks) == 5


@pytest.fixture
def told(monkeypatch):
    """What GrabCut is told, (labels, rounds), in the place of GrabCut; it finds what is set in `found` of the part that it looks at."""
    calls, found = [], []

    def cut_nothing(picture, labels, box, background, foreground, rounds, mode):
        calls.append((labels.copy(), rounds))
        if found:
            labels[:] = cv2.GC_PR_BGD
            labels[found[0]] = cv2.GC_PR_FGD

    monkeypatch.setattr(refine.cv2, "grabCut", cut_nothing)
    return calls, found


@pytest.mark.parametrize(("threshold", "sure"), [(0.25, 0.45), (0.5, 0.85)])
def test_heat_below_half_the_threshold_is_surely_out_and_heat_well_above_it_surely_in(told, threshold, sure):
    """1.8 times the threshold, or, where that would be next to the hottest, seven tenths of the way there."""
    heat = np.zeros((40, 40), np.float32)
    heat[10:30, 10:30] = threshold / 2
    heat[12:28, 12:28] = threshold / 2 - 0.01
    heat[14:26, 14:26] = sure - 0.01
    heat[16:24, 16:24] = sure + 0.01
    cut(FRAME[:, :40, :40], torch.from_numpy(heat)[None], threshold)
    ((labels, rounds),) = told[0]
    assert rounds == 3
    expected = np.full((40, 40), cv2.GC_BGD)
    expected[10:30, 10:30] = cv2.GC_PR_BGD
    expected[12:28, 12:28] = cv2.GC_BGD
    expected[14:26, 14:26] = cv2.GC_PR_FGD
    expected[16:24, 16:24] = cv2.GC_FGD
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(("kept", "stays"), [(25, True), (24, False)])
def test_where_less_than_a_quarter_is_left_the_drawn_mask_stays(told, kept, stays):
    heat = torch.zeros(1, SIZE, SIZE)
    heat[:, 30:40, 30:40] = 0.6
    told[1].append(np.unravel_index(np.arange(kept), (42, 42)))
    found = cut(FRAME, heat)
    assert found.sum() == (kept if stays else 100)
    assert torch.equal(found, (heat > 0.5).float()) != stays
    assert told[0][0][0].shape == (42, 42)


def test_around_an_object_there_is_half_its_size_of_room_and_sixteen_pixels_at_least():
    where = np.zeros((300, 200), bool)
    where[100:150, 90:92] = True
    assert box_around(where) == (slice(75, 175), slice(74, 108))
    where[20, 199] = True
    assert box_around(where) == (slice(0, 215), slice(35, 200))


def test_a_neighbour_counts_a_half_and_the_less_the_more_its_colour_differs():
    grey = lambda level: torch.full((1, SIZE, SIZE, 3), level / 255)  # noqa: E731
    frames = torch.cat([grey(100), grey(100), grey(120)])
    first, second, third = neighbours(frames)
    assert [[there for there, _, _ in near] for near in (first, second, third)] == [[1], [0, 2], [1]]
    far = 0.5 * np.exp(-((20 / 255 / 0.1) ** 2))
    assert [float(near[2].mean()) for near in (*first, *second, *third)] == pytest.approx([0.5, 0.5, far, far], rel=1e-4)
    values = torch.rand(3, SIZE, SIZE)
    one, two, three = values
    expected = torch.stack([(one + two / 2) / 1.5, (two + one / 2 + far * three) / (1.5 + far), (three + far * two) / (1 + far)])
    torch.testing.assert_close(along_motion(frames, values, 1), expected)


def test_two_frames_agree_already():
    values = torch.rand(2, SIZE, SIZE)
    found = along_motion(torch.full((2, SIZE, SIZE, 3), 0.5), values, 1)
    torch.testing.assert_close(found, (values + values.flip(0) / 2) / 1.5)


def test_the_pictures_that_opencv_sees_are_blue_first_and_without_alpha():
    picture = torch.tensor([[[1.0, 0.5, 0.0, 0.3]]])
    assert to_bgr(picture).tolist() == [[[0, 128, 255]]]


def test_frames_heat_and_masks_of_different_numbers_are_refused():
    for frames, heat, mask in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        with pytest.raises(ValueError, match="shorter|longer"):
            cut_along_edges(FRAME.expand(frames, -1, -1, -1), WIDE.expand(heat, -1, -1), WIDE.expand(mask, -1, -1), 0.5)


def test_of_a_soft_mask_what_lies_above_a_half_was_drawn():
    flat, heat, drawn = torch.full_like(FRAME, 0.4), torch.full_like(WIDE, 0.4), torch.zeros_like(WIDE)
    drawn[:, 20:40, 20:40] = 1
    assert cut_along_edges(flat, heat, 0.6 * drawn, 0.5).any()
    assert not cut_along_edges(flat, heat, 0.5 * drawn, 0.5).any()
