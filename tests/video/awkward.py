"""Clips as phones, screen recorders and the web make them, written small."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from blade.video.save import H264, save_video

RATE = 16000


def numbered(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Grey frames, frame n of the value 20 * n, with a white square in the corner at the top left."""
    pictures = np.repeat(np.arange(frames, dtype=np.uint8) * 20, height * width * 3).reshape(frames, height, width, 3)
    pictures[:, :8, :8] = 255
    return pictures


def write(
    path: Path, pictures, times=None, base=Fraction(1, 1000), codec="ffv1", pixels="bgr0", given="rgb24", rate=10, options=None, **tags
):
    """A file whose frames are shown at `times`, in units of `base` (none: evenly, at `rate`). tags: of the stream."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.metadata.update(tags.pop("metadata", {}))
        for name, value in tags.items():
            setattr(stream if name == "sample_aspect_ratio" else stream.codec_context, name, value)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=given)
            frame.pts, frame.time_base = (number, Fraction(1, rate)) if times is None else (times[number], base)
            file.mux(stream.encode(frame.reformat(format=pixels)))
        file.mux(stream.encode())
    return str(path)


def write_turned(path: Path, degrees: int, frames: int = 3) -> str:
    """An mp4 that asks to be turned clockwise, as a phone that is held upright writes it."""
    save_video(path, [numbered(frames)], 10, H264)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2: the matrix of version 0
    one = 1 << 16
    turn = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    content[at : at + 36] = struct.pack(">9i", turn[0], turn[1], 0, turn[2], turn[3], 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return str(path)


def tick(seconds: float, at: float, rate: int = RATE) -> np.ndarray:
    """Silence with one short tone that begins at a time. [1, samples]"""
    sound = np.zeros((1, round(seconds * rate)), np.float32)
    first = round(at * rate)
    sound[0, first : first + rate // 20] = np.sin(np.arange(rate // 20) * 2 * np.pi * 1000 / rate)
    return sound


def heard_at(sound: np.ndarray, rate: int) -> float:
    """When the tone begins, in seconds."""
    return float(np.argmax(np.abs(sound[0]) > 0.3)) / rate


def chart() -> np.ndarray:
    """24 flat patches of 32 pixels, greys and colours that mattes and skins have: [128, 192, 3] uint8"""
    values = [
        (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
        (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
        (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
        (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
    ]  # fmt: skip
    return np.uint8(values).reshape(4, 6, 3).repeat(32, 0).repeat(32, 1)


def patches(picture: np.ndarray) -> np.ndarray:
    """The mean of each patch without its rim: [24, 3]"""
    cells = picture.reshape(4, 32, 6, 32, 3).transpose(0, 2, 1, 3, 4)[:, :, 8:-8, 8:-8]
    return cells.mean((2, 3)).reshape(24, 3)
