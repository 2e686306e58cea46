"""Reads a stretch of a video file into frames, without decoding more of it into memory than is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import av
import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """frames: [frames, height, width, 3] RGB in 0..1; fps of these frames; waveform: [channels, samples] or None, at `sample_rate`."""

    frames: Tensor
    fps: float
    waveform: Tensor | None
    sample_rate: int


def load_clip(path: str, start: int = 0, count: int = 0, every_nth: int = 1, longest_side: int = 0) -> Clip:
    """Frames start, start + every_nth, ... (count of them; 0: to the end), scaled so that the longest side has `longest_side` pixels
    (0: as it is) and cropped from the centre to multiples of 8. The sound is cut to the same stretch.

    Raises ValueError for a file that cannot be decoded, holds no video, or has no frame in that stretch."""
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ValueError("the file holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 24)
            pictures: list[np.ndarray] = []
            total = 0
            for frame in container.decode(stream):
                if total >= start and (total - start) % every_nth == 0:
                    pictures.append(fit(frame.to_ndarray(format="rgb24"), longest_side))
                total += 1
                if count and len(pictures) == count:
                    break
            if not pictures:
                raise ValueError(f"it has {total} frames, and none of them lies in the stretch that begins at frame {start}")
            seconds = (start / rate, start / rate + len(pictures) * every_nth / rate)
            waveform, sample_rate = load_sound(container, *seconds)
    except av.FFmpegError as error:
        raise ValueError(f"the file cannot be decoded as video ({error.strerror})") from error
    frames = torch.from_numpy(np.stack(pictures)).float().div_(255)
    return Clip(frames, rate / every_nth, waveform, sample_rate)


def fit(picture: np.ndarray, longest_side: int) -> np.ndarray:
    """Scales to the longest side (0: not at all), then crops from the centre to multiples of 8. [height, width, 3] uint8

    Raises ValueError for a picture that has fewer than 8 pixels on a side."""
    height, width = picture.shape[:2]
    if longest_side:
        scale = longest_side / max(height, width)
        width, height = max(8, round(width * scale)), max(8, round(height * scale))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    rows, columns = height // 8 * 8, width // 8 * 8
    if not rows or not columns:
        raise ValueError(f"its frames are {width}x{height} pixels; both sides must have at least 8")
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.ascontiguousarray(picture[top : top + rows, left : left + columns])


def load_sound(container, begin: float, end: float) -> tuple[Tensor | None, int]:
    """The first audio stream between two times in seconds, as fp32 [channels, samples], and its sample rate."""
    if not container.streams.audio:
        return None, 0
    stream = container.streams.audio[0]
    container.seek(0)
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    pieces = [piece.to_ndarray() for frame in container.decode(stream) for piece in resampler.resample(frame)]
    if not pieces:
        return None, 0
    samples = np.concatenate(pieces, axis=1)[:, round(begin * stream.rate) : round(end * stream.rate)]
    return torch.from_numpy(np.ascontiguousarray(samples)), int(stream.rate)
