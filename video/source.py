"""Where a clip's frames come from: a video file, a folder of pictures, or frames that are in memory already."""

from __future__ import annotations

import io
import os
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
import cv2
import numpy as np
from torch import Tensor

PREROLL = 0.5  # seconds of sound decoded before a stretch: MP3 and AAC frames need those before them
MOST_PIXELS, MOST_BYTES = 2**28, 2**31 - 1  # of a picture: as many as FFmpeg takes of a frame, and as OpenCV takes of a file
PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
MOST_SAMPLES = 768_000  # a second of sound, the most that converters make
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FOLDER_FPS = 24.0  # a folder tells no frame rate
PQ = 16  # SMPTE ST 2084 among the transfer characteristics of ITU-T H.273
MISSING = 0.05  # of its length, at least half a second: if a file ends as much earlier than it says, some of it is lost
CUT_OFF = "The file is damaged or cut off: set frame_count so that it ends before frame {}, or get the whole file."
# A rate that varies by more than a tenth is read at that of its finest clock, which keeps every frame at its time; one that wavers less, or whose
# clock would make more than so many frames of each, is read at its average.
LEAST_VARYING, MOST_REPEATED = 1.1, 2.5
MOST_STRETCHED = 16  # the sides of a pixel; a header that says more is damaged
# libswscale's flags: bicubic, whole chroma, accurate rounding. Without them flat colours are off by up to 3
EXACT = 4 | 0x2000 | 0x4000 | 0x40000
NO_TIMESTAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave out the alpha that WebM keeps beside the colours


@dataclass(frozen=True)
class Shown:
    """A frame: seconds from the first one's beginning until it is shown, for how long, and its picture: RGB [height, width, 3], uint8, or
    float32 in 0..255. The picture is made when it is asked for."""

    begin: float
    duration: float
    picture: Callable[[], np.ndarray]


class Source(ABC):
    """fps: frames a second at which it is read. even: each frame is shown for the same time. timed: its frames have times; else a forced rate is
    theirs, and leaves none out. frames: how many there are (an estimate; None where a header has no length). height, width: of a frame that is
    shown upright and with square pixels."""

    fps: float
    even: bool
    timed = True
    frames: int | None
    height: int
    width: int

    @abstractmethod
    def shown(self) -> Iterator[Shown]:
        """All frames, in order, one at a time."""

    @abstractmethod
    def sound(self, begin: float, end: float) -> tuple[np.ndarray | None, int]:
        """What is heard from `begin` to `end` seconds after the first frame's beginning: float32 [channels, samples], shorter where the sound
        ends earlier, and its sample rate. (None, 0) without any."""


def source_of_path(path: str) -> Source:
    """A file or a folder. Raises ValueError for one that holds no clip."""
    return Folder(path) if os.path.isdir(path) else Film(path)


class Film(Source):
    """A video file, or its bytes. Raises ValueError for a file that cannot be decoded, holds no video, or is HDR of a kind that has no SDR look."""

    def __init__(self, file: str | io.BytesIO):
        self.file = file
        with opened(file) as (container, stream):
            self.fps, self.even = frame_rate(container, stream)
            self.length = length(container, stream)
            counted = stream.frames if self.even else 0
            self.frames: int | None = counted or round((self.length or (container.duration or 0) / av.time_base) * self.fps) or None
            first = next(decoded(container, stream), None)
            if first is None:
                raise ValueError("no frame of it can be decoded. Choose another clip.")
            if stream.codec_context.color_trc == PQ:
                raise ValueError(
                    "its colours are HDR (PQ), which look washed out as they are and which image models do not know. Convert it to SDR (BT.709)."
                )
            self.turns = round(getattr(first, "rotation", 0) / 90) % 4
            aspect = float(stream.sample_aspect_ratio or 1)  # of a pixel: its width to its height
            self.stretch = aspect if 1 / MOST_STRETCHED <= aspect <= MOST_STRETCHED else 1.0
            height, width = first.height, round(first.width * self.stretch)
            self.height, self.width = (width, height) if self.turns % 2 else (height, width)

    def shown(self) -> Iterator[Shown]:
        with opened(self.file) as (container, stream):
            origin, begin, number = None, 0.0, 0
            try:
                for frame in decoded(container, stream):
                    duration = 1 / self.fps
                    if frame.time is not None:
                        origin = frame.time if origin is None else origin
                        begin = frame.time - origin
                        # in units of the time base; PyAV before 14.3 does not tell
                        duration = float((getattr(frame, "duration", None) or 0) * frame.time_base) or duration
                    yield Shown(begin, duration, partial(self.picture, frame))
                    begin, number = begin + duration, number + 1
            except av.FFmpegError as error:
                raise ValueError(f"decoding stops after {begin:.2f} s ({error.strerror}). {CUT_OFF.format(number - 1)}") from error
            if self.length and begin < self.length - max(MISSING * self.length, 0.5):
                raise ValueError(
                    f"its frames end after {begin:.2f} s, but its header promises {self.length:.2f} s. {CUT_OFF.format(number - 1)}"
                )

    def picture(self, frame) -> np.ndarray:
        """A decoded frame upright and with square pixels."""
        picture = np.rot90(to_rgb(frame), self.turns)
        if self.stretch != 1:
            picture = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(picture)

    def sound(self, begin: float, end: float) -> tuple[np.ndarray | None, int]:
        with opened(self.file) as (container, video):
            if not container.streams.audio:
                return None, 0
            # frame 0 is shown at the video's start time, which in some containers is not 0
            return heard(container, container.streams.audio[0], float((video.start_time or 0) * video.time_base), begin, end)


class Folder(Source):
    """A folder's pictures in the order of their names, where numbers count as numbers; and its sound.wav, as Save Video writes it.

    Raises ValueError for a folder without pictures, and while reading for a picture that is none."""

    timed = False

    def __init__(self, path: str):
        try:
            names = [entry.name for entry in os.scandir(path) if entry.is_file() and entry.name.lower().endswith(PICTURES)]
        except OSError as error:
            raise ValueError(f"the folder cannot be read ({error.strerror}). Choose another.") from error
        if not names:
            raise ValueError(f"the folder holds no pictures ({', '.join(PICTURES)}). Choose another.")
        self.paths = [os.path.join(path, name) for name in sorted(names, key=natural)]
        self.sound_file = os.path.join(path, "sound.wav")
        self.fps, self.even, self.frames = FOLDER_FPS, True, len(names)
        self.height, self.width = read_picture(self.paths[0]).shape[:2]

    def shown(self) -> Iterator[Shown]:
        for number, path in enumerate(self.paths):
            yield Shown(number / self.fps, 1 / self.fps, partial(read_picture, path))

    def sound(self, begin: float, end: float) -> tuple[np.ndarray | None, int]:
        if not os.path.isfile(self.sound_file):
            return None, 0
        with reading(self.sound_file) as container:
            return heard(container, container.streams.audio[0], 0.0, begin, end)


class Held(Source):
    """Frames that are in memory: [frames, height, width, 3 or 4] in 0..1, of which alpha, the fourth, is laid over black."""

    def __init__(self, frames: Tensor, fps: float, waveform: Tensor | None = None, sample_rate: int = 0):
        """waveform: [channels, samples]"""
        self.tensor, self.fps, self.even, self.frames = frames, fps, True, len(frames)
        self.height, self.width = frames.shape[1:3]
        self.waveform, self.sample_rate = waveform, sample_rate

    def shown(self) -> Iterator[Shown]:
        for number, frame in enumerate(self.tensor):
            yield Shown(number / self.fps, 1 / self.fps, partial(self.picture, frame))

    @staticmethod
    def picture(frame: Tensor) -> np.ndarray:
        values = frame.float().cpu().numpy() * 255
        if not np.isfinite(values).all():
            raise ValueError("a frame holds values that are not finite (NaN or infinity). Make it again.")
        return values[..., :3] * (values[..., 3:] / 255 if values.shape[2] == 4 else 1)

    def sound(self, begin: float, end: float) -> tuple[np.ndarray | None, int]:
        if self.waveform is None:
            return None, 0
        first, last = (round(second * self.sample_rate) for second in (begin, end))
        part = self.waveform[:, first:last].float().cpu().numpy()
        return (part, self.sample_rate) if part.shape[1] else (None, 0)


@contextmanager
def reading(file: str | io.BytesIO) -> Iterator:
    """A file's container. What FFmpeg cannot do with it becomes a ValueError, and so does what is no file."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    elif not os.path.isfile(file):
        raise ValueError("it is no file, or not there any more. Choose another clip.")
    try:
        # FFmpeg gets what is in the file, and may open no other: a playlist could name any on this machine, or an address.
        # A title in an old character set is no reason to refuse a film.
        with (
            nullcontext(file) if isinstance(file, io.BytesIO) else open(file, "rb") as content,
            av.open(content, metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container,
        ):
            yield container
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"the file cannot be decoded as video ({error.strerror}). Choose another, or convert it to H.264.") from error


@contextmanager
def opened(file: str | io.BytesIO) -> Iterator[tuple]:
    """The file's container and its first video stream."""
    with reading(file) as container:
        if not container.streams.video:
            raise ValueError("the file holds no video stream. Choose another.")
        if container.streams.video[0].codec_context is None:
            raise ValueError("its video is of a kind that cannot be decoded. Choose another, or convert it to H.264.")
        yield container, container.streams.video[0]


def frame_rate(container, stream) -> tuple[float, bool]:
    """Frames a second at which a stream is read, and whether all its frames are shown for the same time.

    The base rate is that of a clock which tells all frames apart: where the rate varies it is another than the average."""
    if container.format.flags & NO_TIMESTAMPS:  # such as a bare H.264 stream
        return float(stream.guessed_rate or stream.average_rate or 24), True
    average, base = (float(rate) if rate else 0.0 for rate in (stream.average_rate or stream.guessed_rate, stream.base_rate))
    average, seconds = average or base or 24.0, length(container, stream)
    if stream.frames and seconds and abs(stream.frames / seconds / average - 1) > 0.01:
        average = stream.frames / seconds  # a GIF's average is only that of its first frames
    even = not base or abs(base / average - 1) < 1e-3
    return (base if LEAST_VARYING * average < base < MOST_REPEATED * average else average), even


def length(container, stream) -> float | None:
    """Seconds that the header promises of the video; None where it promises none."""
    ends = [float(stream.duration * stream.time_base)] if stream.duration else []
    tagged = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska and WebM
    if tagged and not ends:
        ends = [int(tagged[1]) * 3600 + int(tagged[2]) * 60 + float(tagged[3])]
    if ends and container.duration:  # shorter, where only a part of what is stored is shown
        ends.append(container.duration / av.time_base)
    return min(ends, default=None)


def decoded(container, stream) -> Iterator:
    """The stream's frames, as PyAV gives them, with alpha where the file has it."""
    stream.thread_type = "AUTO"
    transparent = "1" in (stream.metadata.get(name) for name in ("alpha_mode", "ALPHA_MODE"))
    decoder = ALPHA_DECODERS.get(stream.codec_context.name) if transparent else None
    if decoder is None or decoder not in av.codecs_available:
        yield from container.decode(stream)
        return
    context: Any = av.CodecContext.create(decoder, "r")
    for packet in container.demux(stream):
        for frame in context.decode(packet if packet.size else None):
            frame.time_base = stream.time_base
            yield frame


def to_rgb(frame) -> np.ndarray:
    """uint8 RGB [height, width, 3] of a decoded frame, by the matrix and the range that its file names. Where it is transparent, it is black."""
    # Old PyAV decodes everything as BT.601 unless source and destination are told apart here; new PyAV does the same without being told.
    told = {"src_colorspace": frame.colorspace, "dst_colorspace": "ITU601", "src_color_range": frame.color_range, "dst_color_range": "JPEG"}
    told["interpolation"] = EXACT
    if frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components):
        return over_black(frame.reformat(format="rgba", **told).to_ndarray())
    return frame.reformat(format="rgb24", **told).to_ndarray()


def over_black(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA [height, width, 4] to RGB"""
    alpha = picture[..., 3:]
    if alpha.min() == 255:
        return picture[..., :3]
    return ((picture[..., :3].astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def read_picture(path: str) -> np.ndarray:
    """uint8 RGB [height, width, 3], upright. Raises ValueError for a file that is no picture, or a larger one than any film."""
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise ValueError(f"{name!r} cannot be read as a picture: it has {size / 2**30:.0f} GiB. Move it out of the folder.")
            content = np.frombuffer(file.read(), np.uint8)  # imread fails on Windows where a path is not ASCII
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read ({error.strerror}). Move it out of the folder.") from error
    if bytes(content[:8]) == PNG_BEGINS and len(content) > 24:  # a few MB of it can hold so much of one colour that no memory takes it
        width, height = struct.unpack(">II", content[16:24].tobytes())
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{name!r} cannot be read as a picture: it has {width}x{height} pixels. Make it smaller, or move it out of the folder."
            )
    # only the plain flags turn a photograph as its EXIF says, and only "unchanged" keeps alpha: no format needs both
    kind = cv2.IMREAD_COLOR if path.lower().endswith((".jpg", ".jpeg")) else cv2.IMREAD_UNCHANGED
    try:
        picture = cv2.imdecode(content, kind) if len(content) else None
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        picture = None
    if picture is None:
        raise ValueError(f"{name!r} cannot be read as a picture. Save it again, or move it out of the folder.")
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if picture.dtype != np.uint8:
        raise ValueError(f"{name!r} holds numbers of the kind {picture.dtype}. Save its pictures with 8 or 16 bits.")
    if picture.ndim == 2:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    return over_black(cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA)) if picture.shape[2] == 4 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def natural(name: str) -> list:
    """A key that sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def heard(container, stream, origin: float, begin: float, end: float) -> tuple[np.ndarray | None, int]:
    """An audio stream from `begin` to `end` seconds after `origin`, as Source.sound gives it.

    Reads the file from shortly before `begin` to its end."""
    if stream.codec_context is None:
        raise ValueError("its sound is of a kind that cannot be decoded. Convert it, or take the sound out of the file.")
    rate = stream.rate
    if not 0 < rate <= MOST_SAMPLES:
        raise ValueError(f"its sound claims {rate} samples a second. Convert it, or take the sound out of the file.")
    first, last = round(begin * rate), round(end * rate)
    if begin > PREROLL:
        container.seek(int((origin + begin - PREROLL) / stream.time_base), stream=stream)
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
    position, pieces = None, list[np.ndarray]()
    for frame in container.decode(stream):
        if position is None:  # only once: the times of later frames are rounded to milliseconds in some containers
            position = round(((frame.time or 0) - origin) * rate) - first
        for piece in (part.to_ndarray() for part in resampler.resample(frame)):
            left, right = max(position, 0), min(position + piece.shape[1], last - first)
            if left < right:
                if left and not pieces:  # it begins later than the pictures
                    pieces.append(np.zeros((stream.channels, left), np.float32))
                pieces.append(piece[:, left - position : right - position].copy())
            position += piece.shape[1]
        if position >= last - first:
            break
    return (np.concatenate(pieces, 1), int(rate)) if pieces else (None, 0)
