"""What the packets of a film tell of its times before a frame of it is decoded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import mean, median_low

import av

NO_TIMESTAMPS, DISCONTINUOUS = 0x80, 0x200  # FFmpeg's AVFMT_NOTIMESTAMPS and AVFMT_TS_DISCONT
# A rate that varies by more than a tenth, or of which single frames are missing, is read at that of its finest clock, which keeps every frame at its
# time; one that wavers less at its average, and one whose clock would make more than so many frames of each at that of most of its frames.
LEAST_VARYING, MOST_REPEATED = 1.1, 2.5
LEAST_UNEVEN = 0.6  # frames by which one comes early or late where the rate is not even
LOOKED_AT, LOOKED_AT_BYTES = 5000, 2**26  # packets of a film's beginning, and bytes of them, from which its timing is determined
# Seconds by which time stamps jump where another recording begins; forth only in formats of which broadcasts are made, in which those of decoding never
# go back by less either
BACK, FORTH = 0.2, 10.0
GOES_ON = 0.005  # seconds between a packet's end and the next one's beginning
BESIDE = 1.5  # seconds between packets of two streams that lie beside each other in a file


class Clock:
    """The time stamps of a stream, which begin again where recordings were joined, as one that goes on. Shifts the packets that it is given.

    offsets: seconds that are added to the stamps of each part. now: the time of the last packet, None before the first."""

    def __init__(self, container, stream):
        self.base, self.offsets, self.now = float(stream.time_base), [0.0], None
        self.broadcast = bool(container.format.flags & DISCONTINUOUS)
        self.next: int | None = None
        self.decoded: int | None = None  # when the last packet is to be decoded

    def mend(self, packet) -> None:
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return
        if packet.is_discard:  # an edit list hides it, and may begin far behind it
            shift(packet, self.offsets[-1])
            return
        back = self.broadcast and None not in (packet.dts, self.decoded) and packet.dts <= self.decoded
        restarts = False
        if self.next is not None and (back or self.jumps(self.next, stamp)):
            restarts = True
            self.offsets.append((self.next - stamp) * self.base + self.offsets[-1])
        # When the first of reordered frames are to be decoded is not always known, and they are shown later.
        if restarts or packet.dts is not None:
            self.next, self.decoded = stamp + (packet.duration or 0), packet.dts
        self.now = stamp * self.base + self.offsets[-1]
        shift(packet, self.offsets[-1])

    def jumps(self, expected: int, stamp: int) -> bool:
        """Whether a packet cannot belong to the recording of the one before."""
        return not -BACK <= (stamp - expected) * self.base <= (FORTH if self.broadcast else math.inf)


class Follower:
    """The clock of another stream, whose packets are shifted as those of the leading one that lie beside them."""

    def __init__(self, container, stream, leader: Clock):
        self.clock, self.base, self.leader = Clock(container, stream), float(stream.time_base), leader
        self.part = 0
        self.next: int | None = None
        self.end = -math.inf  # of the last packet, by the leading stream's clock

    def mend(self, packet) -> bool:
        """Shifts a packet. False where it belongs to a part that the leading stream has not yet come to; then it is to be shown again."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return True
        part = self.part_of(stamp)
        if part is None:
            return False
        self.part, self.next = part, stamp + (packet.duration or 0)
        self.end = self.next * self.base + self.leader.offsets[part]
        shift(packet, self.leader.offsets[part])
        return True

    def part_of(self, stamp: int) -> int | None:
        """Of the parts since its last one, that in which it lies beside the leading stream's last packet; where parts overlap, in which it goes on."""
        offsets, now = self.leader.offsets, self.leader.now
        jumps = self.next is not None and self.clock.jumps(self.next, stamp)
        # The last packet of a part may come late: in a transport stream when the next of its stream begins.
        goes_on = self.next is not None and abs(stamp - self.next) * self.base < GOES_ON
        if now is None or goes_on or (len(offsets) == self.part + 1 and not jumps):
            return self.part
        times = {part: stamp * self.base + offsets[part] for part in range(self.part, len(offsets))}
        apart = {part: abs(time - now) for part, time in times.items() if time > self.end - BACK and abs(time - now) < BESIDE}
        if not apart:
            return None if jumps else self.part
        return min((part for part in apart if apart[part] < min(apart.values()) + BACK), key=lambda part: abs(times[part] - self.end))


def shift(packet, seconds: float) -> None:
    if ticks := round(seconds / packet.time_base):
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


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
    return Timing(fps, even, promised(container, stream), end, len(clock.offsets) - 1, in_order or avi)


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


def sought(container, stream, seconds: float) -> bool:
    """Whether the file could be set to the key frame before that time; where it could not, it is to be opened anew."""
    try:
        container.seek(int(seconds / stream.time_base), stream=stream)
    except av.FFmpegError:
        return False
    return True


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
        return min((average, base or average), key=partial(strayed, times)), True
    even = len(times) < 2 and (not base or abs(base / average - 1) < 1e-3)
    if LEAST_VARYING * average < base < MOST_REPEATED * average or (base and not even and abs(usual / base - 1) < 0.01):
        return base, even
    return (usual if usual > LEAST_VARYING * average else average), even


def strayed(times: list[float], rate: float) -> float:
    """Seconds by which frames come early or late beside the times of that rate, all together: an average is off where the first frame or the last
    is said to stay longer."""
    offsets = [time - number / rate for number, time in enumerate(times)]
    middle = median_low(offsets)
    return sum(abs(offset - middle) for offset in offsets)


def usual_step(times: list[float]) -> float:
    """Seconds between frames while they follow each other as most of them do: pauses do not count. 0 for less than two."""
    return usual_of([after - before for before, after in pairwise(times) if after > before])


def usual_of(steps: list[float]) -> float:
    if not steps:
        return 0.0
    middle = median_low(steps)
    return mean(step for step in steps if middle / 1.5 < step < middle * 1.5)


def promised(container, stream) -> float | None:
    """Seconds that the header promises of the video; None where it promises none. Some formats count them from 0 and not from the beginning."""
    if container.format.flags & DISCONTINUOUS:  # no header: FFmpeg takes the first time stamp from the last, whatever lies between
        return None
    if container.format.name == "asf":  # that of the file, whose sound may be longer; of a file that is cut off FFmpeg tells none
        return None
    ends = [float((stream.duration - max(stream.start_time or 0, 0)) * stream.time_base)] if stream.duration else []
    tagged = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tagged and not ends and "matroska" in container.format.name:  # others keep the words of the file that they were made of
        end = int(tagged[1]) * 3600 + int(tagged[2]) * 60 + float(tagged[3])
        ends = [end - max(float((stream.start_time or 0) * stream.time_base), 0)]
    if ends and container.duration:  # shorter, where only a part of what is stored is shown
        ends.append((container.duration - max(container.start_time or 0, 0)) / av.time_base)
    return min(ends, default=None)
