"""The committed clips are what their seeds render, and their masks lie where their objects are."""

from dataclasses import replace

import av
import numpy as np
import pytest

from demo.check import iou
from demo.clips import CLIPS, FPS, FRAMES, MASK, MASKED, find, path, read_mp4, render, rough_mask, truth, write_mp4
from metrics.background import dilate, psnr_outside

PATHS = [(name, which) for name, clip in CLIPS.items() for which in range(len(clip.things(0)))]
EVERYWHERE = np.zeros((FRAMES, 128, 128))  # no object: judge all of the picture


@pytest.mark.parametrize("name", CLIPS)
def test_the_file_is_the_rendered_clip_within_the_loss_of_h264(name: str) -> None:
    frames = read_mp4(path(name))
    assert frames.shape == (FRAMES, 128, 128, 3)
    assert psnr_outside(render(name), frames, EVERYWHERE).min() > 31  # half the chroma is gone at saturated edges


@pytest.mark.parametrize("name", CLIPS)
def test_the_file_is_small_and_says_how_its_colours_are_coded(name: str) -> None:
    assert path(name).stat().st_size < 100_000
    with av.open(str(path(name))) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", FPS)
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (6, 1)  # SMPTE 170M, limited


@pytest.mark.parametrize("name", CLIPS)
def test_colours_survive_the_way_through_the_file(name: str) -> None:
    """Colours coded in one matrix and read in another would be off by tens."""
    difference = read_mp4(path(name)).mean((0, 1, 2)) - render(name).mean((0, 1, 2))
    assert np.abs(difference).max() < 1.5


@pytest.mark.parametrize(("name", "which"), PATHS)
def test_the_mask_lies_on_the_object(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed with the object moved far away gives the same clip without it, noise included."""
    clip, part = find(name), ("thing", "second")[which]
    masks, with_it = truth(name, which=which), render(name)
    assert masks.shape == (FRAMES, 128, 128) and 0 <= masks.min() < masks.max() <= 1
    monkeypatch.setitem(CLIPS, name, replace(clip, **{part: replace(getattr(clip, part), x=-9.0)}))
    painted = np.abs(with_it.astype(int) - render(name)).max(-1) > 40
    assert iou(painted, masks).min() > 0.97


@pytest.mark.parametrize(("name", "which"), PATHS)
def test_the_object_moves_and_stays_whole(name: str, which: int) -> None:
    masks = truth(name, which=which)
    assert iou(masks[:1], masks[-1:])[0] < 0.3
    assert not masks[:, [0, -1]].any() and not masks[:, :, [0, -1]].any()


def test_two_things_pass_each_other_without_touching() -> None:
    one, other = (truth("blade_two_things", which=which) for which in (0, 1))
    columns = np.arange(128)
    drift = [[(mask.sum(0) * columns).sum() / mask.sum() for mask in masks[[0, -1]]] for masks in (one, other)]
    assert drift[0][1] - drift[0][0] > 40 and drift[1][1] - drift[1][0] < -40
    assert not (dilate(one, 4) & dilate(other, 4)).any()


def test_the_mask_s_file_covers_the_object_and_little_more() -> None:
    drawn = read_mp4(MASK)[..., 0] > 127
    exact = truth(MASKED)
    assert drawn.shape == exact.shape
    assert drawn[exact > 0].all() and not drawn[~dilate(exact, 6)].any()
    assert iou(drawn, exact).max() < 0.85  # rough, as drawn by hand
    assert np.mean(drawn == (rough_mask()[..., 0] > 127)) > 0.999
    assert MASK.stat().st_size < 20_000


def test_another_shape_lies_at_the_same_places() -> None:
    square, circle = truth("blade_yellow_square"), truth("blade_yellow_square", "circle")
    assert 0.7 < iou(square, circle).mean() < 0.95


@pytest.mark.parametrize("name", CLIPS)
def test_training_never_saw_the_seed(name: str) -> None:
    assert CLIPS[name].seed >= 900_000


def test_prompts_are_in_the_words_of_the_training() -> None:
    assert [clip.words for clip in CLIPS.values()] == [
        "a red circle on grass",
        "a yellow square on water",
        "a red circle and a blue square on sand",
    ]


def test_an_unknown_clip_is_named() -> None:
    with pytest.raises(ValueError, match="'nobody' does not exist: take one of blade_red_circle"):
        find("nobody")


def test_writing_keeps_size_and_count(tmp_path) -> None:
    frames = np.full((5, 48, 80, 3), (200, 30, 90), np.uint8)
    write_mp4(tmp_path / "clip.mp4", frames, 12)
    back = read_mp4(tmp_path / "clip.mp4")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 3
