"""Films as cameras, recorders, cutting programs and bad transfers leave them: each is read as players show it."""

import struct
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from blade.video.load import Stretch, load_clip, load_sound
from blade.video.save import FFV1, H264, save_video
from blade.video.sound import with_plain_layout
from blade.video.source import Film, source_of_path
from blade.video.timing import packets_of
from tests.system import run
from tests.video.awkward import RATE, heard_at, numbered, tick, write
from tests.video.drawn import Drawn, cells, picture
from tests.video.drawn import write as write_drawn

LOOKS = np.stack([cells(picture(number)) for number in range(200)])


def a_drawn(container="mp4", codec="libx264", rate=24, count=48, b_frames=2, sound="aac", beeps=(0.5, 1.5), **others):
    whole = {"turn": "upright", "cut": 0, "offset": 0, "channels": 1, "gap": None, "matrix": 2, "pixels": "yuv420p"} | others
    times = whole.pop("times", tuple(range(count)))
    return Drawn(container=container, codec=codec, rate=Fraction(rate), times=times, b_frames=b_frames, sound=sound, beeps=beeps, **whole)


def numbers(frames):
    """The number that each frame of `drawn.picture` tells."""
    return [int(np.abs(LOOKS - cells(np.asarray(frame) * 255)).mean((1, 2, 3)).argmin()) for frame in frames]


def remux(source, target, change, form=None, options=None):
    """A copy of a film whose packets have gone through `change(packet, number of its stream's packets before) -> bool`, which says whether it stays."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options or {}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        seen = dict.fromkeys(streams, 0)
        for packet in old.demux():
            if packet.size:
                stays, seen[packet.stream_index] = change(packet, seen[packet.stream_index]), seen[packet.stream_index] + 1
                if stays:
                    packet.stream = streams[packet.stream_index]
                    new.mux(packet)
    return str(target)


def beeps_of(clip):
    loud = np.flatnonzero(np.abs(clip.waveform.numpy()).max(0) > 0.25)
    return [at / clip.sample_rate for before, at in zip([-(10**9), *loud], loud, strict=False) if at - before > 0.03 * clip.sample_rate]


@pytest.mark.parametrize("cut", [1, 12, 20, 30])
def test_a_clip_cut_without_encoding_keeps_its_rate(tmp_path, cut):
    write_drawn(tmp_path / "a.mp4", a_drawn(cut=cut, count=60, beeps=(0.5,)))
    clip = load_clip(str(tmp_path / "a.mp4"))
    assert (numbers(clip.frames), clip.fps) == (list(range(cut, 60)), 24)
    assert beeps_of(clip) == pytest.approx([0.5], abs=0.02)


def boxes(content):
    """Of an MP4: the kind of each, and the whole of it."""
    while content:
        size, kind = struct.unpack(">I4s", content[:8])
        yield kind, content[:size]
        content = content[size:]


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def edited(content, spans):
    """An MP4 whose one track shows these parts of it, each from one second to another: ISO/IEC 14496-12, 8.6.6."""

    def changed(kind, whole):
        if kind in (b"moov", b"trak"):
            return box(kind, b"".join(changed(*inner) for inner in boxes(whole[8:])))
        if kind != b"edts":
            return whole
        late = struct.unpack(">i", whole[28:32])[0]  # when the first frame is shown, in units of the track
        entries = [struct.pack(">IiI", (end - begin) * 1000, late + begin * units, 1 << 16) for begin, end in spans]
        return box(kind, box(b"elst", struct.pack(">II", 0, len(spans)) + b"".join(entries)))

    at = content.index(b"mdhd")
    units = struct.unpack(">I", content[at + 16 : at + 20])[0]
    return b"".join(changed(*one) for one in boxes(content))


@pytest.mark.parametrize("spans", [[(0, 1), (2, 3)], [(2, 3), (0, 1)], [(1, 2), (1, 2)]])
def test_a_clip_of_several_parts_of_a_film_has_no_pause_between_them(tmp_path, spans):
    """FFmpeg reads what lies hidden before each part again, with times that run back."""
    write_drawn(tmp_path / "a.mp4", a_drawn(count=96, sound=None))
    (tmp_path / "b.mp4").write_bytes(edited((tmp_path / "a.mp4").read_bytes(), spans))
    source = source_of_path(str(tmp_path / "b.mp4"))
    clip = load_clip(source)
    assert numbers(clip.frames) == [number for begin, end in spans for number in range(24 * begin, 24 * end)]
    assert (clip.fps, source.notes) == (24, {})


def test_time_stamps_in_the_order_of_storage_are_given_to_the_frames_as_they_are_shown(tmp_path):
    """As programs write them that know nothing of reordered frames."""
    write_drawn(tmp_path / "a.mp4", a_drawn(sound=None))
    with av.open(str(tmp_path / "a.mp4")) as file:
        stamps = sorted(packet.pts for packet in file.demux(video=0) if packet.size)

    def stored(packet, number):
        packet.pts = packet.dts = stamps[number]
        return True

    path = remux(tmp_path / "a.mp4", tmp_path / "b.mp4", stored)
    with av.open(path) as file:
        shown = [frame.pts for frame in file.decode(video=0)]
    assert any(after < before for before, after in pairwise(shown))  # else there is nothing to mend
    clip = load_clip(path)
    assert (numbers(clip.frames), clip.fps) == (list(range(48)), 24)
    assert numbers(load_clip(path, Stretch(start=20, count=5)).frames) == list(range(20, 25))


def test_an_avi_with_reordered_frames_is_read_in_order(tmp_path):
    write_drawn(tmp_path / "a.avi", a_drawn("avi", "mpeg4", sound="pcm_s16le"))
    clip = load_clip(str(tmp_path / "a.avi"))
    assert (numbers(clip.frames), clip.fps) == (list(range(48)), 24)
    assert beeps_of(clip) == pytest.approx([0.5, 1.5], abs=0.02)


@pytest.mark.parametrize(("container", "codec", "sound"), [("ts", "libx264", "mp2"), ("ts", "mpeg2video", "aac")])
def test_joined_recordings_are_read_to_their_end_with_the_sound_of_each_in_step(tmp_path, container, codec, sound):
    for name in "ab":
        write_drawn(tmp_path / f"{name}.ts", a_drawn(container, codec, sound=sound, beeps=(0.5, 1.5)))
    for parts in (2, 3):
        path = tmp_path / f"joined{parts}.ts"
        path.write_bytes(b"".join((tmp_path / f"{'ab'[n % 2]}.ts").read_bytes() for n in range(parts)))
        clip = load_clip(str(path))
        assert numbers(clip.frames) == parts * list(range(48))
        assert clip.fps == 24 and "pace" not in Film(str(path)).notes
        assert beeps_of(clip) == pytest.approx([begin + 2 * n for n in range(parts) for begin in (0.5, 1.5)], abs=0.02)
    late, rate = load_sound(source_of_path(str(path)), Stretch(start=72), 24)
    assert heard_at(late.numpy(), rate) == pytest.approx(0.5, abs=0.02)


def test_a_recording_joined_to_one_of_an_hour_later_has_no_hour_between(tmp_path):
    write_drawn(tmp_path / "a.ts", a_drawn("ts", sound="mp2"))
    write_drawn(tmp_path / "b.ts", a_drawn("ts", sound="mp2", offset=3600))
    (tmp_path / "c.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    clip = load_clip(str(tmp_path / "c.ts"))
    assert numbers(clip.frames) == 2 * list(range(48))
    assert beeps_of(clip) == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.02)


@pytest.mark.parametrize(
    ("parts", "beeps"), [("ns", [2.5, 3.5]), ("sns", [0.5, 1.5, 4.5, 5.5]), ("sn", [0.5, 1.5])], ids=["first", "middle", "last"]
)
def test_a_part_without_sound_is_silent_among_those_that_are_joined(tmp_path, parts, beeps):
    write_drawn(tmp_path / "s.ts", a_drawn("ts", sound="aac"))
    write_drawn(tmp_path / "n.ts", a_drawn("ts", sound=None))
    (tmp_path / "joined.ts").write_bytes(b"".join((tmp_path / f"{part}.ts").read_bytes() for part in parts))
    clip = load_clip(str(tmp_path / "joined.ts"))
    assert numbers(clip.frames) == len(parts) * list(range(48))
    assert beeps_of(clip) == pytest.approx(beeps, abs=0.02)


def test_parts_that_overlap_a_little_follow_each_other_with_the_sound_in_step(tmp_path):
    for overlap in (Fraction(3, 24), Fraction(1, 24)):
        for name, offset in (("a", 10), ("b", 12 - overlap)):
            write_drawn(tmp_path / f"{name}.ts", a_drawn("ts", sound="mp2", offset=offset))
        (tmp_path / "c.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
        clip = load_clip(str(tmp_path / "c.ts"))
        assert (numbers(clip.frames), clip.fps) == (2 * list(range(48)), 24)
        assert beeps_of(clip) == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.02)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_recording_that_begins_between_two_key_frames_has_its_sound_in_step(tmp_path, codec):
    write_drawn(tmp_path / "a.ts", a_drawn("ts", codec, sound="mp2", count=72, beeps=(1.0, 2.0)))  # key frames at 0, 12, 24, ...
    content = (tmp_path / "a.ts").read_bytes()
    with av.open(str(tmp_path / "a.ts")) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][8]
    (tmp_path / "b.ts").write_bytes(content[at // 188 * 188 :])
    clip = load_clip(str(tmp_path / "b.ts"))
    first = numbers(clip.frames)[0]
    assert first >= 8 and numbers(clip.frames) == list(range(first, 72))
    assert beeps_of(clip) == pytest.approx([1 - first / 24, 2 - first / 24], abs=0.02)


@pytest.mark.parametrize("container", ["mkv", "webm", "nut", "ts"])
def test_times_that_do_not_begin_at_0_are_no_damage(tmp_path, container):
    codec = {"webm": "libvpx-vp9", "nut": "mpeg4"}.get(container, "libx264")
    sound = {"webm": "libopus", "nut": "pcm_s16le", "ts": "mp2"}.get(container, "flac")
    write_drawn(tmp_path / f"a.{container}", a_drawn(container, codec, sound=sound, offset=1000, b_frames=0))
    source = source_of_path(str(tmp_path / f"a.{container}"))
    clip = load_clip(source)
    assert (numbers(clip.frames), source.notes) == (list(range(48)), {})
    assert beeps_of(clip) == pytest.approx([0.5, 1.5], abs=0.02)
    assert numbers(load_clip(source, Stretch(start=40)).frames) == list(range(40, 48))


def test_pictures_that_end_before_the_sound_are_no_damage(tmp_path):
    """Windows Media tells one length of both."""
    write_drawn(tmp_path / "a.wmv", a_drawn("wmv", "wmv2", sound="wmav2", count=96, b_frames=0, beeps=(0.5, 3.5)))
    path = remux(tmp_path / "a.wmv", tmp_path / "b.wmv", lambda packet, number: packet.stream.type == "audio" or number < 24, "asf")
    assert numbers(load_clip(path).frames) == list(range(24))


def test_frames_whose_time_of_decoding_is_not_told_begin_no_other_recording(tmp_path):
    """FFmpeg does not tell it of the first ones of HEVC in Matroska."""
    write_drawn(tmp_path / "a.mkv", a_drawn("mkv", "libx265", rate=5, count=20, b_frames=3, sound=None))
    with av.open(str(tmp_path / "a.mkv")) as file:
        assert next(file.demux(video=0)).dts is None  # else there is nothing to try
    source = source_of_path(str(tmp_path / "a.mkv"))
    clip = load_clip(source)
    assert (numbers(clip.frames), clip.fps, source.notes) == (list(range(20)), 5, {})


def test_frames_before_0_have_their_times(tmp_path):
    """FFmpeg gives those of Matroska none, and cannot look for them."""
    write_drawn(tmp_path / "a.mkv", a_drawn("mkv", sound="flac", offset=-1, count=96, beeps=(0.5, 1.5)))
    source = source_of_path(str(tmp_path / "a.mkv"))
    clip = load_clip(source)
    assert (numbers(clip.frames), clip.fps, Stretch().expected(source)) == (list(range(96)), 24, 96)
    assert beeps_of(clip) == pytest.approx([0.5, 1.5], abs=0.02)
    assert numbers(load_clip(source, Stretch(start=60, count=4)).frames) == list(range(60, 64))


def test_a_first_frame_that_is_said_to_stay_longer_changes_no_rate(tmp_path):
    """As cutting into a fragmented MP4 leaves it."""
    write_drawn(tmp_path / "a.mp4", a_drawn(sound=None, b_frames=0))

    def later(packet, number):
        if number:
            packet.pts, packet.dts = packet.pts + round(0.0125 / packet.time_base), packet.dts + round(0.0125 / packet.time_base)
        return True

    clip = load_clip(remux(tmp_path / "a.mp4", tmp_path / "b.mp4", later))
    assert (numbers(clip.frames), clip.fps) == (list(range(48)), 24)


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


@pytest.mark.parametrize("channels", [8, 16, 24])
@pytest.mark.parametrize("sound", ["pcm_s16le", "flac"])
def test_sound_of_any_number_of_channels_is_read(tmp_path, channels, sound):
    if sound == "flac" and channels > 8:
        pytest.skip("FLAC takes 8")
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


DAMAGED = [("mp4", "libx264", "yuv420p"), ("mp4", "libx265", "yuv420p"), ("mkv", "libvpx-vp9", "yuv420p"), ("mp4", "mpeg4", "yuv420p"),
           ("mov", "mjpeg", "yuvj420p"), ("mov", "prores_ks", "yuv422p10le"), ("avi", "mjpeg", "yuvj420p"), ("mkv", "ffv1", "yuv420p")]  # fmt: skip


@pytest.mark.parametrize(("container", "codec", "pixels"), DAMAGED)
@pytest.mark.parametrize("at", [20, 47])
def test_after_a_damaged_packet_the_pictures_go_on(tmp_path, container, codec, pixels, at):
    drawn = a_drawn(container, codec, pixels=pixels, sound=None, b_frames=0)
    write_drawn(tmp_path / f"a.{container}", drawn)
    content = bytearray((tmp_path / f"a.{container}").read_bytes())
    with av.open(str(tmp_path / f"a.{container}")) as file:
        hit = [packet for packet in file.demux(video=0) if packet.size][at]
        packet, place = bytes(hit), content.index(bytes(hit), hit.pos)
    content[place : place + len(packet)] = bytes([0x5A]) * len(packet)
    (tmp_path / f"b.{container}").write_bytes(content)
    source = source_of_path(str(tmp_path / f"b.{container}"))
    clip = load_clip(source)
    found = numbers(clip.frames)
    assert (len(found), clip.fps) == (48, 24)
    assert found[:at] == list(range(at))
    behind = at + 1 if codec in ("mjpeg", "prores_ks") else 24 if at < 24 else 48  # where the next picture needs no other
    assert found[behind:] == list(range(behind, 48))
    if found[at] == at - 1:  # else its decoder has made a damaged picture of it
        assert "could not be decoded" in source.notes["damage"]
    if behind < 48:
        part = load_clip(source_of_path(str(tmp_path / f"b.{container}")), Stretch(start=behind, count=4))
        assert numbers(part.frames) == list(range(behind, behind + 4))


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx265"), ("webm", "libvpx-vp9"), ("webm", "libvpx")])
def test_where_the_first_key_frame_is_damaged_the_clip_begins_at_the_next(tmp_path, container, codec):
    sound = "libopus" if container == "webm" else "aac"
    write_drawn(tmp_path / f"a.{container}", a_drawn(container, codec, sound=sound, b_frames=0, count=60, beeps=(0.2, 1.5)))
    content = bytearray((tmp_path / f"a.{container}").read_bytes())
    with av.open(str(tmp_path / f"a.{container}")) as file:
        packets = [(bytes(packet), packet.is_keyframe) for packet in file.demux(video=0) if packet.size]
    key = next(number for number, (_, is_key) in enumerate(packets) if number and is_key)
    place = content.index(packets[0][0])
    content[place : place + len(packets[0][0])] = bytes([0x5A]) * len(packets[0][0])
    (tmp_path / f"b.{container}").write_bytes(content)
    clip = load_clip(str(tmp_path / f"b.{container}"))
    assert numbers(clip.frames)[-(60 - key) :] == list(range(key, 60))
    assert beeps_of(clip)[-1] == pytest.approx(1.5 - (60 - len(clip.frames)) / 24, abs=0.02)


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


def test_a_file_of_nothing_but_damage_is_refused(tmp_path):
    path = write(tmp_path / "a.avi", numbered(6), codec="mjpeg", pixels="yuvj420p")
    content = (tmp_path / "a.avi").read_bytes()
    with av.open(path) as file:
        for packet in [bytes(packet) for packet in file.demux(video=0) if packet.size]:
            content = content.replace(packet, bytes(len(packet)))
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(ValueError, match=r"^no frame of it can be decoded\. Choose another clip"):
        load_clip(path)


@pytest.mark.parametrize("kind", ["webp", "avif", "gif", "png"])
def test_an_animation_is_read_whole(tmp_path, kind):
    pictures = [Image.fromarray(picture(number)) for number in range(12)]
    options = {"quality": 95, "lossless": True} if kind == "webp" else {"quality": 95} if kind == "avif" else {}
    try:
        pictures[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pictures[1:], duration=80, **options)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {kind}")
    clip = load_clip(str(tmp_path / f"a.{kind}"))
    assert (numbers(clip.frames), round(clip.fps, 3), clip.waveform) == (list(range(12)), 12.5, None)
    part = load_clip(str(tmp_path / f"a.{kind}"), Stretch(start=5, count=3))
    assert numbers(part.frames) == [5, 6, 7]


def test_an_animated_webp_whose_durations_are_rounded_has_the_rate_that_was_meant(tmp_path):
    pictures = [Image.fromarray(picture(number)) for number in range(12)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[30, 30, 40] * 4, lossless=True)
    clip = load_clip(str(tmp_path / "a.webp"))
    assert (numbers(clip.frames), round(clip.fps, 3)) == (list(range(12)), 30)


def test_an_animated_webp_keeps_its_pauses_and_is_black_where_it_is_transparent(tmp_path):
    pictures = [
        Image.fromarray(np.dstack([np.full((32, 48, 3), 100 + 50 * n, np.uint8), np.full((32, 48), 255 * (n > 0), np.uint8)]))
        for n in range(3)
    ]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[100, 300, 100], lossless=True)
    clip = load_clip(str(tmp_path / "a.webp"))
    assert ((clip.frames.mean((1, 2, 3)) * 255).round().int().tolist(), clip.fps) == ([0, 150, 150, 150, 200], 10)


def test_a_damaged_animation_is_refused(tmp_path):
    pictures = [Image.fromarray(picture(number)) for number in range(4)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=80, lossless=True)
    content = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(content[:40])
    with pytest.raises(ValueError, match="cannot be decoded as an animation"):
        load_clip(str(tmp_path / "a.webp"))


@pytest.mark.parametrize(("paused", "fps"), [(120, 60), (30, 30)])
def test_a_pause_keeps_the_rate_of_the_rest_and_is_told(tmp_path, paused, fps):
    times = (*range(60), *range(60 + paused * 5, 120 + paused * 5))
    write_drawn(tmp_path / "a.mkv", a_drawn("mkv", rate=fps, times=times, sound=None, b_frames=0))
    source = source_of_path(str(tmp_path / "a.mkv"))
    clip = load_clip(source)
    assert clip.fps == pytest.approx(fps, rel=1e-3)
    assert numbers(clip.frames) == [*range(59), *[59] * (1 + 5 * paused), *range(60, 120)]
    assert f"{5 * paused} of {len(clip.frames)} frames repeat" in source.notes["pace"] and "force_fps" in source.notes["pace"]
    even = source_of_path(str(tmp_path / "a.mkv"))
    load_clip(even, Stretch(count=40))
    assert even.notes == {}


def hlg(colour):
    """What a camera writes of an SDR colour, 0..1 RGB of BT.709: HLG in BT.2020, so that a display of 1000 cd/m2 shows it with white at 203."""
    display = (np.array(colour) ** 2.4) @ np.linalg.inv(
        np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    ).T
    display *= 0.203
    scene = display / (display @ [0.2627, 0.6780, 0.0593]) ** (0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene.clip(0)), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def test_hlg_is_converted_to_sdr_and_told(tmp_path):
    colours = [(200, 30, 30), (30, 160, 50), (40, 60, 200), (210, 160, 130), (235, 235, 235), (128, 128, 128)]
    signal = np.repeat(
        np.repeat(np.array([hlg(np.array(colour) / 255) for colour in colours])[None], 32, 1).repeat(32, 0).reshape(32, 6, 32, 3), 1, 0
    )
    rgb = np.ascontiguousarray((signal.reshape(32, 192, 3) * 65535).round().astype(np.uint16))
    with av.open(str(tmp_path / "a.mov"), "w") as file:
        stream = file.add_stream("libx265", rate=10, options={"x265-params": "log-level=none:pools=none", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 192, 32, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 18, 9, 1
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb48le")
        file.mux([*stream.encode(frame.reformat(format="yuv420p10le", dst_colorspace=9, dst_color_range=1)), *stream.encode(None)])
    source = source_of_path(str(tmp_path / "a.mov"))
    (frame,) = load_clip(source).frames.numpy() * 255
    found = frame.reshape(32, 6, 32, 3)[8:-8, :, 8:-8].mean((0, 2))
    assert np.abs(found - colours).max() <= 4
    assert "HLG" in source.notes["colours"]


def interlaced(path, codec="mpeg2video", flags="+ildct+ilme", tagged=True):
    """A bar that moves between the two fields of each frame. mpeg2video tells of it."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options={"flags": flags} if tagged else {})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.bit_rate = 6_000_000
        for number in range(12):
            whole = np.zeros((96, 128, 3), np.uint8)
            for field in (0, 1):
                at = 8 * number + 4 * field
                whole[field::2, at : at + 16] = 255
            frame = av.VideoFrame.from_ndarray(whole, format="rgb24").reformat(format="yuv420p")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return str(path)


def combed(frames):
    """How much neighbouring lines differ, beside how much lines of the same field do."""
    lines = np.asarray(frames).mean(3)[2:-2]
    return np.abs(np.diff(lines, axis=1)).mean() - np.abs(lines[:, 2:] - lines[:, :-2]).mean()


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_interlaced_frames_are_deinterlaced_unless_that_is_switched_off(tmp_path, name):
    path = interlaced(tmp_path / name)
    as_it_is, whole = source_of_path(path, deinterlace=False), source_of_path(path)
    raw, clear = load_clip(as_it_is), load_clip(whole)
    assert len(raw.frames) == len(clear.frames) == 12 and raw.fps == clear.fps == 25
    assert combed(raw.frames) > 0.02 and combed(clear.frames) < 0.2 * combed(raw.frames)
    assert (as_it_is.notes, "deinterlaced" in whole.notes["interlaced"]) == ({}, True)
    part = load_clip(source_of_path(path), Stretch(start=6, count=2))
    assert torch.equal(part.frames, clear.frames[6:8])


def test_progressive_frames_pass_as_they_are(tmp_path):
    path = interlaced(tmp_path / "a.mkv", tagged=False)
    source = source_of_path(path)
    assert torch.equal(load_clip(source).frames, load_clip(source_of_path(path, deinterlace=False)).frames)
    assert source.notes == {}


@pytest.mark.parametrize(
    ("size", "matrix"), [((576, 720), "ITU601"), ((720, 1280), "ITU709"), ((1280, 720), "ITU709"), ((544, 1280), "ITU709")]
)
def test_colours_without_a_tag_are_read_by_the_size(tmp_path, size, matrix):
    colour = np.broadcast_to(np.uint8([200, 60, 30]), (*size, 3))
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"crf": "1", "preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")
        file.mux([*stream.encode(frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range="MPEG")), *stream.encode(None)])
    found = next(iter(source_of_path(str(tmp_path / "a.mp4")).shown())).picture()
    assert np.abs(found[8:-8, 8:-8].astype(int) - [200, 60, 30]).max() <= 3


def test_a_late_stretch_is_sought_and_not_decoded_to(tmp_path):
    write_drawn(tmp_path / "a.mp4", a_drawn(count=190, beeps=(0.5, 6.5)))
    source = source_of_path(str(tmp_path / "a.mp4"))
    shown = list(source.shown(6.0))
    assert 0 < shown[0].begin <= 6 and len(shown) < 80
    clip = load_clip(source, Stretch(start=144, count=20))
    assert numbers(clip.frames) == list(range(144, 164))
    assert beeps_of(clip) == pytest.approx([0.5], abs=0.02)


def test_a_file_whose_index_leads_too_far_is_read_from_its_beginning(tmp_path, monkeypatch):
    write_drawn(tmp_path / "a.mp4", a_drawn(count=190))
    monkeypatch.setattr("blade.video.film.BEFORE", -1.0)
    assert numbers(load_clip(str(tmp_path / "a.mp4"), Stretch(start=144, count=3)).frames) == [144, 145, 146]


def test_reading_ends_at_once_where_the_tick_says_so(tmp_path):
    write_drawn(tmp_path / "a.ts", a_drawn("ts", count=190, sound="mp2"))  # which is decoded up to where the stretch begins
    ticks = []

    class Cancelled(Exception):
        pass

    def cancel():
        ticks.append(1)
        if len(ticks) == 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        load_clip(str(tmp_path / "a.ts"), Stretch(start=180), tick=cancel)
    assert len(ticks) == 7
    ticks.clear()
    with pytest.raises(Cancelled):
        load_sound(source_of_path(str(tmp_path / "a.ts")), Stretch(start=180), 5, tick=cancel)


LOGGING = """
import av
av.logging.set_level(getattr(av.logging, sys.argv[3]))
from blade.video.load import Stretch, load_clip
for _ in range(12):
    load_clip(sys.argv[2], Stretch(count=3))
print("done")
"""


@pytest.mark.parametrize("level", ["ERROR", "PANIC", "DEBUG"])
def test_another_pack_s_wish_for_a_quiet_ffmpeg_hangs_nothing(tmp_path, level):
    save_video(tmp_path / "a.mp4", [np.random.default_rng(0).integers(0, 256, (48, 96, 128, 3), np.uint8)], 24, H264)
    assert run(LOGGING, tmp_path / "a.mp4", level).strip().endswith("done")


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


def test_a_stream_that_begins_late_ends_nothing():
    """As one may in a recording of which packets are lost: PyAV raises an IndexError for its first packet, and goes on when it is asked again."""

    class Container:
        def __init__(self):
            self.left = [SimpleNamespace(size=1), SimpleNamespace(size=2), None, SimpleNamespace(size=0), SimpleNamespace(size=3)]

        def demux(self, *streams):
            while self.left:
                packet = self.left.pop(0)
                if packet is None:
                    raise IndexError("list index out of range")
                yield packet

    assert [packet.size for packet in packets_of(Container(), "video")] == [1, 2, 3]


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
