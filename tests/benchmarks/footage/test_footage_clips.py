"""Folders of clips: what is read of each layout, and that every fault is found, with the file that has it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.footage.clips import Edit, Folder, own_edit

FRAMES, SIDE = 3, 64
ENTRY = {"clip": "cat", "source_prompt": "a red cat", "target_prompt": "a blue cat", "kind": "colour"}


def object_mask(frame: int) -> np.ndarray:
    """Object 1 on the left, object 2 on the right; both go down."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8 + frame : 24 + frame, 8:24], mask[8 + frame : 24 + frame, 40:48] = 1, 2
    return mask


def picture(frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 40 * frame, np.uint8)


def indexed(mask: np.ndarray) -> Image.Image:
    """As DAVIS stores it: indices, and a palette whose first colour is black."""
    found = Image.fromarray(mask).convert("P")
    found.putdata(mask.flatten().tolist())
    found.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return found


def davis(folder: Path, clip: str = "cat", resolution: str = "480p", entries: list | None = None) -> Path:
    pictures, masks = (folder / name / resolution / clip for name in ("JPEGImages", "Annotations"))
    for place in (pictures, masks):
        place.mkdir(parents=True)
    for frame in range(FRAMES):
        Image.fromarray(picture(frame)).save(pictures / f"{frame:05}.jpg", quality=95)
        indexed(object_mask(frame)).save(masks / f"{frame:05}.png")
    (folder / "edits.json").write_text(json.dumps([ENTRY] if entries is None else entries))
    return folder


def five(folder: Path, **changed) -> Path:
    for name in ("images", "bmasks"):
        (folder / name / "0001_cat").mkdir(parents=True)
    for frame in range(FRAMES):
        Image.fromarray(picture(frame)).save(folder / "images" / "0001_cat" / f"{frame:05}.jpg", quality=95)
        Image.fromarray(255 * (object_mask(frame) == 1).astype(np.uint8)).save(
            folder / "bmasks" / "0001_cat" / f"{frame:05}.jpg", quality=95
        )
    entry = {
        "video_name": "0001_cat", "editing_type_id": "3", "save_dir": "3_cat", "source_prompt": "a [red] cat", "target_prompt": "a [blue] cat",
    }  # fmt: skip
    (folder / "edit_prompt").mkdir()
    (folder / "edit_prompt" / "edit3_FiVE.json").write_text(json.dumps([entry | changed]))
    return folder


def loaded(folder: Path, frames: int = FRAMES, side: int = SIDE) -> tuple:
    (edit,) = Folder(folder).edits()
    return Folder(folder).found(replace(edit, frames=frames, longest_side=side)).load()


def test_a_clip_of_davis_is_read_with_its_masks(tmp_path) -> None:
    frames, masks = loaded(davis(tmp_path))
    assert frames.shape == (FRAMES, SIDE, SIDE, 3) and frames.dtype == np.uint8
    assert np.abs(frames[:, 0, 0, 0].astype(int) - [0, 40, 80]).max() <= 2
    assert np.array_equal(masks, [object_mask(frame) > 0 for frame in range(FRAMES)])


def test_one_object_of_a_mask_can_be_named(tmp_path) -> None:
    _, masks = loaded(davis(tmp_path, entries=[ENTRY | {"object": 2}]))
    assert np.array_equal(masks, [object_mask(frame) == 2 for frame in range(FRAMES)])


def test_pictures_and_masks_are_scaled_and_cropped_alike(tmp_path) -> None:
    frames, masks = loaded(davis(tmp_path), frames=2, side=128)
    assert frames.shape == (2, 128, 128, 3) and masks.shape == (2, 128, 128)
    assert masks[0, 20:44, 20:44].min() > 0.9 and masks[0, :12].max() == 0


def test_a_clip_of_five_bench_is_read_by_the_names_of_its_evaluation(tmp_path) -> None:
    folder = five(tmp_path)
    (edit,) = Folder(folder).edits()
    assert (edit.clip, edit.kind, edit.source_prompt, edit.target_prompt) == ("0001_cat", "colour", "a red cat", "a blue cat")
    frames, masks = loaded(folder)
    assert len(frames) == FRAMES and (masks[:, 12:20, 12:20] == 1).all() and masks[:, :, 40:].max() == 0


def test_ones_own_edits_go_before_five_benchs(tmp_path) -> None:
    (five(tmp_path) / "edits.json").write_text(json.dumps([ENTRY | {"clip": "0001_cat", "source_words": "red"}]))
    (edit,) = Folder(tmp_path).edits()
    assert edit.source_words == "red"


def test_the_480p_of_several_resolutions_is_taken(tmp_path) -> None:
    (davis(tmp_path) / "JPEGImages" / "Full-Resolution").mkdir()
    assert Folder(tmp_path).pictures.name == "480p"


def test_a_kind_is_set_as_its_graph() -> None:
    kinds = {kind: Edit("cat", "a", "b", kind=kind).inputs["structure"] for kind in ("colour", "Material", "object")}
    assert kinds == {"colour": 0.5, "Material": 0.5, "object": 0.0}
    assert Edit("cat", "a", "b", kind="colour", structure=0.2).inputs == {
        "confine": 0.3, "structure": 0.2, "source_words": "", "target_words": "",
    }  # fmt: skip


def paint(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path)


PICTURES, MASKS = Path("JPEGImages/480p/cat"), Path("Annotations/480p/cat")
FAULTS = {
    "too few pictures": (lambda f: (f / PICTURES / "00002.jpg").unlink(), "cat holds 2 pictures, and 3 are wanted"),
    "a missing mask": (lambda f: (f / MASKS / "00001.png").unlink(), r"cat holds no mask 00001\.png"),
    "an empty mask": (lambda f: paint(f / MASKS / "00001.png", np.zeros((SIDE, SIDE), np.uint8)), r"00001\.png shows no object"),
    "a mask over everything": (lambda f: paint(f / MASKS / "00001.png", np.ones((SIDE, SIDE), np.uint8)), r"00001\.png leaves no background"),
    "a mask of another size": (lambda f: paint(f / MASKS / "00001.png", np.ones((8, 8), np.uint8)), r"00001\.png is 8x8 pixels, but its picture is 64x64"),
    "a broken picture": (lambda f: (f / PICTURES / "00001.jpg").write_text("no"), r"00001\.jpg cannot be read as a picture"),
    "a broken mask": (lambda f: (f / MASKS / "00001.png").write_text("no"), r"00001\.png cannot be read as a picture"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_clip_is_named_with_its_file(fault: str, tmp_path) -> None:
    spoil, told = FAULTS[fault]
    spoil(davis(tmp_path))
    with pytest.raises(ValueError, match=told):
        loaded(tmp_path)


def test_pictures_of_another_size_are_named(tmp_path) -> None:
    davis(tmp_path)
    paint(tmp_path / PICTURES / "00001.jpg", np.zeros((48, 64, 3), np.uint8))
    paint(tmp_path / MASKS / "00001.png", np.ones((48, 64), np.uint8))
    with pytest.raises(ValueError, match=r"00001\.jpg has not the size of the clip's first picture"):
        loaded(tmp_path)


def test_an_object_that_is_not_there_is_named(tmp_path) -> None:
    davis(tmp_path, entries=[ENTRY | {"object": 3}])
    with pytest.raises(ValueError, match=r"00000\.png shows no object 3"):
        loaded(tmp_path)


@pytest.mark.parametrize("name", ["../cat", "/cat", "..", "a\\b", "c:cat", "."])
def test_a_clips_name_leads_nowhere_else(name: str, tmp_path) -> None:
    davis(tmp_path, entries=[ENTRY | {"clip": name}])
    with pytest.raises(ValueError, match="Give the name of a folder in .*480p, without any path"):
        loaded(tmp_path)


def test_a_clip_that_is_not_there_is_named(tmp_path) -> None:
    davis(tmp_path, entries=[ENTRY | {"clip": "dog"}])
    with pytest.raises(ValueError, match="dog is no folder with pictures"):
        loaded(tmp_path)


ENTRIES = {
    "no object": ("cat", "it is no JSON object"),
    "no target prompt": ({"clip": "cat", "source_prompt": "a red cat"}, "target_prompt is missing"),
    "an unknown name": (ENTRY | {"sourcewords": "cat"}, "'sourcewords' is no name of an edit's"),
    "a number for a text": (ENTRY | {"target_words": 3}, "target_words is 3, which is no text"),
    "a text for a number": (ENTRY | {"structure": "0.5"}, "structure is '0.5', which is no number"),
    "too much structure": (ENTRY | {"structure": 1.5}, "structure must lie between 0 and 1"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_fault_of_an_entry_is_named(case: str) -> None:
    entry, told = ENTRIES[case]
    with pytest.raises(ValueError, match=rf"edits\.json, entry 1: {told}"):
        own_edit(entry, "edits.json, entry 1")


@pytest.mark.parametrize("text, told", [("{", "is no JSON"), ("{}", "must hold a JSON list"), ("[]", "must hold a JSON list")])
def test_a_file_of_edits_that_is_none_is_named(text: str, told: str, tmp_path) -> None:
    (davis(tmp_path) / "edits.json").write_text(text)
    with pytest.raises(ValueError, match=rf"edits\.json {told}"):
        Folder(tmp_path).edits()


def test_an_entry_of_five_bench_without_its_names_is_named(tmp_path) -> None:
    five(tmp_path)
    (tmp_path / "edit_prompt" / "edit3_FiVE.json").write_text('[{"video_name": "0001_cat"}]')
    with pytest.raises(ValueError, match=r"edit3_FiVE\.json, entry 1: it lacks one of video_name"):
        Folder(tmp_path).edits()


def test_a_folder_of_no_layout_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="is of no known layout"):
        Folder(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(ValueError, match="must hold one folder, that of the resolution"):
        Folder(tmp_path)


def test_a_folder_without_prompts_says_what_is_missing(tmp_path) -> None:
    (davis(tmp_path) / "edits.json").unlink()
    with pytest.raises(ValueError, match=r"has no edits\.json"):
        Folder(tmp_path).edits()


def test_a_video_has_no_masks_and_must_be_long_enough() -> None:
    video = Path(__file__).resolve().parents[3] / "demo" / "clips" / "blade_red_circle.mp4"
    edit = Edit("circle", "a red circle", "a blue circle", video=video, frames=3, longest_side=64)
    frames, masks = edit.load()
    assert frames.shape == (3, 64, 64, 3) and masks is None
    with pytest.raises(ValueError, match=r"blade_red_circle\.mp4 has 12 frames, and 13 are wanted"):
        replace(edit, frames=13).load()
    with pytest.raises(ValueError, match=r"none\.mp4 cannot be used"):
        replace(edit, video=Path("none.mp4")).load()
