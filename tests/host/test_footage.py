"""benchmarks.footage from end to end on the demo checkpoint: a folder as DAVIS has it, one as FiVE-Bench has it, and a video."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, DEVELOPMENT_SHAPE_EDITS
from benchmarks.footage.__main__ import OPTIONS, check, main
from benchmarks.footage.report import ROWS
from demo.clips import path

FRAMES, STEPS, SIDE = 3, 4, 128
EDITS = {"colour": DEVELOPMENT_COLOUR_EDITS[0], "shape": DEVELOPMENT_SHAPE_EDITS[0]}
NAMES = ("JPEGImages", "Annotations"), ("images", "bmasks")


@pytest.fixture(autouse=True)
def on_one_thread_of_the_cpu(comfy, one_thread, monkeypatch):
    """The host was imported for the CPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def write(pictures, masks, edit):
    for place in (pictures, masks):
        place.mkdir(parents=True)
    for frame, (picture, mask) in enumerate(zip(edit.clip.render(FRAMES), edit.clip.truth(FRAMES), strict=True)):
        Image.fromarray(picture).save(pictures / f"{frame:05}.jpg", quality=95)
        Image.fromarray(255 * (mask > 0.5).astype(np.uint8)).save(masks / f"{frame:05}.png")


@pytest.fixture
def davis(tmp_path):
    """Two clips laid out as DAVIS has them, and their edits.json."""
    entries = []
    for kind, edit in EDITS.items():
        write(*(tmp_path / "davis" / name / "480p" / kind for name in NAMES[0]), edit)
        entries.append(
            {
                "clip": kind,
                "kind": kind,
                "source_prompt": edit.clip.source_prompt,
                "target_prompt": edit.target_prompt,
                "source_words": edit.source_words,
                "target_words": edit.target_words,
            }
        )
    (tmp_path / "davis" / "edits.json").write_text(json.dumps(entries))
    return tmp_path / "davis"


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """The program on the demo checkpoint, or another: how it ends, and what it wrote."""

    def run(*given, checkpoint=checkpoint):
        small = ["--frames", FRAMES, "--steps", STEPS, "--longest-side", SIDE, "--out", tmp_path / "out"]
        monkeypatch.setattr("sys.argv", ["footage", "--checkpoint", str(checkpoint), *map(str, [*small, *given])])
        ended = main()
        file = tmp_path / "out" / "footage.json"
        return ended, json.loads(file.read_text()) if file.exists() else None

    return run


def test_a_folder_as_davis_has_it_gives_the_table(run, davis, tmp_path, capsys):
    ended, found = run("--clips", davis)
    assert found["edits"] == {"colour": 1, "shape": 1} and found["left_out"] == []
    assert (found["frames"], found["steps"], found["checkpoint"]) == (FRAMES, STEPS, "blade_demo.safetensors")
    background = {row: value["mean"] for row, value in found["means"]["background_psnr_db"].items()}
    assert background.keys() == ROWS.keys()
    assert background["composite"] > background["vae_round_trip"] > background["method"] > 25
    assert found["means"]["mask_iou"]["method"]["mean"] > 0.6
    assert 0.5 < found["means"]["background_ssim"]["method"]["mean"] < 1
    assert "tem_con" not in found["means"] and "background_lpips_five_convention" not in found["means"]
    assert found["composite_pixels_changed_outside"] == 0 < found["composite_pixels_compared"]
    assert found["checks"]["empty_mask_is_the_clip"] is True
    told = capsys.readouterr().out
    assert "1/2 colour" in told and (ended == 0) == ("MISSED" not in told)
    assert (tmp_path / "out" / "footage.md").read_text().startswith("|  | background, dB |")
    with Image.open(tmp_path / "out" / "footage.jpg") as picture:
        assert picture.width > 6 * SIDE and picture.height > 2 * SIDE

    run("--clips", davis)  # what was measured is kept
    assert "1/2 colour" not in capsys.readouterr().out


def test_a_video_of_ones_own_is_judged_outside_the_samplers_mask(run, capsys):
    prompts = ["--source-prompt", "a red circle on grass", "--target-prompt", "a blue circle on grass"]
    _, found = run("--video", path("blade_red_circle"), *prompts, "--words", "red circle", "--kind", "colour")
    assert found["background_is_outside"] == "the sampler's own mask" and "mask_iou" not in found["means"]
    assert found["checks"]["empty_mask_is_the_clip"] is True and found["composite_pixels_changed_outside"] == 0
    told = capsys.readouterr().out
    assert "met    an empty mask gives the clip to the bit" in told and "outside the sampler's own mask" in told


def five(tmp_path, **changed):
    """One clip laid out as FiVE-Bench has it, with an edit of its shape and another entry."""
    edit, root = EDITS["shape"], tmp_path / "five"
    write(*(root / name / "0001_thing" for name in NAMES[1]), edit)
    entry = {
        "video_name": "0001_thing",
        "editing_type_id": "1",
        "source_prompt": edit.clip.source_prompt,
        "target_prompt": edit.target_prompt,
    }
    (root / "edit_prompt").mkdir()
    (root / "edit_prompt" / "edit1_FiVE.json").write_text(json.dumps([entry, entry | changed]))
    return root


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"target_prompt": f"{EDITS['shape'].clip.source_prompt} and a dog"}, "the target prompt only adds words"),
        ({"target_prompt": EDITS["shape"].clip.source_prompt}, "source and target prompt have the same words"),
        ({"video_name": "0002_thing"}, "is no folder with pictures"),
    ],
    ids=["addition", "nothing", "clip"],
)
def test_what_five_bench_has_and_the_method_cannot_place_is_left_out_and_named(checkpoint, tmp_path, changed, told):
    defaults = {name[2:].replace("-", "_"): settings.get("default") for name, settings in OPTIONS.items()}
    given = {"checkpoint": checkpoint, "clips": five(tmp_path, **changed), "frames": FRAMES, "quick": False}
    _, _, edits, left, _ = check(Namespace(**defaults | given))
    assert [edit.clip for edit in edits] == ["0001_thing"]
    assert len(left) == 1 and told in left[0] and "edit1_FiVE.json, entry 2" in left[0]


FAULTS = {
    "a word that is not there": ({"source_words": "purple cat"}, "source_words: the phrase 'purple cat' is not in the prompt"),
    "another's word": ({"target_words": "lion"}, "target_words: the word 'lion' is not in the prompt"),
    "nothing changes": (
        {"source_words": "", "target_words": "", "target_prompt": EDITS["shape"].clip.source_prompt},
        "have the same words",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_words_that_do_not_fit_stop_it_before_any_edit(run, davis, tmp_path, capsys, fault):
    changed, told = FAULTS[fault]
    entries = json.loads((davis / "edits.json").read_text())
    (davis / "edits.json").write_text(json.dumps([entries[0], entries[1] | changed]))
    ended, found = run("--clips", davis)
    error = capsys.readouterr().err
    assert (ended, found) == (1, None) and told in error and "edits.json, entry 2" in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint_is_named(run, davis, tmp_path, capsys):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert run("--clips", davis, checkpoint=tmp_path / "other.safetensors") == (1, None)
    assert "ComfyUI cannot load" in capsys.readouterr().err
