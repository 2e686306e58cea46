"""The sound of a film, at its time, from whatever tracks and channels there are."""

import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch

from blade.video.load import Stretch, load_clip
from blade.video.save import FFV1, save_video
from blade.video.sound import with_plain_layout
from blade.video.source import Held, source_of_path
from tests.system import run
from tests.video.awkward import RATE, heard_at, numbered, tick
from tests.video.drawn import a_drawn, beeps_of, numbers, remux
from tests.video.drawn import write as write_drawn


@pytest.mark.parametrize(("container", "sound"), [("mp4", "aac"), ("mkv", "flac"), ("ts", "mp2"), ("mov", "pcm_s16le")])
@pytest.mark.parametrize("gap", [(0.7, 1.4), (0.7, 0.8)])
def test_a_gap_in_the_sound_stays_a_gap(tmp_path, container, sound, gap):
    write_drawn(tmp_path / f"a.{container}", a_drawn(container, sound=sound, gap=gap))
    clip = load_clip(str(tmp_path / f"a.{container}"))
    assert beeps_of(clip) == pytest.approx([0.5, 1.5], abs=0.02)
    from_within = load_clip(str(tmp_path / f"a.{container}"), Stretch(start=24))
    assert beeps_of(from_within) == pytest.approx([0.5], abs=0.02)


def test_sound_whose_times_waver_is_not_torn(tmp_path):
    """As live recordings have them: each packet a few ms early or late."""
    sound = torch.sin(torch.arange(2 * RATE) * 2 * torch.pi * 100 / RATE)[None]
    save_video(tmp_path / "a.mkv", [numbered(20)], 10, FFV1, waveform=sound, sample_rate=RATE)
    rng = np.random.default_rng(0)

    def wavering(packet, number):
        if packet.stream.type == "audio" and number:
            packet.pts += int(rng.integers(-12, 13))
            packet.dts = packet.pts
        return True

    path = remux(tmp_path / "a.mkv", tmp_path / "b.mkv", wavering)
    clip = load_clip(path)
    assert torch.equal(clip.waveform, load_clip(str(tmp_path / "a.mkv")).waveform)


@pytest.mark.parametrize(("sound", "channels"), [("flac", 8), ("pcm_s16le", 8), ("pcm_s16le", 16), ("pcm_s16le", 24)])
def test_sound_of_any_number_of_channels_is_read(tmp_path, channels, sound):
    layouts = {8: "7.1", 16: "hexadecagonal", 24: "22.2"}
    samples = np.arange(channels)[:, None].repeat(8000, 1) / 64
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        video, audio = file.add_stream("ffv1", rate=10), file.add_stream(sound, rate=8000, layout=layouts[channels])
        video.width, video.height, video.pix_fmt = 48, 32, "bgr0"
        for picture in numbered(10):
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(np.int16(samples.T * 32768).reshape(1, -1)), format="s16", layout=layouts[channels]
        )
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        file.mux([*video.encode(None), *audio.encode(frame), *audio.encode(None)])
    clip = load_clip(str(tmp_path / "a.mkv"))
    assert clip.waveform.shape == (channels, 8000)
    assert clip.waveform.mean(1) * 64 == pytest.approx(np.arange(channels), abs=0.01)


@pytest.mark.parametrize("kinds", [("zzzz", "sowt"), ("zzzz",)])
def test_the_first_sound_track_that_can_be_decoded_is_read_or_none_with_a_warning(tmp_path, kinds):
    with av.open(str(tmp_path / "a.mov"), "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        tracks = [file.add_stream(codec, rate=RATE, layout="mono") for codec in ("pcm_s24le", "pcm_s16le")[: len(kinds)]]
        packets = [packet for picture in numbered(10) for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))]
        packets += video.encode(None)
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(tick(1, 0.5), format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            packets += [*track.encode(frame), *track.encode(None)]
        for packet in packets:
            file.mux(packet)
    content = (tmp_path / "a.mov").read_bytes()
    assert b"in24" in content
    (tmp_path / "a.mov").write_bytes(content.replace(b"in24", b"zzzz"))
    source = source_of_path(str(tmp_path / "a.mov"))
    clip = load_clip(source)
    assert len(clip.frames) == 10
    if len(kinds) > 1:
        assert heard_at(clip.waveform.numpy(), RATE) == pytest.approx(0.5, abs=0.01)
        assert source.notes["track"].startswith("Sound track 2 was read")
    else:
        assert clip.waveform is None
        assert source.notes["track"].startswith("Warning: the clip was read without its sound")


@pytest.mark.parametrize(("container", "form"), [("mkv", "matroska"), ("ts", "mpegts")])
def test_an_empty_sound_track_is_passed_over(tmp_path, container, form):
    write_drawn(tmp_path / f"a.{container}", a_drawn(container, sound="aac"))
    with av.open(str(tmp_path / f"a.{container}")) as old, av.open(str(tmp_path / f"b.{container}"), "w", format=form) as new:
        video, _, sound = (new.add_stream_from_template(old.streams[index]) for index in (0, 1, 1))
        for packet in [packet for packet in old.demux() if packet.size]:
            packet.stream = video if packet.stream.type == "video" else sound
            new.mux(packet)
    source = source_of_path(str(tmp_path / f"b.{container}"))
    assert beeps_of(load_clip(source)) == pytest.approx([0.5, 1.5], abs=0.02)
    assert source.notes["track"].startswith("Sound track 2 was read")


def test_damaged_sound_leaves_silence_and_a_note(tmp_path):
    write_drawn(tmp_path / "a.mkv", a_drawn("mkv", sound="flac"))
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    with av.open(str(tmp_path / "a.mkv")) as file:
        packets = [bytes(packet) for packet in file.demux(audio=0) if packet.size]
    middle = packets[len(packets) // 2]
    place = content.index(middle)
    content[place : place + len(middle)] = bytes([0x5A]) * len(middle)
    (tmp_path / "b.mkv").write_bytes(content)
    source = source_of_path(str(tmp_path / "b.mkv"))
    clip = load_clip(source)
    assert beeps_of(clip) == pytest.approx([0.5, 1.5], abs=0.02)
    assert "sound could not be decoded" in source.notes["sound"]


ODD_ORDER = """
from blade.video.load import load_clip
clip = load_clip(sys.argv[2])
print(len(clip.waveform), len(clip.frames), [round(float(one.mean()) * 64) for one in clip.waveform])
"""


def test_channels_in_an_order_of_the_file_s_own_end_no_process(tmp_path):
    """As QuickTime lists them: PyAV frees that list with every frame."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("mjpeg", rate=10), file.add_stream("pcm_s16le", rate=8000, layout="7.1")
        video.width, video.height, video.pix_fmt = 48, 32, "yuvj420p"
        packets = [packet for picture in numbered(10) for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))]
        samples = np.int16(np.arange(8)[:, None].repeat(8000, 1) * 512)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), format="s16", layout="7.1")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        file.mux([*packets, *video.encode(None), *audio.encode(frame), *audio.encode(None)])
    content = bytearray(path.read_bytes())
    at = content.index(b"chan") + 4 + 4  # QuickTime File Format, channel layout atom: version and flags, then the tag
    content[at : at + 12] = struct.pack(">III", 128 << 16 | 8, 0, 0)  # MPEG 7.1 C, whose side channels stand before the back ones
    path.write_bytes(content)
    assert run(ODD_ORDER, path).split(maxsplit=2) == ["8", "10", f"{[*range(8)]}\n"]


def test_a_sound_of_which_nothing_can_be_decoded_is_left_out_with_a_warning(tmp_path):
    write_drawn(tmp_path / "a.mkv", a_drawn("mkv", sound="flac"))
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    with av.open(str(tmp_path / "a.mkv")) as file:
        for packet in file.demux(audio=0):
            if packet.size:
                place = content.index(bytes(packet), packet.pos)
                content[place : place + packet.size] = bytes([0x5A]) * packet.size
    (tmp_path / "b.mkv").write_bytes(content)
    source = source_of_path(str(tmp_path / "b.mkv"))
    clip = load_clip(source)
    assert (numbers(clip.frames), clip.waveform) == (list(range(48)), None)
    assert source.notes["track"].startswith("Warning: the clip was read without its sound: its sound cannot be decoded")


def test_an_order_of_channels_that_the_codec_itself_brings_is_told():
    """Its decoder would set it anew with every frame, whatever the context is given."""
    order = "FL+FR+FC+LFE+SL+SR+BL+BR"
    pcm, other = (SimpleNamespace(layout=av.AudioLayout(order), name=name) for name in ("pcm_s24le", "aac"))
    with_plain_layout(pcm)
    assert pcm.layout == "8c"
    with pytest.raises(ValueError, match="the order of its sound's channels cannot be decoded"):
        with_plain_layout(other)
    plain = SimpleNamespace(layout=av.AudioLayout("7.1"), name="aac")
    with_plain_layout(plain)
    assert plain.layout.name == "7.1"


def test_samples_that_are_no_numbers_are_silent_and_counted(tmp_path):
    """A track of floating-point samples can hold anything."""
    samples = np.full((1, 8000), 0.25, np.float32)
    samples[0, 100], samples[0, 200:300] = np.nan, np.inf
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        video, audio = file.add_stream("ffv1", rate=10), file.add_stream("pcm_f32le", rate=8000, layout="mono")
        video.width, video.height, video.pix_fmt = 48, 32, "bgr0"
        for picture in numbered(10):
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 8000
        for packet in [*audio.encode(frame), *audio.encode(), *video.encode()]:
            file.mux(packet)
    source = source_of_path(str(tmp_path / "a.mkv"))
    wave = load_clip(source).waveform[0, :8000]
    assert torch.isfinite(wave).all() and wave[100] == 0 and not wave[200:300].any() and (wave[300:400] == 0.25).all()
    assert "of its sound could not be decoded" in source.notes["sound"]


def test_a_waveform_in_memory_that_holds_no_numbers_is_refused():
    waveform = torch.zeros(1, 8000)
    waveform[0, 4000] = torch.nan
    held = Held(torch.zeros(10, 32, 48, 3), 10.0, waveform, 8000)
    assert not load_clip(held, Stretch(count=4)).waveform.any()
    with pytest.raises(ValueError, match="the sound holds values that are not finite"):
        load_clip(held)


def test_so_are_those_of_a_folders_sound(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((32, 48, 3), np.uint8))
    samples = np.full((1, 8000), 0.25, np.float32)
    samples[0, 50] = np.nan
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        audio = file.add_stream("pcm_f32le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 8000
        file.mux([*audio.encode(frame), *audio.encode()])
    source = source_of_path(str(tmp_path))
    wave = load_clip(source, Stretch(fps=10)).waveform[0]
    assert torch.isfinite(wave).all() and wave[49] == 0.25 and wave[50] == 0
    assert source.notes["sound"] == "1 packet of its sound could not be decoded. The file is damaged."
