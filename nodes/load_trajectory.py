"""Load Trajectory: what Save Trajectory has written, as if the clip had just been inverted."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..attention.record import CrossAttentionRecord
from ..host.job import show_in_node
from ..inversion.file import FORMAT, load_trajectory, read_metadata
from ..inversion.trajectory import Trajectory
from ..video.whole import PART
from .common import CATEGORY, TrajectorySocket, checked, naming, within
from .files import FileInput, FilesRead, file_path

TITLE = "Load Trajectory (BLADE)"


class LoadTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_LoadTrajectory",
            display_name=TITLE,
            category=CATEGORY,
            description="Reads a trajectory that Save Trajectory (BLADE) has written. Edits come out as they would without the detour.",
            inputs=[
                FileInput(
                    "trajectory_file", options=trajectory_files(), tooltip="A file in ComfyUI's output or input folder, the newest first."
                )
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="All levels of the clip, for masks and for the sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, trajectory_file: str | None) -> bool | str:
        try:
            if trajectory_file is not None:  # else its name comes by a link
                find(trajectory_file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, trajectory_file: str | None) -> str:
        return TRAJECTORIES.fingerprint(trajectory_file)

    @classmethod
    @checked("trajectory_file")
    def execute(cls, trajectory_file: str) -> io.NodeOutput:
        path = find(trajectory_file)
        TRAJECTORIES.note(trajectory_file)
        with naming(TITLE, "trajectory_file"):
            trajectory = load_trajectory(path, CrossAttentionRecord.from_tensors)
        show_in_node(describe(trajectory), cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(trajectory)


def describe(trajectory: Trajectory) -> str:
    """What an artist wants to know of a file's trajectory, to give it the model and the prompts that fit."""
    origin, (height, width) = trajectory.origin, trajectory.pixels
    lines = [f"{trajectory.frames} frames of {width}x{height}, {trajectory.steps} steps ({origin.schedule}), {origin.told}"]
    lines += [f"prompt: {origin.prompt!r}"] if origin.prompt is not None else []
    lines += [f"{name}: {patched}" for name, patched in origin.patches.items()]
    return "\n".join(lines)


def find(name: str) -> Path:
    """The file of an annotated name ("blade/a.safetensors [output]"; the input folder without a mark).

    Raises ValueError where it is not there, or lies outside both folders, links followed."""
    with naming(TITLE, "trajectory_file"):
        path = file_path(name)
        if not os.path.isfile(path):
            raise ValueError(f"there is no file {name!r} in ComfyUI's output or input folder. Choose another.")
    return Path(path)


def file_stamp(name: str) -> str:
    """Changes when the file does."""
    status = find(name).stat()
    return f"{status.st_mtime_ns} {status.st_size}"


TRAJECTORIES = FilesRead(file_stamp)


def trajectory_files() -> list[str]:
    """The annotated names of all trajectories in the output and input folders, newest first."""
    found = []
    for folder, mark in ((folder_paths.get_output_directory(), " [output]"), (folder_paths.get_input_directory(), "")):
        for inner, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not PART.fullmatch(name)]
            for name in names:
                path = Path(inner, name)
                if name.endswith(".safetensors") and (not path.is_symlink() or within(str(path), folder)):
                    try:
                        status = path.stat()
                    except OSError:
                        continue
                    if holds_trajectory(path, status.st_mtime_ns, status.st_size):
                        found.append((status.st_mtime_ns, path.relative_to(folder).as_posix() + mark))
    return [name for _, name in sorted(found, reverse=True)]


@lru_cache(maxsize=4096)
def holds_trajectory(path: Path, changed: int, size: int) -> bool:
    """Whether a file's header says so. `changed` and `size` are its state: nothing is read twice."""
    try:
        return read_metadata(path).get("format") == FORMAT
    except ValueError:
        return False
