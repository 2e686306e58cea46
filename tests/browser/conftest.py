"""One server and one browser for all tests of the page: of the one that ComfyUI asks for, or of that in the folder COMFYUI_PAGE."""

import json
import os
from pathlib import Path

import pytest

from demo.base import add_placeholders, prepare_base
from runner.fetch import find_comfy
from runner.host import REPOSITORY, ComfyHost
from runner.page import open_page
from tests.browser.page import Page

PICTURES = REPOSITORY / "out" / "browser"
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the template browser is open already
    "Comfy.Minimap.Visible": False,  # it covers nodes, and so do the figures about the canvas
    "Comfy.Graph.CanvasInfo": False,
}
DISMISSED = {"vueNodesBannerDismissed": "true", "comfy.vueNodesMigration.dismissed": "true"}  # what it says about Nodes 2.0


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running server with the pack, the demo checkpoint and clips, and empty files for the published models."""
    base = prepare_base(tmp_path_factory.mktemp("comfyui"))
    add_placeholders(base)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    other = os.environ.get("COMFYUI_PAGE")
    with ComfyHost(find_comfy(), base, cpu=True, page=Path(other) if other else None) as host:
        yield host


@pytest.fixture(scope="session")
def page(server):
    """ComfyUI's page, in a window in which a whole graph can be read."""
    try:
        driver = open_page(server.address, 2560, 1600, DISMISSED)
    except RuntimeError as error:
        pytest.exit(str(error), returncode=1)
    try:
        yield Page(driver, PICTURES)
    finally:
        driver.quit()
