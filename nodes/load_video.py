"""Load Video: a clip of ComfyUI's input folder, a file or a folder of pictures, to frames, frame rate and sound."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import folder_paths
from comfy_api.latest import io

from ..host.job import free_memory, reading_ticks, show_in_node
from ..host.settings import SUBFOLDERS, setting
from ..video.fit import CROP, PAD
from ..video.load import Clip, Stretch, load_clip
from ..video.source import Source, source_of_path
from .common import CATEGORY, FitSocket, check_inside, checked, naming
from .files import FileInput, FilesRead, clips_of_folder, file_path

TITLE = "Load Video (BLADE)"


class ReadsClip(io.ComfyNode):
    """A node whose input `video` names a clip of the input folder. title: the node's own."""

    title: str

    @classmethod
    def validate_inputs(cls, video: str | None) -> bool | str:
        """True, or the sentence that refuses a clip that is not there, or lies elsewhere. None, whose name comes by a link, is checked when the node
        runs."""
        try:
            if video is not None:
                with naming(cls.title, "video"):
                    clip_path(video)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, video: str | None, **_) -> str:
        return CLIPS.fingerprint(video)


class LoadVideo(ReadsClip):
    title = TITLE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_LoadVideo",
            display_name=TITLE,
            category=CATEGORY,
            description="Reads a stretch of a video as frames whose sides are multiples of 8, with its frame rate and sound.",
            inputs=[video_input(), *stretch_inputs()],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="[frames, height, width, 3], both sides multiples of 8."),
                *stretch_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked("video")
    def execute(
        cls,
        video: str,
        start_frame: int,
        frame_count: int,
        every_nth: int,
        longest_side: int,
        force_fps: float = 0.0,
        sides: str = CROP,
        deinterlace: bool = True,
    ) -> io.NodeOutput:
        stretch = Stretch(start_frame, frame_count, every_nth, longest_side, force_fps, sides)
        source = clip_source(TITLE, video, deinterlace)
        with reading(TITLE, video):
            clip = load_clip(source, stretch, free_memory(), ticks_of(source, stretch))
        return clip_outputs(cls, clip, source, stretch)


def video_input() -> io.Input:
    """A clip of the input folder."""
    return FileInput(
        "video",
        options=clips_of_folder(folder_paths.get_input_directory(), setting(SUBFOLDERS, True)),
        upload=io.UploadType.video,
        tooltip="A video or an animated picture in ComfyUI's input folder or a folder in it, or a folder of pictures there; the button uploads a video.",
    )


def stretch_inputs() -> list[io.Input]:
    """Which frames of a clip to read, and how, for every node that reads one."""
    return [
        io.Int.Input("start_frame", default=0, min=0, max=1_000_000, tooltip="The first frame to read, counted from 0."),
        io.Int.Input("frame_count", default=0, min=0, max=1_000_000, tooltip="How many frames to read at most. 0 reads to the end."),
        io.Int.Input("every_nth", default=1, min=1, max=1000, tooltip="Read every n-th frame only; the frame rate is divided by n."),
        io.Int.Input(
            "longest_side",
            default=0,
            min=0,
            max=8192,
            step=8,
            tooltip="Scale so that the longer side has this many pixels. 0 keeps the size.",
        ),
        io.Float.Input(
            "force_fps",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=0.001,
            tooltip="Frames a second to read the clip at, before start_frame and every_nth count: frames are left out or repeated, and motion "
            "and sound keep their pace. 0 takes the clip's own rate. A folder's pictures are all taken, at this rate (0: 24).",
        ),
        io.Combo.Input(
            "sides",
            options=[CROP, PAD],
            tooltip="The model needs sides that are multiples of 8. Crop takes up to 7 pixels off, pad repeats the outermost ones. Either is "
            "undone in the file if fit is connected to Save Video or Decode Video.",
        ),
        io.Boolean.Input(
            "deinterlace",
            default=True,
            optional=True,  # graphs that were written before it was there run as they are
            tooltip="Make whole frames of interlaced ones, where the clip says that it holds such: old camcorders, TV. Moving edges are combed without it.",
        ),
    ]


def stretch_outputs() -> list[io.Output]:
    """What such a node says of the stretch, after the stretch itself."""
    return [
        io.Float.Output(display_name="fps", tooltip="Frames a second of what was read."),
        io.Audio.Output(display_name="audio", tooltip="The sound of the same stretch; nothing if the file has none."),
        io.Int.Output(display_name="frame_count", tooltip="How many frames were read."),
        FitSocket.Output(
            display_name="fit", tooltip="How the sides became multiples of 8, for Save Video or Decode Video, which undo it in the file."
        ),
    ]


def clip_path(video: str) -> str:
    """Raises ValueError for one that is not there, or lies outside ComfyUI's folders, it or what is in it, links followed."""
    path = file_path(video)
    if not (video and os.path.exists(path)):
        raise ValueError(f"there is no clip {video!r} in ComfyUI's input folder. Upload it, or choose another.")
    for entry in os.scandir(path) if os.path.isdir(path) else ():
        if entry.is_symlink():
            check_inside(entry.path, os.path.join(video, entry.name))
    return path


def file_stamp(video: str) -> str:
    """Changes when the file does, or one in the folder."""
    path = clip_path(video)
    status = [os.stat(path), *(entry.stat() for entry in os.scandir(path))] if os.path.isdir(path) else [os.stat(path)]
    return " ".join(f"{one.st_mtime_ns} {one.st_size}" for one in status)


CLIPS = FilesRead(file_stamp)


def clip_source(title: str, video: str, deinterlace: bool) -> Source:
    """A clip of the input folder. Raises ValueError, with node and input, for one that is not there, lies elsewhere or cannot be read."""
    with naming(title, "video"):
        path = clip_path(video)
    CLIPS.note(video)
    with reading(title, video):
        return source_of_path(path, deinterlace)


@contextmanager
def reading(title: str, video: str) -> Iterator[None]:
    """Errors raised while a clip of the input folder is read name the node, the input and the clip."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{title}, input video: {video!r} cannot be used: {error}") from error


def ticks_of(source: Source, stretch: Stretch) -> Callable[[], None]:
    """What the reading of a stretch is to call: progress, and Cancel. Raises ValueError for a stretch that cannot be read."""
    stretch.fit(source)  # at a rate of hardly anything no frames can be counted
    pace = source.fps / stretch.counted(source) if source.timed else 1.0  # frames of the source for each that is counted
    wanted = (stretch.expected(source) or 0) * stretch.every_nth
    return reading_ticks(math.ceil(wanted * pace), math.ceil(stretch.start * pace))


def clip_outputs(node: type[io.ComfyNode], clip: Clip, source: Source, stretch: Stretch) -> io.NodeOutput:
    """A clip's frames and what stretch_outputs names. The node shows what it has read."""
    audio = to_audio(clip.waveform, clip.sample_rate)
    show_clip(node, source, len(clip.frames), stretch, audio)
    return io.NodeOutput(clip.frames, clip.fps, audio, len(clip.frames), (source, stretch))


def show_clip(node: type[io.ComfyNode], source: Source, frames: int, stretch: Stretch, audio: dict | None) -> None:
    """Shows in the node what was read of a clip, and what was done to it. Always something: a page keeps the text of the last run otherwise."""
    height, width = stretch.fit(source).size
    sound = "with sound" if audio else "no sound"
    read = f"{frames} frame{'s' * (frames > 1)} of {width}x{height} at {stretch.rate(source):.5g} fps, {sound}"
    for note in source.notes.values():
        logging.info("BLADE: %s", note)
    show_in_node("\n".join([read, *source.notes.values()]), node.hidden.unique_id if node.hidden else None)


def to_audio(waveform, sample_rate: int) -> dict | None:
    """AUDIO of a waveform [channels, samples], or None."""
    return None if waveform is None else {"waveform": waveform[None], "sample_rate": sample_rate}
