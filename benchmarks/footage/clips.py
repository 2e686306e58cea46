"""Clips of the user's own for benchmarks.footage: what a folder holds, found and checked before anything runs.

Two layouts of a folder are known; the prompts come from a file edits.json in it, which goes before FiVE-Bench's own.

DAVIS         JPEGImages/<resolution>/<clip>/*.jpg, Annotations/<resolution>/<clip>/*.png (indexed or grey, black is no object)
FiVE-Bench    images/<clip>/*.jpg, bmasks/<clip>/*.jpg, edit_prompt/*.json

edits.json is a list of objects with the names of `Edit`: clip, source_prompt and target_prompt; and, where they are wanted, source_words,
target_words, kind, structure and object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.editing import AS_GRAPHS, MARGIN, VARIANTS
from metrics.background import dilate
from video.fit import Fit
from video.load import Stretch, decode_frames
from video.source import Film

ATTRIBUTES = ("colour", "color", "material")
FIVE_KINDS = {"1": "object", "2": "object, deforming", "3": "colour", "4": "material", "5": "addition", "6": "removal"}
DAVIS, FIVE = ("JPEGImages", "Annotations"), ("images", "bmasks")
DAVIS_RESOLUTION = "480p"  # taken where there are several
OWN_EDITS = "edits.json"
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Edit:
    """An edit of a clip. source_words, target_words: as Blended Sampler takes them; empty: the words that change. structure: None is the
    kind's own, 0.5 for attributes and else 0. object: the index of the mask's object, 0 for all of them. told: where it stands, for errors."""

    clip: str
    source_prompt: str
    target_prompt: str
    source_words: str = ""
    target_words: str = ""
    kind: str = "object"
    structure: float | None = None
    object: int = 0
    told: str = ""

    @property
    def inputs(self) -> dict[str, Any]:
        """Of the node Blended Sampler, as the graph for this kind of edit is set."""
        graph = VARIANTS[AS_GRAPHS["colour" if self.kind.lower() in ATTRIBUTES else "shape"]].inputs
        own = {} if self.structure is None else {"structure": self.structure}
        return {"structure": 0.0, **graph, **own, "source_words": self.source_words, "target_words": self.target_words}


@dataclass(frozen=True)
class Files:
    """Where a clip lies: its pictures and their masks, or a video and no masks."""

    pictures: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    video: Path | None = None

    def load(self, frames: int, longest_side: int, which: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """The first frames, uint8 RGB [frames, height, width, 3], and their masks, float32 0..1 [frames, height, width], or None.

        which: the object of an indexed mask, 0 for all. Raises ValueError, naming the file, where they do not fit each other or are no use."""
        if self.video is not None:
            try:
                found = list(decode_frames(Film(str(self.video)), Stretch(count=frames, longest_side=longest_side)))
            except ValueError as error:
                raise ValueError(f"{self.video} cannot be used: {error}") from error
            if len(found) < frames:
                raise ValueError(
                    f"{self.video} has {len(found)} frames, and {frames} are wanted. Give a longer video, or a lower --frames."
                )
            return np.stack(found), None
        raw = [read(path) for path in self.pictures[:frames]]
        flat = [read_mask(path, which) for path in self.masks[:frames]]
        for path, mask, picture in zip(self.masks, flat, raw, strict=False):
            if mask.shape != picture.shape[:2]:
                raise ValueError(
                    f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its picture is {picture.shape[1]}x{picture.shape[0]}. Make them equal."
                )
        for path, picture in zip(self.pictures, raw, strict=False):
            if picture.shape != raw[0].shape:
                raise ValueError(f"{path} has not the size of the clip's first picture. A clip's pictures must be of one size.")
        masks = np.stack([fitted(mask, longest_side) for mask in flat]).astype(np.float32) / 255
        for path, mask, wide in zip(self.masks, masks, dilate(masks, MARGIN), strict=False):
            if not mask.any():
                raise ValueError(
                    f"{path} shows {f'no object {which}' if which else 'no object'}: all of it is black. Give a clip that has it in each frame."
                )
            if wide.all():
                raise ValueError(
                    f"{path} leaves no background within {MARGIN} pixels of the object, so there is none to judge. Take this clip out."
                )
        return np.stack([fitted(picture, longest_side) for picture in raw]), masks


def read(path: Path) -> np.ndarray:
    """uint8 RGB [height, width, 3]. Raises ValueError for a file that is no picture."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}).") from error


def fitted(picture: np.ndarray, longest_side: int) -> np.ndarray:
    """A frame or a mask as Load Video would bring it to the model's size."""
    height, width = picture.shape[:2]
    return Fit(height, width, longest_side).apply(picture)


def read_mask(path: Path, which: int) -> np.ndarray:
    """255 where an indexed picture has the object's index (0: any), or another picture is not black, which is how FiVE-Bench reads its masks too;
    else 0. uint8 [height, width]"""
    try:
        with Image.open(path) as picture:
            values = np.array(picture if picture.mode in ("P", "L") else picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}).") from error
    flat = values if values.ndim == 2 else values.max(2)
    return np.where(flat == which if which else flat > 0, np.uint8(255), np.uint8(0))


class Folder:
    """A folder of one of the two layouts. Raises ValueError where it is none."""

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / DAVIS[0]).is_dir():
            self.pictures, self.masks = (folder / name / self.resolution() for name in DAVIS)
        elif (folder / FIVE[0]).is_dir():
            self.pictures, self.masks = (folder / name for name in FIVE)
        else:
            raise ValueError(
                f"--clips: {folder} is of no known layout. It must hold {DAVIS[0]} and {DAVIS[1]}, as DAVIS has them, or {FIVE[0]} and {FIVE[1]}, "
                "as FiVE-Bench has them."
            )
        self.own = folder / OWN_EDITS

    def resolution(self) -> str:
        """DAVIS keeps its clips once for each resolution."""
        names = sorted(path.name for path in (self.folder / DAVIS[0]).iterdir() if path.is_dir())
        if DAVIS_RESOLUTION in names:
            return DAVIS_RESOLUTION
        if len(names) != 1:
            raise ValueError(
                f"--clips: {self.folder / DAVIS[0]} must hold one folder, that of the resolution ({DAVIS_RESOLUTION} where there are several), "
                f"and in it one for each clip. It holds: {', '.join(names) or 'none'}."
            )
        return names[0]

    def edits(self) -> list[Edit]:
        """What edits.json says, or FiVE-Bench's files. Raises ValueError, naming file and entry, where they cannot be read as such."""
        if self.own.is_file():
            return [own_edit(entry, f"{self.own}, entry {number}") for number, entry in enumerate(read_list(self.own), 1)]
        files = sorted((self.folder / "edit_prompt").glob("*.json"))
        if not files:
            raise ValueError(
                f"--clips: {self.folder} has no edits.json, which says what to edit, and no edit_prompt/*.json as FiVE-Bench has."
            )
        return [five_edit(entry, f"{path}, entry {number}") for path in files for number, entry in enumerate(read_list(path), 1)]

    def files(self, edit: Edit, frames: int) -> Files:
        """Raises ValueError where the clip lacks pictures or masks, or its name leads elsewhere."""
        if edit.clip in ("", ".", "..") or any(mark in edit.clip for mark in "/\\:\0"):
            raise ValueError(f"clip is {edit.clip!r}. Give the name of a folder in {self.pictures}, without any path.")
        pictures = listed(self.pictures / edit.clip)
        if len(pictures) < frames:
            raise ValueError(
                f"{self.pictures / edit.clip} holds {len(pictures)} pictures, and {frames} are wanted. Give more, or a lower --frames."
                if pictures
                else f"{self.pictures / edit.clip} is no folder with pictures ({', '.join(PICTURES)}). Correct the clip's name, or add it."
            )
        masks = {path.stem: path for path in listed(self.masks / edit.clip)}
        for path in pictures[:frames]:
            if path.stem not in masks:
                raise ValueError(f"{self.masks / edit.clip} holds no mask {path.stem}.png for the picture {path.name}. Add it.")
        return Files(pictures[:frames], tuple(masks[path.stem] for path in pictures[:frames]))


def listed(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in the order of their names; none where there is no folder."""
    return tuple(sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES))


def read_list(path: Path) -> list:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} must hold a JSON list of edits, [{{...}}, ...], and one at least.")
    return found


def own_edit(entry: Any, told: str) -> Edit:
    """An entry of edits.json."""
    kinds: dict[str, Any] = {field.name: str for field in fields(Edit) if field.name != "told"} | {"structure": (int, float), "object": int}
    needed = ("clip", "source_prompt", "target_prompt")
    if not isinstance(entry, dict):
        raise ValueError(f"{told}: it is no JSON object {{...}}.")
    if unknown := sorted(entry.keys() - kinds.keys()):
        raise ValueError(f"{told}: {unknown[0]!r} is no name of an edit's. The names are: {', '.join(kinds)}.")
    for name in needed:
        if not str(entry.get(name, "")).strip():
            raise ValueError(f"{told}: {name} is missing. An edit needs {', '.join(needed)}.")
    for name, value in entry.items():
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise ValueError(f"{told}: {name} is {value!r}, which is no {'text' if kinds[name] is str else 'number of that kind'}.")
    if not 0 <= entry.get("structure", 0) <= 1 or not 0 <= entry.get("object", 0) <= 255:
        raise ValueError(f"{told}: structure must lie between 0 and 1, and object between 0 and 255.")
    return Edit(**entry, told=told)


def five_edit(entry: Any, told: str) -> Edit:
    """An entry of FiVE-Bench's edit_prompt/*.json, by the names that its evaluation reads. The brackets around changed words are no text."""
    try:
        clip, kind = str(entry["video_name"]), FIVE_KINDS.get(str(entry["editing_type_id"]), "object")
        source, target = (str(entry[f"{which}_prompt"]).replace("[", "").replace("]", "") for which in ("source", "target"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{told}: it lacks one of video_name, editing_type_id, source_prompt and target_prompt ({error!r}).") from error
    return Edit(clip, source, target, kind=kind, told=told)
