"""What the package in ComfyUI's registry holds."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def packed() -> list[Path]:
    """The files that `comfy node pack` takes: those under version control, without what .comfyignore names."""
    tracked, left_out = (listed(*options) for options in ((), ("--ignored", "--exclude-from=.comfyignore")))
    return sorted(ROOT / name for name in tracked - left_out if (ROOT / name).is_file())


def listed(*options: str) -> set[str]:
    """git's list of files under version control."""
    found = subprocess.run(["git", "ls-files", "--cached", "-z", *options], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(filter(None, found.split("\0")))
