"""Clips that are not what a loader expects: each is read as a player shows it, or refused with one sentence."""

import io
import os
import re
import struct
import wave
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

from blade.video.fit import PAD
from blade.video.load import Stretch, at_even_times, decode_frames, load_clip, load_sound, restored, restored_size, uncut
from blade.video.save import CODING, FFV1, GIF, H264, PNG, PRORES, SUFFIX, VP9, save_video
from blade.video.source import Film, Folder, Held, Shown, natural, read_picture, source_of_path
from tests.system import on_linux, run
from tests.video.awkward import RATE, chart, heard_at, numbered, patches, tick, write, write_turned

H264_PIXELS = {"codec": "libx264", "pixels": "yuv420p"}
FORMS = [H264, FFV1, PRORES, VP9, GIF, PNG]
UNEVEN = [0, 100, 200, 300, 400, 1400, 1500, 1600, 1700, 1800]  # ms: frame 4 stays for a second


def forged_png(width=100_000, height=100_000):
    """A header that promises so many pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


def values(frames):
    """The number of each frame of `numbered`."""
    return [round(float(np.mean(np.asarray(frame)[-8:, -8:])) * (255 if frame.dtype != np.uint8 else 1) / 20) for frame in frames]


@pytest.mark.parametrize(("degrees", "corner"), [(90, (2, -3)), (180, (-3, -3)), (270, (-3, 2))])
def test_a_turned_clip_is_read_upright(tmp_path, degrees, corner):
    source = Film(write_turned(tmp_path / "a.mp4", degrees))
    clip = load_clip(source)
    assert (source.height, source.width) == tuple(clip.frames.shape[1:3]) == ((48, 32) if degrees != 180 else (32, 48))
    bright = [at for at in ((2, 2), (2, -3), (-3, 2), (-3, -3)) if clip.frames[0][at].mean() > 0.5]
    assert bright == [corner]  # where a player shows the square that is stored at the top left


@pytest.mark.parametrize(("suffix", "options"), [("mp4", H264_PIXELS), ("mkv", {})])
def test_a_varying_rate_is_read_at_an_even_one_with_each_frame_at_its_time(tmp_path, suffix, options):
    source = Film(write(tmp_path / f"a.{suffix}", numbered(10), UNEVEN, **options))
    clip = load_clip(source)
    assert clip.fps == 10
    assert values(clip.frames) == [0, 1, 2, 3, *[4] * 10, 5, 6, 7, 8, 9]
    assert abs(Stretch().expected(source) - 19) <= 1
    part = load_clip(source, Stretch(start=3, count=3, every_nth=6))
    assert values(part.frames) == [3, 4, 6] and part.fps == pytest.approx(10 / 6)


def test_a_rate_that_wavers_loses_no_frame(tmp_path):
    wobble = np.random.default_rng(0).uniform(-4, 4, 60)
    times = [round(n * 1000 / 30 + shift) for n, shift in enumerate(wobble)]
    pictures = np.stack([np.full((16, 16, 3), 4 * n, np.uint8) for n in range(60)])
    clip = load_clip(write(tmp_path / "a.mp4", pictures, times, rate=30, **H264_PIXELS))
    seen = (clip.frames.mean((1, 2, 3)) * 255 / 4).round().int().tolist()
    assert set(seen) == set(range(60)) and seen == sorted(seen)
    assert len(clip.frames) / clip.fps == pytest.approx(2, abs=0.08)


@pytest.mark.parametrize(("fps", "expected"), [(5, [0, 2, 4, 6, 8]), (20, [n // 2 for n in range(20)]), (10, list(range(10)))])
def test_a_forced_rate_leaves_out_or_repeats_frames_and_keeps_the_pace(tmp_path, fps, expected):
    source = Film(write(tmp_path / "a.mkv", numbered(10)))
    clip = load_clip(source, Stretch(fps=fps))
    assert (values(clip.frames), clip.fps, Stretch(fps=fps).expected(source)) == (expected, fps, len(expected))


def test_a_forced_rate_of_a_film_is_that_of_ffmpeg_s_filter():
    shown = [Shown(n / 24, 1 / 24, lambda n=n: n) for n in range(24)]
    assert [one.picture() for one in at_even_times(shown, 30, 0)][:10] == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7]
    assert len(list(at_even_times(shown, 30, 0))) == 30


def test_sound_that_begins_late_or_ends_early_is_not_moved(tmp_path):
    save_video(tmp_path / "a.mkv", [numbered(10)], 10, FFV1, waveform=torch.from_numpy(tick(0.7, 0.55)), sample_rate=RATE)
    source = Film(str(tmp_path / "a.mkv"))
    assert source.sound(0, 1e6)[0].shape == (1, round(0.7 * RATE))  # no silence is made up, however long it is asked for
    assert source.sound(0.8, 1) == (None, 0)


def test_sound_keeps_its_place_under_a_forced_rate_and_a_varying_one(tmp_path):
    save_video(tmp_path / "a.mkv", [numbered(10)], 10, FFV1, waveform=torch.from_numpy(tick(1, 0.55)), sample_rate=RATE)
    for stretch in (Stretch(), Stretch(fps=25), Stretch(fps=4)):
        clip = load_clip(str(tmp_path / "a.mkv"), stretch)
        assert heard_at(clip.waveform.numpy(), RATE) == pytest.approx(0.55, abs=1e-3)
        assert clip.waveform.shape[1] / RATE == pytest.approx(len(clip.frames) / clip.fps)
    late, _ = load_sound(Film(str(tmp_path / "a.mkv")), Stretch(start=10, fps=20), 10)
    assert heard_at(late.numpy(), RATE) == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("size", [(63, 95), (9, 130)])
def test_an_odd_size_is_cropped_or_padded_and_comes_back_whole(tmp_path, size):
    path = write(tmp_path / "a.mkv", np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8))
    whole = np.stack([frame.picture() for frame in Film(path).shown()])
    for stretch in (Stretch(), Stretch(sides=PAD), Stretch(1, 2, sides=PAD)):
        source = Film(path)
        frames = np.stack(list(decode_frames(source, stretch)))
        assert not any(side % 8 for side in frames.shape[1:3])
        assert restored_size(frames.shape[1:3], source, stretch) == size
        back = np.concatenate(list(restored([frames[:1], frames[1:]], source, stretch, uncut(source, stretch))))
        assert np.array_equal(back, whole[stretch.start :])


def test_frames_of_another_size_than_the_fit_is_of_are_refused(tmp_path):
    source = Film(write(tmp_path / "a.mkv", numbered(3, 63, 95)))
    with pytest.raises(ValueError, match="64x64 pixels.*read at 88x56"):
        restored_size((64, 64), source, Stretch())


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p"])
def test_ten_bits_and_full_chroma_are_read(tmp_path, pixels):
    picture = chart()
    path = write(tmp_path / "a.mp4", [picture] * 2, codec="libx264", pixels=pixels, options={"crf": "4"})
    assert np.abs(patches(next(decode_frames(Film(path)))) - patches(picture)).max() <= 3  # written here without any care


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"), [("webm", "libvpx-vp9", "yuva420p"), ("mov", "prores_ks", "yuva444p10le"), ("mkv", "ffv1", "bgra")]
)
def test_transparent_parts_are_black(tmp_path, suffix, codec, pixels):
    picture = np.zeros((32, 48, 4), np.uint8)
    picture[..., 0] = 200
    picture[:, :16, 3], picture[:, 16:32, 3] = 255, 128
    options = {"auto-alt-ref": "0", "crf": "4", "b": "0"} if suffix == "webm" else {}
    metadata = {"alpha_mode": "1"} if suffix == "webm" else {}
    path = write(tmp_path / f"a.{suffix}", [picture] * 3, codec=codec, pixels=pixels, given="rgba", options=options, metadata=metadata)
    frames = list(decode_frames(Film(path)))
    assert len(frames) == 3
    assert np.abs(frames[1][16, [8, 24, 40], 0].astype(int) - [200, 100, 0]).max() <= 4
    assert frames[1][..., 1:].max() <= 4


def test_a_transparent_gif_is_read_over_black(tmp_path):
    from PIL import Image

    pictures = [
        Image.fromarray(np.dstack([np.full((16, 16, 3), 250 - 50 * n, np.uint8), np.full((16, 16), 255 * (n > 0), np.uint8)]))
        for n in range(3)
    ]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    assert [int(frame.mean().round()) for frame in decode_frames(Film(str(tmp_path / "a.gif")))] == [0, 200, 150]


def test_a_gif_with_pauses_keeps_them(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(picture) for picture in numbered(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100])
    clip = load_clip(str(tmp_path / "a.gif"), Stretch(fps=10))
    assert values(clip.frames) == [0, 1, 1, 1, 2]


def test_one_frame_without_sound_is_a_clip(tmp_path):
    clip = load_clip(write(tmp_path / "a.mp4", numbered(1), **H264_PIXELS))
    assert (clip.frames.shape, clip.fps, clip.waveform) == ((1, 32, 48, 3), 10, None)


@pytest.mark.parametrize("form", [H264, FFV1, VP9])
def test_a_file_cut_off_gives_what_is_there_and_says_so_where_more_is_asked_for(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    save_video(tmp_path / "whole", [noise], 10, form)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) * 6 // 10])
    assert len(list(decode_frames(Film(str(tmp_path / "cut")), Stretch(count=10)))) == 10
    with pytest.raises(ValueError, match=r"(its frames end|decoding stops) after 2\.\d\d s.*damaged or cut off") as refused:
        load_clip(str(tmp_path / "cut"))
    told = int(re.search(r"before frame (\d+)", str(refused.value))[1])
    assert told >= 19 and len(load_clip(str(tmp_path / "cut"), Stretch(count=told)).frames) == told


def test_a_sound_that_outlasts_the_pictures_is_no_damage(tmp_path):
    save_video(tmp_path / "a.mkv", [numbered(3)], 10, FFV1)
    save_video(tmp_path / "b.mkv", [numbered(12)], 10, FFV1, waveform=torch.from_numpy(tick(1.2, 1.0)), sample_rate=RATE)
    import av

    with (
        av.open(str(tmp_path / "both.mkv"), "w") as file,
        av.open(str(tmp_path / "a.mkv")) as short,
        av.open(str(tmp_path / "b.mkv")) as long,
    ):
        streams = [file.add_stream_from_template(one) for one in (short.streams.video[0], long.streams.audio[0])]
        for stream, packets in zip(streams, (short.demux(video=0), long.demux(audio=0)), strict=True):
            for packet in packets:
                if packet.dts is not None:
                    packet.stream = stream
                    file.mux(packet)
    assert len(load_clip(str(tmp_path / "both.mkv")).frames) == 3


def test_hdr_of_the_kind_that_has_no_plain_look_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", numbered(2), codec="libx264", pixels="yuv420p10le", color_trc=16)
    with pytest.raises(ValueError, match=r"HDR \(PQ\).*Convert it to SDR"):
        Film(path)


def test_a_sound_alone_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.int16), layout="mono")
        sound.rate = RATE
        file.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"^the file holds no video stream\. Choose another"):
        Film(str(tmp_path / "a.wav"))


def test_a_kind_of_video_that_nothing_here_decodes_is_refused(tmp_path):
    path = tmp_path / "a.mov"
    save_video(path, [np.zeros((3, 32, 32, 3), np.uint8)], 8, PRORES)
    content = path.read_bytes()
    assert b"apch" in content
    path.write_bytes(content.replace(b"apch", b"zzzz"))
    with pytest.raises(ValueError, match=r"^its video is of a kind that cannot be decoded\. "):
        load_clip(str(path))


def test_a_file_that_promises_pictures_and_has_none_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        file.start_encoding()
    with pytest.raises(ValueError, match=r"^no frame of it can be decoded\. Choose another clip"):
        Film(str(tmp_path / "a.avi"))


def test_pixels_that_are_not_square_become_square(tmp_path):
    path = write(tmp_path / "a.mp4", numbered(2, 48, 64), sample_aspect_ratio=Fraction(4, 3), **H264_PIXELS)
    clip = load_clip(path)
    assert clip.frames.shape == (2, 48, 80, 3)  # 64 * 4/3 is 85
    assert load_clip(path, Stretch(longest_side=64)).frames.shape == (2, 32, 64, 3)


def test_a_folder_of_pictures_is_read_by_their_numbers(tmp_path):
    for n, picture in enumerate(numbered(11)):
        cv2.imwrite(str(tmp_path / f"frame{n}.png"), picture)
    (tmp_path / "notes.txt").write_text("no picture")
    source = source_of_path(str(tmp_path))
    assert isinstance(source, Folder)
    clip = load_clip(source, Stretch(start=1))
    assert (values(clip.frames), clip.fps, clip.waveform) == (list(range(1, 11)), 24, None)
    assert (len(load_clip(source, Stretch(fps=48)).frames), Stretch(fps=48).expected(source)) == (11, 11)
    assert sorted(["b10", "B9", "b1"], key=natural) == ["b1", "B9", "b10"]


def test_what_has_gone_meanwhile_or_is_larger_than_any_picture_is_told_of(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^the folder cannot be read \(No such file.*Choose another\.$"):
        Folder(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"^'1.png' cannot be read \(No such file"):
        read_picture(str(tmp_path / "1.png"))
    cv2.imwrite(str(tmp_path / "1.png"), numbered(1)[0])
    monkeypatch.setattr("blade.video.source.MOST_BYTES", 10)
    with pytest.raises(ValueError, match=r"^'1.png' cannot be read as a picture: it has .* GiB"):
        read_picture(str(tmp_path / "1.png"))


def test_pictures_of_every_kind_give_their_colours(tmp_path):
    colour = np.zeros((16, 16, 4), np.uint16)
    colour[:] = [10, 20, 30, 255]  # BGRA
    cv2.imwrite(str(tmp_path / "1.png"), (colour * 257).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "2.tiff"), colour[..., :3].astype(np.uint8))
    cv2.imwrite(str(tmp_path / "3.webp"), colour.astype(np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
    cv2.imwrite(str(tmp_path / "4.jpg"), colour[..., :3].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])
    cv2.imwrite(str(tmp_path / "5.png"), np.full((16, 16), 77, np.uint8))
    half = colour.astype(np.uint8)
    half[..., 3] = 0
    cv2.imwrite(str(tmp_path / "6.png"), half)
    frames = np.stack(list(decode_frames(Folder(str(tmp_path)))))[:, 8, 8].astype(int)
    assert np.abs(frames - [*[[30, 20, 10]] * 4, [77] * 3, [0] * 3]).max() <= 1


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    from PIL import Image

    picture, exif = Image.fromarray(numbered(1)[0]), Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown turned clockwise by 90 degrees
    picture.save(tmp_path / "1.jpg", exif=exif, quality=100)
    (frame,) = decode_frames(Folder(str(tmp_path)))
    assert frame.shape == (48, 32, 3) and frame[2, -3].mean() > 200 and frame[2, 2].mean() < 50


def forged_tiff(width, height, bits=16, big=False):
    """Says that it has so many pixels, in one strip of nothing."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 2**31),
    ]
    if big:
        body = b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in entries)
        return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)) + body + bytes(8)
    return (
        struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        + bytes(4)
    )


def forged_webp(width, height):
    chunk = struct.pack("<4sI4s", b"VP8X", 10, bytes(4)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def forged_bmp(width, height):
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def forged_jpg(width, height):
    whole = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = whole.index(b"\xff\xc0") + 5  # SOF0: marker, length, precision
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


FORGED = {
    "0.tif": forged_tiff(2**15, 2**15), "1.tif": forged_tiff(2**15, 2**15, big=True), "2.tif": forged_tiff(2**16, 2**14, 32),
    "3.webp": forged_webp(2**15, 2**15), "4.bmp": forged_bmp(2**15, 2**15), "5.bmp": forged_bmp(2**15, -(2**15)), "6.jpg": forged_jpg(2**15, 2**15),
    "7.png": forged_png(2**15, 2**15),
}  # fmt: skip


@on_linux
def test_a_picture_of_any_format_that_claims_more_pixels_than_a_film_has_is_refused_without_memory_for_them(tmp_path):
    write(tmp_path / "whole.mkv", numbered(3))
    folders = []
    for name, content in FORGED.items():
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_bytes(content)
        folders.append(tmp_path / name[0])
    *sentences, grown = run(MEMORY, tmp_path / "whole.mkv", *folders).splitlines()
    assert len(sentences) == len(FORGED)
    assert all("cannot be read as a picture" in sentence for sentence in sentences), sentences
    assert all("pixels" in sentence for sentence in sentences), sentences
    assert int(grown) < 60  # MiB


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", b"", "'a.png' cannot be read"),
        ("a.png", forged_png(), "'a.png' cannot be read.*100000x100000"),
        ("a.png", forged_png(65_535, 65_535), "'a.png' cannot be read.*65535x65535"),
        ("a.png", forged_png(2**14 + 1, 2**14), "'a.png' cannot be read.*16385x16384"),
        ("a.png", forged_png(2**31, 2**31), "'a.png' cannot be read"),
        ("a.png", forged_png(0, 0), "'a.png' cannot be read"),
        ("a.png", forged_png()[:20], "'a.png' cannot be read"),
        ("a.jpg", b"no", "'a.jpg' cannot be read"),
        ("a.tiff", cv2.imencode(".tiff", np.zeros((8, 8, 3), np.float32))[1].tobytes(), "'a.tiff' .* kind float32. Save .* 8 or 16 bits"),
        ("a.txt", b"no", "holds no pictures"),
    ],
)
def test_a_folder_without_pictures_or_with_a_broken_one_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_clip(Folder(str(tmp_path)))


def test_a_folder_whose_pictures_differ_in_size_is_refused_with_the_frame(tmp_path):
    for n, width in enumerate((48, 48, 64)):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.zeros((32, width, 3), np.uint8))
    with pytest.raises(ValueError, match="changes at frame 2, from 48x32 to 64x32"):
        load_clip(str(tmp_path))


def test_frames_in_memory_come_back_to_the_bit_with_their_sound():
    frames = torch.rand(6, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    sound = torch.from_numpy(tick(1, 0.5))
    clip = load_clip(Held(frames, 6, sound, RATE), Stretch(start=1, count=3))
    torch.testing.assert_close(clip.frames, frames[1:4], rtol=0, atol=1e-7)
    assert clip.waveform.shape == (1, RATE // 2)
    assert heard_at(clip.waveform.numpy(), RATE) == pytest.approx(0.5 - 1 / 6, abs=1e-3)
    clear = torch.cat([frames, torch.zeros(6, 16, 24, 1)], 3)
    assert load_clip(Held(clear, 6)).frames.max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_and_loaded_keeps_its_frames_its_length_and_its_colours(tmp_path, form):
    picture, path = chart(), tmp_path / f"a{SUFFIX[form]}"
    pictures = np.stack([np.roll(picture, 32 * n, 1) for n in range(12)])
    save_video(path, [pictures[:5], pictures[5:]], 12, form)
    clip = load_clip(str(path), Stretch(fps=12 if form == PNG else 0))
    assert len(clip.frames) == 12 and clip.fps == pytest.approx(12, rel=5e-3)  # a gif's clock: hundredths of a second
    found = np.stack([patches(np.roll(frame, -32 * n, 1)) for n, frame in enumerate(clip.frames.numpy() * 255)])
    assert np.abs(found - patches(picture)).max() <= (0.01 if form in (FFV1, PNG) else 2)


@pytest.mark.parametrize("form", [H264, FFV1, PRORES, VP9, PNG])
def test_sound_is_saved_and_loaded_in_its_place(tmp_path, form):
    path = tmp_path / f"a{SUFFIX[form]}"
    save_video(path, [numbered(12)] * 2, 12, form, waveform=torch.from_numpy(tick(2, 1.25)), sample_rate=RATE)
    clip = load_clip(str(path), Stretch(fps=12 if form == PNG else 0))
    assert clip.waveform.shape[1] / clip.sample_rate == pytest.approx(2, abs=0.05)
    assert heard_at(clip.waveform.numpy(), clip.sample_rate) == pytest.approx(1.25, abs=2e-3)


def test_a_gif_is_saved_without_its_sound(tmp_path):
    save_video(tmp_path / "a.gif", [numbered(3)], 10, GIF, waveform=torch.from_numpy(tick(0.3, 0.1)), sample_rate=RATE)
    assert load_clip(str(tmp_path / "a.gif")).waveform is None


def test_every_form_has_a_suffix_and_a_coding():
    assert SUFFIX.keys() == {*CODING, PNG} == set(FORMS)


def playlists(secret):
    """Texts that FFmpeg takes for a list of other files, by the suffix that makes it do so."""
    stream = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{{}}{secret}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet>'
        f'<Representation id="0" mimeType="video/mp4" bandwidth="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    return {
        "plain.m3u8": stream.format(""),
        "url.m3u8": stream.format("file://"),
        "concat.mp4": "ffconcat version 1.0\nfile linked.ts\n",
        "dash.mpd": dash,
    }


@pytest.mark.parametrize("name", playlists(""))
@pytest.mark.parametrize("held", ["path", "bytes"])
def test_a_list_of_other_files_opens_none_of_them(tmp_path, name, held):
    secret, listing = tmp_path / "elsewhere" / "secret.ts", tmp_path / "input" / name
    for path in (secret, listing):
        path.parent.mkdir()
    write(secret, numbered(3), **H264_PIXELS)
    (listing.parent / "linked.ts").symlink_to(secret)
    assert len(load_clip(str(secret)).frames) == 3
    listing.write_text(playlists(secret)[name])
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_clip(Film(str(listing) if held == "path" else io.BytesIO(listing.read_bytes())))


@on_linux
def test_what_ffmpeg_alone_would_read_from_a_list_is_there(tmp_path):
    """Else the test above would pass for another reason."""
    import av

    write(tmp_path / "linked.ts", numbered(3), **H264_PIXELS)
    lists = playlists(tmp_path / "linked.ts")
    for name in ("plain.m3u8", "concat.mp4"):
        (tmp_path / name).write_text(lists[name])
        with av.open(str(tmp_path / name)) as file:
            assert len(list(file.decode(video=0))) == 3


def test_a_film_that_is_gone_or_is_no_file_is_refused(tmp_path):
    source = Film(write(tmp_path / "a.mkv", numbered(2)))
    (tmp_path / "a.mkv").unlink()
    with pytest.raises(ValueError, match="no file, or not there any more"):
        load_clip(source)


@on_linux
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="no file"):
        Film(str(tmp_path / "a.mp4"))


def test_a_frame_that_is_shown_for_months_is_refused_once_the_memory_is_full(tmp_path):
    """As a clock that jumps while it is recorded makes it."""
    source = Film(write(tmp_path / "a.mkv", numbered(3), [0, 100, 10**10]))
    with pytest.raises(ValueError, match=r"do not fit into the 0\.0 GiB.*Set frame_count to at most 64"):
        load_clip(source, room=64 * 32 * 48 * 15)


def test_frames_that_the_header_promises_are_refused_after_the_first(tmp_path, monkeypatch):
    source = Film(write(tmp_path / "a.mp4", numbered(9), **H264_PIXELS))
    source.frames, decoded = 10**6, []
    real = source.picture
    monkeypatch.setattr(source, "picture", lambda frame: decoded.append(frame) or real(frame))
    frame = 32 * 48 * 15
    with pytest.raises(ValueError, match=r"^1000000 frames or more of 48x32 pixels do not fit.*at most 9, or a smaller longest_side\.$"):
        load_clip(source, room=9 * frame)
    assert len(decoded) == 1
    assert len(load_clip(source, Stretch(count=9), room=9 * frame).frames) == 9
    with pytest.raises(ValueError, match="^9 frames or more.*at most 8"):
        load_clip(source, Stretch(count=9), room=9 * frame - 1)


def forged(content, at, form, *claims):
    """Bytes, of which those at a place say something else."""
    return content[:at] + struct.pack(form, *claims) + content[at + struct.calcsize(form) :]


def test_a_film_that_claims_more_pixels_than_there_can_be_is_refused_without_memory_for_them(tmp_path):
    save_video(tmp_path / "a.gif", [numbered(3)], 10, GIF)
    gif = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(forged(gif, 6, "<HH", 65_535, 65_535))  # GIF89a, the logical screen
    write(tmp_path / "b.avi", numbered(3))
    avi = (tmp_path / "b.avi").read_bytes()
    at = avi.index(b"strf") + 12  # BITMAPINFOHEADER, width and height
    (tmp_path / "b.avi").write_bytes(forged(avi, at, "<ii", 60_000, 60_000))
    for name in ("a.gif", "b.avi"):
        with pytest.raises(ValueError, match=r"decoded|no frame"):
            load_clip(str(tmp_path / name))


MEMORY = """
from pathlib import Path
from blade.video.load import load_clip
from blade.video.source import source_of_path

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) // 1024

load_clip(sys.argv[2])
before = peak()
for path in sys.argv[3:]:
    try:
        load_clip(source_of_path(path))
        print("read")
    except ValueError as error:
        print(error)
print(peak() - before)
"""


@on_linux
def test_forged_headers_take_no_memory(tmp_path):
    write(tmp_path / "whole.mkv", numbered(3))
    save_video(tmp_path / "a.gif", [numbered(3)], 10, GIF)
    (tmp_path / "a.gif").write_bytes(forged((tmp_path / "a.gif").read_bytes(), 6, "<HH", 65_535, 65_535))
    folders = []
    for name, content in {"bomb": forged_png(2**14, 2**14), "claim": forged_png(), "hole": b""}.items():
        (tmp_path / name).mkdir()
        folders.append(tmp_path / name)
        (tmp_path / name / "0.png").write_bytes(content)
    with (tmp_path / "hole" / "0.png").open("r+b") as file:
        file.truncate(100 * 2**30)
    *sentences, grown = run(MEMORY, tmp_path / "whole.mkv", tmp_path / "a.gif", *folders).splitlines()
    assert len(sentences) == 4 and "read" not in sentences and "it has 100 GiB" in sentences[-1]
    assert int(grown) < 100  # MiB


def test_a_sound_of_an_absurd_rate_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((16, 16, 3), np.uint8))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 2_000_000_000, 0, "NONE", ""))
        file.writeframes(b"ab" * 100)
    with pytest.raises(ValueError, match="2000000000 samples a second"):
        load_clip(str(tmp_path))


def test_a_sound_that_claims_to_be_longer_than_it_is_gives_what_is_there(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((16, 16, 3), np.uint8))
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"ab" * 100)
    content = (tmp_path / "sound.wav").read_bytes()
    (tmp_path / "sound.wav").write_bytes(forged(content, content.index(b"data") + 4, "<I", 2**32 - 2))
    assert load_clip(str(tmp_path), Stretch(fps=1)).waveform.shape == (1, 100)
