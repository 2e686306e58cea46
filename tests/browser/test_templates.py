"""Every graph of workflows/, opened from ComfyUI's template browser, drawn in both ways."""

import json

import pytest

from runner.host import REPOSITORY
from tests.browser.page import MODES, NOTE

WORKFLOWS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((REPOSITORY / "workflows").glob("*.json"))}
UNLABELLED = (NOTE, "PreviewAny")  # a text alone


@pytest.fixture(scope="module", params=[(mode, name) for mode in MODES for name in WORKFLOWS], ids="-".join)
def opened(page, request):
    """A template's name, with the template open in one of the modes."""
    mode, name = request.param
    page.use(mode)
    page.complaints()
    page.open_template(name)
    page.picture(f"{name}_{mode}")
    return name


def test_the_template_browser_shows_every_graph_with_its_picture(page):
    page.browse_templates()
    cards = "return [...document.querySelectorAll('[data-testid^=template-workflow-]')].map(card => [card.dataset.testid, card.querySelector('img')?.naturalWidth])"
    widths = page.wait(lambda: (found := dict(page.run_script(cards))) and all(found.values()) and found, "a template has no picture")
    page.picture("templates")
    page.close_dialog()
    assert widths == {f"template-workflow-{name}": 512 for name in WORKFLOWS}


def test_a_template_opens_with_all_its_nodes_and_no_complaint(page, opened):
    nodes = page.nodes()
    assert page.dialog() is None
    assert sorted((node["id"], node["type"]) for node in nodes) == sorted(
        (str(node["id"]), node["type"]) for node in WORKFLOWS[opened]["nodes"]
    )
    assert [node["title"] for node in nodes if not node["known"] or node["red"]] == []
    assert page.complaints() == []


def test_every_value_is_one_that_its_widget_offers(page, opened):
    wrong = []
    for node in page.nodes():
        for widget in node["widgets"]:
            value, choices, least, most = (widget[key] for key in ("value", "choices", "least", "most"))
            if choices is not None and value not in choices:
                wrong.append(f"{node['title']}: {widget['name']} is {value!r}, not one of {choices}")
            elif least is not None and isinstance(value, int | float) and not least <= value <= most:
                wrong.append(f"{node['title']}: {widget['name']} is {value}, not within {least} and {most}")
    assert wrong == []


def test_nodes_lie_apart_and_each_in_a_group(page, opened):
    assert page.misplaced() == []


def test_every_widget_has_its_label(page, opened):
    """Nodes 2.0 are HTML; of classic ones, drawn on the canvas, there is no element."""
    for node in page.nodes():
        shown = [widget["label"] for widget in node["widgets"] if widget["shown"]]
        assert node["type"] in UNLABELLED or node["labels"] == (shown if page.mode == "vue" else []), node["title"]
