"""The nodes that read clips while they read: they can be cancelled, they show how far they are, and they tell what was done to the clip."""

import shutil
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from blade.video.fit import CROP, PAD
from blade.video.load import Stretch, load_clip
from blade.video.save import FFV1, save_video
from blade.video.source import source_of_path
from demo import clips

CLIP, FRAMES, RATE = "blade_red_circle", 300, 8000
LATE = {"start_frame": 200, "frame_count": 2}
VAE = SimpleNamespace(latent_channels=4, downscale_ratio=8)


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    """What reads the clips of a folder of its own, by the node's name: as a function of the file's name and of the stretch. told: what they show."""
    import folder_paths
    from comfy_api.latest import InputImpl

    import blade.nodes.encode_video
    import blade.nodes.load_video
    import blade.nodes.save_video
    import blade.nodes.video_frames

    told = []
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(blade.nodes.load_video, "show_in_node", lambda text, node_id: told.append(text))

    def defaults(options):
        return {"start_frame": 0, "frame_count": 0, "every_nth": 1, "longest_side": 0} | options

    def load(name, **options):
        return blade.nodes.load_video.LoadVideo.execute(name, **defaults(options))

    def encode(name, **options):
        vae = SimpleNamespace(**vars(VAE), encode=lambda pixels: torch.zeros(len(pixels), 4, 8, 8), device=torch.device("meta"))
        return blade.nodes.encode_video.EncodeVideo.execute(vae, name, **defaults(options))

    def from_video(name, **options):
        return blade.nodes.video_frames.VideoToFrames.execute(InputImpl.VideoFromFile(str(tmp_path / name)), **defaults(options))

    return SimpleNamespace(load=load, encode=encode, from_video=from_video, base=tmp_path, told=told)


@pytest.fixture
def long(nodes):
    """A clip of many frames, with its sound."""
    frames = np.zeros((FRAMES, 32, 40, 3), np.uint8)
    sound = torch.zeros(1, FRAMES * RATE // 25)
    save_video(nodes.base / "long.mkv", [frames], 25, FFV1, waveform=sound, sample_rate=RATE)
    return "long.mkv"


@pytest.fixture
def cancelled(comfy, monkeypatch):
    """Cancels as the server does, when the work has asked so many times whether it is."""
    import comfy.model_management as management

    def after(times):
        asked = []

        def ask():
            asked.append(None)
            if len(asked) > times:
                raise management.InterruptProcessingException

        monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", ask)
        return pytest.raises(management.InterruptProcessingException)

    return after


@pytest.mark.parametrize("name", ["load", "encode", "from_video"])
@pytest.mark.parametrize("times", [0, 3])
def test_reading_ends_where_it_is_cancelled_be_it_on_the_way_to_the_first_frame(nodes, long, cancelled, name, times):
    with cancelled(times):
        getattr(nodes, name)(long, **LATE)
    assert nodes.told == []


def test_the_sound_s_reading_ends_too(nodes, long, cancelled):
    from blade.video.load import decode_frames

    asked, stretch = [], Stretch(count=2)
    list(decode_frames(source_of_path(str(nodes.base / long)), stretch, lambda: asked.append(None)))
    with cancelled(len(asked) + 3):
        nodes.load(long, frame_count=2)


def test_what_was_cropped_is_read_again_only_until_it_is_cancelled(nodes, long, cancelled):
    from blade.nodes.save_video import own_frames

    source, stretch = nodes.load(long, **LATE).result[-1]
    again = own_frames("Save Video (BLADE)", source, stretch)
    with cancelled(3):
        next(again)


@pytest.fixture
def bar(comfy, monkeypatch):
    """What the progress bar is told: (value, total). Newer hosts' own does not pass on all of it."""
    import blade.host.job

    seen = []
    bar = SimpleNamespace(update_absolute=lambda value, total: seen.append((value, total)))
    monkeypatch.setattr(blade.host.job, "TOLD_EVERY", 0)
    monkeypatch.setattr(comfy.utils, "ProgressBar", lambda total: bar)
    return seen


@pytest.mark.parametrize(
    "options", [{}, {"frame_count": 50}, {"every_nth": 5}, {"force_fps": 5.0}, {"start_frame": 280}, {"force_fps": 50.0, "start_frame": 40}]
)
@pytest.mark.parametrize("name", ["load", "from_video"])
def test_a_bar_shows_how_much_is_read(nodes, long, bar, name, options):
    getattr(nodes, name)(long, **options)
    assert len(bar) > 10 and all(0 < value <= total for value, total in bar)
    shares = [value / total for value, total in bar]
    if "start_frame" not in options:  # of which nobody knows how much is sought
        assert all(before <= after for before, after in pairwise(shares))
    assert 0.2 < shares[len(shares) // 2] and shares[-1] > 0.4


def test_the_bar_counts_what_lies_before_where_a_file_cannot_be_sought_in(comfy, bar):
    from blade.host.job import reading_ticks

    tick = reading_ticks(10, 4000)
    for _ in range(4010 + 50):  # with some of the sound
        tick()
    assert bar[4009] == bar[-1] == (4010, 4010)
    assert all(total / 2 <= value <= total for value, total in bar[100:])
    assert len({total for _, total in bar}) < 8


def test_the_bar_moves_where_nobody_knows_the_length(comfy, bar):
    from blade.host.job import reading_ticks

    tick = reading_ticks(0, 0)
    for _ in range(9):
        tick()
    assert bar[-1][0] == 9 and all(value <= total for value, total in bar)


def test_a_bar_is_told_of_ten_times_a_second_at_most(comfy, bar, monkeypatch):
    import blade.host.job

    now = [0.0]
    monkeypatch.setattr(blade.host.job, "TOLD_EVERY", 0.1)
    monkeypatch.setattr(blade.host.job.time, "monotonic", lambda: now[0])
    tick = blade.host.job.reading_ticks(100, 0)
    for _ in range(100):
        tick()
        now[0] += 0.03
    assert 20 < len(bar) < 30


@pytest.mark.parametrize("name", ["load", "encode", "from_video"])
def test_the_node_shows_what_was_read(nodes, name):
    shutil.copy(clips.path(CLIP), nodes.base)
    getattr(nodes, name)(f"{CLIP}.mp4", frame_count=1)
    getattr(nodes, name)(f"{CLIP}.mp4", every_nth=3)
    assert nodes.told == [
        "1 frame of 128x128 at 8 fps, no sound",
        "4 frames of 128x128 at 2.6667 fps, no sound",
    ]


@pytest.fixture
def combed(nodes):
    """An interlaced clip, which says so, of a bar that moves between the two halves of each frame; and what is stored of it."""
    with av.open(str(nodes.base / "combed.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"qp": "0", "x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 100, 64, "yuv420p"
        for number in range(6):
            luma = np.full((64, 100), 16, np.uint8)
            for field in range(2):
                left = 4 + 12 * number + 6 * field
                luma[field::2, left : left + 20] = 235
            plane = np.concatenate((luma, np.full((32, 100), 128, np.uint8)))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="yuv420p")))
        file.mux(stream.encode())
    return "combed.mkv"


def combs(frames):
    """How much lines differ from both of their neighbours, which agree."""
    lines = torch.as_tensor(frames)[..., 0].float()
    return float((lines[:, 1:-1:2] - (lines[:, :-2:2] + lines[:, 2::2]) / 2).abs().mean())


@pytest.mark.parametrize("name", ["load", "from_video"])
def test_an_interlaced_clip_is_deinterlaced_unless_that_is_switched_off_and_the_node_says_so(nodes, combed, name):
    whole, raw = (getattr(nodes, name)(combed, deinterlace=on).result[0] for on in (True, False))
    assert combs(raw) > 0.1 and combs(whole) < combs(raw) / 3
    assert "deinterlace" in nodes.told[0] and "deinterlace" not in nodes.told[1]


def test_encode_video_deinterlaces_too(nodes, combed):
    nodes.encode(combed)
    nodes.encode(combed, deinterlace=False)
    assert "deinterlace" in nodes.told[0] and "deinterlace" not in nodes.told[1]


@pytest.mark.parametrize("on", [True, False])
def test_what_was_cropped_of_an_interlaced_clip_comes_back_as_it_was_read(nodes, combed, on):
    from blade.nodes.save_video import SaveVideo

    frames, *_, fit = nodes.load(combed, sides=CROP, deinterlace=on).result
    assert frames.shape[2] == 96
    (video,) = SaveVideo.execute(frames, 25.0, "back", FFV1, 0, None, fit).result
    expected = nodes.load(combed, sides=PAD, deinterlace=on).result[0][:, :, 2:102]
    back = load_clip(video.get_stream_source(), Stretch(sides=PAD)).frames[:, :, 2:102]
    torch.testing.assert_close(back, expected)
