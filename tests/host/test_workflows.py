"""The graphs of workflows/ and each kind of bad input, over HTTP on a real server."""

import copy
import json

import pytest

from demo.graphs import to_prompt
from demo.host import REPOSITORY, TWIN_NAME

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def graphs(server):
    """Every workflow as the server runs it, shortened: 4 frames and 5 steps."""
    info = server.object_info()
    found = {}
    for file in WORKFLOWS:
        prompt = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
        for node in prompt.values():
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = 5
            if node["class_type"] in ("BLADE_LoadVideo", "BLADE_EncodeVideo"):
                node["inputs"]["frame_count"] = 4
        found[file.stem] = prompt
    return found


@pytest.fixture
def graph(graphs):
    return copy.deepcopy(graphs["blade_change_colour"])


def node(graph, class_type):
    return next(entry for entry in graph.values() if entry["class_type"] == class_type)


def test_there_are_workflows():
    assert {"blade_change_colour", "blade_change_shape", "blade_check_inversion", "blade_draw_mask", "blade_long_clip"} <= {
        file.stem for file in WORKFLOWS
    }


@pytest.mark.parametrize("name", [file.stem for file in WORKFLOWS])
def test_a_workflow_runs_to_a_video(server, graphs, name):
    steps = []
    outcome = server.run(graphs[name], on_event=lambda event: steps.append(event["data"]["node"]) if event["type"] == "progress" else None)
    assert outcome.error is None
    save = next(key for key, entry in graphs[name].items() if entry["class_type"] in ("SaveVideo", "BLADE_DecodeVideo"))
    (video,) = outcome.outputs[save]["images"]
    assert (server.base / "output" / video["subfolder"] / video["filename"]).stat().st_size > 1000
    for key, entry in graphs[name].items():
        if entry["class_type"] in ("BLADE_DDIMInvert", "BLADE_BlendedSampler", "BLADE_ReconstructionCheck"):
            assert steps.count(key) >= 5  # progress of every step reached the page


def test_nothing_that_an_artist_turns_in_an_edit_inverts_again(server, graph):
    assert server.run(graph).error is None
    sampler = node(graph, "BLADE_BlendedSampler")["inputs"]
    target = graph[sampler["target"][0]]["inputs"]
    load = next(key for key, entry in graph.items() if entry["class_type"] == "BLADE_LoadVideo")
    invert = next(key for key, entry in graph.items() if entry["class_type"] == "BLADE_DDIMInvert")
    graph["mask"] = {"class_type": "ImageToMask", "inputs": {"image": [load, 0], "channel": "red"}}
    changes = [
        lambda: (target.update(text="a green circle on grass"), sampler.update(target_words="green circle")),
        lambda: sampler.update(cfg=5.0),
        lambda: sampler.update(steps=4, start=0.8, sampler_name="heun"),
        lambda: sampler.update(mask=["mask", 0]),
    ]
    for change in changes:
        change()
        outcome = server.run(graph)
        assert outcome.error is None
        assert invert in outcome.cached
        assert "BLADE_BlendedSampler" not in {graph[key]["class_type"] for key in outcome.cached if key in graph}


def test_nothing_that_an_artist_turns_in_a_mask_runs_a_model(server, graph):
    assert server.run(graph).error is None
    mask = node(graph, "BLADE_CrossAttentionMask")["inputs"]
    shown = [key for key, entry in graph.items() if entry["class_type"] == "BLADE_CrossAttentionMask"]
    changes = ({"words": "circle, -grass"}, {"threshold": "otsu"}, {"smoothing": 2}, {"edges": False, "show": "steps"}, {"feather": 2.0})
    for change in changes:
        mask.update(change)
        outcome = server.run(graph)
        assert outcome.error is None
        ran = {entry["class_type"] for key, entry in graph.items() if key not in outcome.cached}
        assert ran == {"BLADE_CrossAttentionMask"}
        pictures = outcome.outputs[shown[0]]["images"]
        assert len(pictures) == (1 if mask.get("show") == "steps" else 4)


def test_the_twin_that_predicts_v_edits_through_the_same_graph(server, graph):
    graph["twin"] = {"class_type": "UNETLoader", "inputs": {"unet_name": TWIN_NAME, "weight_dtype": "default"}}
    node(graph, "BLADE_TemporalAttention")["inputs"]["model"] = ["twin", 0]
    outcome = server.run(graph)
    assert outcome.error is None
    assert any(graph[key]["class_type"] == "SaveVideo" for key in outcome.outputs)


@pytest.mark.parametrize("name", [file.stem for file in WORKFLOWS])
def test_the_prompt_is_still_the_one_that_the_page_exported(server, name):
    """tests/demo compares to_prompt with the page's own export; this, that the nodes have not changed since it was recorded."""
    workflow = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    exported = json.loads((REPOSITORY / "tests" / "demo" / f"{name}.prompt.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.object_info())
    assert {key: entry["inputs"].keys() - {"video-preview", "preview"} for key, entry in exported.items()} == {
        key: entry["inputs"].keys() for key, entry in prompt.items()
    }


def assert_refused(server, graph, class_type, *words):
    """The graph ends with one sentence of ours at that node, and the sampler's output is not written."""
    before = sorted((server.base / "output").rglob("*"))
    outcome = server.run(graph)
    assert outcome.error is not None
    assert graph[outcome.error_node]["class_type"] == class_type
    for word in words:
        assert word in outcome.error
    assert "Traceback" not in outcome.error
    assert sorted((server.base / "output").rglob("*")) == before


def test_a_missing_video_is_refused_before_anything_runs(server, graph):
    node(graph, "BLADE_LoadVideo")["inputs"]["video"] = "nowhere.mp4"
    assert_refused(server, graph, "BLADE_LoadVideo", "Load Video (BLADE)", "video", "nowhere.mp4")


def test_an_unreadable_video_is_refused(server, graph, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 4096)
    node(graph, "BLADE_LoadVideo")["inputs"]["video"] = server.add_input(broken)
    assert_refused(server, graph, "BLADE_LoadVideo", "Load Video (BLADE)", "broken.mp4", "cannot be decoded", "Choose another")


def test_an_empty_stretch_is_refused_with_the_clips_length(server, graph):
    node(graph, "BLADE_LoadVideo")["inputs"]["start_frame"] = 5000
    assert_refused(server, graph, "BLADE_LoadVideo", "Load Video (BLADE)", "12 frames", "5000")


@pytest.mark.parametrize(
    ("class_type", "name", "title"),
    [
        ("BLADE_CrossAttentionMask", "words", "Cross-Attention Mask (BLADE)"),
        ("BLADE_BlendedSampler", "source_words", "Blended Sampler (BLADE)"),
        ("BLADE_BlendedSampler", "target_words", "Blended Sampler (BLADE)"),
    ],
)
def test_a_word_that_is_not_in_the_prompt_is_refused_with_its_words(server, graph, class_type, name, title):
    node(graph, class_type)["inputs"][name] = "circel"
    assert_refused(server, graph, class_type, title, name, "'circel'", "a, ", "circle, on, grass", "Did you mean 'circle'")


def test_a_mask_of_another_size_is_refused(server, graph):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 128}}
    node(graph, "BLADE_BlendedSampler")["inputs"]["mask"] = ["mask", 0]
    assert_refused(server, graph, "BLADE_BlendedSampler", "input mask", "64x128", "128x128", "Resize")


def test_a_mask_with_another_number_of_frames_is_refused(server, graph):
    load = next(key for key, entry in graph.items() if entry["class_type"] == "BLADE_LoadVideo")
    graph["short"] = {"class_type": "BLADE_LoadVideo", "inputs": {**graph[load]["inputs"], "frame_count": 3}}
    graph["mask"] = {"class_type": "ImageToMask", "inputs": {"image": ["short", 0], "channel": "red"}}
    node(graph, "BLADE_BlendedSampler")["inputs"]["mask"] = ["mask", 0]
    assert_refused(server, graph, "BLADE_BlendedSampler", "input mask", "3 frames", "has 4")


def test_a_trajectory_without_words_says_what_is_missing(server, graph):
    invert = node(graph, "BLADE_DDIMInvert")["inputs"]
    clip = graph[invert["source"][0]]["inputs"]["clip"]
    graph["core"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "a red circle on grass"}}
    invert["source"] = ["core", 0]
    outcome = server.run(graph)
    assert "Prompt (BLADE)" in outcome.error


def test_a_solver_that_adds_noise_is_refused_with_those_that_do_not(server, graph):
    node(graph, "BLADE_BlendedSampler")["inputs"]["sampler_name"] = "euler_ancestral"
    assert_refused(server, graph, "BLADE_BlendedSampler", "sampler_name", "euler_ancestral", "dpmpp_2m")


def test_a_latent_of_another_model_is_refused(server, graph):
    graph["empty"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 4}}
    node(graph, "BLADE_DDIMInvert")["inputs"]["latent"] = ["empty", 0]
    assert_refused(server, graph, "BLADE_DDIMInvert", "input latent", "[4, 16, 16, 16]", "needs [frames, 4")


def test_a_grid_that_rises_is_refused(server, graph):
    graph["grid"] = {"class_type": "BasicScheduler", "inputs": {"model": ["1", 0], "scheduler": "normal", "steps": 5, "denoise": 1.0}}
    graph["flipped"] = {"class_type": "FlipSigmas", "inputs": {"sigmas": ["grid", 0]}}
    node(graph, "BLADE_DDIMInvert")["inputs"]["sigmas"] = ["flipped", 0]
    assert_refused(server, graph, "BLADE_DDIMInvert", "input sigmas", "does not fall", "core's schedulers")


def test_a_grid_of_one_step_is_refused(server, graph):
    graph["grid"] = {"class_type": "BasicScheduler", "inputs": {"model": ["1", 0], "scheduler": "normal", "steps": 1, "denoise": 1.0}}
    node(graph, "BLADE_DDIMInvert")["inputs"]["sigmas"] = ["grid", 0]
    assert_refused(server, graph, "BLADE_DDIMInvert", "input sigmas", "1 steps", "at least 2")


def test_a_trajectory_of_another_checkpoint_is_refused(server, graph):
    """The twin, read as if it predicted noise, inverts; the checkpoint that it was tuned from may not sample."""
    graph["twin"] = {"class_type": "UNETLoader", "inputs": {"unet_name": TWIN_NAME, "weight_dtype": "default"}}
    graph["eps"] = {"class_type": "ModelSamplingDiscrete", "inputs": {"model": ["twin", 0], "sampling": "eps", "zsnr": False}}
    node(graph, "BLADE_DDIMInvert")["inputs"]["model"] = ["eps", 0]
    assert_refused(server, graph, "BLADE_BlendedSampler", "input trajectory", "another checkpoint", "invert again")


def test_latents_that_are_not_finite_are_refused(server, graph):
    encode = next(key for key, entry in graph.items() if entry["class_type"] == "VAEEncode")
    large = {"samples": [encode, 0], "multiplier": 10.0}
    graph["large_0"] = {"class_type": "LatentMultiply", "inputs": large}
    for number in range(1, 40):  # 10 is the most that the node takes
        graph[f"large_{number}"] = {"class_type": "LatentMultiply", "inputs": large | {"samples": [f"large_{number - 1}", 0]}}
    node(graph, "BLADE_DDIMInvert")["inputs"]["latent"] = ["large_39", 0]
    assert_refused(server, graph, "BLADE_DDIMInvert", "input latent", "not finite", "NaN or infinity")
