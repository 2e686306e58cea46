"""How a phone asks for a clip to be turned and mirrored before it is shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """transposed: rows become columns, first; then left_right and up_down mirror. The eight ways in which a picture can lie."""

    transposed: bool = False
    left_right: bool = False
    up_down: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of a picture [height, width, channels]."""
        picture = picture.swapaxes(0, 1) if self.transposed else picture
        return picture[:: -1 if self.up_down else 1, :: -1 if self.left_right else 1]


def orientation_of(frame) -> Orientation:
    """By the display matrix of a decoded frame. One that turns by anything but quarters is taken as the nearest quarter.

    Source: ISO/IEC 14496-12, 6.2.2: a pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return Orientation()
    a, b, _, c, d = struct.unpack("=9i", bytes(data)[:36])[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
