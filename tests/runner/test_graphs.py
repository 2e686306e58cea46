"""The prompt derived from a workflow file is the one that ComfyUI's own page derives.

*.prompt.json are the page's exports and object_info.json what its server said of the node types. Made by `python -m tools.record_page`,
which has to run again when a workflow, a node's inputs or the pinned ComfyUI changes. page_cases.json holds what our own workflows
do not use: reroutes, muted and bypassed nodes, a seed with its "randomize", a value that a primitive node feeds.
"""

import json
from pathlib import Path

import pytest

from runner.graphs import to_prompt, with_defaults

HERE = Path(__file__).parent
WORKFLOWS = sorted((HERE.parents[1] / "workflows").glob("*.json"))
INFO = json.loads((HERE / "object_info.json").read_text(encoding="utf-8"))
TITLE_BAR = 30  # pixels that a node's title takes above its position


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def page_export(path: Path) -> dict:
    """The page's own prompt. Once a preview has loaded, it also sends that preview's state, which is no input of the node."""
    prompt = read(HERE / f"{path.stem}.prompt.json")
    for node in prompt.values():
        node["inputs"].pop("video-preview", None)
        if node["class_type"] == "PreviewAny":
            node["inputs"].pop("preview", None)
    return prompt


@pytest.mark.parametrize("path", [*WORKFLOWS, HERE / "page_cases.json"], ids=lambda path: path.stem)
def test_equals_the_page_s_own_export(path: Path) -> None:
    assert to_prompt(read(path), INFO) == page_export(path)


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} >= {
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


def test_a_list_is_wrapped_lest_it_be_read_as_a_link() -> None:
    info = {"Colours": {"input": {"required": {"which": ["COMBO", {"options": ["red", "blue"]}]}}, "display_name": "Colours"}}
    node = {"id": 1, "type": "Colours", "mode": 0, "inputs": [], "outputs": [], "widgets_values": [["red", "blue"]]}
    assert to_prompt({"nodes": [node], "links": []}, info)["1"]["inputs"] == {"which": {"__value__": ["red", "blue"]}}


def test_values_that_the_file_lacks_are_the_defaults() -> None:
    inputs = {"name": ["STRING", {}], "steps": ["INT", {"default": 25}], "solver": [["euler", "heun"], {}], "model": ["MODEL", {}]}
    info = {"Sampler": {"input": {"required": inputs}, "display_name": "Sampler"}}
    node = {"id": 1, "type": "Sampler", "mode": 0, "inputs": [], "outputs": [], "widgets_values": ["mine"]}
    assert to_prompt({"nodes": [node], "links": []}, info)["1"]["inputs"] == {"name": "mine", "steps": 25, "solver": "euler"}


QUALITY = ["FLOAT", {"default": 23.0}]
ENCODING = [
    "COMFY_DYNAMICCOMBO_V3",
    {"options": [{"key": "auto", "inputs": {"required": {}}}, {"key": "again", "inputs": {"required": {"crf": QUALITY}}}]},
]
CODEC = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "auto", "inputs": {"required": {}}}, {"key": "h264", "inputs": {"required": {}, "optional": {"encoding": ENCODING}}}]}]  # fmt: skip
NEWER = {  # as ComfyUI since 0.30 tells of its own nodes that have combos whose choice brings further inputs
    "Save": {"input": {"required": {"video": ["VIDEO", {}], "name": ["STRING", {}], "codec": CODEC}, "optional": {"note": ["STRING", {"default": "none"}]}}}
}  # fmt: skip


@pytest.mark.parametrize(
    "saved, expected",
    [
        (["a"], {"codec": "auto", "note": "none"}),
        (["a", "auto", "seen"], {"codec": "auto", "note": "seen"}),
        (["a", "h264"], {"codec": "h264", "codec.encoding": "auto", "note": "none"}),
        (["a", "h264", "auto", "seen"], {"codec": "h264", "codec.encoding": "auto", "note": "seen"}),
        (["a", "h264", "again", 20, "seen"], {"codec": "h264", "codec.encoding": "again", "codec.encoding.crf": 20, "note": "seen"}),
        (["a", "of another time", "seen"], {"codec": "of another time", "note": "seen"}),
    ],
)
def test_a_choice_brings_its_own_inputs_after_it(saved: list, expected: dict) -> None:
    node = {"id": 1, "type": "Save", "mode": 0, "title": "Save", "inputs": [], "outputs": [], "widgets_values": saved}
    inputs = to_prompt({"nodes": [node], "links": []}, NEWER)["1"]["inputs"]
    assert inputs == {"name": "a"} | expected and list(inputs) == ["name", *expected]


def test_a_prompt_written_by_hand_gets_what_its_choice_asks_for() -> None:
    prompt = {"1": {"class_type": "Save", "inputs": {"video": ["2", 0], "codec": "h264", "codec.encoding": "again"}}}
    inputs = with_defaults(prompt, NEWER)["1"]["inputs"]
    assert inputs == {
        "video": ["2", 0],
        "name": "",
        "codec": "h264",
        "codec.encoding": "again",
        "codec.encoding.crf": 23.0,
        "note": "none",
    }


def test_a_file_from_an_older_comfyui_takes_the_default_of_an_input_that_came_later() -> None:
    inputs = {
        "required": {"images": ["IMAGE", {}], "fps": ["FLOAT", {"default": 30.0}]},
        "optional": {"bit_depth": ["INT", {"default": 8}]},
    }
    info = {
        "Create": {"input": inputs, "input_order": {"required": ["images", "fps"], "optional": ["bit_depth"]}, "display_name": "Create"}
    }
    node = {"id": 1, "type": "Create", "mode": 0, "inputs": [], "outputs": [], "widgets_values": [12]}
    assert to_prompt({"nodes": [node], "links": []}, info)["1"]["inputs"] == {"fps": 12, "bit_depth": 8}


def test_an_unknown_node_type_is_named() -> None:
    workflow = read(WORKFLOWS[0])
    node = next(node for node in workflow["nodes"] if node["type"] == "BLADE_DDIMInvert")
    node["type"] = "BLADE_Nowhere"
    with pytest.raises(ValueError, match=f"node {node['id']} is of type 'BLADE_Nowhere', which this ComfyUI does not know"):
        to_prompt(workflow, INFO)


def test_a_link_from_nowhere_is_named() -> None:
    workflow = read(WORKFLOWS[0])
    workflow["links"] = [link for link in workflow["links"] if link[5] != "LATENT"]
    with pytest.raises(ValueError, match="comes from nowhere"):
        to_prompt(workflow, INFO)


def test_links_in_a_circle_are_named() -> None:
    reroute = {"type": "Reroute", "mode": 0, "outputs": [{"name": "", "type": "*"}]}
    nodes = [
        {"id": 1, **reroute, "inputs": [{"name": "", "type": "*", "link": 2}]},
        {"id": 2, **reroute, "inputs": [{"name": "", "type": "*", "link": 1}]},
        {"id": 3, "type": "PreviewImage", "mode": 0, "inputs": [{"name": "images", "type": "IMAGE", "link": 3}], "outputs": []},
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 2, 0, 3, 0, "IMAGE"]]
    with pytest.raises(ValueError, match="run in a circle"):
        to_prompt({"nodes": nodes, "links": links}, INFO)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_lies_on_another_and_each_lies_in_a_group(path: Path) -> None:
    workflow = read(path)
    boxes = {node["id"]: (*node["pos"], *node["size"]) for node in workflow["nodes"]}
    for one, (x, y, width, height) in boxes.items():
        for other, (x2, y2, width2, height2) in boxes.items():
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 - TITLE_BAR or y2 + height2 <= y - TITLE_BAR
            assert one == other or apart, f"nodes {one} and {other} overlap"
    for node in workflow["nodes"]:
        if node["type"] != "MarkdownNote":
            x, y, width, height = boxes[node["id"]]
            inside = [
                left <= x and x + width <= left + wide and top <= y - TITLE_BAR and y + height <= top + high
                for left, top, wide, high in (group["bounding"] for group in workflow["groups"])
            ]
            assert any(inside), f"node {node['id']} lies in no group"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_note_says_what_to_change(path: Path) -> None:
    notes = [node for node in read(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and "With a clip of your own" in notes[0]["widgets_values"][0]
