"""Save Trajectory: an inversion kept as a file, for edits on another day."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..host.job import show_in_node
from ..inversion.file import mebibytes, save_trajectory
from ..inversion.trajectory import Trajectory
from .common import CATEGORY, CELL, TrajectorySocket, naming

TITLE = "Save Trajectory (BLADE)"


class SaveTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_SaveTrajectory",
            display_name=TITLE,
            category=CATEGORY,
            description="Writes a trajectory with all its levels and recorded words to one file, so that the clip need not be inverted again. "
            "Load Trajectory (BLADE) reads it.",
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE)."),
                io.String.Input(
                    "filename_prefix",
                    default="blade/trajectory",
                    tooltip="The file's place and name in ComfyUI's output folder; a number is added.",
                ),
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="The same trajectory.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trajectory: Trajectory, filename_prefix: str) -> io.NodeOutput:
        height, width = (side * CELL for side in trajectory.latents.shape[-2:])
        with naming(TITLE, "filename_prefix"):
            folder, name, counter, subfolder = place(filename_prefix, width, height)
        path = Path(folder, f"{name}_{counter:05}_.safetensors")
        with naming(TITLE):
            save_trajectory(path, trajectory)
        shown = f"{Path(subfolder, path.name).as_posix()}: {mebibytes(path.stat().st_size)}, "
        shown += f"{trajectory.frames} frames of {width}x{height}, {trajectory.steps} steps"
        show_in_node(shown, cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(trajectory, ui=ui.PreviewText(shown))


def place(prefix: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Folder, name, next number and subfolder of a file in ComfyUI's output folder.

    Raises ValueError where that would be elsewhere, through ".." or through a link, before any folder is made."""
    output = folder_paths.get_output_directory()
    outside = f"{prefix!r} leads out of ComfyUI's output folder. Give a place inside it, such as 'blade/trajectory'."
    if not within(os.path.join(output, os.path.dirname(os.path.normpath(prefix))), output):
        raise ValueError(outside)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    except OSError as error:
        raise ValueError(f"the folder of {prefix!r} cannot be used ({error}). Choose another.") from error
    except Exception as error:  # core's own check, on paths whose links are not followed, raises nothing narrower
        raise ValueError(outside) from error
    if not within(folder, output):  # %width% and the like are known only now
        raise ValueError(outside)
    return folder, name, counter, subfolder


def within(path: str, folder: str) -> bool:
    """Whether a path lies in a folder, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
