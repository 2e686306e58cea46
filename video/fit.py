"""Pictures to a size that the model takes, and back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MULTIPLE = 8  # pixels: what both make every side a multiple of, since a latent cell covers so many
CROP, PAD = "crop to multiples of 8", "pad to multiples of 8"


@dataclass(frozen=True)
class Fit:
    """From a picture of `height` x `width` to one whose sides are multiples of 8, and back.

    height, width: of the picture as it comes, with square pixels. longest_side: what the longer of them is scaled to (0: not at all).
    sides: CROP takes up to 7 pixels off, from both ends alike; PAD repeats the outermost ones instead.
    Raises ValueError for a side of fewer than 8 pixels after scaling."""

    height: int
    width: int
    longest_side: int = 0
    sides: str = CROP

    def __post_init__(self) -> None:
        if min(self.scaled) < MULTIPLE:
            raise ValueError(
                f"its frames are {self.scaled[1]}x{self.scaled[0]} pixels, and both sides must have at least {MULTIPLE}. Set longest_side to scale them up."
            )

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width before the crop or the padding."""
        if not self.longest_side:
            return self.height, self.width
        scale = self.longest_side / max(self.height, self.width)
        return max(MULTIPLE, round(self.height * scale)), max(MULTIPLE, round(self.width * scale))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, multiples of 8."""
        up = MULTIPLE - 1 if self.sides == PAD else 0
        height, width = ((side + up) // MULTIPLE * MULTIPLE for side in self.scaled)
        return height, width

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels that are cropped (or added) at the top and at the left; the other half of them lies below and at the right."""
        top, left = (abs(whole - part) // 2 for whole, part in zip(self.scaled, self.size, strict=True))
        return top, left

    def scale(self, picture: np.ndarray) -> np.ndarray:
        """[height, width, 3] to [*scaled, 3]"""
        height, width = self.scaled
        if picture.shape[:2] == (height, width):
            return picture
        smaller = max(height, width) < max(picture.shape[:2])
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """[height, width, 3] to [*size, 3]"""
        scaled, (height, width), (top, left) = self.scale(picture), self.size, self.margins
        if self.sides == PAD:
            below, right = height - scaled.shape[0] - top, width - scaled.shape[1] - left
            return cv2.copyMakeBorder(scaled, top, below, left, right, cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(scaled[top : top + height, left : left + width])

    def undo(self, frames: np.ndarray, originals: np.ndarray | None) -> np.ndarray:
        """Frames [frames, *size, 3] at the size before the crop or the padding: [frames, *scaled, 3]

        originals: the clip's own frames of that size, uint8, of which the cropped rim is taken; not needed where nothing was cropped."""
        (height, width), (rows, columns), (top, left) = self.scaled, self.size, self.margins
        if self.sides == PAD:
            return frames[:, top : top + height, left : left + width]
        if originals is None:
            return frames
        whole = originals.copy()
        whole[:, top : top + rows, left : left + columns] = frames
        return whole
