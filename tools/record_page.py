"""Records what ComfyUI's own page makes of the workflows: the fixtures that tests/runner/test_graphs.py compares with, and tests/test_help.py.

    python -m tools.record_page

Run it again when a node's inputs, a workflow or ComfyUI changes. It needs what the tests do not: Chromium with its driver,
and `pip install selenium`. It starts a ComfyUI (COMFYUI_PATH, or the downloaded one) and opens its page without a window.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from demo.base import add_placeholders, prepare_base
from runner.fetch import find_comfy
from runner.host import REPOSITORY, ComfyHost
from runner.page import open_page

FIXTURES = REPOSITORY / "tests" / "runner"
WORKFLOWS = [*sorted((REPOSITORY / "workflows").glob("*.json")), FIXTURES / "page_cases.json"]
KEPT = ("input", "input_order", "output_name", "display_name")  # of a node type: what to_prompt and the tests read
EXPORT = """
const done = arguments[arguments.length - 1];
(async () => {
    await window.app.loadGraphData(arguments[0]);
    await new Promise(resolve => setTimeout(resolve, 1500));
    const {workflow, output} = await window.app.graphToPrompt();
    done(JSON.stringify({workflow, output}));
})().catch(error => done(JSON.stringify({error: String(error)})));
"""


def main() -> None:
    used: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, ComfyHost(find_comfy(), prepare_base(Path(folder))) as host:
        add_placeholders(host.base)
        page = open_page(host.address)
        try:
            for file in WORKFLOWS:
                workflow = json.loads(file.read_text(encoding="utf-8"))
                used |= {node["type"] for node in workflow["nodes"]}
                answer = json.loads(page.execute_async_script(EXPORT, workflow))
                if "error" in answer:
                    raise SystemExit(f"The page could not export {file.name}: {answer['error']}")
                write(FIXTURES / f"{file.stem}.prompt.json", answer["output"])
                print(f"{file.name}: {len(answer['output'])} nodes")
        finally:
            page.quit()
        info = host.object_info()
    used |= {name for name in info if name.startswith("BLADE_")}  # also those in no workflow: the help pages are compared with them
    kept = {name: {key: info[name][key] for key in KEPT if key in info[name]} for name in sorted(used & info.keys())}
    write(FIXTURES / "object_info.json", kept)


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
