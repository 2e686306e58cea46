"""What every source of a clip's frames gives: frames with their times, and the sound between two times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


def no_tick() -> None:
    """Nobody waits for a source."""


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
    shown upright and with square pixels. notes: what was done to the clip while it was opened and read, a sentence for the artist each, by kind."""

    fps: float
    even: bool
    timed = True
    frames: int | None
    height: int
    width: int
    notes: dict[str, str]

    @abstractmethod
    def shown(self, begin: float = 0.0, tick: Callable[[], None] = no_tick) -> Iterator[Shown]:
        """The frames in order, one at a time; those shown before `begin` seconds may be left out, where that saves decoding them.

        tick: called often, also while nothing is shown; what it raises ends the reading."""

    @abstractmethod
    def sound(self, begin: float, end: float, tick: Callable[[], None] = no_tick) -> tuple[np.ndarray | None, int]:
        """What is heard from `begin` to `end` seconds after the first frame's beginning: float32 [channels, samples], shorter where the sound
        ends earlier, and its sample rate. (None, 0) without any."""
