"""runner.host against the real ComfyUI: a stock graph, and every way in which one can fail."""

import os
import subprocess
import sys

import pytest

from demo.base import prepare_base
from runner.host import REPOSITORY, ComfyHost, HostError

STOCK = {
    "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "blade_demo.safetensors"}},
    "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "a red circle on grass"}},
    "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "sample": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0],
            "positive": ["prompt", 0],
            "negative": ["prompt", 0],
            "latent_image": ["empty", 0],
            "seed": 1,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    },
    "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["model", 2]}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "stock"}},
}


def test_stock_graph_samples_the_demo_checkpoint(server, checkpoint):
    picture = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}}
    server.run(
        {"1": picture, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    )  # of the prompt before it, all is forgotten
    events = []
    outcome = server.run(STOCK, on_event=events.append)
    assert outcome.error is None
    (picture,) = outcome.outputs["save"]["images"]
    assert (server.base / "output" / picture["filename"]).stat().st_size > 1000
    assert outcome.seconds.keys() == STOCK.keys() and not outcome.cached
    assert [e["data"]["value"] for e in events if e["type"] == "progress" and e["data"]["node"] == "sample"] == [1, 2]
    again = server.run(STOCK | {"save": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}})
    assert sorted(again.cached) == sorted(STOCK.keys() - {"save"}) and again.seconds.keys() == {"save"}


def test_refused_prompt_names_node_input_and_value(server):
    sampler = {"class_type": "KSampler", "inputs": STOCK["sample"]["inputs"] | {"steps": 0}}
    outcome = server.run(STOCK | {"sample": sampler})
    assert outcome.error_node == "sample"
    assert outcome.error == "KSampler (node sample): Value 0 smaller than min of 1: steps"


@pytest.mark.parametrize(
    "prompt, error", [({}, "Prompt has no outputs"), ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, "NoSuchNode")]
)
def test_impossible_prompt_is_an_error_without_a_node(server, prompt, error):
    outcome = server.run(prompt)
    assert error in outcome.error and outcome.error_node is None and not outcome.outputs


def test_error_of_a_node_is_its_own_sentence(server):
    (server.base / "input" / "broken.png").write_bytes(b"no picture")
    graph = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["load", 0]}},
    }
    outcome = server.run(graph)
    assert outcome.error_node == "load" and outcome.error.startswith("cannot identify image file")


def test_pack_is_served_from_a_folder_with_a_dot_in_its_name(comfy_folder, tmp_path, server):
    """Its help pages are not, since the page cuts the name at the dot; all nodes are."""
    with ComfyHost(comfy_folder, prepare_base(tmp_path, pack="video-editing.blade"), cpu=True) as host:
        ours = {name for name, info in host.object_info().items() if info["python_module"] == "custom_nodes.video-editing.blade"}
    assert (
        ours
        == {name for name, info in server.object_info().items() if info["python_module"] == "custom_nodes.video-editing-blade"}
        != set()
    )


def test_pack_is_served_with_its_nodes(server):
    ours = [name for name, info in server.object_info().items() if info["python_module"] == "custom_nodes.video-editing-blade"]
    assert ours and all(name.startswith("BLADE_") for name in ours)


def test_server_that_ends_while_starting_is_told_with_its_log(tmp_path):
    comfy = tmp_path / "comfy"
    comfy.mkdir()
    (comfy / "main.py").write_text("raise SystemExit('the reason')")
    with pytest.raises(HostError, match=r"ended while it started(.|\n)*the reason"), ComfyHost(comfy, tmp_path):
        pass


def test_server_that_never_answers_is_stopped(tmp_path):
    (tmp_path / "main.py").write_text("import time; time.sleep(600)")
    host = ComfyHost(tmp_path, tmp_path, start_timeout=1)
    with pytest.raises(HostError, match="did not answer within 1 s"), host:
        pass
    assert not host.running


def test_server_ends_with_the_process_that_started_it(tmp_path):
    """Even if that process gets no chance to stop it."""
    (tmp_path / "main.py").write_text("import pathlib, time; pathlib.Path('up').touch(); time.sleep(60)")
    code = f"""
import os, sys, time
from pathlib import Path
from runner.host import ComfyHost
base = Path({str(tmp_path)!r})
host = ComfyHost(base, base)
host._start()
print(host.pid, flush=True)
while not (base / "up").exists():
    time.sleep(0.1)
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    import psutil

    try:
        psutil.Process(int(done.stdout)).wait(20)
    except psutil.NoSuchProcess:
        pass
    assert not psutil.pid_exists(int(done.stdout))


def test_prepared_base_can_be_prepared_again(tmp_path):
    first = prepare_base(tmp_path)
    clips = {path: path.stat().st_mtime_ns for path in (first / "input").iterdir()}
    assert prepare_base(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in (first / "input").iterdir()} == clips
    assert (first / "custom_nodes" / "blade" / "__init__.py").exists()


def test_copied_pack_holds_what_it_needs_and_no_more(tmp_path, monkeypatch):
    """As on Windows without the right to make links."""

    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    pack = prepare_base(tmp_path) / "custom_nodes" / "blade"
    names = {path.name for path in pack.iterdir()}
    assert {"__init__.py", "nodes", "host", "inversion", "attention", "blending", "video", "web", "locales", "pyproject.toml"} <= names
    assert not names & {"demo", "tests", "out", ".git", ".cache"}


def test_comfyui_path_that_holds_none_is_told(monkeypatch, tmp_path):
    from runner.fetch import find_comfy

    monkeypatch.setitem(os.environ, "COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ValueError, match="holds no ComfyUI"):
        find_comfy(tmp_path)
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.74"\n')
    with pytest.raises(ValueError, match=r"ComfyUI 0\.3\.74: BLADE needs 0\.3\.75"):
        find_comfy(tmp_path)
