"""Files that nodes read: by the name that a widget holds or that comes by a link, and which of the input folder's are clips."""

from __future__ import annotations

import os
from collections.abc import Callable

import folder_paths
from comfy_api.latest import io

from ..video.kinds import FILMS, MAY_MOVE, is_film
from ..video.source import PICTURES
from .common import check_inside


class ChoiceOrText(str):
    """The type of a choice to which a text may be linked too: COMBO for the page, which gives nothing else an upload button, and a union for core,
    which splits types at their commas."""

    def split(self, *_) -> list[str]:
        return [io.Combo.io_type, io.String.io_type]


class FileInput(io.Combo.Input):
    """A choice of files, whose name may also come by a link: one that is not in the list, and is not known before the node runs."""

    def get_io_type(self) -> str:
        return ChoiceOrText(io.Combo.io_type)


def file_path(name) -> str:
    """The path of a file or folder by its annotated name: "a.mp4 [output]"; in the input folder without a mark. Whether it is there is not asked.

    Raises ValueError for what is no text, which comes by a link, and for a path outside ComfyUI's output and input folders, links followed."""
    if not isinstance(name, str):
        raise ValueError(f"it is {name!r:.80}, which is no text. Connect the name of a file, such as 'clip.mp4'.")
    # of core's functions that know the marks, the one that is the same in all versions
    relative, folder = folder_paths.annotated_filepath(name)
    path = os.path.join(folder or folder_paths.get_input_directory(), relative)
    check_inside(path, name)
    return path


class FilesRead:
    """The files that a node has read, so that `fingerprint_inputs` can answer for a name that comes by a link, which is not known yet when it is asked:
    whether any of them is another now."""

    def __init__(self, stamp: Callable[[str], str]):
        """stamp: what changes when the file of a name does."""
        self.stamp, self.stamps, self.changes = stamp, dict[str, str](), 0

    def note(self, name: str) -> None:
        """Before the file is read."""
        self.stamps[name] = self.stamp(name)

    def fingerprint(self, name: str | None) -> str:
        """name: None where it comes by a link."""
        if name is not None:
            return self.stamp(name)
        for known, before in self.stamps.items():
            try:
                now = self.stamp(known)
            except (OSError, ValueError):
                now = "gone"
            if now != before:
                self.stamps[known] = now
                self.changes += 1
        return f"{self.changes} changes"


def clips_of_folder(folder: str, subfolders: bool = True) -> list[str]:
    """The names of its videos and animated pictures, and then of its folders that hold pictures, with a slash at the end; either those of the folder
    itself first. Left out are hidden folders, and links to where no graph may read.

    subfolders: whether what lies in its folders is listed too; of these alone, where not, their pictures."""
    videos, folders = list[str](), list[str]()
    for path, inner, names in os.walk(folder, followlinks=True):
        within = "" if path == folder else os.path.relpath(path, folder).replace(os.sep, "/") + "/"
        if subfolders or not within:
            files = ((name, os.path.join(path, name)) for name in names if name.lower().endswith(FILMS + MAY_MOVE))
            videos += [within + name for name, file in files if may_be_read(file) and is_film(file)]
        if within and any(name.lower().endswith(PICTURES) for name in names):
            folders.append(within)
        # no link is followed from a folder that a link led to: it might lead round in a circle
        linked = within and os.path.islink(path)
        deeper = [] if linked or (within and not subfolders) else [name for name in inner if not name.startswith(".")]
        inner[:] = [name for name in deeper if may_be_read(os.path.join(path, name))]
    return sorted(videos, key=by_depth) + sorted(folders, key=by_depth)


def may_be_read(path: str) -> bool:
    """False for a link that leads out of ComfyUI's folders."""
    try:
        if os.path.islink(path):
            check_inside(path, path)
    except ValueError:
        return False
    return True


def by_depth(name: str) -> tuple[int, str]:
    return name.count("/"), name
