"""The help of every node, opened by the button above a selected node."""

import re

import pytest

from runner.host import REPOSITORY
from tests.browser.page import PANEL

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "web" / "docs").glob("*.md"))}
PLACE = """
app.graph.clear();
const node = LiteGraph.createNode(arguments[0]);
node.pos = [0, 0];
app.graph.add(node);
app.canvas.ds.scale = 1;
app.canvas.ds.offset = [900, 300];
app.canvas.setDirty(true, true);
"""
SHOWN = """
const page = document.querySelector('.node-help-content :is(.markdown-content, .comfy-markdown-content)');
return page && {
    heads: [...page.querySelectorAll('h1, h2')].map(head => head.textContent.trim()), rows: page.querySelectorAll('tbody tr').length,
    pictures: [...page.querySelectorAll('img')].map(picture => picture.complete && picture.naturalWidth > 0),
    room: page.clientWidth, width: page.scrollWidth,
};
"""


@pytest.fixture(scope="module")
def bench(page):
    """The page with an empty graph, in a window as wide as most screens and so high that most of a help page can be seen."""
    page.use("classic")
    size = page.driver.get_window_size()
    page.driver.set_window_size(1920, 3000)
    page.command("Comfy.NewBlankWorkflow")
    yield page
    if page.find(PANEL):
        page.close_dialog()
    else:
        page.click("[data-testid=info-button]")  # closes the help, which older pages show at the left
    page.driver.set_window_size(size["width"], size["height"])


@pytest.mark.parametrize("name", PAGES)
def test_a_node_s_help_shows_its_page_and_pictures(bench, name):
    bench.complaints()
    bench.run_script(PLACE, name)
    bench.click_canvas(60, -15)
    bench.click("[data-testid=info-button]")
    heads = re.findall("^##? (.*)$", PAGES[name], re.MULTILINE)
    bench.wait(
        lambda: (found := bench.run_script(SHOWN)) and found["heads"] == heads and all(found["pictures"]),
        "no help of this node, or not with its pictures",
    )
    bench.picture(f"help_{name}")
    shown = bench.run_script(SHOWN)
    assert len(shown["pictures"]) == PAGES[name].count("![")
    assert shown["rows"] == len(re.findall(r"^\| \*", PAGES[name], re.MULTILINE))
    assert shown["width"] <= shown["room"]  # nothing is cut at the panel's side
    assert bench.dialog() is None and bench.complaints() == []
