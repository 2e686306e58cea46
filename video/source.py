"""Where a clip's frames come from: a video file, a folder of pictures, or frames that are in memory already."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageSequence
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2
from torch import Tensor

from .colour import over_black
from .film import Film, reading
from .shown import Shown, Source, no_tick
from .sound import damage_note, heard
from .timing import usual_of

MOST_PIXELS, MOST_BYTES = 2**28, 2**31 - 1  # of a picture: as many as FFmpeg takes of a frame, and as OpenCV takes of a file
PNG_BEGINS, TIFF_BEGINS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FOLDER_FPS = 24.0  # a folder tells no frame rate
SHORTEST, REPLACEMENT = 0.01, 0.1  # seconds: where an animation states no more than the first for a picture, players show it for the second


def source_of_path(path: str, deinterlace: bool = True) -> Source:
    """A file or a folder. deinterlace: as of Film. Raises ValueError for one that holds no clip."""
    if os.path.isdir(path):
        return Folder(path)
    return AnimatedWebP(path) if is_webp(path) else Film(path, deinterlace)


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
        self.fps, self.even, self.frames, self.notes = FOLDER_FPS, True, len(names), {}
        self.height, self.width = read_picture(self.paths[0]).shape[:2]

    def shown(self, begin: float = 0.0, tick: Callable[[], None] = no_tick) -> Iterator[Shown]:
        for number, path in enumerate(self.paths):
            tick()
            yield Shown(number / self.fps, 1 / self.fps, partial(read_picture, path))

    def sound(self, begin: float, end: float, tick: Callable[[], None] = no_tick) -> tuple[np.ndarray | None, int]:
        if not os.path.isfile(self.sound_file):
            return None, 0
        with reading(self.sound_file) as container:
            if not container.streams.audio:
                return None, 0
            samples, rate, bad = heard(container, container.streams.audio[0], None, 0.0, begin, end, tick)
            if bad:
                self.notes["sound"] = damage_note(bad)
            return (None, 0) if samples is None else (samples, rate)


class AnimatedWebP(Source):
    """A WebP file's pictures, which FFmpeg does not read. Raises ValueError for a file that is damaged."""

    def __init__(self, path: str):
        self.path, self.notes = path, {}
        begin = 0.0
        self.spans = list[tuple[float, float]]()
        for picture in self.pictures():
            picture.load()  # before that Pillow does not know how long it stays
            stated = picture.info.get("duration", 0) / 1000
            duration = stated if stated > SHORTEST else REPLACEMENT
            self.spans.append((begin, duration))
            begin += duration
        self.width, self.height = picture.size
        self.frames = len(self.spans)
        longest, shortest = (extreme(duration for _, duration in self.spans) for extreme in (max, min))
        self.even = longest < shortest * 1.001
        self.fps = 1 / usual_of([duration for _, duration in self.spans])
        self.frames = round(begin * self.fps)

    def pictures(self) -> Iterator[Image.Image]:
        try:
            with Image.open(self.path) as animation:
                yield from ImageSequence.Iterator(animation)
        except (OSError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"the file cannot be decoded as an animation ({error}). Save it again.") from error

    def shown(self, begin: float = 0.0, tick: Callable[[], None] = no_tick) -> Iterator[Shown]:
        for (at, duration), picture in zip(self.spans, self.pictures(), strict=False):
            tick()
            rgba = np.asarray(picture.convert("RGBA"))
            yield Shown(at, duration, partial(over_black, rgba))

    def sound(self, begin: float, end: float, tick: Callable[[], None] = no_tick) -> tuple[np.ndarray | None, int]:
        return None, 0


def is_webp(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:  # Film says what is wrong
        return False
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


class Held(Source):
    """Frames that are in memory: [frames, height, width, 3 or 4] in 0..1, of which alpha, the fourth, is laid over black."""

    def __init__(self, frames: Tensor, fps: float, waveform: Tensor | None = None, sample_rate: int = 0):
        """waveform: [channels, samples]"""
        self.tensor, self.fps, self.even, self.frames, self.notes = frames, fps, True, len(frames), {}
        self.height, self.width = frames.shape[1:3]
        self.waveform, self.sample_rate = waveform, sample_rate

    def shown(self, begin: float = 0.0, tick: Callable[[], None] = no_tick) -> Iterator[Shown]:
        for number, frame in enumerate(self.tensor):
            tick()
            yield Shown(number / self.fps, 1 / self.fps, partial(self.picture, frame))

    @staticmethod
    def picture(frame: Tensor) -> np.ndarray:
        values = frame.float().cpu().numpy() * 255
        if not np.isfinite(values).all():
            raise ValueError("a frame holds values that are not finite (NaN or infinity). Make it again.")
        return values[..., :3] * (values[..., 3:] / 255 if values.shape[2] == 4 else 1)

    def sound(self, begin: float, end: float, tick: Callable[[], None] = no_tick) -> tuple[np.ndarray | None, int]:
        if self.waveform is None:
            return None, 0
        first, last = (round(second * self.sample_rate) for second in (begin, end))
        part = self.waveform[:, first:last].float().cpu().numpy()
        if not np.isfinite(part).all():
            raise ValueError("the sound holds values that are not finite (NaN or infinity). Make it again, or leave it out.")
        return (part, self.sample_rate) if part.shape[1] else (None, 0)


def read_picture(path: str) -> np.ndarray:
    """uint8 RGB [height, width, 3], upright. Raises ValueError for a file that is no picture, or a larger one than any film."""
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            if (length := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise ValueError(f"{name!r} cannot be read as a picture: it has {length / 2**30:.0f} GiB. Move it out of the folder.")
            content = np.frombuffer(file.read(), np.uint8)  # imread fails on Windows where a path is not ASCII
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read ({error.strerror}). Move it out of the folder.") from error
    size = picture_size(content)  # a few KB can hold so much of one colour that no memory takes it
    if size is None or not len(content):
        raise ValueError(f"{name!r} cannot be read as a picture. Save it again, or move it out of the folder.")
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"{name!r} cannot be read as a picture: it has {size[0]}x{size[1]} pixels. Make it smaller, or move it out of the folder."
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


def picture_size(content: np.ndarray) -> tuple[int, int] | None:
    """Width and height by a picture's header, of the formats of PICTURES. None for what has no such header. Decodes nothing.

    Not by Image.open, which refuses large pictures before their size is known, and kinds of TIFF that OpenCV reads."""
    file, head = BytesIO(content.data), content[:32].tobytes()
    Image.init()
    try:
        if head.startswith(PNG_BEGINS):
            return struct.unpack(">II", head[16:24])
        if head[:4] in TIFF_BEGINS:
            directory = ImageFileDirectory_v2(head[: 16 if head[2] == 43 or head[3] == 43 else 8])
            file.seek(directory.next)
            directory.load(file)
            return int(directory[IMAGEWIDTH]), int(directory[IMAGELENGTH])
        if head[8:16] == b"WEBPVP8X":  # whose canvas no frame of it need fill
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        for kind in ("JPEG", "WEBP", "BMP"):
            factory, accepts = Image.OPEN[kind]
            if accepts is None or accepts(head) is True:
                return factory(file, "").size
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, EOFError, struct.error, Image.DecompressionBombError):
        pass
    return None


def natural(name: str) -> list:
    """A key that sorts 2.png before 10.png."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]
