"""The graphs of workflows/ and each kind of bad input, over HTTP on a real server."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from demo.base import PUBLISHED, TWIN_NAME, add_placeholders
from demo.check import colour_in, find_object
from demo.clips import read_mp4, truth
from metrics.background import dilate
from runner.graphs import to_prompt
from runner.host import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
NAMES = [file.stem for file in WORKFLOWS]
OTHER_MODELS = {
    "blade_controlnet": "ControlNetLoader",
    "blade_sdxl": "CheckpointLoaderSimple",
}  # a published model, which no test has, and its loader
DEMO_RUNS = [name for name in NAMES if name not in OTHER_MODELS]
REFUSED = re.compile(r"\w+ \(node (\w+)\): ")  # how runner.host tells what validation refused; an error while running begins with the error
SAVERS = ("SaveVideo", "BLADE_SaveVideo", "BLADE_DecodeVideo")
SAMPLERS = ("BLADE_BlendedSampler", "SamplerCustomAdvanced")


@pytest.fixture(scope="module")
def graphs(server):
    """Every workflow as the server runs it, shortened: 4 frames and 5 steps."""
    add_placeholders(server.base)
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


def key_of(graph, *class_types):
    return next(key for key, entry in graph.items() if entry["class_type"] in class_types)


def test_there_are_workflows():
    assert set(NAMES) >= {
        "blade_change_colour",
        "blade_change_shape",
        "blade_check_inversion",
        "blade_controlnet",
        "blade_draw_mask",
        "blade_long_clip",
        "blade_multi_edit",
        "blade_own_mask",
        "blade_sampler_custom",
        "blade_sdxl",
    }


@pytest.mark.parametrize("name", DEMO_RUNS)
def test_a_workflow_runs_to_a_video(server, graphs, name):
    steps = []
    outcome = server.run(graphs[name], on_event=lambda event: steps.append(event["data"]["node"]) if event["type"] == "progress" else None)
    assert outcome.error is None
    (video,) = outcome.outputs[key_of(graphs[name], *SAVERS)]["images"]
    assert (server.base / "output" / video["subfolder"] / video["filename"]).stat().st_size > 1000
    for key, entry in graphs[name].items():
        if entry["class_type"] in ("BLADE_DDIMInvert", "BLADE_ReconstructionCheck", *SAMPLERS) and key not in outcome.cached:
            assert steps.count(key) >= 5  # progress of every step reached the page


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_a_workflow_for_another_model_is_accepted_and_ends_at_that_model_s_empty_file(server, graphs, name):
    """The host's validation has looked at every type of node, name of a file, value and link, and refused none."""
    begun = []
    outcome = server.run(graphs[name], on_event=lambda event: begun.append(event["data"]["node"]) if event["type"] == "executing" else None)
    assert not REFUSED.match(outcome.error) and outcome.error_node in begun
    ended = graphs[name][outcome.error_node]
    assert ended["class_type"] in ("CheckpointLoaderSimple", "ControlNetLoader")
    assert any(Path(value).name in {Path(file).name for file in PUBLISHED} for value in ended["inputs"].values())


@pytest.mark.parametrize("name", OTHER_MODELS)
@pytest.mark.parametrize("spoil", ["link", "file", "value"])
def test_a_spoiled_workflow_for_another_model_is_refused_before_anything_runs(server, graphs, name, spoil):
    shown = ("PreviewImage", "BLADE_CrossAttentionMask")  # what ends elsewhere runs, whatever is refused
    graph = {key: entry for key, entry in copy.deepcopy(graphs[name]).items() if entry["class_type"] not in shown}
    spoiled, inputs = {
        "link": ("BLADE_BlendedSampler", {"trajectory": None}),
        "file": (OTHER_MODELS[name], {next(iter(node(graph, OTHER_MODELS[name])["inputs"])): "nowhere.safetensors"}),
        "value": ("BLADE_BlendedSampler", {"renoise": 1.5}),
    }[spoil]
    key = key_of(graph, spoiled)
    graph[key]["inputs"] = {name: value for name, value in (graph[key]["inputs"] | inputs).items() if value is not None}
    begun = []
    outcome = server.run(graph, on_event=lambda event: begun.append(event["data"]["node"]) if event["type"] == "executing" else None)
    assert REFUSED.match(outcome.error)[1] == key and next(iter(inputs)) in outcome.error
    assert not begun


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_a_workflow_for_another_model_hangs_together_as_the_demo_s_do(server, graphs, name):
    """With the demo checkpoint, and past the ControlNet, it runs: what its own model would run is the same graph."""
    graph = copy.deepcopy(graphs[name])
    node(graph, "CheckpointLoaderSimple")["inputs"]["ckpt_name"] = node(graphs["blade_change_colour"], "CheckpointLoaderSimple")["inputs"][
        "ckpt_name"
    ]
    node(graph, "BLADE_LoadVideo")["inputs"]["longest_side"] = 0
    sampler = node(graph, "BLADE_BlendedSampler")["inputs"]
    if name == "blade_controlnet":
        control = node(graph, "ControlNetApplyAdvanced")["inputs"]
        sampler.update(target=control["positive"], negative=control["negative"])
    outcome = server.run(graph)
    assert outcome.error is None
    assert outcome.outputs[key_of(graph, *SAVERS)]["images"]


def frames_of(server, outcome, key):
    (video,) = outcome.outputs[key]["images"]
    return read_mp4(server.base / "output" / video["subfolder"] / video["filename"])


def written_without_loss(graph):
    """The key of the node that saves, told to keep every bit."""
    key = key_of(graph, "BLADE_SaveVideo")
    graph[key]["inputs"]["format"] = "mkv (FFV1, lossless)"
    return key


def test_the_graph_of_two_edits_makes_both_and_nothing_else(server, graphs):
    """At enough steps for edits to be true, on four frames that cover the whole of both paths."""
    graph = copy.deepcopy(graphs["blade_multi_edit"])
    for entry in graph.values():
        if "steps" in entry["inputs"]:
            entry["inputs"]["steps"] = 20
    load = node(graph, "BLADE_LoadVideo")["inputs"]
    load["every_nth"] = 3
    key = written_without_loss(graph)
    outcome = server.run(graph)
    assert outcome.error is None
    edited, places = frames_of(server, outcome, key), slice(0, 12, 3)
    circles, squares = (truth("blade_two_things", which=which)[places] for which in (0, 1))
    assert [colour_in(frame, mask) for frame, mask in zip(edited, circles, strict=True)] == ["purple"] * 4
    found = [find_object(frame[64:]) for frame in edited]  # the lower half, where the second thing moves
    assert [(thing.colour, thing.shape) if thing else None for thing in found] == [("blue", "heart")] * 4
    source = read_mp4(server.base / "input" / load["video"])[places]
    beyond = ~dilate(np.maximum(circles, squares), 24)
    assert beyond.mean() > 0.2
    assert np.array_equal(edited[beyond], source[beyond])  # to the bit, through the composite and the lossless file


def test_the_artist_s_mask_says_where_the_clip_changes(server, graphs):
    graph = copy.deepcopy(graphs["blade_own_mask"])
    key = written_without_loss(graph)
    composite = node(graph, "BLADE_PixelComposite")["inputs"]
    composite.update(grow=0, feather=0.0, colour_match=0.0)
    outcome = server.run(graph)
    assert outcome.error is None
    edited = frames_of(server, outcome, key)
    source, drawn = (read_mp4(server.base / "input" / f"blade_red_circle{part}.mp4")[:4] for part in ("", "_mask"))
    changed = (edited != source).any(-1)
    assert not changed[drawn[..., 0] < 120].any() and changed[drawn[..., 0] > 135].mean() > 0.9


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
    changes = ({"words": "circle, -grass"}, {"threshold": "otsu"}, {"smoothing": 2}, {"edges": False, "show": "steps"}, {"blur": 2.0})
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
    assert any(graph[key]["class_type"] in SAVERS for key in outcome.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_is_still_the_one_that_the_page_exported(server, name):
    """tests/demo compares to_prompt with the page's own export; this, that the nodes have not changed since it was recorded."""
    workflow = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    exported, recorded = (
        json.loads((REPOSITORY / "tests" / "runner" / f"{part}.json").read_text(encoding="utf-8"))
        for part in (f"{name}.prompt", "object_info")
    )
    prompt = to_prompt(workflow, server.object_info())
    for entry in prompt.values():
        if not entry["class_type"].startswith("BLADE_"):  # core's nodes have more inputs on newer ComfyUI
            known = {name for kind in recorded[entry["class_type"]]["input"].values() for name in kind}
            entry["inputs"] = {name: value for name, value in entry["inputs"].items() if name in known}
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


@pytest.mark.parametrize(
    ("name", "prompt"), [("source_words", "circle, and, a, blue, square"), ("target_words", "circle, and, a, blue, heart")]
)
def test_a_word_of_a_further_edit_that_is_not_in_its_prompt_is_refused_with_its_words(server, graphs, name, prompt):
    graph = copy.deepcopy(graphs["blade_multi_edit"])
    node(graph, "BLADE_Edit")["inputs"][name] = "blue star"
    assert_refused(server, graph, "BLADE_BlendedSampler", "Edit (BLADE)", f"input {name}", "'blue star'", prompt)


@pytest.mark.parametrize("name", ["blade_multi_edit", "blade_sampler_custom"])
def test_structure_without_the_source_prompt_is_refused(server, graphs, name):
    graph = copy.deepcopy(graphs[name])
    node(graph, "BLADE_Edit")["inputs"]["structure"] = 0.5
    door = "BLADE_BlendedSampler" if name == "blade_multi_edit" else "BLADE_BlendedSamplerSelect"
    assert_refused(server, graph, door, "input source", "structure is 0.5", "DDIM Invert", "set structure to 0")


@pytest.mark.parametrize(
    ("name", "door"), [("blade_change_colour", "BLADE_BlendedSampler"), ("blade_sampler_custom", "BLADE_BlendedSamplerSelect")]
)
def test_a_blend_that_ends_before_it_begins_is_refused(server, graphs, name, door):
    graph = copy.deepcopy(graphs[name])
    node(graph, door)["inputs"].update(blend_from=0.8, blend_until=0.8)
    assert_refused(server, graph, door, "input blend_from", "0.8, not before blend_until")


@pytest.mark.parametrize(("name", "value"), [("renoise", 1.5), ("renoise", -0.1), ("structure", 2.0)])
def test_a_value_out_of_range_in_a_further_edit_is_refused(server, graphs, name, value):
    graph = copy.deepcopy(graphs["blade_multi_edit"])
    node(graph, "BLADE_Edit")["inputs"][name] = value
    assert_refused(server, graph, "BLADE_Edit", name, str(value))


def test_a_guider_without_an_edit_s_prompt_is_refused(server, graphs):
    graph = copy.deepcopy(graphs["blade_sampler_custom"])
    node(graph, "BLADE_CFGSchedule")["inputs"]["positive"] = node(graph, "BLADE_Edit")["inputs"]["target"]
    assert_refused(
        server, graph, "SamplerCustomAdvanced", "Blended Sampler Select (BLADE)", "lacks the target prompt of edit 1 of 1", "positive"
    )


def test_a_picture_without_a_mask_is_refused(server, graph):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}  # as core's Load Image gives it
    node(graph, "BLADE_BlendedSampler")["inputs"]["mask"] = ["mask", 0]
    assert_refused(server, graph, "BLADE_BlendedSampler", "input mask", "64x64", "no alpha channel")


def test_a_mask_of_another_size_is_resized(server, graph):
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 128}}
    node(graph, "BLADE_BlendedSampler")["inputs"]["mask"] = ["mask", 0]
    assert server.run(graph).error is None


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
