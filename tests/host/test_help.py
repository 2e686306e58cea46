"""The help pages in the real server: found where ComfyUI's page looks for them. tests/test_help.py reads what they say."""

import re
import urllib.error
import urllib.request

import pytest

from runner.host import REPOSITORY


def folder_of(info: dict) -> str:
    """Where ComfyUI's page (frontend 1.32, nodeHelpService) looks for a node's help: of the pack's folder it takes what stands before a dot or an at."""
    return f"/extensions/{info['python_module'].split('.')[1].split('@')[0]}/docs"


def read(server, path: str) -> bytes:
    with urllib.request.urlopen(server.address + path, timeout=30) as answer:
        return answer.read()


def test_the_page_finds_the_help_of_every_node_with_its_pictures(server):
    ours = {name: info for name, info in server.object_info().items() if name.startswith("BLADE_")}
    assert ours.keys() == {path.stem for path in (REPOSITORY / "web" / "docs").glob("*.md")}
    for name, info in ours.items():
        folder = folder_of(info)
        with pytest.raises(urllib.error.HTTPError, match="404"):  # the page asks for its own language first
            read(server, f"{folder}/{name}/en.md")
        page = read(server, f"{folder}/{name}.md")
        assert page.decode().startswith(f"# {info['display_name']}\n")
        for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.decode()):
            assert read(server, f"{folder}/{picture}")[:3] == b"\xff\xd8\xff"


def test_nothing_but_the_help_is_served_of_the_pack(server):
    folder = folder_of(server.object_info()["BLADE_LoadVideo"]).removesuffix("/docs")
    for path in ("__init__.py", "pyproject.toml", "docs/../../README.md"):
        with pytest.raises(urllib.error.HTTPError, match="40[34]"):
            read(server, f"{folder}/{path}")
