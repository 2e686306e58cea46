"""What the packets of a film tell of its times before a frame of it is decoded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median_low

import av

NO_TIMESTAMPS, DISCONTINUOUS = 0x80, 0x200  # FFmpeg's AVFMT_NOTIMESTAMPS and AVFMT_TS_DISCONT
# A rate that varies by more than a tenth, or of which single frames are missing, is read at that of its finest clock, which keeps every frame at its
# time; one that wavers less at its average, and one whose clock would make more than so many frames of each at that of most of its frames.
LEAST_VARYING, MOST_REPEATED = 1.1, 2.5
LEAST_UNEVEN = 0.6  # frames by which one comes early or late where the rate is not even
LOOKED_AT, LOOKED_AT_BYTES = 5000, 2**26  # packets of a film's beginning, and bytes of them, from which its times are told
BACK, FORTH = (
    0.2,
    10.0,
)  # seconds by which time stamps jump where another recording begins; forth only in formats of which broadcasts are made


class Clock:
    """The time stamps of a stream, which begin again where recordings were joined, as one that goes on. Shifts the packets that it is given.

    offsets: seconds that are added to the stamps of each part but the first. What belongs together is shifted together: another stream's clock
    is given those of the pictures', and shifts nothing by itself."""

    def __init__(self, container, stream, offsets: list[float] | None = None):
        self.leads, self.offsets = offsets is None, [] if offsets is None else offsets
        self.base, self.part, self.next = float(stream.time_base), 0, None
        self.forth = FORTH if container.format.flags & DISCONTINUOUS else float("inf")

    def mend(self, packet) -> bool:
        """Shifts a packet. False where it belongs to a part that the leading stream has not yet come to; then it is to be shown again."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return True
        if self.next is not None and not -BACK <= (stamp - self.next) * self.base <= self.forth:
            if self.leads:
                self.offsets.append((self.next - stamp) * self.base + self.offset())
            elif self.part >= len(self.offsets):
                return False
            self.part += 1
        self.next = stamp + (packet.duration or 0)
        if shift := round(self.offset() / self.base):
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        return True

    def offset(self) -> float:
        return self.offsets[self.part - 1] if self.part else 0.0


@dataclass(frozen=True)
class Timing:
    """fps: frames a second at which a film is read. even: all its frames are shown for the same time. seconds: that the header promises; None where
    it promises none. end: when the last frame's time is over, if all of the film was looked at. restarts: whether its time stamps begin anew.
    storage_order: the stamps lie in the order of the packets, which need not be that of the frames."""

    fps: float
    even: bool
    seconds: float | None
    end: float | None
    restarts: int
    storage_order: bool


def timing_of(container, stream) -> Timing:
    """Reads a part of the file. The container is to be opened anew afterwards."""
    avi = container.format.name == "avi"
    clock, spans, whole = Clock(container, stream), list[tuple[int, int]](), True  # when a packet's frame is shown, and for how long
    size = 0
    for packet in packets_of(container, stream):
        if len(spans) >= LOOKED_AT or size > LOOKED_AT_BYTES:
            whole = False
            break
        size += packet.size
        clock.mend(packet)
        stamp = packet.dts if avi else packet.pts  # an AVI has but the one
        if stamp is not None and not packet.is_discard:
            spans.append((stamp, packet.duration or 0))
    base, stored = float(stream.time_base), [begin for begin, _ in spans]
    times = sorted(begin * base for begin in stored)
    end = None
    if whole and spans:
        begin, duration = max(spans)
        end = begin * base + (duration * base or usual_step(times))
    fps, even = frame_rate(container, stream, times, end)
    in_order = len(stored) > 1 and all(one < other for one, other in pairwise(stored))
    return Timing(fps, even, promised(container, stream), end, len(clock.offsets), in_order or avi)


def packets_of(container, *streams) -> Iterator:
    """The packets of streams that hold something, until FFmpeg can read no further. An empty one is PyAV's way to say that these were all, or an AVI's
    to say that the picture stays."""
    while True:
        try:
            yield from (packet for packet in container.demux(*streams) if packet.size)
        except IndexError:  # of a stream that begins later than the others, which PyAV does not know of
            continue
        except av.FFmpegError:
            pass
        return


def frame_rate(container, stream, times: list[float], end: float | None) -> tuple[float, bool]:
    """Frames a second at which a stream is read, and whether all its frames are shown for the same time.

    times: seconds at which its first frames are shown. end: of the last one, where these are all. The base rate is that of a clock which tells
    all frames apart: where the rate varies it is another than the average."""
    if container.format.flags & NO_TIMESTAMPS:  # such as a bare H.264 stream
        return float(stream.guessed_rate or stream.average_rate or 24), True
    average, base = (float(rate) if rate else 0.0 for rate in (stream.average_rate or stream.guessed_rate, stream.base_rate))
    average, usual = average or base or 24.0, 1 / (usual_step(times) or math.inf)
    if end is not None and end > times[0] and abs(usual / average - 1) > 0.01:
        # The header's is that of the first frames alone in a GIF, and of slots in an AVI, of which many may be empty.
        measured = len(times) / (end - times[0])
        average = measured if abs(measured / average - 1) > 0.01 else average
    steps = [(after - before) * usual for before, after in pairwise(times)]
    if abs(usual / average - 1) < 0.01 and all(abs(step - 1) < LEAST_UNEVEN for step in steps):
        return average, True
    even = len(times) < 2 and (not base or abs(base / average - 1) < 1e-3)
    if LEAST_VARYING * average < base < MOST_REPEATED * average or (base and not even and abs(usual / base - 1) < 0.01):
        return base, even
    return (usual if usual > LEAST_VARYING * average else average), even


def usual_step(times: list[float]) -> float:
    """Seconds between frames while they follow each other as most of them do: pauses do not count. 0 for less than two."""
    steps = [after - before for before, after in pairwise(times) if after > before]
    if not steps:
        return 0.0
    middle = median_low(steps)
    return mean(step for step in steps if middle / 1.5 < step < middle * 1.5)


def promised(container, stream) -> float | None:
    """Seconds that the header promises of the video; None where it promises none. Some formats count them from 0 and not from the beginning."""
    if container.format.flags & DISCONTINUOUS:  # no header: FFmpeg takes the first time stamp from the last, whatever lies between
        return None
    ends = [float((stream.duration - max(stream.start_time or 0, 0)) * stream.time_base)] if stream.duration else []
    tagged = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska and WebM
    if tagged and not ends:
        end = int(tagged[1]) * 3600 + int(tagged[2]) * 60 + float(tagged[3])
        ends = [end - max(float((stream.start_time or 0) * stream.time_base), 0)]
    if ends and container.duration:  # shorter, where only a part of what is stored is shown
        ends.append((container.duration - max(container.start_time or 0, 0)) / av.time_base)
    return min(ends, default=None)
