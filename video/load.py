"""Reads a stretch of a video file: frame by frame, or whole with its sound; never more of the file in memory than is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import cv2
import numpy as np
import torch
from torch import Tensor

PREROLL = 0.5  # seconds of sound decoded before a stretch: MP3 and AAC frames need those before them


@dataclass(frozen=True)
class Clip:
    """frames: [frames, height, width, 3] RGB in 0..1; fps of these frames; waveform: [channels, samples] or None, at `sample_rate`."""

    frames: Tensor
    fps: float
    waveform: Tensor | None
    sample_rate: int


@dataclass(frozen=True)
class Stretch:
    """What a file's header says of a stretch: frames that decoding will give (an estimate; None where the header has no length),
    their size after fitting, and their fps."""

    frames: int | None
    height: int
    width: int
    fps: float


def load_clip(path: str, start: int = 0, count: int = 0, every_nth: int = 1, longest_side: int = 0) -> Clip:
    """The frames of `decode_frames` and the sound of the same stretch. Raises ValueError as that does."""
    pictures = list(decode_frames(path, start, count, every_nth, longest_side))
    frames = torch.empty(len(pictures), *pictures[0].shape)
    for frame, picture in zip(frames, pictures, strict=True):
        frame.copy_(torch.from_numpy(picture))
    waveform, sample_rate = load_sound(path, start, len(pictures), every_nth)
    return Clip(frames.div_(255), probe(path, every_nth=every_nth).fps, waveform, sample_rate)


def decode_frames(path: str, start: int = 0, count: int = 0, every_nth: int = 1, longest_side: int = 0) -> Iterator[np.ndarray]:
    """Frames start, start + every_nth, ... (count of them; 0: to the end), one at a time, scaled so that the longest side has
    `longest_side` pixels (0: as it is) and cropped from the centre to multiples of 8. Yields uint8 RGB [height, width, 3]

    Frames are counted from the file's beginning, so those before `start` are decoded too, but not kept.
    Raises ValueError for a file that cannot be decoded, holds no video, changes its size, or has no frame in that stretch."""
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        total, given, shape = 0, 0, None
        for frame in container.decode(stream):
            if total >= start and (total - start) % every_nth == 0:
                picture = fit(to_rgb(frame), longest_side)
                shape = shape or picture.shape
                if picture.shape != shape:
                    raise ValueError(
                        f"its size changes at frame {total}, from {shape[1]}x{shape[0]} to {picture.shape[1]}x{picture.shape[0]} pixels"
                    )
                yield picture
                given += 1
            total += 1
            if count and given == count:
                return
        if not given:
            raise ValueError(f"it has {total} frames, and none of them lies in the stretch that begins at frame {start}")


def probe(path: str, start: int = 0, count: int = 0, every_nth: int = 1, longest_side: int = 0) -> Stretch:
    """What `decode_frames` will give, as far as can be told without decoding. Raises ValueError for a file that cannot be opened,
    holds no video, or whose frames are too small."""
    with opened(path) as (container, stream):
        rate, total = frame_rate(stream), stream.frames
        if not total and container.duration:
            total = round(container.duration / av.time_base * rate)
        frames = max(0, -(-(total - start) // every_nth)) if total else None
        if count:
            frames = count if frames is None else min(frames, count)
        height, width = fitted_size(stream.height, stream.width, longest_side)
    return Stretch(frames, height // 8 * 8, width // 8 * 8, rate / every_nth)


@contextmanager
def opened(path: str) -> Iterator[tuple]:
    """The file's container and its first video stream. What FFmpeg cannot do with it becomes a ValueError."""
    try:
        with av.open(path, metadata_errors="ignore") as container:  # a title in an old character set is no reason to refuse a film
            if not container.streams.video:
                raise ValueError("the file holds no video stream")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise ValueError(f"the file cannot be decoded as video ({error.strerror})") from error


def frame_rate(stream) -> float:
    """Frames a second of the whole stream."""
    return float(stream.average_rate or stream.guessed_rate or 24)


def to_rgb(frame) -> np.ndarray:
    """uint8 RGB [height, width, 3] of a decoded frame, by the matrix and the range that its file names."""
    # Old PyAV decodes everything as BT.601 unless source and destination are told apart here; new PyAV does the same without being told.
    told = {"src_colorspace": frame.colorspace, "dst_colorspace": "ITU601", "src_color_range": frame.color_range, "dst_color_range": "JPEG"}
    return frame.reformat(format="rgb24", **told).to_ndarray()


def fit(picture: np.ndarray, longest_side: int) -> np.ndarray:
    """Scales to the longest side (0: not at all), then crops from the centre to multiples of 8. [height, width, 3] uint8

    Raises ValueError for a picture that has fewer than 8 pixels on a side."""
    height, width = fitted_size(picture.shape[0], picture.shape[1], longest_side)
    if longest_side:
        smaller = longest_side < max(picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    rows, columns = height // 8 * 8, width // 8 * 8
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.ascontiguousarray(picture[top : top + rows, left : left + columns])


def fitted_size(height: int, width: int, longest_side: int) -> tuple[int, int]:
    """Height and width after scaling, before the crop. Raises ValueError under 8 pixels."""
    if longest_side:
        scale = longest_side / max(height, width)
        height, width = max(8, round(height * scale)), max(8, round(width * scale))
    if min(height, width) < 8:
        raise ValueError(f"its frames are {width}x{height} pixels; both sides must have at least 8")
    return height, width


def load_sound(path: str, start: int, frames: int, every_nth: int = 1) -> tuple[Tensor | None, int]:
    """The first audio stream while `frames` frames are shown, of which `start` is the first and every n-th is taken: fp32
    [channels, samples], shorter where the sound ends earlier, and its sample rate. (None, 0) without an audio stream.

    Reads the file from shortly before the stretch to its end. Raises ValueError for a file that cannot be decoded."""
    with opened(path) as (container, video):
        if not container.streams.audio:
            return None, 0
        stream, rate = container.streams.audio[0], frame_rate(video)
        first, last = (round(frame / rate * stream.rate) for frame in (start, start + frames * every_nth))
        origin = float((video.start_time or 0) * video.time_base)  # frame 0 is shown then, which in some containers is not at 0
        if start / rate > PREROLL:
            container.seek(int((origin + start / rate - PREROLL) / stream.time_base), stream=stream)
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        samples = np.zeros((stream.channels, last - first), np.float32)
        position = end = None
        for frame in container.decode(stream):
            if position is None:  # only once: the times of later frames are rounded to milliseconds in some containers
                position = round(((frame.time or 0) - origin) * stream.rate) - first
            for piece in (heard.to_ndarray() for heard in resampler.resample(frame)):
                begin, stop = max(position, 0), min(position + piece.shape[1], last - first)
                if begin < stop:
                    samples[:, begin:stop] = piece[:, begin - position : stop - position]
                    end = stop
                position += piece.shape[1]
            if position >= last - first:
                break
    if end is None:
        return None, 0
    return torch.from_numpy(samples[:, :end].copy() if end < samples.shape[1] else samples), int(stream.rate)
