"""When frames are shown, in films that are cut, joined, begun midway or badly stamped; and what is sought of them."""

import struct
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import pytest

from blade.video.load import Stretch, load_clip, load_sound
from blade.video.source import Film, source_of_path
from blade.video.timing import packets_of
from tests.video.awkward import heard_at
from tests.video.drawn import a_drawn, beeps_of, numbers, remux
from tests.video.drawn import write as write_drawn


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
