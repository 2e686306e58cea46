"""Writes frames to a video file as they come, without holding more than a chunk of them."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor

H264, FFV1 = "mp4 (H.264)", "mkv (FFV1, lossless)"
SUFFIX = {H264: ".mp4", FFV1: ".mkv"}
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1")  # FFmpeg's own choice for 1 to 7 channels; PyAV carries no 8
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # ISO/IEC 14496-3, table 1.18


def save_video(
    target: str | Path,
    chunks: Iterable[np.ndarray],
    fps: float,
    form: str = H264,
    crf: int = 16,
    waveform: Tensor | None = None,
    sample_rate: int = 0,
) -> int:
    """Encodes chunks of frames to `target` and returns how many frames there were.

    chunks: uint8 RGB [frames, height, width, 3] each, all of one size; even sides for H.264.
    form: "mp4 (H.264)": yuv420p, BT.709, limited range, tagged so, with AAC; crf 0..51, less is better.
        "mkv (FFV1, lossless)": the same RGB bits come back, and the same sound (PCM, fp32).
    waveform: [channels, samples] in -1..1 at sample_rate, cut at the last frame's end.

    The file is written under another name beside `target` and takes its place at the end: whatever is raised meanwhile, by `chunks`
    too, leaves no half file and an earlier `target` as it was. Raises ValueError for no frames, frames of another kind or size, and
    an fps or a sound that cannot be written."""
    target = Path(target)
    check_fps(fps)
    check_sound(waveform, sample_rate)
    chunks = (chunk for chunk in map(check_chunk, chunks) if len(chunk))
    first = next(chunks, None)
    if first is None:
        raise ValueError("there are no frames to write")
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        container, options = ("mp4", {"movflags": "+faststart"}) if form == H264 else ("matroska", {})
        with av.open(str(part), "w", format=container, options=options) as file:
            video = Pictures(file, form, first.shape[1:3], fps, crf)
            sound = Sound(file, form, waveform, sample_rate) if waveform is not None else None
            for picture in chain.from_iterable(chain([first], chunks)):
                video.write(picture)
                if sound:
                    sound.write(video.written / video.rate)
            video.finish()
            if sound:
                sound.finish()
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return video.written


def check_fps(fps: float) -> None:
    """Raises ValueError for what is no frame rate."""
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"the frame rate is {fps}; give one above 0")


def check_sound(waveform: Tensor | None, sample_rate: int) -> None:
    """Raises ValueError for a sound that no file takes. waveform: [channels, samples]"""
    if waveform is None:
        return
    if waveform.ndim != 2 or not 1 <= len(waveform) <= len(LAYOUTS):
        raise ValueError(f"the sound's shape is {list(waveform.shape)}; give [channels, samples] with 1 to {len(LAYOUTS)} channels")
    if sample_rate < 1:
        raise ValueError(f"the sound's sample rate is {sample_rate}; give one above 0")
    if not waveform.isfinite().all():
        raise ValueError("the sound holds values that are not finite (NaN or infinity); make it again, or leave it out")


def check_chunk(chunk: np.ndarray) -> np.ndarray:
    """The chunk itself. Raises ValueError unless it is uint8 [frames, height, width, 3]."""
    if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[3] != 3:
        raise ValueError(f"frames of {chunk.dtype} {list(chunk.shape)} cannot be written; give uint8 [frames, height, width, 3]")
    return chunk


class Pictures:
    """The video stream of a file that is being written."""

    def __init__(self, file, form: str, size: tuple[int, ...], fps: float, crf: int):
        self.file, self.size, self.rate, self.written = file, size, Fraction(fps).limit_denominator(10_000), 0
        if form == H264:
            self.stream = file.add_stream("libx264", rate=self.rate, options={"crf": str(crf)})
            self.layout: dict[str, Any] = {"format": "yuv420p", "dst_colorspace": "ITU709", "dst_color_range": "MPEG"}
            context = self.stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # limited
        else:
            self.stream = file.add_stream("ffv1", rate=self.rate, options={"level": "3", "slicecrc": "1"})
            self.layout = {"format": "bgr0"}
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = self.layout["format"]

    def write(self, picture: np.ndarray) -> None:
        """picture: uint8 RGB [height, width, 3]"""
        if picture.shape[:2] != self.size:
            (height, width), (rows, columns) = self.size, picture.shape[:2]
            raise ValueError(f"frame {self.written} is {columns}x{rows} pixels, but the first is {width}x{height}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(**self.layout)
        frame.pts, frame.time_base = self.written, 1 / self.rate
        self.file.mux(self.stream.encode(frame))
        self.written += 1

    def finish(self) -> None:
        self.file.mux(self.stream.encode())


class Sound:
    """The audio stream of a file that is being written; fed in step with the pictures, so that both lie side by side in the file."""

    def __init__(self, file, form: str, waveform: Tensor, sample_rate: int):
        self.file, self.rate, self.written = file, sample_rate, 0
        self.samples = waveform.float().cpu().numpy()
        self.layout = LAYOUTS[len(waveform) - 1]
        codec, rate = ("aac", sample_rate if sample_rate in AAC_RATES else 48000) if form == H264 else ("pcm_f32le", sample_rate)
        self.stream = file.add_stream(codec, rate=rate, layout=self.layout)

    def write(self, until: Fraction) -> None:
        """Encodes what is heard before that time in seconds."""
        end = min(round(until * self.rate), self.samples.shape[1])
        if end > self.written:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(self.samples[:, self.written : end]), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.written, Fraction(1, self.rate)
            self.file.mux(self.stream.encode(frame))
            self.written = end

    def finish(self) -> None:
        if self.written:
            self.file.mux(self.stream.encode())
