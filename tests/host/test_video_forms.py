"""Clips of every form through the nodes: what a loader cropped or padded comes back in the file, and core's VIDEO goes in and out."""

import io
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from blade.video.fit import CROP, PAD
from blade.video.load import load_clip
from blade.video.save import FFV1, GIF, H264, PNG, PRORES, SUFFIX, VP9, save_video
from blade.video.source import Film
from demo import clips

HEIGHT, WIDTH, RATE = 63, 94, 16000
CLIP = "blade_red_circle"


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    """The nodes' execute as the host calls them, with input and output folders of their own."""
    import folder_paths

    import blade.nodes.load_video
    import blade.nodes.save_video
    import blade.nodes.video_frames

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))

    def load(video, start_frame=0, frame_count=0, every_nth=1, longest_side=0, force_fps=0.0, sides=CROP):
        node = blade.nodes.load_video.LoadVideo
        return node.execute(video, start_frame, frame_count, every_nth, longest_side, force_fps, sides).result

    def save(frames, fps=10.0, prefix="video/a", form=FFV1, crf=16, audio=None, fit=None):
        return blade.nodes.save_video.SaveVideo.execute(frames, fps, prefix, form, crf, audio, fit)

    def from_video(video, **options):
        return blade.nodes.video_frames.VideoToFrames.execute(video, **options).result

    paths = {kind: tmp_path / kind for kind in ("input", "output")}
    return SimpleNamespace(load=load, save=save, from_video=from_video, listed=blade.nodes.load_video.clips_of_folder, **paths)


@pytest.fixture
def noise(nodes):
    """A clip of odd size in the input folder, and its frames, uint8."""
    frames = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8)
    sound = torch.linspace(-1, 1, RATE // 2)[None]
    save_video(nodes.input / "noise.mkv", [frames], 10, FFV1, waveform=sound, sample_rate=RATE)
    return frames, sound


def written(nodes, name):
    return (load_raw(nodes.output / "video" / name) * 255).round()


def load_raw(path):
    """Every frame of a file at its own size."""
    return np.stack([shown.picture() for shown in Film(str(path)).shown()]) / 255


@pytest.mark.parametrize("sides", [CROP, PAD])
def test_what_was_cropped_or_padded_is_as_it_was_in_the_file(nodes, noise, sides):
    frames, *_, fit = nodes.load("noise.mkv", sides=sides)
    assert frames.shape[1:3] == ((56, 88) if sides == CROP else (64, 96))
    nodes.save(frames, fit=fit)
    assert np.array_equal(written(nodes, "a_00001_.mkv"), noise[0])


def test_with_a_crop_the_edit_lies_inside_and_the_source_around_it(nodes, noise):
    frames, *_, fit = nodes.load("noise.mkv", start_frame=2)
    nodes.save(torch.zeros_like(frames), fit=fit)
    back = written(nodes, "a_00001_.mkv")
    assert back.shape == (3, HEIGHT, WIDTH, 3)
    assert back[:, 3:59, 3:91].max() == 0
    back[:, 3:59, 3:91] = noise[0][2:, 3:59, 3:91]
    assert np.array_equal(back, noise[0][2:])


def test_frames_of_another_size_are_refused_before_anything_is_written(nodes, noise):
    fit = nodes.load("noise.mkv")[-1]
    with pytest.raises(ValueError, match=r"^Save Video \(BLADE\), input fit: the frames are 64x64 pixels.*read at 88x56"):
        nodes.save(torch.zeros(2, 64, 64, 3), fit=fit)
    with pytest.raises(ValueError, match=r"^Save Video \(BLADE\), input fit: there are more frames than in the clip.*Connect the fit"):
        nodes.save(torch.zeros(6, 56, 88, 3), fit=fit)
    with pytest.raises(ValueError, match=r"input format: mp4 \(H.264\) takes frames with even sides, and these are 94x63"):
        nodes.save(torch.zeros(5, 56, 88, 3), fit=fit, form=H264)
    assert not [path for path in nodes.output.rglob("*") if path.is_file()]


@pytest.mark.parametrize("form", [H264, FFV1, PRORES, VP9, GIF])
def test_a_saved_file_is_a_video_for_core(nodes, form):
    frames = torch.rand(3, 64, 96, 3)
    (video,) = nodes.save(frames, form=form).result
    assert video.get_stream_source().endswith(SUFFIX[form])
    assert video.get_components().images.shape == frames.shape


def test_saved_pictures_are_a_video_for_core_and_a_clip_for_the_loader(nodes):
    frames = torch.rand(3, 64, 96, 3)
    audio = {"waveform": torch.zeros(1, 2, 4800), "sample_rate": RATE}
    (video,) = nodes.save(frames, form=PNG, audio=audio).result
    assert torch.equal(video.get_components().images, frames) and video.get_components().frame_rate == 10
    (nodes.output / "video" / "a_00001_").rename(nodes.input / "pictures")
    assert "pictures/" in nodes.listed(str(nodes.input))
    read, fps, sound, count, _ = nodes.load("pictures/", force_fps=10)
    assert (fps, count, sound["waveform"].shape) == (10, 3, (1, 2, 4800))
    torch.testing.assert_close(read, frames, rtol=0, atol=0.5 / 255 + 1e-6)


def test_the_list_has_videos_gifs_and_folders_of_pictures(nodes):
    for name in ("b.mp4", "a.gif", "c.webm", "d.txt", "e.png"):
        (nodes.input / name).write_bytes(b"")
    for name in ("full", "empty"):
        (nodes.input / name).mkdir()
    cv2.imwrite(str(nodes.input / "full" / "0.PNG"), np.zeros((8, 8, 3), np.uint8))
    assert nodes.listed(str(nodes.input)) == ["a.gif", "b.mp4", "c.webm", "full/"]


@pytest.mark.parametrize("name", ["../outside.mkv", "linked.mkv", "{}/outside.mkv"])
def test_a_clip_outside_the_folders_is_refused(nodes, noise, tmp_path, name):
    from blade.nodes.load_video import LoadVideo

    (nodes.input / "noise.mkv").rename(tmp_path / "outside.mkv")
    if name.startswith("linked"):
        (nodes.input / name).symlink_to(tmp_path / "outside.mkv")
    name = name.format(tmp_path)
    assert "lies outside ComfyUI's output and input folders" in LoadVideo.validate_inputs(name)
    with pytest.raises(ValueError, match=r"^Load Video .BLADE., input video: .*lies outside .* Move the file into one of them\.$"):
        nodes.load(name)


def test_a_clip_that_is_not_there_is_refused_before_the_run(nodes, noise):
    from blade.nodes.load_video import LoadVideo

    assert LoadVideo.validate_inputs("noise.mkv") is True
    assert LoadVideo.validate_inputs("none.mkv") == (
        "Load Video (BLADE), input video: there is no clip 'none.mkv' in ComfyUI's input folder. Upload it, or choose another."
    )


def test_a_folder_that_changes_is_read_again(nodes):
    from blade.nodes.load_video import LoadVideo

    (nodes.input / "full").mkdir()
    stamps = []
    for value in (0, 1):
        cv2.imwrite(str(nodes.input / "full" / f"{value}.png"), np.full((8, 8, 3), value, np.uint8))
        stamps.append(LoadVideo.fingerprint_inputs("full/"))
    assert stamps[0] != stamps[1] == LoadVideo.fingerprint_inputs("full/")


@pytest.mark.parametrize("held", ["path", "bytes", "components"])
def test_a_video_of_core_comes_in_as_from_a_file(nodes, noise, held):
    from comfy_api.latest import InputImpl, Types

    path = nodes.input / "noise.mkv"
    if held == "components":
        frames = torch.from_numpy(noise[0]) / 255
        audio = {"waveform": noise[1][None], "sample_rate": RATE}
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, audio=audio, frame_rate=Fraction(10)))
    else:
        video = InputImpl.VideoFromFile(str(path) if held == "path" else io.BytesIO(path.read_bytes()))
    options = {"start_frame": 1, "frame_count": 3, "longest_side": 72, "sides": PAD}
    found, expected = nodes.from_video(video, **options), nodes.load("noise.mkv", **options)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0.51 / 255)
    assert found[1] == expected[1] and found[3] == expected[3] == 3
    assert torch.equal(found[2]["waveform"], expected[2]["waveform"])
    nodes.save(found[0], fit=found[4])
    assert written(nodes, "a_00001_.mkv").shape == (3, 48, 72, 3)


def test_a_video_that_is_trimmed_gives_what_is_left_of_it(nodes, noise):
    from comfy_api.latest import InputImpl, Types

    class Trimmed(InputImpl.VideoFromFile):
        """As ComfyUI after 0.3.75 makes them: the file is whole, what the VIDEO stands for is not."""

        def get_components(self):
            whole = super().get_components()
            return Types.VideoComponents(images=whole.images[3:], audio=None, frame_rate=whole.frame_rate)

    video = Trimmed(str(nodes.input / "noise.mkv"))
    video._VideoFromFile__start_time = 0.3
    assert nodes.from_video(video)[3] == 2


def test_a_video_that_cannot_be_read_is_refused_by_name(nodes):
    from comfy_api.latest import InputImpl

    (nodes.input / "broken.mp4").write_bytes(b"\0" * 4096)
    with pytest.raises(ValueError, match=r"^Video to Frames \(BLADE\), input video: the file cannot be decoded"):
        nodes.from_video(InputImpl.VideoFromFile(str(nodes.input / "broken.mp4")))


def test_a_video_without_frames_is_refused_by_name(nodes):
    from comfy_api.latest import InputImpl, Types

    empty = Types.VideoComponents(images=torch.zeros(0, 8, 8, 3), audio=None, frame_rate=Fraction(10))
    with pytest.raises(ValueError, match=r"^Video to Frames \(BLADE\), input video: it has no frames\. Connect another\.$"):
        nodes.from_video(InputImpl.VideoFromComponents(empty))


def test_core_s_video_goes_in_and_out_on_the_server(server):
    server.add_input(clips.path(CLIP))
    graph = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": f"{CLIP}.mp4"}},
        "frames": {
            "class_type": "BLADE_VideoToFrames",
            "inputs": {
                "video": ["load", 0],
                "start_frame": 2,
                "frame_count": 5,
                "every_nth": 2,
                "longest_side": 100,
                "force_fps": 0.0,
                "sides": PAD,
            },
        },
        "save": {
            "class_type": "BLADE_SaveVideo",
            "inputs": {
                "frames": ["frames", 0],
                "fps": ["frames", 1],
                "filename_prefix": "forms/a",
                "format": H264,
                "crf": 4,
                "fit": ["frames", 4],
            },
        },
        "core": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["save", 0], "filename_prefix": "forms/core", "format": "auto", "codec": "auto"},
        },
    }
    outcome = server.run(graph)
    assert outcome.error is None
    for node in ("save", "core"):
        (video,) = outcome.outputs[node]["images"]
        clip = load_clip(str(server.base / video["type"] / video["subfolder"] / video["filename"]))
        assert (clip.frames.shape, clip.fps) == ((5, 96, 96, 3), 4)  # 100 pixels again in the file, of which this loader crops 4
