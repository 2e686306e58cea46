"""Save Trajectory: an inversion kept as a file, for edits on another day."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io, ui

from ..host.job import show_in_node
from ..inversion.file import mebibytes, save_trajectory
from ..inversion.trajectory import Trajectory
from ..video.whole import Unwritable
from .checks import check_trajectory
from .common import CATEGORY, TrajectorySocket, checked, naming, place

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
                    tooltip="The file's folder and name inside ComfyUI's output folder; a number is added.",
                ),
            ],
            outputs=[TrajectorySocket.Output(display_name="trajectory", tooltip="The same trajectory.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked()
    def execute(cls, trajectory: Trajectory, filename_prefix: str) -> io.NodeOutput:
        check_trajectory(TITLE, trajectory)
        height, width = trajectory.pixels
        with naming(TITLE, "filename_prefix"):
            folder, name, counter, subfolder = place(filename_prefix, width, height)
        path = Path(folder, f"{name}_{counter:05}_.safetensors")
        with naming(TITLE, "filename_prefix", Unwritable), naming(TITLE, "trajectory"):
            save_trajectory(path, trajectory)
        shown = f"{Path(subfolder, path.name).as_posix()}: {mebibytes(path.stat().st_size)}, "
        shown += f"{trajectory.frames} frames of {width}x{height}, {trajectory.steps} steps"
        show_in_node(shown, cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(trajectory, ui=ui.PreviewText(shown))
