"""Load Video: a file of ComfyUI's input folder to frames, frame rate and sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import folder_paths
from comfy_api.latest import io

from ..video.load import load_clip
from .common import CATEGORY

TITLE = "Load Video (BLADE)"


class LoadVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_LoadVideo",
            display_name=TITLE,
            category=CATEGORY,
            description="Reads a stretch of a video as frames whose sides are multiples of 8, with its frame rate and sound.",
            inputs=stretch_inputs(),
            outputs=[
                io.Image.Output(display_name="frames", tooltip="[frames, height, width, 3], both sides multiples of 8."),
                *stretch_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, video: str) -> bool | str:
        return check_file(TITLE, video)

    @classmethod
    def fingerprint_inputs(cls, video: str, **_) -> str:
        return file_stamp(video)

    @classmethod
    def execute(cls, video: str, start_frame: int, frame_count: int, every_nth: int, longest_side: int) -> io.NodeOutput:
        with reading(TITLE, video) as path:
            clip = load_clip(path, start_frame, frame_count, every_nth, longest_side)
        return io.NodeOutput(clip.frames, clip.fps, to_audio(clip.waveform, clip.sample_rate), len(clip.frames))


def stretch_inputs() -> list[io.Input]:
    """A video of the input folder and which of its frames to read, for every node that reads one."""
    folder = folder_paths.get_input_directory()
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    return [
        io.Combo.Input(
            "video",
            options=sorted(folder_paths.filter_files_content_types(names, ["video"])),
            upload=io.UploadType.video,
            tooltip="A video in ComfyUI's input folder; the button uploads one.",
        ),
        io.Int.Input("start_frame", default=0, min=0, max=1_000_000, tooltip="The first frame to read, counted from 0."),
        io.Int.Input("frame_count", default=0, min=0, max=1_000_000, tooltip="How many frames to read at most. 0 reads to the end."),
        io.Int.Input("every_nth", default=1, min=1, max=1000, tooltip="Read every n-th frame only; the frame rate is divided by n."),
        io.Int.Input(
            "longest_side",
            default=0,
            min=0,
            max=8192,
            step=8,
            tooltip="Scale so that the longer side has this many pixels. 0 keeps the size. The rest to a multiple of 8 is cropped.",
        ),
    ]


def stretch_outputs() -> list[io.Output]:
    """What such a node says of the stretch, after the stretch itself."""
    return [
        io.Float.Output(display_name="fps", tooltip="Frames a second of what was read."),
        io.Audio.Output(display_name="audio", tooltip="The sound of the same stretch; nothing if the file has none."),
        io.Int.Output(display_name="frame_count", tooltip="How many frames were read."),
    ]


def check_file(title: str, video: str) -> bool | str:
    """True, or the sentence that refuses a file that is not there."""
    if not folder_paths.exists_annotated_filepath(video):
        return f"{title}, input video: there is no file {video!r} in ComfyUI's input folder. Upload it, or choose another."
    return True


def file_stamp(video: str) -> str:
    """Changes when the file does."""
    status = os.stat(folder_paths.get_annotated_filepath(video))
    return f"{status.st_mtime_ns} {status.st_size}"


@contextmanager
def reading(title: str, video: str) -> Iterator[str]:
    """The path of a file of the input folder; errors raised while it is read name the node, the input and the file."""
    try:
        yield folder_paths.get_annotated_filepath(video)
    except ValueError as error:
        raise ValueError(f"{title}, input video: {video!r} cannot be used: {error}. Choose another file or stretch.") from error


def to_audio(waveform, sample_rate: int) -> dict | None:
    """AUDIO of a waveform [channels, samples], or None."""
    return None if waveform is None else {"waveform": waveform[None], "sample_rate": sample_rate}
