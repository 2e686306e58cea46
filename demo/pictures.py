"""Pictures that show an edit: the comparison clip, the contact sheet, and the thumbnails of the workflows.

python -m demo.pictures out/demo [out/ui]   writes workflows/*.jpg, demo/result.jpg and demo/edited.mp4 from what `demo.run` left there, and, of the
                                            graphs that it does not run, from the videos that they left in the base folder of `demo.ui` when run there
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np

from demo.clips import MASK, path, read_mp4

SCALE = 2  # 128 px frames are small on a screen
GAP = 8  # pixels between panels; even, as H.264 wants its sides
PAPER = (250, 250, 250)
INK = (40, 40, 40)
LABEL_WIDTH, LABEL_HEIGHT = 150, 34
REPOSITORY = Path(__file__).resolve().parents[1]
EDITED = REPOSITORY / "demo" / "edited.mp4"  # the change of colour, as the graph saves it


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Every pixel as a block of SCALE x SCALE. [frames, height, width, ...]"""
    return frames.repeat(SCALE, 1).repeat(SCALE, 2)


def outline_mask(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Enlarged frames on which everything outside the mask is dimmed and the mask has a white line around it.

    frames: uint8 RGB [frames, height, width, 3]; masks: 0..1 [frames, height, width]. Returns uint8 [frames, SCALE * height, ...]"""
    large, inside = enlarge(frames), enlarge(masks > 0.5)
    shown = np.where(inside[..., None], large, large // 2 + 20).astype(np.uint8)
    for picture, mask in zip(shown, inside, strict=True):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, (255, 255, 255), 2)
    return shown


def beside(*panels: np.ndarray) -> np.ndarray:
    """Clips of one size side by side with a gap. uint8 [frames, height, width, 3] each"""
    gap = np.full((*panels[0].shape[:2], GAP, 3), PAPER, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)][1:]
    return np.concatenate(parts, 2)


def contact_sheet(rows: dict[str, np.ndarray], columns: int = 6) -> np.ndarray:
    """One row of evenly picked frames for each clip, its name on the left, the frame numbers on top. uint8 RGB [height, width, 3]"""
    frames, height, width = next(iter(rows.values())).shape[:3]
    picked = np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)
    sheet = np.full((LABEL_HEIGHT + len(rows) * (height + GAP), LABEL_WIDTH + len(picked) * (width + GAP), 3), PAPER, np.uint8)
    for column, frame in enumerate(picked):
        left = LABEL_WIDTH + column * (width + GAP)
        write(sheet, f"frame {frame}", left, LABEL_HEIGHT - 11)
        for row, clip in enumerate(rows.values()):
            top = LABEL_HEIGHT + row * (height + GAP)
            sheet[top : top + height, left : left + width] = clip[frame]
    for row, name in enumerate(rows):
        for line, text in enumerate(name.split("\n")):
            write(sheet, text, 10, LABEL_HEIGHT + row * (height + GAP) + 24 + 24 * line)
    return sheet


def write(picture: np.ndarray, text: str, left: int, baseline: int) -> None:
    cv2.putText(picture, text, (left, baseline), cv2.FONT_HERSHEY_DUPLEX, 0.55, INK, 1, cv2.LINE_AA)


def save(path: Path, picture: np.ndarray) -> None:
    """Writes an RGB picture in the format of the path's suffix; paths may hold any letters. Raises OSError if that fails."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f"{path} could not be encoded.")
    path.write_bytes(data.tobytes())


def load(path: Path) -> np.ndarray:
    """Reads a picture as uint8 RGB [height, width, 3]. Raises OSError if it is none."""
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is not a picture that OpenCV can read.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def thumbnail(comparison: Path) -> np.ndarray:
    """The middle frame of a comparison clip before and after, halves of one square. uint8 RGB [512, 512, 3]"""
    frames = read_mp4(comparison)
    frame = frames[len(frames) // 2]
    return halves(frame, frame[:, -frame.shape[0] :])


def halves(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The left half of one picture beside the right half of another; of a wider one, its leftmost square counts. uint8 RGB [512, 512, 3]"""
    middle = before.shape[0] // 2
    square = np.concatenate([before[:, :middle], after[:, middle:]], 1)
    square[:, middle - 1 : middle + 1] = 255
    return cv2.resize(square, (512, 512), interpolation=cv2.INTER_CUBIC)


def middle(video: Path) -> np.ndarray:
    """A video's middle frame, enlarged. uint8 RGB [height, width, 3]"""
    frames = read_mp4(video)
    return enlarge(frames[len(frames) // 2 :][:1])[0]


def canny(picture: np.ndarray) -> np.ndarray:
    """White lines on black, as a ControlNet for edges takes them. uint8 RGB of the same size"""
    return cv2.cvtColor(cv2.Canny(cv2.GaussianBlur(picture, (5, 5), 0), 100, 200), cv2.COLOR_GRAY2RGB)


def two_sizes(picture: np.ndarray) -> np.ndarray:
    """A frame as large as SDXL draws it, and on it the size of SD1.5's, for a graph that no demo model can run. uint8 RGB [512, 512, 3]"""
    square = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC)
    for text, side in (("1024", 512), ("512", 256)):
        cv2.rectangle(square, (3, 3), (side - 4, side - 4), (255, 255, 255), 3)
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.1, 2)
        cv2.putText(square, text, (side - width - 18, side - 20), cv2.FONT_HERSHEY_DUPLEX, 1.1, (255, 255, 255), 2, cv2.LINE_AA)
    return square


def film(comparison: Path) -> np.ndarray:
    """Four frames of the edited clip in a square, for a graph that is about length. uint8 RGB [512, 512, 3]"""
    frames = read_mp4(comparison)
    side = frames.shape[1]
    picked = [frames[place, :, -side:] for place in np.linspace(0, len(frames) - 1, 4).round().astype(int)]
    square = np.concatenate([np.concatenate(picked[:2], 1), np.concatenate(picked[2:], 1)])
    square[side - 1 : side + 1], square[:, side - 1 : side + 1] = 255, 255
    return cv2.resize(square, (512, 512), interpolation=cv2.INTER_AREA)


def stacked_halves(picture: np.ndarray) -> np.ndarray:
    """The left part of benchmarks' inversion.jpg, its chart, over the right one, in a square. uint8 RGB [512, 512, 3]"""
    middle = round(0.53 * picture.shape[1])
    square = np.full((512, 512, 3), PAPER, np.uint8)
    for top, half in ((0, picture[:, :middle]), (256, picture[:, middle:])):
        scale = min(512 / half.shape[1], 256 / half.shape[0])
        small = cv2.resize(half, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        left = (512 - small.shape[1]) // 2
        square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def four_masks(picture: np.ndarray) -> np.ndarray:
    """Of benchmarks' masks.jpg, four rows of two clips with four masks each: the second clips of two rows under the first mask and the last,
    in a square. uint8 RGB [512, 512, 3]"""
    height, width = picture.shape[0] // 4, picture.shape[1] // 8
    cells = [[picture[row * height :, column * width :][:width, :width] for column in (4, 7)] for row in (0, 1)]
    return cv2.resize(np.concatenate([np.concatenate(row, 1) for row in cells]), (512, 512), interpolation=cv2.INTER_AREA)


def newest(base: Path, graph: str) -> Path:
    """The video that a graph left when it last ran. Raises FileNotFoundError where it has not."""
    found = sorted((base / "output" / "video").glob(f"{graph}_*.mp4"))
    if not found:
        raise FileNotFoundError(f"{base} holds no video of {graph}: run `python -m demo.ui --base {base}`, and there the graph.")
    return found[-1]


def graph_thumbnails(base: Path) -> dict[str, np.ndarray]:
    """Of the graphs that `demo.run` does not run, by name. base: of the ComfyUI where they ran. uint8 RGB [512, 512, 3] each"""
    circle, two = middle(path("blade_red_circle")), middle(path("blade_two_things"))
    masked = outline_mask(read_mp4(path("blade_red_circle"))[6:7], read_mp4(MASK)[6:7, ..., 0] / 255)
    edited = {name: middle(newest(base, name)) for name in ("blade_multi_edit", "blade_own_mask", "blade_sampler_custom")}
    return {
        "blade_multi_edit": halves(two, edited["blade_multi_edit"]),
        "blade_own_mask": halves(masked[0], edited["blade_own_mask"]),
        "blade_sampler_custom": halves(circle, edited["blade_sampler_custom"]),
        "blade_controlnet": halves(circle, canny(circle)),
        "blade_sdxl": two_sizes(circle),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    for name, place in (("blade_change_colour", folder), ("blade_change_shape", folder / "shape")):
        save(REPOSITORY / "workflows" / f"{name}.jpg", thumbnail(place / "comparison.mp4"))
        print(f"workflows/{name}.jpg")
    save(REPOSITORY / "workflows" / "blade_long_clip.jpg", film(folder / "comparison.mp4"))
    print("workflows/blade_long_clip.jpg")
    for name, part, of in (("blade_check_inversion", stacked_halves, "inversion.jpg"), ("blade_draw_mask", four_masks, "masks.jpg")):
        save(REPOSITORY / "workflows" / f"{name}.jpg", part(load(REPOSITORY / "benchmarks" / "results" / of)))
        print(f"workflows/{name}.jpg")
    if len(sys.argv) > 2:
        for name, picture in graph_thumbnails(Path(sys.argv[2])).items():
            save(REPOSITORY / "workflows" / f"{name}.jpg", picture)
            print(f"workflows/{name}.jpg")
    sheets = [load(place / "contact_sheet.png") for place in (folder, folder / "shape")]
    width = min(sheet.shape[1] for sheet in sheets)
    stacked = np.concatenate([sheet[:, :width] for sheet in sheets])
    save(REPOSITORY / "demo" / "result.jpg", cv2.resize(stacked, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA))
    print("demo/result.jpg")
    shutil.copyfile(folder / "edited.mp4", EDITED)
    print("demo/edited.mp4")
