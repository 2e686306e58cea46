"""The package of ComfyUI's registry, alone in a real server: nothing of it needs what it leaves out."""

import json
import shutil
import urllib.request

import pytest

from demo.base import prepare_base
from runner.graphs import to_prompt
from runner.host import REPOSITORY, ComfyHost
from tests.package import packed


@pytest.fixture(scope="module")
def installed(comfy_folder, tmp_path_factory):
    """A running server whose pack is the package's files and no others; with the demo checkpoint and clips."""
    base = prepare_base(tmp_path_factory.mktemp("package"))
    pack = base / "custom_nodes" / "blade"
    if pack.is_symlink():
        pack.unlink()
    else:
        shutil.rmtree(pack)
    for path in packed():
        target = pack / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    with ComfyHost(comfy_folder, base, cpu=True) as host:
        yield host


def read(server, path: str) -> bytes:
    with urllib.request.urlopen(server.address + path, timeout=30) as answer:
        return answer.read()


def titles(server) -> dict[str, str]:
    return {name: info["display_name"] for name, info in server.object_info().items() if name.startswith("BLADE_")}


def test_the_package_brings_every_node_of_the_repository(installed, server):
    assert titles(installed) == titles(server) != {}


def test_the_package_brings_help_templates_and_translations(installed):
    graphs = {path.stem for path in (REPOSITORY / "workflows").glob("*.json")}
    assert set(json.loads(read(installed, "/workflow_templates"))["blade"]) == graphs
    for name in graphs:
        assert read(installed, f"/api/workflow_templates/blade/{name}.jpg")[:3] == b"\xff\xd8\xff"
    for name in titles(installed):
        assert read(installed, f"/extensions/blade/docs/{name}.md")
    assert all("BLADE_Edit" in installed.translations()[language]["nodeDefs"] for language in ("ja", "zh"))


def test_the_package_edits_a_clip(installed):
    graph = json.loads((REPOSITORY / "workflows" / "blade_change_colour.json").read_text(encoding="utf-8"))
    prompt = to_prompt(graph, installed.object_info())
    for node in prompt.values():
        node["inputs"] |= {name: few for name, few in (("steps", 2), ("frame_count", 2)) if name in node["inputs"]}
    assert installed.run(prompt).error is None
