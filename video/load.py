"""Reads a stretch of a clip: frame by frame, or whole with its sound; never more of it in memory than is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from .fit import CROP, PAD, Fit
from .shown import Shown, Source, no_tick
from .source import source_of_path

SLOWEST = 0.001  # frames a second
EVEN, UNEVEN = 1.0, 0.3  # the patience of `at_even_times` with a source that is even, or not


@dataclass(frozen=True)
class Stretch:
    """Which frames of a clip are read, and how: start, start + every_nth, ..., `count` of them (0: to the end), fitted as `Fit` says.

    fps: frames a second from which they are counted (0: the clip's own). Where the clip has another rate, or one that varies,
    frames are left out or repeated so that each is seen at its time: sound and motion keep their pace. Pictures of a folder have no times:
    all of them are shown at this rate."""

    start: int = 0
    count: int = 0
    every_nth: int = 1
    longest_side: int = 0
    fps: float = 0.0
    sides: str = CROP

    def counted(self, source: Source) -> float:
        """Frames a second that `start` and `every_nth` count in."""
        return self.fps or source.fps

    def rate(self, source: Source) -> float:
        """Frames a second of what is read."""
        return self.counted(source) / self.every_nth

    def fit(self, source: Source) -> Fit:
        """Raises ValueError for frames that are too small, and for a rate so low that the clip's times could not be counted."""
        if 0 < self.fps < SLOWEST:
            raise ValueError(f"force_fps is {self.fps}. Give 0, or {SLOWEST} and more.")
        return Fit(source.height, source.width, self.longest_side, self.sides)

    def expected(self, source: Source) -> int | None:
        """How many frames decoding will give; None where the header has no length."""
        if not source.frames:
            return self.count or None
        total = round(source.frames * self.counted(source) / source.fps) if source.timed else source.frames
        frames = max(0, -(-(total - self.start) // self.every_nth))
        return min(frames, self.count) if self.count else frames


WHOLE = Stretch()


@dataclass(frozen=True)
class Clip:
    """frames: [frames, height, width, 3] RGB in 0..1; fps of these frames; waveform: [channels, samples] or None, at `sample_rate`."""

    frames: Tensor
    fps: float
    waveform: Tensor | None
    sample_rate: int


def load_clip(source: Source | str, stretch: Stretch = WHOLE, room: float = math.inf, tick: Callable[[], None] = no_tick) -> Clip:
    """The frames of `decode_frames` and the sound of the same stretch. A text is a path. room: bytes of memory that are free. tick: called
    often while the clip is read; what it raises ends the reading.

    Raises ValueError as those do, and where the room does not hold the frames: by the header after the first of them, and whatever it says
    after the last that fits."""
    source = source_of_path(source) if isinstance(source, str) else source
    expected, pictures = stretch.expected(source) or 0, list[np.ndarray]()
    for picture in decode_frames(source, stretch, tick):
        pictures.append(picture)
        count = max(expected, len(pictures))
        most = room // (picture.nbytes + 4 * picture.size)  # as it is read, and as fp32 beside it
        if count > most:
            raise ValueError(
                f"{count} frames or more of {picture.shape[1]}x{picture.shape[0]} pixels do not fit into the {room / 2**30:.1f} GiB of memory that "
                f"are free. Set frame_count to at most {most:.0f}, or a smaller longest_side."
            )
    frames = torch.empty(len(pictures), *pictures[0].shape)
    for frame, picture in zip(frames, pictures, strict=True):
        frame.copy_(torch.from_numpy(picture))
    waveform, sample_rate = load_sound(source, stretch, len(pictures), tick)
    return Clip(frames.div_(255), stretch.rate(source), waveform, sample_rate)


def decode_frames(source: Source, stretch: Stretch = WHOLE, tick: Callable[[], None] = no_tick) -> Iterator[np.ndarray]:
    """The stretch's frames, one at a time, with sides that are multiples of 8: RGB [height, width, 3], uint8, or float32 in 0..255 where the
    source holds such. source.notes tells what was done to them. tick: as of `load_clip`.

    Frames are counted from the clip's beginning.
    Raises ValueError for a file that cannot be decoded, a size that changes, and a stretch that holds no frame."""
    return pictures_of(source, stretch, stretch.fit(source).apply, tick)


def pictures_of(source: Source, stretch: Stretch, fitted, tick: Callable[[], None] = no_tick) -> Iterator[np.ndarray]:
    """The stretch's pictures, each as `fitted` makes it from the source's: one that is repeated is made once, and is the same array."""
    total, given, size = 0, 0, (source.height, source.width)
    made: tuple[Shown, np.ndarray] | None = None
    pace = Pace(source, stretch)
    for number, shown in pace.numbered(tick):
        total = number + 1
        if number >= stretch.start and (number - stretch.start) % stretch.every_nth == 0:
            if made is None or made[0] is not shown:
                picture = shown.picture()
                if picture.shape[:2] != size:
                    rows, columns = picture.shape[:2]
                    raise ValueError(
                        f"its size changes at frame {number}, from {size[1]}x{size[0]} to {columns}x{rows} pixels. Choose a stretch before or after it."
                    )
                made = shown, fitted(picture)
            yield made[1]
            given += 1
        if stretch.count and given == stretch.count:
            return
    if not given:
        raise ValueError(
            f"it has {total} frames, and none of them lies in the stretch that begins at frame {stretch.start}. Lower start_frame."
        )


class Pace:
    """A source's frames at an even rate, that from which a stretch counts, with the number of each from the clip's beginning."""

    def __init__(self, source: Source, stretch: Stretch):
        self.source, self.stretch, self.fps = source, stretch, stretch.counted(source)
        self.repeated = self.left_out = 0

    def numbered(self, tick: Callable[[], None] = no_tick) -> Iterator[tuple[int, Shown]]:
        source = self.source
        if not source.timed:
            yield from enumerate(source.shown(0.0, tick))
            return
        forced = self.fps != source.fps
        shown = source.shown(self.stretch.start / self.fps, tick)
        first = next(shown, None)
        if first is None:
            return
        begin = max(0, round(first.begin * self.fps))
        paced = at_even_times(chain([first], shown), self.fps, 0.0 if forced else EVEN if source.even else UNEVEN, begin, self.note)
        for number, frame in enumerate(paced, begin):
            if not forced and number >= self.stretch.start and (self.repeated or self.left_out):
                self.describe(number - self.stretch.start + 1)
            yield number, frame

    def note(self, number: int, repeats: bool) -> None:
        """A frame is repeated or left out for the sake of the pace."""
        if number >= self.stretch.start:
            self.repeated, self.left_out = self.repeated + repeats, self.left_out + (not repeats)

    def describe(self, frames: int) -> None:
        """Notes for the artist what the pace has cost in so many frames."""
        self.source.notes["pace"] = (
            f"The clip's frames do not come evenly. To keep its pace at {self.fps:.5g} frames a second, {self.repeated} of {frames} frames repeat the one "
            f"before, and {self.left_out} were left out. force_fps sets another rate: a lower one repeats fewer, a higher one leaves out fewer."
        )


def at_even_times(
    shown: Iterable[Shown], fps: float, patience: float, begin: int = 0, note: Callable[[int, bool], None] | None = None
) -> Iterator[Shown]:
    """Frames for the times begin/fps, (begin + 1)/fps, ...: each that is shown is given for the time that its own is nearest to, repeated over
    times that no other is near to, and left out where it is too late for the one that is next.

    patience: frames by which one may be early or late beyond the half that rounds before that happens, so that a rate which wavers about
    fps loses none. After FFmpeg's -fps_mode cfr, whose patience is 0.6. note: called with the number at which a frame is repeated (True) or left out."""
    slack, given = 0.5 + patience - 1e-6, begin
    last: Shown | None = None

    def repeats(due: float) -> Iterator[Shown]:
        nonlocal given
        for _ in range(round(due - given) if due - given > slack else 0):
            if last is not None:
                if note:
                    note(given, True)
                yield last
                given += 1

    for frame, final in with_end(shown):
        due, end = frame.begin * fps, (frame.begin + frame.duration) * fps
        yield from repeats(due)
        if last is None or (due - given >= -slack and not (final and given >= end + slack - 0.5)):
            yield frame
            given += 1
        elif note:
            note(given, False)
        last = frame
        if final:
            yield from repeats(end)


def with_end(shown: Iterable[Shown]) -> Iterator[tuple[Shown, bool]]:
    """Each frame, and whether it is the last."""
    frames = iter(shown)
    frame = next(frames, None)
    while frame is not None:
        following = next(frames, None)
        yield frame, following is None
        frame = following


def load_sound(source: Source, stretch: Stretch, frames: int, tick: Callable[[], None] = no_tick) -> tuple[Tensor | None, int]:
    """The sound while `frames` frames of a stretch are shown: fp32 [channels, samples], shorter where it ends earlier, and its sample rate.
    tick: as of `load_clip`. (None, 0) without any. Raises ValueError for a file that cannot be decoded."""
    begin, rate = stretch.start / stretch.counted(source), stretch.rate(source)
    samples, sample_rate = source.sound(begin, begin + frames / rate, tick)
    return (None if samples is None else torch.from_numpy(samples)), sample_rate


def restored_size(size: tuple[int, int], source: Source, stretch: Stretch) -> tuple[int, int]:
    """Height and width that `restored` gives frames of `size`. Raises ValueError for frames that are not of the stretch's size."""
    fit = stretch.fit(source)
    if size != fit.size:
        raise ValueError(
            f"the frames are {size[1]}x{size[0]} pixels, but this is the fit of a clip that was read at {fit.size[1]}x{fit.size[0]}. "
            "Connect the fit of the clip that was edited."
        )
    return fit.scaled


def uncut(source: Source, stretch: Stretch, tick: Callable[[], None] = no_tick) -> Iterator[np.ndarray]:
    """`decode_frames` without the crop or the padding."""
    return pictures_of(source, stretch, stretch.fit(source).scale, tick)


def restored(chunks: Iterable[np.ndarray], source: Source, stretch: Stretch, own: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """An edited clip's chunks, uint8 [frames, height, width, 3], at the size that the source's frames had before they were cropped or padded.

    own: `uncut` of the same, in step with the chunks: what was cropped is the source's again. Where nothing was, none of it is asked for."""
    fit = stretch.fit(source)
    cropped = stretch.sides != PAD and fit.size != fit.scaled
    for chunk in chunks:
        originals = np.stack(list(islice(own, len(chunk)))).round().clip(0, 255).astype(np.uint8) if cropped else None
        yield fit.undo(chunk, originals)
