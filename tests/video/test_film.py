"""Films as cameras, programs and bad transfers leave them: each is shown as players show it."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from blade.video.load import Stretch, load_clip, load_sound
from blade.video.save import H264, save_video
from blade.video.source import source_of_path
from tests.system import run
from tests.video.awkward import numbered, write
from tests.video.drawn import a_drawn, beeps_of, numbers, picture
from tests.video.drawn import write as write_drawn

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
        stream = file.add_stream(
            "prores_ks", rate=10, options={"profile": "3"}
        )  # a telephone's HEVC differs in nothing that is looked at here
        stream.width, stream.height, stream.pix_fmt = 192, 32, "yuv422p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 18, 9, 1
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb48le")
        file.mux([*stream.encode(frame.reformat(format="yuv422p10le", dst_colorspace=9, dst_color_range=1)), *stream.encode(None)])
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
