"""Clips of the user's own for benchmarks.footage: what a folder holds, found and checked before anything runs.

Two layouts of a folder are known; the prompts come from a file edits.json in it, which goes before FiVE-Bench's own.

DAVIS         JPEGImages/<resolution>/<clip>/*.jpg, Annotations/<resolution>/<clip>/*.png (indexed or grey, black is no object)
FiVE-Bench    images/<clip>/*.jpg, bmasks/<clip>/*.jpg, edit_prompt/*.json

edits.json is a list of objects with the names of KINDS, of which those of NEEDED must be there. Whatever is wrong is a ValueError that names the place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
NEEDED = ("clip", "source_prompt", "target_prompt")
TEXTS = (*NEEDED, "source_words", "target_words", "kind")
KINDS: dict[str, Any] = dict.fromkeys(TEXTS, str) | {"structure": (int, float), "object": int}


def require(sound: object, sentence: str) -> None:
    """Raises ValueError with the sentence where something is not sound."""
    if not sound:
        raise ValueError(sentence)


@contextmanager
def told(what: str, errors: type[Exception] | tuple[type[Exception], ...] = ValueError) -> Iterator[None]:
    """Makes an error in the block, of these kinds, a ValueError that tells what it means."""
    try:
        yield
    except errors as error:
        raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True)
class Edit:
    """An edit of a clip. source_words, target_words: as Blended Sampler takes them; empty: the words that change. structure: None is the kind's own, 0.5
    for attributes and else 0. object: the index of the masks' object, 0 for all of them. where: it stands, for errors. pictures, masks: the clip's files;
    or a video, without masks. frames: how many are wanted; longest_side: pixels, to which they are scaled. seed: of noise."""

    clip: str
    source_prompt: str
    target_prompt: str
    source_words: str = ""
    target_words: str = ""
    kind: str = "object"
    structure: float | None = None
    object: int = 0
    where: str = ""
    pictures: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    video: Path | None = None
    frames: int = 8
    longest_side: int = 512
    seed: int = 0

    @property
    def inputs(self) -> dict[str, Any]:
        """Of the node Blended Sampler, as the graph for this kind of edit is set."""
        graph = VARIANTS[AS_GRAPHS["colour" if self.kind.lower() in ATTRIBUTES else "shape"]].inputs
        own = {} if self.structure is None else {"structure": self.structure}
        return {"structure": 0.0, **graph, **own, "source_words": self.source_words, "target_words": self.target_words}

    def load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The frames, uint8 RGB [frames, height, width, 3], and the masks, float32 0..1 [frames, height, width], or None."""
        if self.video is not None:
            with told(f"{self.video} cannot be used"):
                found = list(decode_frames(Film(str(self.video)), Stretch(count=self.frames, longest_side=self.longest_side)))
            few = f"{self.video} has {len(found)} frames, and {self.frames} are wanted. Give a longer video, or a lower --frames."
            require(len(found) >= self.frames, few)
            return np.stack(found), None
        raw, flat = [read(path) for path in self.pictures], [read_mask(path, self.object) for path in self.masks]
        for path, of, mask, picture in zip(self.masks, self.pictures, flat, raw, strict=True):
            own, wanted, first = (f"{one.shape[1]}x{one.shape[0]}" for one in (mask, picture, raw[0]))
            require(own == wanted, f"{path} is {own} pixels, but its picture is {wanted}. Make them equal.")
            require(wanted == first, f"{of} has not the size of the clip's first picture. A clip's pictures must be of one size.")
        height, width = raw[0].shape[:2]
        fit = Fit(height, width, self.longest_side)  # as Load Video brings frames to the model's size
        masks = np.stack([fit.apply(mask) for mask in flat]).astype(np.float32) / 255
        for path, mask, wide in zip(self.masks, masks, dilate(masks, MARGIN), strict=True):
            nothing = f"no object {self.object}" if self.object else "no object"
            require(mask.any(), f"{path} shows {nothing}: all of it is black. Give a clip that has it in each frame.")
            full = f"{path} leaves no background within {MARGIN} pixels of the object, so there is none to judge. Take this clip out."
            require(not wide.all(), full)
        return np.stack([fit.apply(picture) for picture in raw]), masks


def read(path: Path, modes: tuple[str, ...] = ()) -> np.ndarray:
    """A picture as RGB, or as it is where its mode is one of these. uint8 [height, width, ...]"""
    with told(f"{path} cannot be read as a picture", OSError), Image.open(path) as picture:
        return np.array(picture if picture.mode in modes else picture.convert("RGB"))


def read_mask(path: Path, which: int) -> np.ndarray:
    """255 where an indexed picture has the object's index (0: any), or another picture is not black, which is how FiVE-Bench reads its masks too;
    else 0. uint8 [height, width]"""
    values = read(path, ("P", "L"))
    flat = values if values.ndim == 2 else values.max(2)
    return np.where(flat == which if which else flat > 0, np.uint8(255), np.uint8(0))


class Folder:
    """A folder of one of the two layouts."""

    def __init__(self, folder: Path):
        self.folder, layout = folder, DAVIS if (folder / DAVIS[0]).is_dir() else FIVE
        either = f"{DAVIS[0]} and {DAVIS[1]}, as DAVIS has them, or {FIVE[0]} and {FIVE[1]}, as FiVE-Bench has them"
        require((folder / layout[0]).is_dir(), f"--clips: {folder} is of no known layout. It must hold {either}.")
        self.pictures, self.masks = (folder / name / (self.resolution() if layout is DAVIS else "") for name in layout)

    def resolution(self) -> str:
        """DAVIS keeps its clips once for each resolution."""
        names = sorted(path.name for path in (self.folder / DAVIS[0]).iterdir() if path.is_dir())
        wanted = f"one folder, that of the resolution ({DAVIS_RESOLUTION} where there are several), and in it one for each clip"
        several = f"--clips: {self.folder / DAVIS[0]} must hold {wanted}. It holds: {', '.join(names) or 'none'}."
        require(DAVIS_RESOLUTION in names or len(names) == 1, several)
        return DAVIS_RESOLUTION if DAVIS_RESOLUTION in names else names[0]

    def edits(self) -> list[Edit]:
        """What edits.json says, or FiVE-Bench's files."""
        files, read_entry = [self.folder / OWN_EDITS], own_edit
        if not files[0].is_file():
            files, read_entry = sorted((self.folder / "edit_prompt").glob("*.json")), five_edit
        require(files, f"--clips: {self.folder} has no edits.json, which says what to edit, and no edit_prompt/*.json as FiVE-Bench has.")
        return [read_entry(entry, f"{path}, entry {number}") for path in files for number, entry in enumerate(read_list(path), 1)]

    def found(self, edit: Edit) -> Edit:
        """The edit with its clip's files."""
        leads_elsewhere = edit.clip in ("", ".", "..") or any(mark in edit.clip for mark in "/\\:\0")
        require(not leads_elsewhere, f"clip is {edit.clip!r}. Give the name of a folder in {self.pictures}, without any path.")
        place, pictures, masks = self.pictures / edit.clip, listed(self.pictures / edit.clip), listed(self.masks / edit.clip)
        require(pictures, f"{place} is no folder with pictures ({', '.join(PICTURES)}). Correct the clip's name, or add it.")
        few = f"{place} holds {len(pictures)} pictures, and {edit.frames} are wanted. Give more, or a lower --frames."
        require(len(pictures) >= edit.frames, few)
        chosen = list(pictures)[: edit.frames]
        for name in chosen:
            require(name in masks, f"{self.masks / edit.clip} holds no mask {name}.png for the picture {pictures[name].name}. Add it.")
        return replace(edit, pictures=tuple(pictures[name] for name in chosen), masks=tuple(masks[name] for name in chosen))


def listed(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without ending, in order; none where there is no folder."""
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in PICTURES}


def read_list(path: Path) -> list:
    with told(f"{path} is no JSON"):
        found = json.loads(path.read_text(encoding="utf-8"))
    require(isinstance(found, list) and found, f"{path} must hold a JSON list of edits, [{{...}}, ...], and one at least.")
    return found


def own_edit(entry: Any, where: str) -> Edit:
    """An entry of edits.json."""
    require(isinstance(entry, dict), f"{where}: it is no JSON object {{...}}.")
    for name in sorted(entry):
        require(name in KINDS, f"{where}: {name!r} is no name of an edit's. The names are: {', '.join(KINDS)}.")
    for name in NEEDED:
        require(str(entry.get(name, "")).strip(), f"{where}: {name} is missing. An edit needs {', '.join(NEEDED)}.")
    for name, value in entry.items():
        wanted = "text" if name in TEXTS else "number of that kind"
        require(isinstance(value, KINDS[name]) and not isinstance(value, bool), f"{where}: {name} is {value!r}, which is no {wanted}.")
    within = 0 <= entry.get("structure", 0) <= 1 and 0 <= entry.get("object", 0) <= 255
    require(within, f"{where}: structure must lie between 0 and 1, and object between 0 and 255.")
    return Edit(**entry, where=where)


def five_edit(entry: Any, where: str) -> Edit:
    """An entry of FiVE-Bench's edit_prompt/*.json, by the names that its evaluation reads. The brackets around changed words are no text."""
    with told(f"{where}: it lacks one of video_name, editing_type_id, source_prompt and target_prompt", (KeyError, TypeError)):
        clip, kind = str(entry["video_name"]), FIVE_KINDS.get(str(entry["editing_type_id"]), "object")
        source, target = (str(entry[f"{which}_prompt"]).replace("[", "").replace("]", "") for which in ("source", "target"))
    return Edit(clip, source, target, kind=kind, where=where)
