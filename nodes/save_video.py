"""Save Video: frames to a video file or a folder of pictures, lossless where that is wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types, io, ui

from ..host.job import check_cancelled, frame_ticks
from ..host.video import sound_of
from ..video.load import Stretch, restored, restored_size, uncut
from ..video.pictures import picked, to_bytes
from ..video.save import FFV1, GIF, H264, PNG, PRORES, SUFFIX, VP9, check_fps, check_sides, check_sound, save_video
from ..video.source import Source
from ..video.whole import Unwritable
from .common import CATEGORY, FitSocket, checked, naming, place
from .inputs import check_pictures, fps_input

TITLE = "Save Video (BLADE)"
GRAPH = (io.Hidden.prompt, io.Hidden.extra_pnginfo)  # what graph_of wants
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')  # in JSON
MOST_SHOWN = 16  # PNG frames in the node itself; the folder has all
ABOUT = {
    H264: "mp4 plays everywhere.",
    VP9: "webm plays in browsers and is smaller.",
    PRORES: "mov is for editing programs, with 10 bits; browsers do not show it.",
    GIF: "gif has 256 colours a frame and no sound.",
    FFV1: "mkv keeps every bit of the frames, for further work; browsers do not show it.",
    PNG: "PNG frames: a folder of pictures that keeps every bit too, with the sound beside them and without the frame rate.",
}


class SaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_SaveVideo",
            display_name=TITLE,
            category=CATEGORY,
            description="Writes frames to ComfyUI's output folder: H.264 with the colours of HD video (BT.709, tagged), or lossless.",
            inputs=[
                io.Image.Input("frames", tooltip="The clip, such as Pixel Composite's."),
                *file_inputs(H264, FFV1, PNG, VP9, PRORES, GIF),
                audio_input(),
                fit_input(),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written, for core's video nodes.")],
            hidden=list(GRAPH),
            is_output_node=True,
        )

    @classmethod
    @checked("fps")
    def execute(
        cls,
        frames: torch.Tensor,
        fps: float,
        filename_prefix: str,
        format: str,
        crf: int,
        audio: dict | None = None,
        fit: tuple[Source, Stretch] | None = None,
    ) -> io.NodeOutput:
        with naming(TITLE, "frames"):
            check_pictures(frames)
        (height, width), tick = frames.shape[1:3], frame_ticks(len(frames))

        def pictures() -> Iterator[np.ndarray]:
            for frame in frames:
                tick()
                yield to_bytes(frame)[None]

        path, shown = write_video(TITLE, pictures(), (height, width), fps, filename_prefix, format, crf, audio, fit, graph_of(cls.hidden))
        if format == PNG:  # a folder is no VIDEO
            video = InputImpl.VideoFromComponents(
                Types.VideoComponents(images=frames, audio=audio, frame_rate=Fraction(float(fps)).limit_denominator(10_000))
            )
        else:
            video = InputImpl.VideoFromFile(str(path))
        return io.NodeOutput(video, ui=shown)


def file_inputs(*forms: str) -> list[io.Input]:
    """Where and how a clip is written, for every node that writes one."""
    return [
        fps_input(),
        io.String.Input(
            "filename_prefix",
            default="video/blade",
            tooltip="The file's folder and name inside ComfyUI's output folder; a number is added.",
        ),
        io.Combo.Input("format", options=list(forms), tooltip=" ".join(ABOUT[form] for form in forms)),
        io.Int.Input(
            "crf",
            default=16,
            min=0,
            max=51,
            tooltip="Quality of H.264 and VP9: lower is better and larger, 16 looks like the original. Other formats do not use it.",
        ),
    ]


def audio_input() -> io.Input:
    return io.Audio.Input("audio", optional=True, tooltip="Sound for the file; what lasts longer than the frames is cut.")


def fit_input() -> io.Input:
    return FitSocket.Input(
        "fit",
        optional=True,
        tooltip="The fit of Load Video or Encode Video: the file gets the clip's own size back. What was padded is cut off, and what was cropped is "
        "read from the clip again.",
    )


def graph_of(hidden: io.HiddenHolder | None) -> dict[str, str]:
    """The graph that runs, as core's own Save Video writes it into a file: dropped on the page, the file opens it. Nothing with --disable-metadata."""
    if hidden is None or args.disable_metadata:
        return {}
    parts = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        parts["prompt"] = hidden.prompt
    # the page counts the braces of a webm's graph, those of its texts too
    return {
        name: TEXT.sub(lambda text: text[0].replace("{", r"\u007b").replace("}", r"\u007d"), json.dumps(part))
        for name, part in parts.items()
    }


def write_video(
    title: str,
    chunks: Iterable[np.ndarray],
    size: tuple[int, int],
    fps: float,
    filename_prefix: str,
    format: str,
    crf: int,
    audio: dict | None,
    fit: tuple[Source, Stretch] | None,
    graph: dict[str, str],
) -> tuple[Path, ui.PreviewVideo | ui.SavedImages]:
    """Writes chunks of frames, uint8 RGB [frames, height, width, 3], by what file_inputs, audio_input and fit_input gave. size: height and width.
    graph: what the file is to hold of graph_of. Returns the file or folder, and what the page shows of it. Everything is checked before the first chunk is asked for; errors name the node and the input."""
    with naming(title, "fps"):
        check_fps(fps)
    if fit:
        with naming(title, "fit"):
            size = restored_size(size, *fit)
        chunks = restored(chunks, *fit, own_frames(title, *fit))
    with naming(title, "format"):
        check_sides(format, *size)
    with naming(title, "audio"):
        waveform, sample_rate = sound_of(audio)
        check_sound(waveform, sample_rate, format)
    with naming(title, "filename_prefix"):
        folder, name, counter, subfolder = place(filename_prefix, size[1], size[0])
    path = Path(folder, f"{name}_{counter:05}_{SUFFIX[format]}")
    with naming(title, "filename_prefix", Unwritable):
        written = save_video(path, chunks, fps, format, crf, waveform, sample_rate, graph)
    if format != PNG:
        return path, ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)])
    within = Path(subfolder, path.name).as_posix()
    return path, ui.SavedImages(
        [ui.SavedResult(f"{number:05}.png", within, io.FolderType.output) for number in picked(written, MOST_SHOWN)]
    )


def own_frames(title: str, source: Source, stretch: Stretch) -> Iterator[np.ndarray]:
    """The clip's own frames, read once more; errors name the node and its input fit."""
    with naming(title, "fit"):
        yield from uncut(source, stretch, check_cancelled)
        raise ValueError("there are more frames than in the clip that this is the fit of. Connect the fit of the clip that was edited.")
