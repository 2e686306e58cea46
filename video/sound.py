"""A clip's sound, each part of it at its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import av
import numpy as np

from .shown import no_tick
from .timing import DISCONTINUOUS, Clock, Follower, packets_of, sought

PREROLL = 0.5  # seconds of sound decoded before a stretch: MP3 and AAC frames need those before them
MOST_SAMPLES = 768_000  # a second of sound, the most that converters make
# Sound stays where the sample before it ends, unless the times of this many frames in a row say that it lies so many seconds elsewhere: times are
# rounded to milliseconds in some containers, and waver where a stream was recorded live.
OUT_OF_STEP, IN_A_ROW = 0.015, 3
AHEAD = 0.25  # seconds of sound decoded after a stretch, which tell where its last piece lies


CHANNELS = (  # in FFmpeg's own order
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR",
    "DL", "DR", "WL", "WR", "SDL", "SDR", "LFE2", "TSL", "TSR", "BFC", "BFL", "BFR", "SSL", "SSR", "TTL", "TTR", "BIL", "BIR",
)  # fmt: skip


@dataclass
class Heard:
    """Pieces of sound, fp32 [channels, samples] each, and when they are said to be heard: sample numbers from the beginning of a stretch."""

    rate: int
    begins: list[int] = field(default_factory=list)
    pieces: list[np.ndarray] = field(default_factory=list)
    bad: int = 0

    def joined(self, samples: int) -> np.ndarray | None:
        """The first so many samples, [channels, samples], or fewer where the sound ends before; silence where nothing is heard. None without any."""
        placed = list(zip(self.starts(), self.pieces, strict=True))
        end = min(max((begin + piece.shape[1] for begin, piece in placed), default=0), samples)
        if not any(begin < end and begin + piece.shape[1] > 0 for begin, piece in placed) or end <= 0:
            return None
        whole = np.zeros((self.pieces[0].shape[0], end), np.float32)
        for begin, piece in placed:
            left, right = max(begin, 0), min(begin + piece.shape[1], end)
            if left < right:
                whole[:, left:right] = piece[:, left - begin : right - begin]
        return whole

    def starts(self) -> Iterator[int]:
        """Where each piece begins."""
        begin = 0
        for number, (said, piece) in enumerate(zip(self.begins, self.pieces, strict=True)):
            begin = said if number == 0 or self.out_of_step(number, begin) else begin
            yield begin
            begin += piece.shape[1]

    def out_of_step(self, number: int, begin: int) -> bool:
        """Whether a piece and those after it are said to be heard elsewhere than where they follow from `begin` on."""
        apart = list[int]()
        for said, piece in zip(self.begins[number : number + IN_A_ROW], self.pieces[number : number + IN_A_ROW], strict=True):
            apart.append(said - begin)
            begin += piece.shape[1]
        least = OUT_OF_STEP * self.rate
        return min(apart) > least or max(apart) < -least


def damage_note(bad: int) -> str:
    """Of a sound of which so many packets, at least one, gave no samples or none that are numbers."""
    return f"{bad} packet{'s' if bad > 1 else ''} of its sound could not be decoded. The file is damaged."


def heard(
    container, stream, pictures, origin: float, begin: float, end: float, tick: Callable[[], None] = no_tick
) -> tuple[np.ndarray | None, int, int]:
    """What an audio stream gives from `begin` to `end` seconds after `origin`: fp32 [channels, samples] or None, its sample rate (0 where the file holds no packet of it), and how many
    of its packets could not be decoded. pictures: the video stream whose times are followed where they begin again; None without one.

    Raises ValueError for a stream that cannot be decoded."""
    if stream.codec_context is None:
        raise ValueError("its sound is of a kind that cannot be decoded. Convert it, or take the sound out of the file.")
    with_plain_layout(stream.codec_context)
    if begin > PREROLL and not container.format.flags & DISCONTINUOUS:
        sought(container, stream, origin + begin - PREROLL)
    rate = sensible(stream.rate) if stream.rate else 0  # that of a stream which begins late is known from its first frame on
    found, resample, decoded = Heard(rate), Resampler(rate), 0
    empty = True
    for packet in packets_in_step(container, stream, pictures, tick):
        empty = False
        time = None if packet.pts is None else float(packet.pts * stream.time_base) - origin
        if time is not None and time < begin - PREROLL - 1:
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except (av.FFmpegError, EOFError):
            found.bad += 1
            continue
        for frame in frames:
            if not decoded:  # a recording may begin within a packet
                found.bad = 0
            if not rate:
                rate = found.rate = resample.rate = sensible(frame.sample_rate)
            decoded, piece = decoded + 1, resample(frame)
            if not np.isfinite(piece).all():  # a track of floating-point samples can hold anything
                found.bad, piece = found.bad + 1, np.nan_to_num(piece, nan=0.0, posinf=0.0, neginf=0.0)
            said = packet.pts if frame.pts is None else frame.pts
            if said is not None:
                start = round((float(said * stream.time_base) - origin) * rate) - round(begin * rate)
            else:
                start = found.begins[-1] + found.pieces[-1].shape[1] if found.pieces else -round(begin * rate)
            if piece.shape[1] and start + piece.shape[1] > -PREROLL * rate:
                found.begins.append(start)
                found.pieces.append(piece)
        if time is not None and time > end + AHEAD:
            break
    if not decoded and found.bad:
        raise ValueError("its sound cannot be decoded. Convert it, or take the sound out of the file.")
    return found.joined(round(end * rate) - round(begin * rate)), 0 if empty else rate, found.bad


def sensible(rate: int) -> int:
    if not 0 < rate <= MOST_SAMPLES:
        raise ValueError(f"its sound claims {rate} samples a second. Convert it, or take the sound out of the file.")
    return int(rate)


def with_plain_layout(context) -> None:
    """Where a file lists its channels in an order of its own, which PyAV frees twice with every frame: they keep their order, without its names.

    Raises ValueError for a codec that brings such an order itself."""
    layout = context.layout  # freed with this function's end: until then the context must have another
    order = [CHANNELS.index(one.name) if one.name in CHANNELS else -1 for one in layout.channels]
    if (-1 in order and set(order) == {-1}) or all(one < other for one, other in pairwise(order)):
        return
    context.layout = f"{layout.nb_channels}c" if layout.nb_channels <= 8 else f"{layout.nb_channels}C"
    if not context.name.startswith("pcm_"):
        raise ValueError("the order of its sound's channels cannot be decoded. Convert it, or take the sound out of the file.")


def packets_in_step(container, stream, pictures, tick: Callable[[], None]) -> Iterator:
    """A stream's packets, at times that go on where the pictures' begin again."""
    if pictures is None:
        clock = Clock(container, stream)
        for packet in packets_of(container, stream):
            tick()
            clock.mend(packet)
            yield packet
        return
    leader, waiting = Clock(container, pictures), list[Any]()
    follower = Follower(container, stream, leader)
    for packet in packets_of(container, pictures, stream):
        tick()
        if packet.stream_index == pictures.index:
            leader.mend(packet)
            while waiting and follower.mend(waiting[0]):
                yield waiting.pop(0)
        elif not waiting and follower.mend(packet):
            yield packet
        else:
            waiting.append(packet)
    yield from waiting


class Resampler:
    """Decoded frames to fp32 [channels, samples] of one rate and one layout, those of the first."""

    def __init__(self, rate: int):
        self.rate, self.kind = rate, tuple[Any, ...]()
        self.layout: Any = None
        self.inner: Any = None

    def __call__(self, frame) -> np.ndarray:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        self.layout = self.layout or frame.layout
        if self.inner is None or kind != self.kind:
            # packed: of a planar frame of eight channels PyAV counts planes until it meets what is not its own
            self.inner, self.kind = av.AudioResampler(format="flt", layout=self.layout, rate=self.rate), kind
        channels = self.layout.nb_channels
        pieces = [part.to_ndarray().reshape(-1, channels).T for part in self.inner.resample(frame)]
        return np.concatenate(pieces, 1) if pieces else np.zeros((channels, 0), np.float32)
