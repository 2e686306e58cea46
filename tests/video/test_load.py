import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from blade.video.load import Stretch, decode_frames, load_clip, load_sound
from blade.video.save import FFV1, save_video
from blade.video.source import Film


def write_clip(path, frames=10, size=(48, 32), fps=Fraction(8), sound=False):
    """A grey clip whose frame n has the value 20 * n; with `sound`, a second stream of a rising ramp, in AAC without its random noise."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono", options={"aac_pns": "0"}) if sound else None
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
    clip = load_clip(write_clip(tmp_path / "a.mp4"), Stretch(start=1, count=3, every_nth=3))
    assert values(clip) == [1, 4, 7]
    assert clip.fps == pytest.approx(8 / 3)


def test_sound_is_cut_to_the_same_stretch(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=16, sound=True)
    whole, part = load_clip(path), load_clip(path, Stretch(start=4, count=8))
    assert part.sample_rate == 16000
    assert part.waveform.shape == (1, 16000)  # 8 of 8 frames a second
    assert torch.equal(part.waveform, whole.waveform[:, 8000:24000])


def write_noise(path, seconds=4, rate=16000):
    """A black clip of 8 frames a second with noise for its sound, both kept to the bit. Returns the path and the sound."""
    sound = torch.rand(2, seconds * rate, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_video(path, [np.zeros((8 * seconds, 16, 16, 3), np.uint8)], 8, FFV1, waveform=sound, sample_rate=rate)
    return str(path), sound


def test_sound_far_into_the_file_is_the_same_as_when_all_was_read(tmp_path):
    path, sound = write_noise(tmp_path / "a.mkv")
    part, _ = load_sound(Film(path), Stretch(16, every_nth=2), 3)
    assert torch.equal(part, sound[:, 32000:44000])


def test_compressed_sound_far_into_the_file_is_the_same_as_when_all_was_read(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=40, sound=True)
    torch.testing.assert_close(load_sound(Film(path), Stretch(24), 8)[0], load_sound(Film(path), Stretch(), 40)[0][:, 48000:64000])


def test_sound_outside_the_stretch_is_not_decoded(tmp_path, monkeypatch):
    path, _ = write_noise(tmp_path / "a.mkv", seconds=20)
    real, decoded = av.AudioResampler, []

    class Counting:
        def __init__(self, **options):
            self.real = real(**options)

        def resample(self, frame):
            decoded.append(frame.samples)
            return self.real.resample(frame)

    monkeypatch.setattr(av, "AudioResampler", Counting)
    load_sound(Film(path), Stretch(80), 8)
    assert 16000 <= sum(decoded) < 3 * 16000


def test_sound_belongs_to_the_frames_shown_with_it(tmp_path):
    """A file whose first frame is shown half a second into its sound."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video, audio = container.add_stream("ffv1", rate=8), container.add_stream("pcm_f32le", rate=8000, layout="mono")
        video.width, video.height, video.pix_fmt = 16, 16, "bgr0"
        for n in range(4, 12):
            frame = av.VideoFrame(16, 16, "bgr0")
            frame.pts, frame.time_base = n, Fraction(1, 8)
            container.mux(video.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.arange(12000, dtype=np.float32)[None] / 12000, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux(audio.encode(sound))
    part, _ = load_sound(Film(str(tmp_path / "a.mkv")), Stretch(2), 2)
    assert part[0, 0] * 12000 == pytest.approx(6000)
    assert part.shape == (1, 2000)


def test_sound_that_ends_before_the_stretch_is_none(tmp_path):
    save_video(tmp_path / "a.mkv", [np.zeros((16, 16, 16, 3), np.uint8)], 8, FFV1, waveform=torch.zeros(1, 100), sample_rate=8000)
    assert load_sound(Film(str(tmp_path / "a.mkv")), Stretch(8), 8) == (None, 0)


def test_decoding_holds_one_frame_at_a_time(tmp_path):
    frames = decode_frames(Film(write_clip(tmp_path / "a.mp4")))
    first = weakref.ref(next(frames))
    assert next(frames).shape == (32, 48, 3)
    assert first() is None


def test_the_largest_side_that_the_widget_allows_is_read(tmp_path):
    clip = load_clip(write_clip(tmp_path / "a.mp4", frames=1, size=(64, 16)), Stretch(longest_side=8192))
    assert clip.frames.shape == (1, 2048, 8192, 3)
    assert values(clip) == [0]


def test_a_repeated_frame_is_made_once(tmp_path, monkeypatch):
    made, real = [], Film.picture
    monkeypatch.setattr(Film, "picture", lambda film, frame: made.append(1) or real(film, frame))
    clip = load_clip(write_clip(tmp_path / "a.mp4", frames=3), Stretch(fps=24, longest_side=96))
    assert values(clip) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(made) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # one names its number of frames, the other its duration
@pytest.mark.parametrize("stretch", [(0, 0, 1, 0), (3, 0, 2, 24), (1, 2, 3, 0), (4, 50, 1, 0)])
def test_the_header_tells_what_decoding_gives(tmp_path, suffix, stretch):
    path = write_clip(tmp_path / f"a{suffix}")
    source, clip = Film(path), load_clip(path, Stretch(*stretch))
    told = Stretch(*stretch)
    assert (told.expected(source), *told.fit(source).size, told.rate(source)) == (*clip.frames.shape[:3], clip.fps)


def test_a_file_without_a_length_has_no_number_of_frames(tmp_path):
    assert Stretch().expected(Film(write_clip(tmp_path / "a.h264"))) is None


def test_a_size_that_changes_is_refused_with_the_frame(tmp_path):
    small, large = (write_clip(tmp_path / f"{w}.h264", frames=3, size=(w, 32)) for w in (48, 64))
    (tmp_path / "both.h264").write_bytes(open(small, "rb").read() + open(large, "rb").read())
    with pytest.raises(ValueError, match="changes at frame 3, from 48x32 to 64x32"):
        load_clip(str(tmp_path / "both.h264"))


def test_a_title_in_an_old_character_set_is_no_obstacle(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w", metadata_encoding="latin-1") as container:
        container.metadata["title"] = "caf\u00e9"
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode())
    assert len(load_clip(str(tmp_path / "a.mp4")).frames) == 1


@pytest.mark.parametrize(("matrix", "number"), [("ITU709", 1), ("ITU601", 6)])
@pytest.mark.parametrize(("levels", "tag"), [("MPEG", 1), ("JPEG", 2)])
def test_colours_are_read_by_the_matrix_and_range_that_the_file_names(tmp_path, matrix, number, levels, tag):
    colour = np.broadcast_to(np.uint8([200, 60, 30]), (16, 16, 3))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = number, tag
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=levels)))
        container.mux(stream.encode())
    assert np.abs(next(decode_frames(Film(str(tmp_path / "a.mp4")))).astype(int) - colour).max() <= 3


def test_a_start_behind_the_end_is_refused_with_the_length(tmp_path):
    with pytest.raises(ValueError, match="10 frames.*frame 10"):
        load_clip(write_clip(tmp_path / "a.mp4"), Stretch(10))


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_clip(str(tmp_path / "a.mp4"))


def test_a_file_cut_short_is_refused(tmp_path):
    whole = write_clip(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(open(whole, "rb").read()[:200])
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_clip(str(tmp_path / "b.mp4"))
