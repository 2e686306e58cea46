"""ComfyUI's page as an artist uses it: what can be clicked is clicked, what can be typed is typed. Scripts look
at what came of it, and bring nodes into view."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

MODES = ("classic", "vue")  # drawn on the canvas; "Nodes 2.0", built of HTML
NOTE = "MarkdownNote"
DIALOG = "[role=dialog]"
CLOSE = f"{DIALOG} [aria-label='Close dialog'], {DIALOG} button:has(.pi-times)"
PANEL = "[data-testid=properties-panel]"  # at the right of newer pages
RUN = ".comfyui-queue-button button, [data-testid=queue-button]"  # on older and on newer pages
# What the page asks for whether or not it is there, and its calls to a registry that the server forbids: no fault of a pack.
USUAL = re.compile(
    r"/(user\.css|favicon\.ico|userdata\S*) .*404|/docs/BLADE_\w+/en\.md .*404|violates the following Content Security Policy"
)
LABEL = """
const named = '[data-testid=widget-layout-field-label], label, p';
const label = row => row.querySelector('textarea')?.ariaLabel ?? row.querySelector(named)?.textContent.trim();
"""
FIELD = f"""{LABEL}
const rows = [...document.querySelectorAll(`.lg-node[data-node-id="${{arguments[0]}}"] .lg-node-widget`)];
return rows.find(row => label(row) === arguments[1])?.querySelector('input:not([type=file]), textarea');
"""
NODES = (
    LABEL
    + """const {scale, offset} = app.canvas.ds, {left, top} = app.canvas.canvas.getBoundingClientRect();
const drawn = node => document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
const box = node => {
    if (!drawn(node)) return [...node.boundingRect];
    const {x, y, width, height} = drawn(node).getBoundingClientRect();
    return [(x - left) / scale - offset[0], (y - top) / scale - offset[1], width / scale, height / scale];
};
const choices = ({options: {values}}, ...given) => typeof values === 'function' ? values(...given) : values;
return app.graph.nodes.map(node => ({
    id: String(node.id), type: node.type, title: node.title, box: box(node), red: Boolean(node.has_errors),
    known: node.type in LiteGraph.registered_node_types,
    labels: [...drawn(node)?.querySelectorAll('.lg-node-widget') ?? []].map(label),
    widgets: (node.widgets ?? []).map(widget => ({
        name: widget.name, label: widget.label ?? widget.name, value: widget.value, least: widget.options.min, most: widget.options.max,
        choices: widget.type === 'combo' ? choices(widget, widget, node) : null,
        shown: !widget.hidden && !widget.options.hidden && !widget.options.canvasOnly,
    })),
}));
"""
)
GROUPS = "return app.graph.groups.map(({title, pos, size}) => ({title, box: [...pos, ...size]}))"
WIDGET = """
const node = app.graph.getNodeById(arguments[0]), widget = node.widgets.find(widget => widget.name === arguments[1]);
return [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
"""
FIT = """
const boxes = [...app.graph.nodes.map(node => node.boundingRect), ...app.graph.groups.map(({pos, size}) => [...pos, ...size])];
const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]));
const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]));
app.canvas.ds.fitToBounds([left, top, right - left, bottom - top], {zoom: 0.88});
app.canvas.setDirty(true, true);
"""
VIEW = "return [app.canvas.ds.scale, ...app.canvas.ds.offset]"


class Page:
    """driver: a browser with ComfyUI's page open. pictures: the folder for screenshots."""

    def __init__(self, driver: Chrome, pictures: Path):
        self.driver, self.pictures = driver, pictures
        self.run_script = driver.execute_script
        pictures.mkdir(parents=True, exist_ok=True)
        self.complaints()  # those of the page's own start

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """What `condition` returns once it is true. An element that is not there yet, or no longer, is waited for."""
        waiting = WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: condition(), f"Within {seconds:.0f} s: {what}")

    def find(self, selector: str, text: str | None = None) -> WebElement | None:
        """The first visible element of that CSS selector, and of that text if one is given."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return next((e for e in found if e.is_displayed() and (text is None or e.text.strip() == text)), None)

    def click(self, selector: str, text: str | None = None) -> None:
        what = f"no {selector}{f' with the text {text!r}' if text else ''} to click"
        self.wait(lambda: (element := self.find(selector, text)) and (element.click() or True), what)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def command(self, name: str) -> None:
        """Runs one of the page's own commands, whose places in its menus differ from version to version."""
        self.run_script("return app.extensionManager.command.execute(arguments[0])", name)

    def use(self, mode: str) -> None:
        """Draws nodes in one of MODES. Closes a dialog that a failed test has left."""
        self.close_dialog()
        self.run_script("return app.extensionManager.setting.set('Comfy.VueNodes.Enabled', arguments[0])", mode == "vue")
        self.wait(lambda: self.mode == mode, "Nodes 2.0 did not switch")

    @property
    def mode(self) -> str:
        return MODES[self.run_script("return Number(app.extensionManager.setting.get('Comfy.VueNodes.Enabled'))")]

    def browse_templates(self) -> None:
        """Opens the template browser at the pack's own templates."""
        self.command("Comfy.BrowseTemplates")
        self.click(f"{DIALOG} nav div", "blade")
        self.wait(lambda: self.find("[data-testid^=template-workflow-blade_]"), "no template of the pack")

    def open_template(self, name: str) -> None:
        """Opens a template by a click on its card, and brings all of it into view."""
        self.command("Comfy.NewBlankWorkflow")  # else it may already be open under this name
        self.wait(lambda: not self.nodes(), "no blank workflow")
        self.browse_templates()
        self.click(f"[data-testid=template-workflow-{name}]")
        self.wait(lambda: name in self.active() and self.nodes(), f"the template {name} did not open")
        self.wait(lambda: not self.dialog(), "the template browser did not close")
        self.settle()
        self.wait(self.fit, "the view did not stay as it was fitted")

    def fit(self) -> bool:
        """Brings all of the graph into view. Whether it stays there: pages bring back a view of their own, some a little after a graph has opened."""
        self.run_script(FIT)
        fitted = self.run_script(VIEW)
        self.settle()
        return self.run_script(VIEW) == fitted

    def fill(self, title: str, name: str, value: Any) -> None:
        """Types a value into a widget of the node of that title."""
        node = next(node for node in self.nodes() if node["title"] == title)
        key = node["id"]
        if self.mode == "vue":
            label = next(widget["label"] for widget in node["widgets"] if widget["name"] == name)
            field = self.wait(lambda: self.run_script(FIELD, key, label), f"no field for {name} of {title}")
        else:
            self.click_canvas(*self.run_script(WIDGET, key, name))
            field = self.wait(lambda: self.find(".graphdialog .value"), f"no field for {name} of {title}")
        self.run_script("arguments[0].select()", field)
        field.send_keys(str(value), Keys.ENTER)
        held = "return app.graph.getNodeById(arguments[0]).widgets.find(widget => widget.name === arguments[1]).value"
        self.wait(lambda: self.run_script(held, key, name) == value, f"{name} of {title} did not become {value!r}")

    def click_canvas(self, x: float, y: float) -> None:
        """A click at these coordinates of the graph. Not counted from the canvas's middle: page 1.48 makes it as high as wide, out of the window."""
        place = "const {scale, offset} = app.canvas.ds; return [(arguments[0] + offset[0]) * scale, (arguments[1] + offset[1]) * scale]"
        right, down = self.run_script(place, x, y)
        corner = self.driver.find_element(By.ID, "graph-canvas").rect
        pointer = ActionBuilder(self.driver)
        pointer.pointer_action.move_to_location(round(corner["x"] + right), round(corner["y"] + down)).click()
        pointer.perform()

    def active(self) -> str:
        """The file of the workflow that is open."""
        return self.run_script("return app.extensionManager.workflow.activeWorkflow.path")

    def settle(self) -> None:
        """Waits until pictures and clips have loaded and the nodes keep their places."""
        loaded = (
            "return [...document.querySelectorAll('img, video')].every(e => e.tagName === 'IMG' ? e.complete : e.readyState > 1 || e.error)"
        )
        before = []

        def still() -> bool:
            before.append([node["box"] for node in self.nodes()])
            return len(before) > 5 and before[-6] == before[-1] and self.run_script(loaded)

        self.wait(still, "the nodes did not come to rest")

    def nodes(self) -> list[dict]:
        """What the page holds of each node. box: left, top, width and height with its title, in the graph's units."""
        return self.run_script(NODES)

    def misplaced(self) -> list[str]:
        """Nodes that cover each other, groups that do, and nodes that lie in no group, notes aside."""
        nodes, groups = self.nodes(), self.run_script(GROUPS)
        found = [f"{a['title']} and {b['title']} overlap" for some in (nodes, groups) for a, b in combinations(some, 2) if overlap(a, b)]
        found += [f"{node['title']} lies in no group" for node in nodes if node["type"] != NOTE and not any(holds(g, node) for g in groups)]
        return found

    def dialog(self) -> str | None:
        """The text of an open dialog, if there is one."""
        found = self.find(DIALOG)
        return found and found.text

    def error(self) -> str | None:
        """What the page tells of a run that failed: in a dialog, on newer pages in the panel at the right, which is opened for it."""
        if button := self.find("[data-testid=error-overlay-see-errors]"):
            button.click()
        panel = self.find(PANEL)
        return self.dialog() or (panel and panel.text)

    def close_dialog(self) -> None:
        """Also the panel at the right."""
        if self.find(PANEL):
            self.click(f"{PANEL} [aria-label='Toggle properties panel']")
            self.wait(lambda: not self.find(PANEL), "the panel did not close")
        if self.dialog():
            if button := self.find(CLOSE):
                button.click()
            else:
                self.press(Keys.ESCAPE)
            self.wait(lambda: not self.dialog(), "the dialog did not close")

    def complaints(self) -> list[str]:
        """What the page's console has called an error since it was last asked."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE" and not USUAL.search(e["message"])]

    def picture(self, name: str) -> None:
        """A screenshot, with the pointer where it calls no tooltip."""
        bar = self.driver.find_element(By.CSS_SELECTOR, RUN)
        ActionChains(self.driver).move_to_element_with_offset(bar, 0, 200).perform()
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))


def overlap(one: dict, other: dict) -> bool:
    a, b = one["box"], other["box"]
    return all(a[side] < b[side] + b[side + 2] and b[side] < a[side] + a[side + 2] for side in (0, 1))


def holds(group: dict, node: dict) -> bool:
    a, b = group["box"], node["box"]
    return all(a[side] <= b[side] and b[side] + b[side + 2] <= a[side] + a[side + 2] for side in (0, 1))
