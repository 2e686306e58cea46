"""Pictures of the help pages: parts of those that the demo and the benchmarks have made.

    python -m tools.help_pictures

Writes web/docs/*.jpg from demo/result.jpg, demo/edited.mp4, workflows/*.jpg and benchmarks/results/*.jpg.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from demo.clips import path, read_mp4, truth
from demo.pictures import load, save
from metrics.edit import measure
from metrics.edit_chart import plot
from runner.host import REPOSITORY
from video.motion import optical_flow
from video.pictures import contact_sheet, panels, picked, thumbnail_size

EDITED = REPOSITORY / "demo" / "edited.mp4"  # the demo's change of colour
RESULT = REPOSITORY / "demo" / "result.jpg"  # the contact sheets of both its edits, side by side
RESULTS = REPOSITORY / "benchmarks" / "results"
WIDTH = 640  # pixels at most: the help panel is narrow
EDITS, EDIT_VARIANTS = 12, 8  # rows and columns of benchmarks' edit.jpg, one edit a row
MASK_ROWS, MASKS = 4, 8  # of masks.jpg: two clips a row, four masks each
SOURCE, BLEND, PIXEL = 0, 2, 7  # columns of edit.jpg
MARGIN = 8  # Edit Report's default
ON_BRICK, TWO_THINGS = 5, 3  # rows: a circle on a ground with fine lines; a clip of two things


def cells(sheet: np.ndarray, rows: int, columns: int, row: int, picked: Sequence[int]) -> np.ndarray:
    """Some cells of one row of a sheet whose cells are of one size, side by side. uint8 RGB [height, width, 3]"""
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    return np.concatenate([sheet[row * height :][:height, column * sheet.shape[1] // columns :][:, :width] for column in picked], 1)


def halved(picture: np.ndarray, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """What is left of a line at this share of the width, and what is right of it."""
    middle = round(share * picture.shape[1])
    return picture[:, :middle], picture[:, middle:]


def inversion() -> tuple[np.ndarray, np.ndarray]:
    """Of benchmarks' inversion.jpg, the chart and the frames."""
    return halved(load(RESULTS / "inversion.jpg"), 0.53)


def sized(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture, so many pixels wide."""
    scale = width / picture.shape[1]
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def demo_edit() -> dict[str, np.ndarray]:
    """What Compare and Edit Report show of the demo's change of colour, read from its H.264 file, with the exact mask. uint8 RGB [height, width, 3]"""
    clip = "blade_red_circle"
    source, edited, masks = read_mp4(path(clip)), read_mp4(EDITED), truth(clip)
    size = thumbnail_size(*masks.shape[1:])
    shown = {frame: panels(source[frame], edited[frame], masks[frame], size) for frame in picked(len(masks), 3)}
    figures = measure(zip(source, edited, masks, strict=True), MARGIN, partial(optical_flow, finest=0))
    return {"BLADE_Compare": contact_sheet(shown, 1), "BLADE_EditReport": plot(figures)}


def help_pictures() -> dict[str, np.ndarray]:
    """By node. uint8 RGB [height, width, 3] each"""
    edits, masks = (load(RESULTS / name) for name in ("edit.jpg", "masks.jpg"))
    chart, frames = inversion()
    return {
        **demo_edit(),
        "BLADE_BlendedSampler": halved(load(RESULT))[0],
        "BLADE_CrossAttentionMask": cells(masks, MASK_ROWS, MASKS, TWO_THINGS, (0, 3)),
        "BLADE_DDIMInvert": chart,
        "BLADE_Edit": load(REPOSITORY / "workflows" / "blade_multi_edit.jpg"),
        "BLADE_PixelComposite": cells(edits, EDITS, EDIT_VARIANTS, ON_BRICK, (SOURCE, BLEND, PIXEL)),
        "BLADE_ReconstructionCheck": frames,
    }


if __name__ == "__main__":
    for name, picture in help_pictures().items():
        save(REPOSITORY / "web" / "docs" / f"{name}.jpg", sized(picture, WIDTH))
        print(f"web/docs/{name}.jpg")
