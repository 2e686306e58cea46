"""Nodes that the artist bypasses (Ctrl+B): what stands in for their outputs is what docs/bypass.md and the help pages say."""

import json
import re

import numpy as np
import pytest

from demo.clips import read_mp4
from runner.graphs import BYPASSED, WIDGETS, to_prompt
from runner.host import REPOSITORY
from tests.bypass import TITLE, Given, written

FRAMES, STEPS = 3, 2
WORKFLOWS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((REPOSITORY / "workflows").glob("*.json"))}
COMPOSITE = "BLADE_PixelComposite"


@pytest.fixture(scope="module")
def types(server):
    return server.object_info()


@pytest.fixture(scope="module")
def given(types) -> Given:
    """By node and output: the input that the page hands on."""
    ours = {name: info for name, info in types.items() if name.startswith("BLADE_")}
    return {
        (info["display_name"].removesuffix(TITLE), output): stands_in
        for name, info in ours.items()
        for output, stands_in in handed_on(name, info).items()
    }


def handed_on(name: str, info: dict) -> dict[str, str | None]:
    """By output: the input that stands in for it, where something is connected to every socket, and to each output what takes its type."""
    specs = {key: spec for kind in ("required", "optional") for key, spec in info["input"].get(kind, {}).items()}
    ordered = [key for kind in ("required", "optional") for key in info["input_order"].get(kind, [])]
    sockets = [(key, specs[key][0]) for key in ordered if not isinstance(specs[key][0], list) and specs[key][0] not in WIDGETS]
    outputs = list(zip(info["output_name"], info["output"], strict=True))
    node = {
        "id": 0, "type": name, "mode": BYPASSED,
        "inputs": [{"name": key, "type": kind, "link": link} for link, (key, kind) in enumerate(sockets)],
        "outputs": [{"name": output, "type": kind} for output, kind in outputs],
    }  # fmt: skip
    feeding = [{"id": 100 + link, "type": "Other", "mode": 0, "outputs": [{"type": kind}]} for link, (_, kind) in enumerate(sockets)]
    taking = [
        {"id": 200 + slot, "type": "Other", "mode": 0, "inputs": [{"name": "taken", "type": kind, "link": 1000 + slot}]}
        for slot, (_, kind) in enumerate(outputs)
    ]
    links = [[link, 100 + link, 0, 0, link, kind] for link, (_, kind) in enumerate(sockets)]
    links += [[1000 + slot, 0, slot, 200 + slot, 0, kind] for slot, (_, kind) in enumerate(outputs)]
    prompt = to_prompt({"nodes": [node, *feeding, *taking], "links": links}, {"Other": {"input": {}, "display_name": "Other"}})
    taken = [prompt[str(200 + slot)]["inputs"].get("taken") for slot in range(len(outputs))]
    return {output: sockets[int(link[0]) - 100][0] if link else None for (output, _), link in zip(outputs, taken, strict=True)}


def test_each_output_of_each_node_is_given_what_the_docs_say(given):
    assert written() == given


def test_each_help_page_says_what_the_bypassed_node_gives(types, given):
    for name, info in types.items():
        if name.startswith("BLADE_"):
            page = (REPOSITORY / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
            (told,) = re.findall(r"^- \*\*Bypassed \(Ctrl\+B\)\.\*\* (.*)$", page, re.MULTILINE)
            stand_in = {given[info["display_name"].removesuffix(TITLE), output] for output in info["output_name"]} - {None}
            assert stand_in <= set(re.findall(r"\*(\w+)\*", told)), name
            assert stand_in or re.search("othing|cannot stand in", told), name


@pytest.mark.parametrize("name", [name for name, graph in WORKFLOWS.items() if any(node["type"] == COMPOSITE for node in graph["nodes"])])
def test_a_graph_with_pixel_composite_bypassed_saves_what_was_decoded(types, name):
    prompt = to_prompt(bypassed(name), types)
    assert COMPOSITE not in {node["class_type"] for node in prompt.values()}
    for node in prompt.values():
        if node["class_type"] in ("BLADE_SaveVideo", "CreateVideo"):
            assert prompt[node["inputs"].get("frames", node["inputs"].get("images"))[0]]["class_type"] == "VAEDecode"


def bypassed(name: str) -> dict:
    graph = json.loads(json.dumps(WORKFLOWS[name]))
    for node in graph["nodes"]:
        if node["type"] == COMPOSITE:
            node["mode"] = BYPASSED
    return graph


def test_the_file_of_a_graph_with_pixel_composite_bypassed_holds_the_edited_frames(server, types):
    prompt = to_prompt(bypassed("blade_change_colour"), types)
    keys = {node["class_type"]: key for key, node in prompt.items()}
    for node in prompt.values():
        node["inputs"] |= {key: value for key, value in {"steps": STEPS, "frame_count": FRAMES}.items() if key in node["inputs"]}
    saved = prompt[keys["BLADE_SaveVideo"]]
    saved["inputs"]["format"] = "mkv (FFV1, lossless)"
    for key, origin in (("edited", keys["VAEDecode"]), ("clip", keys["BLADE_LoadVideo"])):
        prompt[key] = {**saved, "inputs": saved["inputs"] | {"frames": [origin, 0], "filename_prefix": f"video/{key}"}}
    outcome = server.run(prompt)
    assert outcome.error is None
    files = [outcome.outputs[key]["images"][0] for key in (keys["BLADE_SaveVideo"], "edited", "clip")]
    frames, edited, clip = (read_mp4(server.base / "output" / file["subfolder"] / file["filename"]) for file in files)
    assert len(frames) == FRAMES
    assert np.array_equal(frames, edited)
    assert not np.array_equal(frames, clip)
