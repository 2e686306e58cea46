"""The help pages, web/docs: each tells all that its node takes and gives as the server tells it, and nothing that is not so.

tests/runner/object_info.json is what the server said of the nodes; `python -m tools.record_page` makes it. tests/host/test_help.py asks a server."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in sorted((ROOT / "web" / "docs").glob("*.md"))}
TYPES = json.loads((ROOT / "tests" / "runner" / "object_info.json").read_text(encoding="utf-8"))
NODES = {name: info for name, info in TYPES.items() if name.startswith("BLADE_")}
GRAPHS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "workflows").glob("*.json")}
SECTIONS = ["Example", "Inputs", "Outputs", "When something goes wrong", "Where it comes from"]
LARGEST = 60_000  # bytes of a picture


def text(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the section's table, without its two head lines."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def inputs(name: str) -> dict[str, tuple[str, list]]:
    """What an artist can turn or connect: by name, its group, and its type and options as the server tells them."""
    info = NODES[name]
    return {key: (group, info["input"][group][key]) for group in ("required", "optional") for key in info["input_order"].get(group, [])}


def default(group: str, spec: list) -> str:
    """The default as a page writes it, below the name since the panel is narrow; nothing for what must be connected or chosen. A list of choices
    without a default begins with its first; one of files has none that holds everywhere."""
    kind, options = spec
    if kind == "COMBO" and "default" not in options and not options.get("video_upload") and options["options"]:
        return options["options"][0]
    value = options.get("default")
    if value is None:
        return "optional" if group == "optional" else ""
    return (
        "empty"
        if value == ""
        else str(value).lower()
        if isinstance(value, bool)
        else f"{value:.10g}"
        if isinstance(value, float)
        else str(value)
    )


@cache
def said() -> str:
    """Every text in the pack's code, one a line, with an ellipsis for each value that is put into it."""
    found = []
    for folder in ("nodes", "host", "video", "inversion", "attention", "blending", "metrics"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def known_names() -> set[str]:
    """All that a page may write in italics: what ComfyUI shows under that very name."""
    titles = {node.get("title", "") for graph in GRAPHS.values() for node in graph["nodes"]}
    shown = {re.sub(r" \(.*", "", info["display_name"] or name) for name, info in TYPES.items()}
    names = {key for name in NODES for key in inputs(name)} | {key for info in NODES.values() for key in info["output_name"]}
    lists = {str(option) for name in NODES for _, spec in inputs(name).values() for option in spec[1].get("options", [])}
    return {*GRAPHS, *titles, *shown, *names, *lists}


def test_every_node_has_a_page_and_every_page_a_node():
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py"))
    registered = {name for source in sources for name in re.findall(r'node_id="(\w+)"', source)}
    assert PAGES.keys() == registered == NODES.keys()


@pytest.mark.parametrize("name", NODES)
def test_a_page_has_its_node_s_title_and_all_sections(name):
    page = text(name)
    assert page.splitlines()[0] == f"# {NODES[name]['display_name']}"
    assert re.findall("^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert all(section(page, heading).strip() for heading in SECTIONS)


@pytest.mark.parametrize("name", NODES)
def test_a_page_lists_the_inputs_in_their_order_with_their_defaults(name):
    told = rows(text(name), "Inputs")
    assert [row[0] for row in told] == ["<br>".join(filter(None, (f"*{key}*", default(*spec)))) for key, spec in inputs(name).items()]
    assert all(len(row) == 2 and len(row[1]) > 10 for row in told)


@pytest.mark.parametrize("name", NODES)
def test_a_page_lists_the_outputs_in_their_order(name):
    assert [row[0] for row in rows(text(name), "Outputs")] == [f"*{key}*" for key in NODES[name]["output_name"]]
    assert all(len(row) == 2 and len(row[1]) > 10 for row in rows(text(name), "Outputs"))


@pytest.mark.parametrize("name", NODES)
def test_a_page_names_nothing_that_comfyui_does_not_show(name):
    assert set(re.findall(r"(?<!\*)\*(?![*\s])([^*\n]+)\*(?!\*)", text(name))) - known_names() == set()


@pytest.mark.parametrize("name", NODES)
def test_a_page_quotes_what_the_pack_really_says(name):
    quoted = re.findall(r'\*\*"(.+?)"\*\*', section(text(name), "When something goes wrong"))
    assert [sentence for sentence in quoted if sentence not in said()] == []


@pytest.mark.parametrize("name", NODES)
def test_the_graphs_that_a_page_names_exist_and_those_that_show_the_node_have_it(name):
    page = text(name)
    assert set(re.findall(r"\bblade_[a-z_]+\b", page)) <= GRAPHS.keys()
    shown = re.search(r"^Shown in (.*)\.$", section(page, "Example"), re.MULTILINE)
    holding = {stem for stem, graph in GRAPHS.items() if name in {node["type"] for node in graph["nodes"]}}
    assert bool(shown) == bool(holding)
    assert not shown or set(re.findall(r"\*(\w+)\*", shown[1])) <= holding


@pytest.mark.parametrize("name", NODES)
def test_a_page_s_pictures_lie_beside_it_and_are_small(name):
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text(name)):
        file = ROOT / "web" / "docs" / picture
        assert "/" not in picture and file.read_bytes()[:3] == b"\xff\xd8\xff" and file.stat().st_size < LARGEST


def test_every_picture_can_be_made_again_and_is_shown():
    from tools.help_pictures import help_pictures

    shown = {picture for name in PAGES for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text(name))}
    assert {path.name for path in (ROOT / "web" / "docs").iterdir() if path.suffix != ".md"} == shown
    assert {f"{name}.jpg" for name in help_pictures()} == shown
