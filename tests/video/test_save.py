import weakref

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from blade.video.load import load_clip
from blade.video.save import FFV1, GIF, H264, PNG, PRORES, SUFFIX, VP9, save_video
from blade.video.whole import PART, Unwritable
from tests.system import file_limit, kill_at_work, on_linux


def noise(frames=7, height=24, width=40):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def tone(seconds, rate, channels=1):
    return (0.5 * torch.sin(torch.arange(int(seconds * rate)) / rate * 2 * torch.pi * 300)).expand(channels, -1)


def back(path):
    clip = load_clip(str(path))
    return clip, (clip.frames * 255).round().byte().numpy()


def test_ffv1_gives_back_every_bit_of_frames_and_sound(tmp_path):
    frames, sound = noise(), torch.rand(3, 9000) * 4 - 2
    assert save_video(tmp_path / "a.mkv", [frames[:4], frames[4:]], 7, FFV1, waveform=sound, sample_rate=9000) == 7
    clip, read = back(tmp_path / "a.mkv")
    assert np.array_equal(read, frames)
    assert torch.equal(clip.waveform, sound)
    assert clip.fps == 7


def test_png_frames_give_back_every_bit_of_frames_and_sound(tmp_path):
    frames, sound = noise(), torch.rand(3, 9000) * 4 - 2
    folder = tmp_path / "Bänder_00001_"  # a path that is not ASCII
    assert save_video(folder, [frames[:4], frames[4:]], 7, PNG, waveform=sound, sample_rate=9000) == 7
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:05}.png" for number in range(7)] + ["sound.wav"]
    read = [cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1] for path in sorted(folder.glob("*.png"))]
    assert np.array_equal(read, frames)
    with av.open(str(folder / "sound.wav")) as file:
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], 1).reshape(-1, 3).T
        assert file.streams.audio[0].rate == 9000
    assert np.array_equal(heard, sound.numpy())


def test_png_frames_are_numbered_as_video_tools_count_them(tmp_path):
    save_video(tmp_path / "a", [noise()], 7, PNG)
    with av.open(str(tmp_path / "a" / "%05d.png"), format="image2") as file:
        assert np.array_equal([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)], noise())


def test_png_frames_never_go_into_a_folder_that_exists(tmp_path):
    save_video(tmp_path / "a", [noise(2)], 7, PNG)
    with pytest.raises(ValueError, match="already something at .*another name"):
        save_video(tmp_path / "a", [noise()], 7, PNG)
    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("form", [FFV1, PNG])
def test_lossless_formats_take_odd_sides(tmp_path, form):
    assert save_video(tmp_path / "a", [noise(2, 23, 41)], 7, form) == 2


def test_h264_is_tagged_bt709_in_limited_range_and_coded_so(tmp_path):
    save_video(tmp_path / "a.mp4", [np.full((2, 16, 16, 3), (255, 0, 0), np.uint8)], 24, crf=1)
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        planes = next(file.decode(stream)).to_ndarray()
        context = stream.codec_context
    assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    assert context.pix_fmt == "yuv420p"
    red = [planes[0, 0], planes[16, 0], planes[20, 0]]
    assert red == pytest.approx([63, 102, 240], abs=1)  # BT.709-6, table 3: red at 8 bits


def test_h264_looks_like_what_was_written(tmp_path):
    ramp = np.zeros((5, 64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(0, 256, 4), np.arange(0, 256, 4)[:, None]
    save_video(tmp_path / "a.mp4", [ramp], 24)
    _, read = back(tmp_path / "a.mp4")
    assert read.shape == ramp.shape
    assert np.abs(read.astype(int) - ramp).mean() < 2


def test_a_lower_crf_makes_a_larger_file(tmp_path):
    for crf in (5, 40):
        save_video(tmp_path / f"{crf}.mp4", [noise()], 24, crf=crf)
    assert (tmp_path / "5.mp4").stat().st_size > 2 * (tmp_path / "40.mp4").stat().st_size


@pytest.mark.parametrize("fps", [24000 / 1001, 30000 / 7007, 0.01, 1000])
@pytest.mark.parametrize("form", [H264, FFV1])
def test_the_frame_rate_comes_back(tmp_path, form, fps):
    save_video(tmp_path / "a", [noise()], fps, form)
    assert back(tmp_path / "a")[0].fps == pytest.approx(fps, rel=1e-5)


@pytest.mark.parametrize(("rate", "written"), [(16000, 16000), (44100, 44100), (192000, 48000)])  # AAC knows no 192 kHz
def test_mp4_carries_the_sound_in_its_place(tmp_path, rate, written):
    save_video(tmp_path / "a.mp4", [noise(24)], 24, waveform=tone(3, rate, channels=2), sample_rate=rate)
    clip, _ = back(tmp_path / "a.mp4")
    assert clip.sample_rate == written
    assert clip.waveform.shape == (2, written)  # cut at the last frame's end
    middle = slice(written // 4, written * 3 // 4)
    torch.testing.assert_close(clip.waveform[:, middle], tone(1, written, 2)[:, middle], rtol=0, atol=0.05)


def chord(channels, rate=48000):
    """One second; 100, 120, 140, ... Hz, which a channel of low frequencies takes too."""
    tones = 100 + 20 * torch.arange(channels)[:, None]
    return 0.3 * torch.sin(2 * torch.pi * tones * torch.arange(rate) / rate)


def heard(path):
    """The pitch of each channel in Hz, and the sample rate; the samples packed, since PyAV's arrays of planes end at seven."""
    with av.open(str(path)) as file:
        stream, packed = file.streams.audio[0], av.AudioResampler(format="flt")
        samples = [part.to_ndarray().reshape(-1, stream.channels) for frame in file.decode(stream) for part in packed.resample(frame)]
        rate = stream.rate
    middle = np.concatenate(samples)[rate // 4 : rate // 4 + rate // 2]
    return (np.abs(np.fft.rfft(middle, axis=0)).argmax(axis=0) * rate / len(middle)).tolist(), rate


@pytest.mark.parametrize(
    ("form", "channels"),
    [(form, channels) for form in (H264, VP9) for channels in range(1, 9)]
    + [(form, channels) for form in (PRORES, FFV1, PNG) for channels in (3, 8, 9, 16)],
)
def test_every_channel_of_the_sound_comes_back_in_its_place(tmp_path, form, channels):
    save_video(tmp_path / "a", [noise(24)], 24, form, waveform=chord(channels), sample_rate=48000)
    pitches, rate = heard(tmp_path / "a" / "sound.wav" if form == PNG else tmp_path / "a")
    assert rate == 48000 and pitches == [100 + 20 * number for number in range(channels)]


@pytest.mark.parametrize("form", [H264, VP9])
@pytest.mark.parametrize("channels", [3, 4])
def test_three_and_four_channels_keep_their_high_notes(tmp_path, form, channels):
    high = 0.3 * torch.sin(2 * torch.pi * 5000 * torch.arange(48000) / 48000).expand(channels, -1)
    save_video(tmp_path / "a", [noise(24)], 24, form, waveform=high, sample_rate=48000)
    assert heard(tmp_path / "a")[0] == [5000] * channels


@pytest.mark.parametrize(
    ("rate", "channels", "expected"), [(48000, 1, 128_000), (48000, 2, 256_000), (48000, 6, 768_000), (16000, 2, 85_333)]
)
def test_the_bit_rate_of_aac_goes_by_channels_and_samples(tmp_path, rate, channels, expected):
    loud = torch.rand(channels, 2 * rate, generator=torch.Generator().manual_seed(0)) - 0.5
    save_video(tmp_path / "a.mp4", [noise(48, 16, 16)], 24, waveform=loud, sample_rate=rate)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.audio[0].bit_rate == pytest.approx(expected, rel=0.15)


def test_a_sound_that_a_gif_leaves_out_may_have_any_number_of_channels(tmp_path):
    assert save_video(tmp_path / "a.gif", [noise()], 10, GIF, waveform=torch.zeros(12, 8000), sample_rate=8000) == 7


GRAPH = {"prompt": '{"1": {"class_type": "A", "inputs": {"text": "\\u00e4 \\\\ {"}}}', "workflow": '{"nodes": []}'}


@pytest.mark.parametrize("form", [H264, PRORES, VP9, FFV1])
def test_metadata_lies_in_the_tags_of_a_video(tmp_path, form):
    save_video(tmp_path / "a", [noise(3)], 24, form, metadata=GRAPH)
    with av.open(str(tmp_path / "a")) as file:
        found = {name.lower(): text for name, text in file.metadata.items()}  # Matroska's are in capitals
    assert {name: found.get(name) for name in GRAPH} == GRAPH
    save_video(tmp_path / "b", [noise(3)], 24, form)
    with av.open(str(tmp_path / "b")) as file:
        assert not {name.lower() for name in file.metadata} & GRAPH.keys()


def test_metadata_of_png_frames_lies_in_each_as_text(tmp_path):
    save_video(tmp_path / "a", [noise(3)], 24, PNG, metadata=GRAPH | {"\u20ac": "\u20ac"})
    for path in sorted((tmp_path / "a").iterdir()):
        with Image.open(path) as picture:
            picture.load()
            assert picture.text == GRAPH | {"?": "?"}
    assert np.array_equal(back(tmp_path / "a")[1], noise(3))


@pytest.mark.parametrize("form", [H264, PRORES])
def test_the_tags_of_mp4_and_mov_lie_before_the_pictures(tmp_path, form):
    """The page reads no more than the first 64 MiB."""
    save_video(tmp_path / "a", [noise(24, 128, 128)], 24, form, metadata=GRAPH)
    content = (tmp_path / "a").read_bytes()
    assert content.index(GRAPH["workflow"].encode()) < content.index(b"mdat")


def test_sound_shorter_than_the_frames_does_not_shorten_them(tmp_path):
    save_video(tmp_path / "a.mp4", [noise(24)], 24, waveform=tone(0.5, 16000), sample_rate=16000)
    assert len(back(tmp_path / "a.mp4")[1]) == 24


def test_sound_lies_beside_the_pictures_in_the_file(tmp_path):
    """Else a player would have to read to the end of the pictures to find it."""
    save_video(tmp_path / "a.mkv", [noise(200, 16, 16)], 8, FFV1, waveform=tone(25, 8000), sample_rate=8000)
    with av.open(str(tmp_path / "a.mkv")) as file:
        kinds = [packet.stream.type for packet in file.demux() if packet.size]
    assert "audio" in kinds[:10]
    assert "video" in kinds[-10:]


def test_only_a_few_chunks_are_held_at_once(tmp_path):
    alive, most = weakref.WeakSet(), 0

    class Chunk(np.ndarray):
        """An array that a WeakSet takes."""

        __hash__ = object.__hash__

    def chunks():
        nonlocal most
        for _ in range(12):
            chunk = noise(2, 16, 16).view(Chunk)
            alive.add(chunk)
            most = max(most, len(alive))
            yield chunk

    assert save_video(tmp_path / "a.mkv", chunks(), 8, FFV1) == 24
    assert most <= 3


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_a_cancelled_folder_leaves_nothing(tmp_path, raised):
    def chunks():
        yield noise(3)
        raise raised

    with pytest.raises(raised):
        save_video(tmp_path / "a", chunks(), 24, PNG, waveform=tone(3, 16000), sample_rate=16000)
    assert not list(tmp_path.iterdir())


def test_a_cancelled_file_leaves_the_earlier_one_and_nothing_else(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"earlier")

    class Cancelled(BaseException):
        pass

    def chunks():
        yield noise(60)
        raise Cancelled

    with pytest.raises(Cancelled):
        save_video(tmp_path / "a.mp4", chunks(), 24, waveform=tone(3, 16000), sample_rate=16000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("chunks", "options", "sentence"),
    [
        ([], {}, "no frames"),
        ([noise(0)], {}, "no frames"),
        ([noise(2), noise(2, 32)], {}, "frame 2 is 40x32 pixels, but the first is 40x24"),
        ([noise(2, 23, 40)], {}, "even sides, and these are 40x23 pixels"),
        ([noise(2, 24, 41)], {}, "even sides, and these are 41x24 pixels"),
        ([noise().astype(np.float32)], {}, r"float32 \[7, 24, 40, 3\].*uint8"),
        ([noise()[0]], {}, r"\[24, 40, 3\].*\[frames, height, width, 3\]"),
        ([noise()], {"fps": float("nan")}, "frame rate is nan"),
        ([noise()], {"fps": 0}, "frame rate is 0"),
        ([noise()], {"waveform": torch.tensor([[0.0, float("inf")]]), "sample_rate": 8000}, "sound.*not finite"),
        ([noise()], {"waveform": torch.zeros(65, 10), "sample_rate": 8000}, r"\[65, 10\].*1 to 64 channels"),
        (
            [noise()],
            {"waveform": torch.zeros(9, 10), "sample_rate": 8000},
            r"9 channels, and mp4 \(H.264\) takes 8\. Choose mov .*mix the sound down",
        ),
        ([noise()], {"waveform": torch.zeros(9, 10), "sample_rate": 8000, "form": VP9}, r"9 channels, and webm \(VP9\) takes 8"),
        ([noise()], {"waveform": torch.zeros(1, 10)}, "sample rate is 0"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, chunks, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        save_video(tmp_path / "a.mp4", chunks, **{"fps": 24, **options})
    assert not list(tmp_path.iterdir())


def test_what_ffmpeg_itself_refuses_is_told_with_the_form_and_leaves_no_file(tmp_path, monkeypatch):
    def refuse(self, picture):
        raise av.error.InvalidDataError(1094995529, "Invalid data")

    monkeypatch.setattr("blade.video.save.Pictures.write", refuse)
    with pytest.raises(Unwritable, match=r"^'a.mp4' cannot be written as mp4 \(H.264\) \(Invalid data\)\. Choose another format\.$"):
        save_video(tmp_path / "a.mp4", [noise()], 7, H264)
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="frame 2 is 40x32 pixels, but the first is 40x24"):
        save_video(tmp_path / "a", [noise(2), noise(2, 32)], 24, PNG)
    assert not list(tmp_path.iterdir())


@on_linux
@pytest.mark.parametrize("form", [H264, FFV1, PRORES, VP9, GIF, PNG])
def test_a_disk_that_fills_up_leaves_the_earlier_file_and_nothing_else(tmp_path, form):
    target = tmp_path / f"a{SUFFIX[form]}"
    if form != PNG:  # which takes nobody's place
        save_video(target, [noise(2)], 24, form)
    before = target.read_bytes() if target.exists() else b""
    frames = noise(12, 96, 128)
    with file_limit(20_000), pytest.raises(Unwritable, match=rf"^'{target.name}' cannot be written \(File too large\)\. Make room"):
        save_video(target, [frames], 24, form, waveform=tone(1, 48000), sample_rate=48000)
    assert [path.name for path in tmp_path.iterdir()] == [target.name] * (form != PNG)
    assert not before or target.read_bytes() == before


@on_linux
def test_a_sound_that_does_not_fit_beside_png_frames_leaves_no_folder(tmp_path):
    with file_limit(20_000), pytest.raises(Unwritable, match="File too large"):
        save_video(tmp_path / "a", [np.zeros((24, 16, 16, 3), np.uint8)], 24, PNG, waveform=tone(1, 48000), sample_rate=48000)
    assert not list(tmp_path.iterdir())


FILM = """
import shutil
import numpy as np
import torch
from pathlib import Path
from blade.video.load import load_clip
from blade.video.save import FFV1, PNG, save_video
folder, frames, turn = Path(sys.argv[2]), np.random.default_rng(0).integers(0, 256, (6, 120, 160, 3), np.uint8), 0
film, sound = folder / "a.mkv", torch.zeros(1, 8000)

def work(kill):
    global turn
    turn += 1
    save_video(film, [frames + np.uint8(kill)], 12, FFV1, waveform=sound, sample_rate=8000)
    save_video(folder / f"b_{kill}_{turn}", [frames], 12, PNG, waveform=sound, sample_rate=8000)

def check():
    read = (load_clip(str(film)).frames.numpy() * 255).round().astype(np.uint8)
    assert any(np.array_equal(read, frames + np.uint8(kill)) for kill in range(11))
    for place in folder.glob("b_*"):
        clip = load_clip(str(place))
        assert np.array_equal((clip.frames.numpy() * 255).round().astype(np.uint8), frames) and clip.waveform is not None
        shutil.rmtree(place)
"""


@on_linux
def test_a_killed_process_leaves_whole_files_and_folders_of_a_name_that_is_ours(tmp_path):
    kill_at_work(FILM, tmp_path)
    others = [path for path in tmp_path.iterdir() if path.name != "a.mkv" and not path.name.startswith("b_")]
    assert others and all(PART.fullmatch(path.name) for path in others)
