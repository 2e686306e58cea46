"""A video file as a source of frames: what a player shows of it, upright, in plain RGB, each frame at its time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from heapq import heappop, heappush
from itertools import chain, islice, pairwise, repeat
from typing import Any

import av
import av.filter
import cv2
import numpy as np

from .colour import HLG, PQ, to_rgb
from .orientation import orientation_of
from .shown import Shown, Source, no_tick
from .sound import damage_note, heard
from .timing import DISCONTINUOUS, NO_TIMESTAMPS, Clock, packets_of, sought, timing_of

MISSING = 0.05  # of its length, at least half a second: if a file ends as much earlier than it says, some of it is lost
CUT_OFF = "The file is damaged or cut off: set frame_count so that it ends before frame {}, or get the whole file."
MOST_STRETCHED = 16  # the sides of a pixel; a header that says more is damaged
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave out the alpha that WebM keeps beside the colours
HOLE = 0.6  # of a frame's time: where stamps say that a frame is and none comes, and no other is that near, one is lost
SEEK_FROM, BEFORE = 2.0, 1.0  # seconds: a stretch that begins later is sought for, at a key frame that lies so long before it
LOOKED_AT_FRAMES = 32
DRAINED = 100  # times that a decoder is asked for what it still holds: with a thread for each frame it tells of each damaged one


class Film(Source):
    """A video file, or its bytes. Raises ValueError for a file that cannot be decoded, holds no video, or is HDR of a kind that has no SDR look.

    deinterlace: whether frames that the file says are interlaced become whole ones."""

    def __init__(self, file: str | io.BytesIO, deinterlace: bool = True):
        self.file, self.deinterlace, self.notes = file, deinterlace, dict[str, str]()
        with opened(file) as (container, stream):
            self.timing = timing_of(container, stream)
            self.fps, self.even = self.timing.fps, self.timing.even
            self.exact = not container.format.flags & (DISCONTINUOUS | NO_TIMESTAMPS) and not self.timing.restarts
        with opened(file) as (container, stream):
            stamps = list[int]()
            frames = decoded(container, stream, stamps=stamps, stored=True)
            first = next(frames, None)
            if first is None:
                raise ValueError("no frame of it can be decoded. Choose another clip.")
            context = stream.codec_context
            if context.color_trc == PQ:
                raise ValueError(
                    "its colours are HDR (PQ), which look washed out as they are and which image models do not know. Convert it to SDR (BT.709)."
                )
            self.hlg = context.color_trc == HLG
            if self.hlg:
                self.notes["colours"] = "HDR (HLG) was converted to SDR (BT.709); lights brighter than white are clipped."
            self.orientation = orientation_of(first)
            aspect = float(stream.sample_aspect_ratio or 1)  # of a pixel: its width to its height
            self.stretch = aspect if 1 / MOST_STRETCHED <= aspect <= MOST_STRETCHED else 1.0
            height, width = first.height, round(first.width * self.stretch)
            self.height, self.width = (width, height) if self.orientation.transposed else (height, width)
            self.sorted_stamps = bool(context.has_b_frames and self.timing.storage_order) and (
                container.format.name == "avi" or run_backwards([first, *islice(frames, LOOKED_AT_FRAMES)])
            )
            # frames that come before 0 have no stamps in Matroska: they are counted back from the first that has one
            known = enumerate(map(stamp_of, chain([first], islice(frames, LOOKED_AT_FRAMES))))
            number, stamp = next((pair for pair in known if pair[1] is not None), (0, 0))
            self.origin = float((min(stamps) if self.sorted_stamps else stamp) * stream.time_base) - number / self.fps
            # seconds before the first frame that can be decoded, which the header counts too
            self.missing = max(0.0, self.origin - float((stream.start_time or 0) * stream.time_base))
            self.frames = self.counted(container, stream)

    def counted(self, container, stream) -> int | None:
        """How many frames there are at an even pace."""
        if container.format.flags & NO_TIMESTAMPS:
            return None
        if self.timing.end is not None:
            return round((self.timing.end - self.origin) * self.fps)
        seconds = self.timing.seconds or (container.duration or 0) / av.time_base
        return round(seconds * self.fps) or stream.frames or None

    def shown(self, begin: float = 0.0, tick: Callable[[], None] = no_tick) -> Iterator[Shown]:
        bad, last, end = 0, None, 0.0
        for at, duration, frame in self.stamped(tick, begin):
            last = frame or last
            if frame is None:
                bad += 1
                self.notes["damage"] = (
                    f"{bad} frame{'s' * (bad > 1)} could not be decoded; the last good one stands in. The file is damaged."
                )
            yield Shown(at - self.origin, duration, partial(self.picture, last))
            end = at - self.origin + duration
        length = self.timing.seconds and self.timing.seconds - self.missing
        if length and end < length - max(MISSING * length, 0.5):
            raise ValueError(
                f"its frames end after {end:.2f} s, but its header promises {length:.2f} s. {CUT_OFF.format(round(end * self.fps) - 1)}"
            )

    def stamped(self, tick: Callable[[], None], begin: float = 0.0) -> Iterator[tuple[float, float, Any]]:
        """When each frame is shown, in seconds of the file's own clock, for how long, and the decoded frame: None for one that is lost. Begins
        somewhere before `begin`."""
        if self.exact and self.even and begin > SEEK_FROM:
            frames = self.walked(tick, self.origin + begin - BEFORE)
            first = next(frames, None)
            if first is not None and first[0] <= self.origin + begin:
                yield first
                yield from frames
                return
        yield from self.walked(tick)  # also where a file has no index, or one that has led too far

    def walked(self, tick: Callable[[], None], begin: float | None = None) -> Iterator[tuple[float, float, Any]]:
        """As `stamped`, from the key frame before a time on, as far as the file's index knows it; from the first frame on without one."""
        with opened(self.file) as (container, stream):
            if begin is not None and not sought(container, stream, begin):
                return
            base, usual, hole = float(stream.time_base), 1 / self.fps, HOLE / self.fps
            stamps, last = list[int](), None
            unknown = self.origin if begin is None else float("inf")

            def lost(until: float) -> Iterator[tuple[float, float, None]]:
                """Frames whose packets were read before that time and that have not come."""
                nonlocal last
                while stamps and stamps[0] * base < until - hole:
                    at = heappop(stamps) * base
                    if last is not None and at > last + hole:
                        last = at
                        yield at, usual, None

            frames = decoded(container, stream, Clock(container, stream), stamps, self.sorted_stamps, tick)
            for frame in deinterlaced(frames, self.notes) if self.deinterlace else frames:
                # in units of the time base; PyAV before 14.3 does not tell, and where frames are reordered it is that of decoding
                duration = (
                    usual
                    if stream.codec_context.has_b_frames
                    else float((getattr(frame, "duration", None) or 0) * frame.time_base) or usual
                )
                stamp = stamp_of(frame)
                at = float(stamp * frame.time_base) if stamp is not None else unknown if last is None else last + usual
                if self.sorted_stamps and stamps:
                    at = heappop(stamps) * base
                else:
                    yield from lost(at)
                    while stamps and stamps[0] * base <= at:
                        heappop(stamps)
                at = at if last is None or at > last else last + duration
                last = at
                yield at, duration, frame
            yield from lost(float("inf"))

    def picture(self, frame) -> np.ndarray:
        """A decoded frame upright and with square pixels."""
        picture = self.orientation.apply(to_rgb(frame, self.hlg))
        if self.stretch != 1:
            picture = cv2.resize(np.ascontiguousarray(picture), (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.ascontiguousarray(picture)

    def sound(self, begin: float, end: float, tick: Callable[[], None] = no_tick) -> tuple[np.ndarray | None, int]:
        """That of the first track that can be decoded."""
        refused = list[str]()
        for track in range(self.tracks()):
            with opened(self.file) as (container, video):
                pictures = None if self.exact else video
                try:
                    samples, rate, bad = heard(container, container.streams.audio[track], pictures, self.origin, begin, end, tick)
                except ValueError as error:
                    refused.append(str(error))
                    continue
            if not rate:  # an empty track
                continue
            if track:
                self.notes["track"] = f"Sound track {track + 1} was read, since those before it hold nothing that can be decoded."
            if bad:
                self.notes["sound"] = damage_note(bad)
            return (None, 0) if samples is None else (samples, rate)
        if refused:
            self.notes["track"] = f"Warning: the clip was read without its sound: {refused[0]}"
        return None, 0

    def tracks(self) -> int:
        with opened(self.file) as (container, _):
            return len(container.streams.audio)


@contextmanager
def reading(file: str | io.BytesIO) -> Iterator:
    """A file's container. What FFmpeg cannot do with it becomes a ValueError, and so does what is no file."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    elif not os.path.isfile(file):
        raise ValueError("it is no file, or not there any more. Choose another clip.")
    try:
        # FFmpeg gets what is in the file, and may open no other: a playlist could name any on this machine, or an address.
        # A title in an old character set is no reason to refuse a film. Options of streams too end PyAV before 17.1 where streams are found late (FLV).
        with (
            nullcontext(file) if isinstance(file, io.BytesIO) else open(file, "rb") as content,
            av.open(content, metadata_errors="ignore", container_options={"protocol_whitelist": "none"}) as container,
        ):
            yield container
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"the file cannot be decoded as video ({error.strerror}). Choose another, or convert it to H.264.") from error


@contextmanager
def opened(file: str | io.BytesIO) -> Iterator[tuple]:
    """The file's container and its video stream: of several the one that players choose, which is not a cover or a still."""
    with reading(file) as container:
        stream = container.streams.best("video")
        if stream is None and not container.streams.video:
            raise ValueError("the file holds no video stream. Choose another.")
        stream = stream or container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its video is of a kind that cannot be decoded. Choose another, or convert it to H.264.")
        yield container, stream


def decoded(
    container, stream, clock: Clock | None = None, stamps: list[int] | None = None, stored: bool = False, tick: Callable[[], None] = no_tick
) -> Iterator:
    """The stream's frames, as PyAV gives them, with alpha where the file has it; packets that cannot be decoded give none.

    clock: shifts the packets first. stamps: a heap to which the time of each packet is added before its frame comes: when it is shown, or, stored,
    when it is to be decoded."""
    # A thread that decodes ahead may log while this one closes the file. Where Python hears the log, each would wait for the other for good.
    stream.thread_type = "AUTO" if av.logging.get_level() is None else "SLICE"
    context: Any = stream.codec_context
    transparent = "1" in (stream.metadata.get(name) for name in ("alpha_mode", "ALPHA_MODE"))
    decoder = ALPHA_DECODERS.get(context.name) if transparent else None
    if decoder is not None and decoder in av.codecs_available:
        context = av.CodecContext.create(decoder, "r")
    for packet in chain(packets_of(container, stream), repeat(None, DRAINED)):
        tick()
        if packet is not None:
            if clock is not None:
                clock.mend(packet)
            stamp = packet.dts if stored else packet.pts
            if stamps is not None and stamp is not None and not packet.is_discard:
                heappush(stamps, stamp)
        try:
            for frame in context.decode(packet):
                frame.time_base = stream.time_base
                yield frame
        except EOFError:
            return
        except av.FFmpegError:  # a damaged packet; the frames of others may still come
            continue


def deinterlaced(frames: Iterator, notes: dict[str, str]) -> Iterator:
    """Frames of which those that are flagged as interlaced have become whole: one for each, at its time."""
    graph: Deinterlacer | None = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None or graph.kind != kind_of(frame):
            if graph is not None:
                yield from graph.rest()
            graph = Deinterlacer(frame)
            notes["interlaced"] = "Interlaced frames were deinterlaced; with deinterlace off they stay as they are."
        yield from graph.apply(frame)
    if graph is not None:
        yield from graph.rest()


class Deinterlacer:
    """FFmpeg's bwdif for frames of one size and pixel format; those that are not flagged pass as they are."""

    def __init__(self, frame):
        self.kind, self.graph = kind_of(frame), av.filter.Graph()
        source = self.graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        chain = [source, self.graph.add("bwdif", "mode=send_frame:deint=interlaced"), self.graph.add("buffersink")]
        for one, other in pairwise(chain):
            one.link_to(other)
        self.graph.configure()

    def apply(self, frame) -> Iterator:
        self.graph.push(frame)
        yield from self.ready()

    def rest(self) -> Iterator:
        self.graph.push(None)
        yield from self.ready()

    def ready(self) -> Iterator:
        while True:
            try:
                yield self.graph.pull()
            except (av.error.BlockingIOError, EOFError):  # it wants another frame, or has given the last
                return


def kind_of(frame) -> tuple:
    return frame.width, frame.height, frame.format.name


def stamp_of(frame) -> int | None:
    """When a frame is shown, in units of its time base. Where its packet does not say, as in MPEG program streams, it is when it left the decoder."""
    return frame.dts if frame.pts is None else frame.pts


def run_backwards(frames: list) -> bool:
    """Whether frames, in the order in which they are shown, have time stamps that are not."""
    stamps = [frame.pts for frame in frames]
    return None not in stamps and any(other <= one for one, other in pairwise(stamps))
