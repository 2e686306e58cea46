"""What the artist has set in the settings of ComfyUI's page, under BLADE."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths

SUBFOLDERS = "BLADE.Clips.Subfolders"  # by the names that web/settings.js declares


def setting(name: str, default: bool) -> bool:
    """A setting, as core keeps it for its one user; `default` where it was never changed, and where several users share a server, of whom none
    decides for the others."""
    path = Path(folder_paths.get_user_directory(), "default", "comfy.settings.json")
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get(name, default))
    except (OSError, ValueError, AttributeError):
        return default
