from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from blade.video.load import fit, load_clip


def write_clip(path, frames=10, size=(48, 32), fps=Fraction(8), sound=False):
    """A grey clip whose frame n has the value 20 * n; with `sound`, a second stream of a rising ramp."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for n in range(frames):
            picture = np.full((size[1], size[0], 3), 20 * n % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            samples = (np.arange(16000 * frames // int(fps)) % 100 / 100).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return str(path)


def values(clip):
    return (clip.frames.mean((1, 2, 3)) * 255 / 20).round().int().tolist()


def test_a_whole_clip_comes_back_in_order_with_its_rate(tmp_path):
    clip = load_clip(write_clip(tmp_path / "a.mp4"))
    assert values(clip) == list(range(10))
    assert clip.frames.shape == (10, 32, 48, 3)
    assert clip.frames.dtype == torch.float32
    assert clip.fps == 8
    assert clip.waveform is None


def test_start_count_and_every_nth_choose_frames(tmp_path):
    clip = load_clip(write_clip(tmp_path / "a.mp4"), start=1, count=3, every_nth=3)
    assert values(clip) == [1, 4, 7]
    assert clip.fps == pytest.approx(8 / 3)


def test_sound_is_cut_to_the_same_stretch(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=16, sound=True)
    whole, part = load_clip(path), load_clip(path, start=4, count=8)
    assert part.sample_rate == 16000
    assert part.waveform.shape == (1, 16000)  # 8 of 8 frames a second
    assert torch.equal(part.waveform, whole.waveform[:, 8000:24000])


def test_sides_become_multiples_of_eight_by_a_centred_crop():
    picture = np.zeros((21, 34, 3), np.uint8)
    picture[2:18, 1:33] = 255
    fitted = fit(picture, 0)
    assert fitted.shape == (16, 32, 3)
    assert fitted.min() == 255


def test_the_longest_side_is_scaled_before_the_crop():
    assert fit(np.zeros((100, 200, 3), np.uint8), 64).shape == (32, 64, 3)
    assert fit(np.zeros((200, 100, 3), np.uint8), 64).shape == (64, 32, 3)


def test_a_picture_under_eight_pixels_is_refused_with_its_size():
    with pytest.raises(ValueError, match="30x7 pixels"):
        fit(np.zeros((7, 30, 3), np.uint8), 0)


def test_a_start_behind_the_end_is_refused_with_the_length(tmp_path):
    with pytest.raises(ValueError, match="10 frames.*frame 10"):
        load_clip(write_clip(tmp_path / "a.mp4"), start=10)


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_clip(str(tmp_path / "a.mp4"))


def test_a_file_cut_short_is_refused(tmp_path):
    whole = write_clip(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(open(whole, "rb").read()[:200])
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_clip(str(tmp_path / "b.mp4"))
