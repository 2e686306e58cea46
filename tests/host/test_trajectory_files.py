"""Save Trajectory and Load Trajectory: the same edit on another day, and only files of ComfyUI's own folders."""

import copy
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.host import ComfyHost

SAVED = "blade/kept_00001_.safetensors [output]"
INVERTED = {
    "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "blade_demo.safetensors"}},
    "video": {"class_type": "BLADE_LoadVideo", "inputs": {"video": "blade_red_circle.mp4", "frame_count": 3}},
    "source": {"class_type": "BLADE_Prompt", "inputs": {"clip": ["model", 1], "text": "a red circle on grass"}},
    "encode": {"class_type": "VAEEncode", "inputs": {"pixels": ["video", 0], "vae": ["model", 2]}},
    "invert": {
        "class_type": "BLADE_DDIMInvert",
        "inputs": {"model": ["model", 0], "source": ["source", 0], "latent": ["encode", 0], "steps": 4},
    },
    "save": {"class_type": "BLADE_SaveTrajectory", "inputs": {"trajectory": ["invert", 0], "filename_prefix": "blade/kept"}},
}
LOADED = {
    "model": INVERTED["model"],
    "load": {"class_type": "BLADE_LoadTrajectory", "inputs": {"trajectory_file": SAVED}},
}


def edited(server, graph, trajectory, name):
    """The graph with an edit of that node's trajectory, written by core's Save Latent."""
    graph = copy.deepcopy(graph) | {
        "target": {"class_type": "BLADE_Prompt", "inputs": {"clip": ["model", 1], "text": "a blue circle on grass"}},
        "negative": {"class_type": "BLADE_Prompt", "inputs": {"clip": ["model", 1], "text": ""}},
        "sample": {
            "class_type": "BLADE_BlendedSampler",
            "inputs": {
                "model": ["model", 0],
                "target": ["target", 0],
                "negative": ["negative", 0],
                "trajectory": [trajectory, 0],
                "steps": 4,
            },
        },
        "latent": {"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": name}},
    }
    return with_defaults(server, graph)


def with_defaults(server, graph):
    """The graph with every widget of our nodes that it does not name at its default."""
    info = server.object_info()
    for node in graph.values():
        for name, spec in info[node["class_type"]]["input"]["required"].items() if node["class_type"].startswith("BLADE_") else ():
            options = spec[1] if len(spec) > 1 else {}
            if name not in node["inputs"] and ("default" in options or options.get("options")):
                node["inputs"][name] = options.get("default", (options.get("options") or [None])[0])
    return graph


def latent(server, name):
    return load_file(server.base / "output" / f"{name}_00001_.latent")["latent_tensor"]


@pytest.fixture(scope="module")
def saved(server):
    """A trajectory saved by a graph that also samples from it: the file, and what the graph said."""
    outcome = server.run(edited(server, INVERTED, "save", "first"))
    assert outcome.error is None
    return server.base / "output" / "blade" / "kept_00001_.safetensors", outcome


def test_a_saved_trajectory_gives_the_same_edit_on_another_server_to_the_bit(server, saved, comfy_folder):
    with ComfyHost(comfy_folder, server.base, log=server.base / "second.log", cpu=True) as second:
        outcome = second.run(edited(second, LOADED, "load", "again"))
    assert outcome.error is None
    first, again = latent(server, "first"), latent(server, "again")
    assert first.std() > 0.1
    assert torch.equal(first, again)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not cut a file that is mapped")
def test_a_file_that_is_cut_short_after_it_was_loaded_is_refused_by_the_nodes_that_would_read_it(comfy, saved, tmp_path):
    from blade.attention.record import CrossAttentionRecord
    from blade.inversion.file import load_trajectory
    from blade.nodes.checks import check_model
    from blade.nodes.mask import CrossAttentionMask
    from blade.nodes.save_trajectory import SaveTrajectory

    path = tmp_path / "cut.safetensors"
    shutil.copyfile(saved[0], path)
    trajectory = load_trajectory(path, CrossAttentionRecord.from_tensors)
    os.truncate(path, path.stat().st_size // 2)
    sentence = r"\(BLADE\), input trajectory: the trajectory's file 'cut.safetensors' was changed or cut short.*Queue the graph again"
    with pytest.raises(ValueError, match=sentence):
        SaveTrajectory.execute(trajectory, "blade/cut")
    with pytest.raises(ValueError, match=sentence):
        check_model("Blended Sampler (BLADE)", None, trajectory)
    with pytest.raises(ValueError, match=sentence):
        CrossAttentionMask.execute(trajectory, "circle")


def test_the_node_shows_what_it_wrote(saved):
    file, outcome = saved
    (text,) = outcome.outputs["save"]["text"]
    assert text == f"blade/kept_00001_.safetensors: {file.stat().st_size / 2**20:.1f} MiB, 3 frames of 128x128, 4 steps"


def test_the_list_has_the_trajectories_of_both_folders_and_nothing_else_the_newest_first(server, saved):
    file, _ = saved
    shutil.copy(file, server.base / "input" / "newer.safetensors")
    os.utime(server.base / "input" / "newer.safetensors", ns=(0, file.stat().st_mtime_ns + 10**9))
    save_file({"weight": torch.zeros(3)}, server.base / "output" / "foreign.safetensors")
    (server.base / "output" / "broken.safetensors").write_bytes(b"broken")
    spec = server.object_info()["BLADE_LoadTrajectory"]["input"]["required"]["trajectory_file"]
    listed = spec[1]["options"] if spec[0] == "COMBO" else spec[0]
    assert [name for name in listed if "trajectory_0" not in name] == ["newer.safetensors", SAVED]  # a workflow's own may lie there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.safetensors", ["'cut.safetensors' is no safetensors file, or only a part of one", "Save the trajectory again"]),
        ("model.safetensors", ["'model.safetensors' is a safetensors file, but holds no trajectory", "Choose"]),
        ("../outside.safetensors", ["'../outside.safetensors' lies outside", "Move the file"]),
        ("../outside.safetensors [output]", ["lies outside", "Move the file"]),
        ("link.safetensors", ["'link.safetensors' lies outside", "Move the file"]),
        ("kept.safetensors [temp]", ["lies outside", "Move the file"]),
        ("gone.safetensors [output]", ["there is no file 'gone.safetensors [output]'", "Choose another"]),
    ],
)
def test_a_file_that_is_none_is_refused(server, saved, name, words):
    whole = saved[0].read_bytes()
    (server.base / "input" / "cut.safetensors").write_bytes(whole[:-1000])
    save_file({"weight": torch.zeros(3)}, server.base / "input" / "model.safetensors")
    for place in ("outside.safetensors", "temp/kept.safetensors"):
        (server.base / place).write_bytes(whole)
    link = server.base / "input" / "link.safetensors"
    if not link.is_symlink():
        link.symlink_to(server.base / "outside.safetensors")
    graph = edited(server, LOADED, "load", "never")
    graph["load"]["inputs"]["trajectory_file"] = name
    outcome = server.run(graph)
    assert outcome.error_node == "load"
    assert "Traceback" not in outcome.error
    for word in ["Load Trajectory (BLADE), input trajectory_file: ", *words]:
        assert word in outcome.error
    assert not list((server.base / "output").glob("never*"))


@pytest.mark.parametrize("prefix", ["../kept", "blade/../../kept", "link/new/kept", "{elsewhere}/kept"])
def test_a_place_outside_the_output_folder_is_refused(server, saved, prefix, tmp_path):
    link = server.base / "output" / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    graph = with_defaults(server, copy.deepcopy(INVERTED))
    prefix = graph["save"]["inputs"]["filename_prefix"] = prefix.format(elsewhere=tmp_path)
    outcome = server.run(graph)
    assert outcome.error_node == "save"
    assert outcome.error == (
        f"Save Trajectory (BLADE), input filename_prefix: {prefix!r} leads out of ComfyUI's output folder. "
        "Give a place inside it, such as 'blade/trajectory'."
    )
    assert not list(tmp_path.iterdir())
