"""Where objects move in a clip."""

from __future__ import annotations

import cv2
import numpy as np

LEAST = 12  # pixels a side, below which DIS refuses


def optical_flow(here: np.ndarray, there: np.ndarray, finest: int = 1) -> np.ndarray:
    """The displacement of each pixel from a frame to another one: (dx, dy) in pixels, float32 [height, width, 2].

    here, there: grey, uint8 [height, width]. finest: how often the frames are halved where the search ends. DIS (Kroeger et al. 2016) in OpenCV, whose coarsest scale is chosen by the width alone: where a side
    is less than half of the other, it would read beyond the frame and may end the process, so the frame's last pixels are repeated up to that."""
    height, width = here.shape
    below, right = (max(0, LEAST - side, -(-other // 2) - side) for side, other in ((height, width), (width, height)))
    if below or right:
        here, there = (cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE) for grey in (here, there))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(finest)
    return dis.calc(here, there, None)[:height, :width]  # type: ignore[call-overload]  # given a flow, it begins from it
