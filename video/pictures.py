"""Pictures of an edit for an artist to look at: source, mask and edit beside each other, as a clip to play and as a sheet of some frames."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

MAGENTA = (255, 0, 255)
PAPER, INK = (24, 24, 24), (235, 235, 235)
SOURCE, MASK, EDITED = "source", "mask", "edited"
DIMMED = 0.45  # of its light, what is outside a mask
THUMBNAIL, THUMBNAIL_LINE = 320, 24  # of a sheet: pixels of the longer side of its pictures, and of height of its lines of text
LINE, LINE_SHARE = 16, 20  # of a clip: pixels of height of its line of text at least, and the picture's width by it at most
Panels = dict[str, np.ndarray]


def to_bytes(frame: Tensor) -> np.ndarray:
    """A frame of an IMAGE, [height, width, 3] in 0..1, rounded to 8 bits. uint8 RGB"""
    return (frame.float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The picture with the mask's outline. RGB uint8 [height, width, 3]; mask: [height, width], inside above a half"""
    contours, _ = cv2.findContours((mask > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = 1 + max(picture.shape[:2]) // 256
    return cv2.drawContours(np.ascontiguousarray(picture), contours, -1, colour, thickness)


def masked(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, dimmed outside the mask, with the mask's outline. uint8 RGB [height, width, 3]; mask: 0..1 [height, width]"""
    light = DIMMED + (1 - DIMMED) * mask[..., None]
    return outlined((picture * light + 0.5).astype(np.uint8), mask, MAGENTA)


def to_fit(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width of a picture that is made smaller, if it must be, so that its longer side has at most so many pixels. 0: as it is."""
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    return max(1, round(scale * height)), max(1, round(scale * width))


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture in a sheet: small ones grow by a whole factor, so that every pixel stays a square."""
    times = max(1, THUMBNAIL // max(height, width))
    return to_fit(times * height, times * width, THUMBNAIL)


def panels(source: np.ndarray, edited: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]) -> Panels:
    """What is shown of one frame, by its label, each of this size (height, width). uint8 RGB

    source, edited: uint8 RGB [height, width, 3]; mask: 0..1 [height, width], or None, which leaves its picture out."""
    small = sized(source, size)
    middle = {} if mask is None else {MASK: masked(small, sized(mask, size))}
    return {SOURCE: small, **middle, EDITED: sized(edited, size)}


def sized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if picture.shape[:2] == size:
        return picture
    larger = height > picture.shape[0]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST if larger else cv2.INTER_AREA)


def line_of(width: int) -> int:
    """Pixels of height of a line of text over pictures of this width; even."""
    return max(LINE, width // LINE_SHARE // 2 * 2)


def side_by_side(shown: Panels, frame: int) -> np.ndarray:
    """One frame's panels beside each other under their labels and the frame's number. uint8 RGB; both sides even, as H.264 wants them"""
    height, width = next(iter(shown.values())).shape[:2]
    line = line_of(width)
    gap = line // 4
    canvas = sheet_of(line + height, len(shown) * (width + gap) - gap)
    for column, (label, picture) in enumerate(shown.items()):
        left = column * (width + gap)
        canvas[line : line + height, left : left + width] = picture
        write(canvas, label, line, left, line)
    number, last = f"frame {frame}", left + width
    if text_width(number, line) + text_width(EDITED, line) < width:
        write(canvas, number, line, last - text_width(number, line), line)
    return canvas


def picked(frames: int, most: int) -> list[int]:
    """At most so many frames, evenly spaced over the clip from its first to its last."""
    return [round(frame) for frame in np.linspace(0, frames - 1, min(frames, most)).tolist()]


def contact_sheet(frames: dict[int, Panels], columns: int) -> np.ndarray:
    """Some frames, each as its panels beside each other: so many frames a row, the labels on top, the frames' numbers at the left. uint8 RGB

    frames: each frame's panels by its number, all of one size."""
    first = next(iter(frames.values()))
    height, width = next(iter(first.values())).shape[:2]
    line, gap = THUMBNAIL_LINE, THUMBNAIL_LINE // 3
    margin = text_width(f"frame {max(frames)}", line)
    group, columns = margin + len(first) * (width + gap), min(columns, len(frames))
    rows = -(-len(frames) // columns)
    canvas = sheet_of(line + rows * (height + gap), columns * group)
    for index, (number, shown) in enumerate(frames.items()):
        row, column = divmod(index, columns)
        top = line + row * (height + gap)
        write(canvas, f"frame {number}", line, column * group, top + line)
        for panel, (label, picture) in enumerate(shown.items()):
            left = column * group + margin + panel * (width + gap)
            canvas[top : top + height, left : left + width] = picture
            if not row:
                write(canvas, label, line, left, line)
    return canvas


def sheet_of(height: int, width: int) -> np.ndarray:
    """Empty paper, with both sides even."""
    return np.full((height + height % 2, width + width % 2, 3), PAPER, np.uint8)


def font(line: int) -> tuple[float, int]:
    """cv2's scale and thickness for a line of this height."""
    return 0.36 * line / LINE, max(1, line // 24)


def text_width(text: str, line: int) -> int:
    """Pixels that a text takes, with a little room on both sides."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, *font(line))
    return width + line // 2


def write(picture: np.ndarray, text: str, line: int, left: int, bottom: int) -> None:
    """Draws a text in a line that ends at `bottom`."""
    scale, thickness = font(line)
    origin = (left + line // 4, bottom - 5 * line // LINE)
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, thickness, cv2.LINE_AA)
