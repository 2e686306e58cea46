"""From a workflow as ComfyUI's page saves it to the prompt that its server runs.

The page draws nodes, links and widgets, and derives the prompt when the artist presses Run. Here the same is done without a page,
so that what the demo and the tests run is the very file that an artist opens. What needs a page is left out: %...% in file names,
{a|b} in prompts, subgraphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a combo whose choice brings inputs of its own; since 0.30 core's Save Video has one
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}  # inputs of these types are typed in, all others are sockets
DRAWN_ONLY = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # live in the page, the server does not know them
MUTED, BYPASSED = 2, 4


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """The prompt of a workflow: node id -> {"class_type", "inputs", "_meta": {"title"}}, as POST /prompt takes it.

    workflow: the page's JSON, version 0.4. object_info: the server's answer to GET /object_info.
    Notes, reroutes and muted nodes go, bypassed ones hand their input on. Raises ValueError for a node type that object_info lacks,
    for a link whose ends do not exist and for links that run in a circle."""
    graph = _Graph(workflow)
    prompt: dict[str, dict] = {}
    for node in workflow["nodes"]:
        if node["type"] in DRAWN_ONLY or node["mode"] in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise ValueError(
                f"workflow: node {node['id']} is of type {node['type']!r}, which this ComfyUI does not know: "
                "install the pack that brings it, or take the node out."
            )
        info = object_info[node["type"]]
        inputs = widget_values(node, info)
        for slot, socket in enumerate(node.get("inputs", [])):
            if origin := graph.origin_of_input(node, slot):
                inputs[socket["name"]] = [str(origin[0]), origin[1]]
        title = node.get("title") or info["display_name"] or node["type"]  # core's newer nodes may have no name to show
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    for node in prompt.values():  # what came from a muted node is as good as not connected
        node["inputs"] = {name: value for name, value in node["inputs"].items() if not isinstance(value, list) or value[0] in prompt}
    return prompt


def widget_values(node: dict, info: dict) -> dict[str, Any]:
    """The typed-in inputs of a workflow's node by name. The file has their values without names, in the page's order.

    Values beyond the known widgets are ignored: an upload button, which the page puts last, saves one."""
    values = list(node.get("widgets_values") or [])

    def next_value(name: str, spec: list) -> Any:
        value = values.pop(0) if values else _default(spec)
        if values and _has_control(name, spec):
            values.pop(0)  # "randomize", "fixed", ...: what the page does to the value after a run
        return {"__value__": value} if isinstance(value, list) else value  # a bare list would be read as a link

    return _typed_in(info["input"], info.get("input_order", {}), next_value)


def with_defaults(prompt: dict[str, dict], types: dict[str, dict]) -> dict[str, dict]:
    """A prompt with the page's default for every typed-in input that it does not name. types: by id, as GET /object_info tells them.

    So a prompt that is written by hand goes on working when a node gets another input."""
    whole = {}
    for key, node in prompt.items():
        given = node["inputs"]
        value = lambda name, spec, given=given: given[name] if name in given else _default(spec)  # noqa: E731
        whole[key] = {**node, "inputs": _typed_in(types[node["class_type"]]["input"], {}, value) | given}
    return whole


def _typed_in(inputs: dict, order: dict, value: Callable[[str, list], Any], before: str = "") -> dict[str, Any]:
    """value(name, spec) of each typed-in input, in the page's order. Those of a dynamic combo's choice come after it, as "codec.quality".

    inputs: {"required": {name: spec}, "optional": ...}. order: names by kind, where it is not that of `inputs`."""
    found = {}
    for kind in ("required", "optional"):
        specs = inputs.get(kind, {})
        for name in order.get(kind, specs):
            if not _is_widget(specs[name]):
                continue
            found[before + name] = chosen = value(before + name, specs[name])
            if specs[name][0] == DYNAMIC:
                brought: dict = next((option["inputs"] for option in specs[name][1]["options"] if option["key"] == chosen), {})
                found |= _typed_in(brought, {}, value, f"{before}{name}.")
    return found


def _is_widget(spec: list) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return (isinstance(spec[0], list) or options.get("widgetType", spec[0]) in WIDGETS) and not options.get("forceInput")


def _has_control(name: str, spec: list) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return bool(options.get("control_after_generate", spec[0] == "INT" and name in ("seed", "noise_seed")))


def _default(spec: list) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    if isinstance(spec[0], list) or spec[0] in ("COMBO", DYNAMIC):
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
        choices = [choice["key"] for choice in choices] if spec[0] == DYNAMIC else choices
        return options.get("default") or (choices[0] if choices else None)
    return options.get("default", {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}[options.get("widgetType", spec[0])])


class _Graph:
    """Follows links back to the node that computes what arrives."""

    def __init__(self, workflow: dict):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in workflow["links"]}  # id, from node, from slot, to node, to slot, type

    def origin_of_input(self, node: dict, slot: int, wanted: str | None = None, passed: tuple = ()) -> tuple[int, int] | None:
        """Node id and output slot behind an input, or None where nothing is connected. `passed`: the inputs seen on the way."""
        socket = node["inputs"][slot]
        if socket.get("link") is None:
            return None
        if (node["id"], slot) in passed:
            raise ValueError(f"workflow: the links into input {socket['name']!r} of node {node['id']} run in a circle: take one out.")
        link = self.links.get(socket["link"])
        if link is None or link[1] not in self.nodes:
            raise ValueError(
                f"workflow: input {socket['name']!r} of node {node['id']} hangs on link {socket['link']}, which comes from nowhere."
            )
        return self.origin_of_output(self.nodes[link[1]], link[2], wanted or socket["type"], (*passed, (node["id"], slot)))

    def origin_of_output(self, node: dict, slot: int, wanted: str, passed: tuple) -> tuple[int, int] | None:
        inputs = node.get("inputs", [])
        if node["mode"] == BYPASSED:
            through = _bypass(inputs, slot, node["outputs"][slot]["type"], wanted)
            return None if through is None else self.origin_of_input(node, through, None, passed)
        if node["type"] in DRAWN_ONLY:  # a reroute hands on; a primitive node's value stands in the widgets that it feeds
            return self.origin_of_input(node, slot, wanted, passed) if slot < len(inputs) else None
        return node["id"], slot


def _bypass(inputs: list[dict], slot: int, given: str, wanted: str) -> int | None:
    """The input that stands in for an output of a bypassed node: the one at its place if the types fit, else the first that fits."""
    if wanted in ("*", ""):
        return None if not inputs else slot if slot < len(inputs) else 0
    fits = [_joins(socket["type"], given) and _joins(socket["type"], wanted) for socket in inputs]
    if slot < len(inputs) and fits[slot]:
        return slot
    exact = [index for index, socket in enumerate(inputs) if socket["type"] == wanted]
    return next(iter(exact + [index for index, fit in enumerate(fits) if fit]), None)


def _joins(first: str, second: str) -> bool:
    """Whether the page lets two types connect: "*" takes all, "INT,FLOAT" takes either."""
    one, other = set(first.lower().split(",")), set(second.lower().split(","))
    return bool(one & other or {"*", ""} & (one | other))
