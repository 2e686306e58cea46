"""ComfyUI's own page with the pack, the demo checkpoint, the demo clips and the workflows, until Ctrl-C.

    python -m demo.ui --comfy COMFY_FOLDER

The workflows are in the page's sidebar, under Workflows; saved ones and results stay in the base folder.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from pathlib import Path

from demo.base import prepare_base
from runner.host import REPOSITORY, ComfyHost, copy_if_new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfy", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--base", type=Path, default=Path("out/ui"), help="folder for inputs, results and settings")
    options = parser.parse_args()
    base = prepare_base(options.base)
    for workflow in (REPOSITORY / "workflows").glob("*.json"):
        copy_if_new(workflow, base / "user" / "default" / "workflows" / f"BLADE {workflow.name}")
    print("Starting ComfyUI ...", flush=True)
    with suppress(KeyboardInterrupt), ComfyHost(options.comfy, base) as host:
        print(f"Open {host.address}    Results: {base / 'output'}    Log: {host.log}    Stop: Ctrl-C", flush=True)
        while host.running:
            time.sleep(0.5)
        raise SystemExit(f"ComfyUI ended. Its log: {host.log}")
    print("Stopped.")


if __name__ == "__main__":
    main()
