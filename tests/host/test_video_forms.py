"""Clips of every form through the nodes: what a loader cropped or padded comes back in the file, and core's VIDEO goes in and out."""

import io
import json
import shutil
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from blade.inversion.file import save_trajectory
from blade.inversion.trajectory import Trajectory
from blade.video.fit import CROP, PAD
from blade.video.load import load_clip
from blade.video.save import FFV1, GIF, H264, PNG, PRORES, SUFFIX, VP9, save_video
from blade.video.source import Film
from demo import clips
from demo.base import CHECKPOINT_NAME
from runner.graphs import with_defaults
from runner.host import REPOSITORY

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


def test_the_list_is_the_same_on_a_machine_without_a_table_of_mime_types(nodes, monkeypatch):
    import mimetypes

    import folder_paths

    monkeypatch.setattr(mimetypes, "guess_type", lambda *_, **__: (None, None))
    monkeypatch.setattr(folder_paths, "extension_mimetypes_cache", {})
    names = sorted(f"clip.{kind}" for kind in "MOV MP4 3gp avi flv m2ts m4v mkv mpg mts mxf ogv ts vob webm wmv y4m".split())
    for name in names:
        (nodes.input / name).write_bytes(b"")
    assert nodes.listed(str(nodes.input)) == names


def animate(path, frames=3):
    """An animated PNG of single colours; a still one of one frame."""
    pictures = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in range(frames)]
    pictures[0].save(path, save_all=frames > 1, append_images=pictures[1:])


def test_pictures_that_move_are_listed_and_still_ones_are_not(nodes):
    animate(nodes.input / "moves.png")
    animate(nodes.input / "still.png", 1)
    assert nodes.listed(str(nodes.input)) == ["moves.png"]


def test_what_lies_in_subfolders_is_listed_after_the_rest_unless_it_is_not_wanted(nodes, noise):
    for folder in ("shots/day 2", ".hidden", "stills/old"):
        (nodes.input / folder).mkdir(parents=True)
        (nodes.input / folder / "clip.mp4").write_bytes(b"")
    (nodes.input / "z.mp4").write_bytes(b"")
    for folder in ("stills", "shots/day 2"):
        animate(nodes.input / folder / "0.png", 1)
    names = ["noise.mkv", "z.mp4", "shots/day 2/clip.mp4", "stills/old/clip.mp4", "stills/", "shots/day 2/"]
    assert nodes.listed(str(nodes.input)) == names
    assert nodes.listed(str(nodes.input), False) == ["noise.mkv", "z.mp4", "stills/"]


def test_links_are_listed_where_they_stay_inside_and_lead_round_no_circle(nodes, noise, tmp_path):
    (tmp_path / "outside" / "frames").mkdir(parents=True)
    shutil.copy(nodes.input / "noise.mkv", tmp_path / "outside")
    animate(tmp_path / "outside" / "frames" / "0.png", 1)
    shutil.copytree(tmp_path / "outside", nodes.output / "takes")
    (nodes.input / "out.mkv").symlink_to(tmp_path / "outside" / "noise.mkv")
    (nodes.input / "out").symlink_to(tmp_path / "outside", target_is_directory=True)
    (nodes.input / "round").symlink_to(nodes.input, target_is_directory=True)
    (nodes.input / "takes").symlink_to(nodes.output / "takes", target_is_directory=True)
    assert nodes.listed(str(nodes.input)) == ["noise.mkv", "round/noise.mkv", "takes/noise.mkv"]


def test_a_clip_in_a_subfolder_is_a_clip(nodes, noise):
    from blade.nodes.load_video import LoadVideo

    (nodes.input / "shots").mkdir()
    (nodes.input / "noise.mkv").rename(nodes.input / "shots" / "noise.mkv")
    assert LoadVideo.validate_inputs("shots/noise.mkv") is True
    assert LoadVideo.fingerprint_inputs("shots/noise.mkv")
    assert nodes.load("shots/noise.mkv")[3] == 5


@pytest.mark.parametrize(
    ("kept", "listed"), [(None, True), ({}, True), ({"BLADE.Clips.Subfolders": False}, False), ([], True), ("broken", True)]
)
def test_the_page_s_settings_say_whether_subfolders_are_listed(nodes, tmp_path, monkeypatch, kept, listed):
    import folder_paths

    from blade.nodes.load_video import LoadVideo

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    (tmp_path / "user" / "default").mkdir(parents=True)
    if kept is not None:
        content = kept if isinstance(kept, str) else json.dumps(kept)
        (tmp_path / "user" / "default" / "comfy.settings.json").write_text(content)
    (nodes.input / "shots").mkdir()
    (nodes.input / "shots" / "clip.mp4").write_bytes(b"")
    options = next(given.options for given in LoadVideo.define_schema().inputs if given.id == "video")
    assert options == (["shots/clip.mp4"] if listed else [])


def test_the_setting_is_the_one_that_the_page_offers():
    from blade.host.settings import SUBFOLDERS

    page = (REPOSITORY / "web" / "settings.js").read_text(encoding="utf-8")
    assert f'id: "{SUBFOLDERS}"' in page and "defaultValue: true" in page


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
            whole = super().get_components()  # of a newer one they are trimmed already
            return Types.VideoComponents(images=whole.images[-2:], audio=None, frame_rate=whole.frame_rate)

    video = Trimmed(str(nodes.input / "noise.mkv"))
    video._VideoFromFile__start_time = 0.3
    assert nodes.from_video(video)[3] == 2


def test_a_video_that_is_cropped_gives_what_is_left_of_it(nodes, noise):
    from comfy_api.latest import InputImpl, Types

    class Cropped(InputImpl.VideoFromFile):
        """As ComfyUI after 0.33 makes them."""

        def get_components(self):
            whole = super().get_components()
            return Types.VideoComponents(images=whole.images[:, :32, :40], audio=None, frame_rate=whole.frame_rate)

    video = Cropped(str(nodes.input / "noise.mkv"))
    assert nodes.from_video(video)[0].shape[1:3] != (32, 40)
    video._VideoFromFile__crop = (0, 0, 40, 32)
    assert nodes.from_video(video)[0].shape[1:3] == (32, 40)


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


def test_files_in_subfolders_are_offered_and_read_by_a_link_on_the_server(server):
    """Core hands a node None for an input that comes by a link, when it asks whether the input is right."""
    (server.base / "input" / "shots").mkdir()
    shutil.copy(clips.path(CLIP), server.base / "input" / "shots" / "take.mp4")
    save_trajectory(server.base / "output" / "linked.safetensors", Trajectory(torch.arange(3.0), torch.zeros(3, 2, 4, 2, 2)))
    types = server.object_info()
    assert "shots/take.mp4" in types["BLADE_LoadVideo"]["input"]["required"]["video"][1]["options"]
    graph = {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT_NAME}},
        "clip": {"class_type": "PrimitiveString", "inputs": {"value": "shots/take.mp4"}},
        "file": {"class_type": "PrimitiveString", "inputs": {"value": "linked.safetensors [output]"}},
        "load": {"class_type": "BLADE_LoadVideo", "inputs": {"video": ["clip", 0]}},
        "encode": {"class_type": "BLADE_EncodeVideo", "inputs": {"video": ["clip", 0], "vae": ["model", 2]}},
        "trajectory": {"class_type": "BLADE_LoadTrajectory", "inputs": {"trajectory_file": ["file", 0]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["load", 0]}},
        "frames": {"class_type": "PreviewAny", "inputs": {"source": ["encode", 3]}},
        "whole": {"class_type": "PreviewAny", "inputs": {"source": ["trajectory", 0]}},
    }
    graph = with_defaults(graph, types)
    outcome = server.run(graph)
    assert outcome.error is None
    assert len(outcome.outputs["show"]["images"]) == 12 and outcome.outputs["frames"]["text"] == ["12"]
    graph["clip"]["inputs"]["value"] = "shots/none.mp4"
    outcome = server.run(graph)
    assert outcome.error_node in ("load", "encode") and "there is no clip 'shots/none.mp4' in ComfyUI's input folder" in outcome.error


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
