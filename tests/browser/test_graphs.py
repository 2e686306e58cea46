"""The prompt that runner.graphs makes of a workflow is the page's own, whatever the page's version."""

import json

import pytest

from runner.graphs import DYNAMIC, to_prompt
from tools.record_page import EXPORT, WORKFLOWS

CHOOSE = """
app.graph.clear();
const node = LiteGraph.createNode(arguments[0]);
app.graph.add(node);
for (const [name, value] of Object.entries(arguments[1])) {
    const widget = node.widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
}
return app.graph.serialize();
"""


def exported(page, workflow):
    """The page's own prompt, without the state of previews."""
    answer = json.loads(page.driver.execute_async_script(EXPORT, workflow))
    for node in answer["output"].values():
        for name in ("video-preview", *(("preview",) if node["class_type"] == "PreviewAny" else ())):
            node["inputs"].pop(name, None)
    return answer["output"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_gives_the_page_s_own_prompt(server, page, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert to_prompt(workflow, server.object_info()) == exported(page, workflow)


def test_what_a_choice_brings_is_read_as_the_page_reads_it(server, page):
    """Core's Save Video, and on ComfyUI that has such combos a node with two of them, one within the other, or one that stands first."""
    info = server.object_info()
    cases = [("SaveVideo", {}), ("CreateVideo", {})]
    for name in ("SaveVideo", "ResizeImageMaskNode"):
        for key, spec in info[name]["input"]["required"].items() if name in info else ():
            cases += [(name, {key: option["key"]}) for option in spec[1]["options"]] if spec[0] == DYNAMIC else []
    for name, choice in cases:
        page.command("Comfy.NewBlankWorkflow")  # pages keep values by the numbers of nodes
        workflow = page.run_script(CHOOSE, name, choice)
        assert to_prompt(workflow, info) == exported(page, workflow), (name, choice)
