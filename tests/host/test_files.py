"""No name leads out of ComfyUI's folders, no save leaves half a file, and what cannot be is said with node and input."""

import errno
import ntpath
import os
import re
import shutil
from pathlib import PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blade.inversion.file import save_trajectory
from blade.inversion.trajectory import Trajectory
from blade.video.save import FFV1, GIF, H264, PNG, save_video

FRAMES = np.zeros((2, 32, 48, 3), np.uint8)
TRAJECTORY = Trajectory(torch.arange(3.0), torch.zeros(3, 2, 4, 2, 2))
VIDEO, ENCODE, TRAJECTORY_FILE = (
    "Load Video (BLADE), input video",
    "Encode Video (BLADE), input video",
    "Load Trajectory (BLADE), input trajectory_file",
)


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    """The nodes that touch files, with folders of their own: `outside` holds what none may read, and links in the others lead there."""
    import folder_paths

    from blade.nodes.compare import Compare
    from blade.nodes.encode_video import EncodeVideo
    from blade.nodes.load_trajectory import LoadTrajectory, trajectory_files
    from blade.nodes.load_video import LoadVideo
    from blade.nodes.save_trajectory import SaveTrajectory
    from blade.nodes.save_video import SaveVideo

    for kind in ("input", "output", "temp", "outside"):
        (tmp_path / kind).mkdir()
        if kind != "outside":
            monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    for folder in (tmp_path / "outside", tmp_path / "temp"):
        save_video(folder / "secret.mkv", [FRAMES], 8, FFV1)
        save_trajectory(folder / "secret.safetensors", TRAJECTORY)
    for kind in ("input", "output"):
        (tmp_path / kind / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
        for name in ("secret.mkv", "secret.safetensors"):
            (tmp_path / kind / f"link_{name}").symlink_to(tmp_path / "outside" / name)

    def saving(prefix, form=FFV1, fps=8.0):
        return SaveVideo.execute(torch.zeros(2, 32, 48, 3), fps, prefix, form, 16)

    def keeping(prefix):
        return SaveTrajectory.execute(TRAJECTORY, prefix)

    def comparing():
        return Compare.execute(torch.zeros(2, 32, 48, 3), torch.zeros(2, 32, 48, 3), 8.0)

    readers = {VIDEO: LoadVideo, ENCODE: EncodeVideo, TRAJECTORY_FILE: LoadTrajectory}
    return SimpleNamespace(
        base=tmp_path, readers=readers, saving=saving, keeping=keeping, comparing=comparing, listed=trajectory_files
    )  # fmt: skip


def read(node, name):
    """A node's execute, as the host calls it with that file."""
    if node.__name__ == "EncodeVideo":
        return node.execute(SimpleNamespace(latent_channels=4, downscale_ratio=8), name, 0, 0, 1, 0)
    return node.execute(name, 0, 0, 1, 0) if node.__name__ == "LoadVideo" else node.execute(name)


def tree(folder):
    """What lies in a folder, links not followed."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("where", [VIDEO, ENCODE, TRAJECTORY_FILE])
@pytest.mark.parametrize(
    "name",
    [
        "../outside/secret",
        "linked/../../outside/secret",
        "{outside}/secret",
        "/{outside}/secret",
        "../outside/secret [output]",
        "../outside/secret [input]",
        "{outside}/secret [output]",
        "secret [temp]",
        "../temp/secret [temp]",
        "../outside/secret [temp]",
        "link_secret",
        "link_secret [output]",
        "linked/secret",
        "linked/secret [output]",
        "a\0b",
        "secret\0",
        "\ud800",
        "..\\outside\\secret",
        "C:\\secret",
        "C:secret",
        "\\\\server\\share\\secret",
        "//server/share/secret",
        "secret. ",
        "..",
        "... ",
        "secret [output] [input]",
        "secret [elsewhere]",
    ],
)  # fmt: skip
def test_no_name_reads_what_lies_elsewhere(nodes, where, name):
    suffix = ".safetensors" if where == TRAJECTORY_FILE else ".mkv"
    name = name.format(outside=nodes.base / "outside").replace("secret", f"secret{suffix}")
    node = nodes.readers[where]
    assert str(node.validate_inputs(name)).startswith(where)
    for use in (lambda: read(node, name), lambda: node.fingerprint_inputs(name)):
        with pytest.raises((ValueError, FileNotFoundError)):
            use()
    with pytest.raises(ValueError) as refused:
        read(node, name)
    assert str(refused.value).startswith(where) and "Traceback" not in str(refused.value)


@pytest.mark.parametrize("where", [VIDEO, TRAJECTORY_FILE])
def test_a_link_that_stays_inside_is_read(nodes, where):
    suffix = ".safetensors" if where == TRAJECTORY_FILE else ".mkv"
    shutil.copy(nodes.base / "outside" / f"secret{suffix}", nodes.base / "output" / f"own{suffix}")
    (nodes.base / "input" / f"near{suffix}").symlink_to(nodes.base / "output" / f"own{suffix}")
    for name in (f"near{suffix}", f"own{suffix} [output]"):
        assert nodes.readers[where].validate_inputs(name) is True
        assert nodes.readers[where].fingerprint_inputs(name)
        assert read(nodes.readers[where], name).result


@pytest.mark.parametrize("where", [VIDEO, ENCODE, TRAJECTORY_FILE])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "there is no (clip|file) 'nowhere' in ComfyUI's (input|output or input) folder"),
        ("", "there is no (clip|file) '' in ComfyUI's (input|output or input) folder"),
        ("../outside/secret.mkv", "'../outside/secret.mkv' lies outside ComfyUI's output and input folders"),
        (None, "it is None, which is no text. Connect the name of a file"),
        (7, "it is 7, which is no text. Connect the name of a file"),
        (["secret.mkv"], r"it is \['secret.mkv'\], which is no text. Connect the name of a file"),
    ],
)
def test_a_name_that_comes_by_a_link_is_checked_when_the_node_runs(nodes, where, name, sentence):
    node = nodes.readers[where]
    assert node.validate_inputs(None) is True  # as the host asks, which does not know the name yet
    assert node.fingerprint_inputs(None)
    with pytest.raises(ValueError, match=f"^{re.escape(where)}: {sentence}"):
        read(node, name)


@pytest.mark.parametrize("where", [VIDEO, TRAJECTORY_FILE])
def test_a_linked_file_is_read_again_only_when_it_has_changed(nodes, where):
    node, suffix = nodes.readers[where], ".safetensors" if where == TRAJECTORY_FILE else ".mkv"
    own = nodes.base / "input" / f"own{suffix}"
    shutil.copy(nodes.base / "outside" / f"secret{suffix}", own)
    first = node.fingerprint_inputs(None)
    assert read(node, own.name).result
    assert node.fingerprint_inputs(None) == first == node.fingerprint_inputs(None)
    os.utime(own, ns=(1, 1))
    changed = node.fingerprint_inputs(None)
    assert changed != first
    assert read(node, own.name).result
    assert node.fingerprint_inputs(None) == changed
    own.unlink()
    assert node.fingerprint_inputs(None) not in (first, changed)


@pytest.mark.parametrize("linked", ["2.png", "sound.wav", "notes.txt"])
def test_a_folder_of_pictures_with_a_link_to_elsewhere_is_refused(nodes, linked):
    save_video(nodes.base / "outside" / "frames", [FRAMES], 8, PNG, waveform=torch.zeros(1, 800), sample_rate=8000)
    shutil.copytree(nodes.base / "outside" / "frames", nodes.base / "input" / "frames")
    node = nodes.readers[VIDEO]
    assert node.validate_inputs("frames/") is True and len(read(node, "frames/").result[0]) == 2
    (nodes.base / "input" / "frames" / linked).unlink(missing_ok=True)
    (nodes.base / "input" / "frames" / linked).symlink_to(nodes.base / "outside" / "frames" / "00000.png")
    refusal = rf"input video.*{linked}' lies outside ComfyUI's output and input folders"
    assert "lies outside" in node.validate_inputs("frames/")
    with pytest.raises(ValueError, match=refusal):
        read(node, "frames/")


def test_the_list_of_trajectories_looks_at_none_that_lies_elsewhere_or_is_half_written(nodes):
    for place in ("output/own", f"output/.blade_{1:016x}.part/left", "input/deep/own"):
        (nodes.base / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nodes.base / "outside" / "secret.safetensors", nodes.base / f"{place}.safetensors")
    assert set(nodes.listed()) == {"own.safetensors [output]", "deep/own.safetensors"}


OUT_OF_IT = dict.fromkeys(
    ("../x", "a/../../x", "{outside}/x", "linked/x", "linked/deep/x", "%year%/../../x", "../output_more/x"),
    r"leads out of ComfyUI's output folder\. Give a place",
)
NO_NAMES = {"a\0b": "holds a NUL character", "a\0b/x": "holds a NUL character", "\ud800/x": "is no text"}


@pytest.mark.parametrize(("prefix", "sentence"), [*OUT_OF_IT.items(), *NO_NAMES.items()])
@pytest.mark.parametrize("kind", ["saving", "keeping"])
def test_no_prefix_writes_elsewhere(nodes, kind, prefix, sentence):
    prefix, before = prefix.format(outside=nodes.base / "outside"), tree(nodes.base)
    title = {"saving": "Save Video", "keeping": "Save Trajectory"}[kind]
    with pytest.raises(ValueError, match=rf"^{title} \(BLADE\), input filename_prefix: .*{sentence}"):
        getattr(nodes, kind)(prefix)
    assert tree(nodes.base) == before


@pytest.mark.parametrize(
    "prefix", ["..", ".", "", "a/..", "a.", "a/. .", "C:\\x", "C:x", "..\\x", "\\\\server\\share\\x", "x [temp]", "x\n", "~/x", "$HOME/x"]
)
def test_a_prefix_that_only_some_systems_take_for_a_place_writes_inside_or_nowhere(nodes, prefix):
    before = tree(nodes.base)
    try:
        nodes.keeping(prefix)
    except ValueError as error:
        assert "input filename_prefix" in str(error)
    else:
        assert [path for path in (nodes.base / "output").rglob("*_00001_.safetensors") if not path.is_symlink()]
    after = tree(nodes.base)
    assert all(name.startswith("output/") for name in after.keys() - before.keys())
    assert before.items() <= after.items()


def test_a_drive_s_letter_in_a_name_is_a_place_of_its_own_on_windows(nodes, monkeypatch):
    from blade.nodes import common

    monkeypatch.setattr(common, "os", SimpleNamespace(path=ntpath))
    monkeypatch.setattr(common, "Path", PureWindowsPath)
    monkeypatch.setattr(common.folder_paths, "get_output_directory", lambda: "C:\\output")
    for name, inside in (("D:evil", False), ("fine", True)):
        monkeypatch.setattr(common.folder_paths, "get_save_image_path", lambda *_, name=name: ("C:\\output\\blade", name, 1, "blade", ""))
        if inside:
            assert common.place(f"blade\\{name}", 8, 8) == ("C:\\output\\blade", name, 1, "blade")
        else:
            with pytest.raises(ValueError, match="leads out of ComfyUI's output folder"):
                common.place(f"blade\\{name}", 8, 8)


@pytest.fixture
def full(monkeypatch):
    """A disk that tells at the end that it is full."""

    def fill():
        def failing(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", failing)

    return fill


@pytest.mark.parametrize("form", [FFV1, H264, GIF, PNG, "trajectory"])
def test_a_full_disk_is_said_with_node_and_input_and_leaves_what_was_there(nodes, full, form):
    title = "Save Trajectory" if form == "trajectory" else "Save Video"

    def save():
        return nodes.keeping("blade/a") if form == "trajectory" else nodes.saving("blade/a", form)

    save()
    before = tree(nodes.base)
    full()
    with pytest.raises(
        ValueError, match=rf"^{title} \(BLADE\), input filename_prefix: 'a_00002_.*cannot be written \(No space left.*Make room"
    ):
        save()
    assert tree(nodes.base) == before


def test_a_full_temp_folder_is_said_with_the_node_and_left_as_it_was(nodes, full):
    before = tree(nodes.base)
    full()
    with pytest.raises(ValueError, match=r"^Compare \(BLADE\): 'blade_compare_.*cannot be written \(No space left on device\)\. Make room"):
        nodes.comparing()
    assert tree(nodes.base) == before


def test_a_trajectory_that_cannot_be_saved_is_said_with_its_own_input(nodes):
    from blade.nodes.save_trajectory import SaveTrajectory

    with pytest.raises(
        ValueError, match=r"^Save Trajectory \(BLADE\), input trajectory: the trajectory cannot be saved.*Invert the clip again"
    ):
        SaveTrajectory.execute(Trajectory(torch.arange(3.0), torch.full((3, 2, 4, 2, 2), torch.nan)), "a")
    assert not list((nodes.base / "output").glob("a_*"))


def test_a_clip_that_memory_does_not_hold_is_refused_with_what_fits(nodes, monkeypatch):
    from blade.nodes import load_video, video_frames

    save_video(nodes.base / "input" / "a.mkv", [FRAMES], 8, FFV1)
    for module in (load_video, video_frames):
        monkeypatch.setattr(module, "free_memory", lambda: 32 * 48 * 15)
    with pytest.raises(ValueError, match=r"^Load Video \(BLADE\), input video: 'a.mkv' cannot be used: 2 frames or more.*at most 1"):
        read(nodes.readers[VIDEO], "a.mkv")
    from comfy_api.latest import InputImpl

    with pytest.raises(ValueError, match=r"^Video to Frames \(BLADE\), input video: 2 frames or more.*frame_count to at most 1"):
        video_frames.VideoToFrames.execute(InputImpl.VideoFromFile(str(nodes.base / "input" / "a.mkv")))
