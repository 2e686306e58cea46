"""Starts ComfyUI's main.py for ComfyHost:  python launch.py COMFY_FOLDER [main.py's own flags]

Run as a script, so that Python puts this folder, not the repository, on the import path:
the repository's `nodes` would stand in the way of ComfyUI's own.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading

from in_process import mend_companions


def end_with_parent() -> None:
    """Standard input is a pipe that the starting process holds open: when that process ends, however it ends, so does this one."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    folder, *flags = sys.argv[1:]
    mend_companions()
    import torch

    if not torch.cuda.is_available() and "--cpu" not in flags:
        flags.append("--cpu")
    if "--cpu" in flags:
        # The CPU's default attention picks its chunk sizes from the free memory, so that results differ from run to run.
        flags.append("--use-pytorch-cross-attention")
    sys.path[0] = folder
    sys.argv = [os.path.join(folder, "main.py"), *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")
