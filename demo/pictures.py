"""Pictures that show edits, for the demo and the benchmarks, and their files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from video.pictures import masked

SCALE = 2  # 128 px frames are small on a screen


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Every pixel as a block of SCALE x SCALE. [frames, height, width, ...]"""
    return frames.repeat(SCALE, 1).repeat(SCALE, 2)


def outline_mask(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Enlarged frames, dimmed outside the mask, with its outline. uint8 RGB [frames, SCALE * height, SCALE * width, 3]

    frames: uint8 RGB [frames, height, width, 3]; masks: 0..1 [frames, height, width]."""
    return np.stack([masked(picture, mask) for picture, mask in zip(enlarge(frames), enlarge(masks), strict=True)])


def sheet(tiles: list[np.ndarray], captions: list[list[str]], columns: int, frames: list[tuple[int, int, int]] | None = None) -> np.ndarray:
    """Tiles of one size [h, w, 3] in rows, each over its lines of text, optionally in a coloured frame. RGB uint8"""
    height, width = tiles[0].shape[:2]
    lines = max(map(len, captions))
    cells = []
    for index, (tile, text) in enumerate(zip(tiles, captions, strict=True)):
        cell = np.full((height + 14 * lines + 12, width + 12, 3), 255, np.uint8)
        if frames:
            cv2.rectangle(cell, (2, 2), (width + 9, height + 9), frames[index], 4)
        cell[6 : height + 6, 6 : width + 6] = tile
        for row, line in enumerate(text):
            cv2.putText(cell, line, (6, height + 20 + 14 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
        cells.append(cell)
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)])


def save(path: Path, picture: np.ndarray) -> None:
    """Writes an RGB picture in the format of the path's suffix; paths may hold any letters. Raises OSError if that fails."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f"{path} could not be encoded.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def load(path: Path) -> np.ndarray:
    """Reads a picture as uint8 RGB [height, width, 3]. Raises OSError if it is none."""
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is not a picture that OpenCV can read.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
