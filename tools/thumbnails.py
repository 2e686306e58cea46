"""Thumbnails of the workflows, and what the demo made.

    python -m tools.thumbnails out/demo [out/ui]

Writes workflows/*.jpg, demo/result.jpg and demo/edited.mp4 from what `demo.run` left in the first folder, and from benchmarks/results/*.jpg. The
second is the base folder of `demo.ui`: the thumbnails of graphs that `demo.run` does not run are made from the videos that they left there.
Those of graphs that no demo model can run (ControlNet, SDXL) show no edit, and are never made anew.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from einops import rearrange

from demo.clips import MASK, path, read_mp4
from demo.pictures import enlarge, load, outline_mask, save
from runner.host import REPOSITORY
from tools.help_pictures import EDITED, MASK_ROWS, MASKS, RESULT, RESULTS, cells, inversion, sized
from video.pictures import picked

SIDE = 512  # pixels of a thumbnail
RESULT_WIDTH = 1300  # pixels of the README's picture


def middle(video: Path) -> np.ndarray:
    """A video's middle frame, enlarged. uint8 RGB [height, width, 3]"""
    frames = read_mp4(video)
    return enlarge(frames[len(frames) // 2 :][:1])[0]


def halves(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The left half of one square picture beside the right half of another."""
    middle = before.shape[1] // 2
    square = np.concatenate([before[:, :middle], after[:, middle:]], 1)
    square[:, middle - 1 : middle + 1] = 255
    return square


def film(video: Path) -> np.ndarray:
    """Four frames of a clip with white lines between them, for a graph that is about length."""
    frames = enlarge(read_mp4(video))
    square = rearrange(frames[picked(len(frames), 4)], "(row column) h w c -> (row h) (column w) c", row=2)
    side = frames.shape[1]
    square[side - 1 : side + 1], square[:, side - 1 : side + 1] = 255, 255
    return square


def two_masks(sheet: np.ndarray, row: int) -> np.ndarray:
    """Of one row of masks.jpg, its second clip under the first mask and under the last, without their captions."""
    pair = cells(sheet, MASK_ROWS, MASKS, row, (4, 7))
    return pair[: pair.shape[1] // 2]


def stacked(*pictures: np.ndarray) -> np.ndarray:
    """Two pictures, one above the other, as large as a square takes them."""
    square = np.full((SIDE, SIDE, 3), 250, np.uint8)
    for top, picture in zip((0, SIDE // 2), pictures, strict=True):
        small = sized(picture, round(min(SIDE, SIDE / 2 * picture.shape[1] / picture.shape[0])))
        left = (SIDE - small.shape[1]) // 2
        square[top : top + small.shape[0], left : left + small.shape[1]] = small[: SIDE // 2]
    return square


def newest(base: Path, graph: str) -> Path:
    """The video that a graph left when it last ran. Raises FileNotFoundError where it has not."""
    found = sorted((base / "output" / "video").glob(f"{graph}_*.mp4"))
    if not found:
        raise FileNotFoundError(f"{base} holds no video of {graph}: run `python -m demo.ui --base {base}`, and there the graph.")
    return found[-1]


def thumbnails(demo: Path, ui: Path | None) -> dict[str, np.ndarray]:
    """By graph. uint8 RGB, square"""
    circle, square = (middle(path(name)) for name in ("blade_red_circle", "blade_yellow_square"))
    masks = load(RESULTS / "masks.jpg")
    found = {
        "blade_change_colour": halves(circle, middle(demo / "edited.mp4")),
        "blade_change_shape": halves(square, middle(demo / "shape" / "edited.mp4")),
        "blade_long_clip": film(demo / "edited.mp4"),
        "blade_check_inversion": stacked(*inversion()),
        "blade_draw_mask": np.concatenate([two_masks(masks, row) for row in (0, 1)]),
    }
    if ui:
        masked = outline_mask(read_mp4(path("blade_red_circle"))[6:7], read_mp4(MASK)[6:7, ..., 0] / 255)[0]
        before = {"blade_multi_edit": middle(path("blade_two_things")), "blade_own_mask": masked, "blade_sampler_custom": circle}
        found |= {graph: halves(picture, middle(newest(ui, graph))) for graph, picture in before.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="what `demo.run --out` names")
    parser.add_argument("ui", type=Path, nargs="?", help="what `demo.ui --base` names")
    options = parser.parse_args()
    for graph, picture in thumbnails(options.demo, options.ui).items():
        save(REPOSITORY / "workflows" / f"{graph}.jpg", sized(picture, SIDE))
        print(f"workflows/{graph}.jpg")
    sheets = [load(folder / "contact_sheet.png") for folder in (options.demo, options.demo / "shape")]
    save(RESULT, sized(np.concatenate(sheets, 1), RESULT_WIDTH))
    shutil.copyfile(options.demo / "edited.mp4", EDITED)
    print("demo/result.jpg, demo/edited.mp4")


if __name__ == "__main__":
    main()
