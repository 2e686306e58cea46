"""The committed clips are what their seeds render, and their masks lie where their objects are."""

from dataclasses import replace

import av
import numpy as np
import pytest

from demo.clips import CLIPS, FPS, FRAMES, find, path, read_mp4, render, truth, write_mp4
from demo.scenes import render_clip
from metrics.background import psnr_outside
from metrics.masks import iou

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


@pytest.mark.parametrize("name", CLIPS)
def test_the_mask_lies_on_the_object(name: str) -> None:
    """The same seed with the object moved far away gives the bare ground, noise included."""
    clip = find(name)
    masks = truth(name)
    assert masks.shape == (FRAMES, 128, 128) and 0 <= masks.min() < masks.max() <= 1
    bare, _ = render_clip(clip.seed, [replace(clip.thing, x=-9.0)], clip.ground, FRAMES, clip.velocity, clip.spin)
    painted = np.abs(render(name).astype(int) - bare).max(-1) > 40
    assert iou(painted, masks).min() > 0.97


@pytest.mark.parametrize("name", CLIPS)
def test_the_object_moves_and_stays_whole(name: str) -> None:
    masks = truth(name)
    assert iou(masks[:1], masks[-1:])[0] < 0.3
    assert not masks[:, [0, -1]].any() and not masks[:, :, [0, -1]].any()


def test_another_shape_lies_at_the_same_places() -> None:
    square, circle = truth("blade_yellow_square"), truth("blade_yellow_square", "circle")
    assert 0.7 < iou(square, circle).mean() < 0.95


@pytest.mark.parametrize("name", CLIPS)
def test_training_never_saw_the_seed(name: str) -> None:
    assert CLIPS[name].seed >= 900_000


def test_prompts_are_in_the_words_of_the_training() -> None:
    assert [clip.words for clip in CLIPS.values()] == ["a red circle on grass", "a yellow square on water"]


def test_an_unknown_clip_is_named() -> None:
    with pytest.raises(ValueError, match="'nobody' does not exist: take one of blade_red_circle"):
        find("nobody")


def test_writing_keeps_size_and_count(tmp_path) -> None:
    frames = np.full((5, 48, 80, 3), (200, 30, 90), np.uint8)
    write_mp4(tmp_path / "clip.mp4", frames, 12)
    back = read_mp4(tmp_path / "clip.mp4")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 3
