"""What benchmarks.footage says of its edits: on made-up rows whose means are known; its figures and its command line."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.footage import __main__ as program
from benchmarks.footage.__main__ import main, together
from benchmarks.footage.clips import Edit
from benchmarks.footage.edit import COMPOSITE, METHOD, PANELS, VAE, VARIANTS, Judges, figures
from benchmarks.footage.report import COLUMNS, OPPOSED, ROWS, goals, summary, table
from benchmarks.quality.part import Rows, strip
from benchmarks.report import interval, met

EDIT = Edit("cat", "a red cat", "a blue cat")
OBJECT = np.zeros((3, 64, 64), bool)
OBJECT[:, 20:40, 20:40] = True
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
PLAIN = ("background_psnr_db", "background_psnr_db_five_convention", "background_ssim", "background_ssim_five_convention")


def rows(value: float, lost: float = 0.2, changed: int = 0) -> dict[str, dict]:
    """An edit's figures, all of them one value."""
    found = {row: dict.fromkeys(PLAIN, value) for row in ROWS}
    for row in VARIANTS:
        found[row] |= {"mask_iou": value, "seconds": value, "inversion_seconds": value}
    found[METHOD]["lost_outside_own_mask_db"] = lost
    found[COMPOSITE] |= {"changed": changed, "compared": 10}
    return found


def of(*edits: tuple[str, dict[str, dict]]) -> dict:
    """The summary of edits, each with its kind."""
    return summary(Rows({f"{kind}/{number}": figures for number, (kind, figures) in enumerate(edits)}))


GOOD = {"reconstruction_psnr_db": 35.0, "empty_mask_is_the_clip": True}


def test_means_have_their_intervals_and_each_kind_its_own() -> None:
    found = of(("colour", rows(1.0)), ("object", rows(3.0)), ("object", rows(5.0)))
    mean = found["means"]["background_psnr_db"][METHOD]
    assert mean == interval(np.array([1.0, 3.0, 5.0])) and mean["low"] < mean["mean"] == 3 < mean["high"]
    assert found["edits"] == {"colour": 1, "object": 2}
    assert [found["by_kind"][kind]["mask_iou"][METHOD] for kind in ("colour", "object")] == [1, 4]
    assert found["method_less"].keys() == set(OPPOSED) == set(VARIANTS) - {METHOD}
    assert found["method_less"]["random_noise"]["background_ssim"]["mean"] == 0
    json.dumps(found, allow_nan=False)


def test_the_table_has_a_line_for_each_row_and_only_what_was_measured() -> None:
    lines = table(of(("object", rows(1.0)), ("object", rows(3.0)))).splitlines()
    assert len(lines) == 2 + len(ROWS) and len({line.count("|") for line in lines}) == 1
    assert "Tem-Con" not in lines[0] and "LPIPS" not in lines[0] and "own mask, IoU" in lines[0]
    assert lines[2].startswith("| VAE round trip of the clip | 2.00 ± 1.00 |") and lines[2].endswith("|  |  |")
    more = {row: own | {"tem_con": 0.9, "frame_acc": 0.5} for row, own in rows(1.0).items()}
    lines = table(of(("object", more))).splitlines()
    assert COLUMNS["tem_con"][0] in lines[0] and "| 0.9000 | 50.0% |" in lines[2] and "±" not in lines[3]


def test_a_clip_without_masks_has_no_iou() -> None:
    without = {row: {name: value for name, value in own.items() if name != "mask_iou"} for row, own in rows(1.0).items()}
    assert "IoU" not in table(of(("object", without)))


@pytest.mark.parametrize(
    "one, checks, missed",
    [
        (rows(1.0), GOOD, 0),
        (rows(1.0), GOOD | {"reconstruction_psnr_db": 20.0}, 1),
        (rows(1.0), GOOD | {"empty_mask_is_the_clip": False}, 1),
        (rows(1.0, lost=0.6), GOOD, 1),
        (rows(1.0, changed=1), GOOD, 1),
    ],
)
def test_each_line_of_the_verdict_is_missed_by_its_own_figure(one: dict, checks: dict, missed: int) -> None:
    listed = goals(of(("object", one)) | {"checks": checks})
    assert sum(not met(*goal) for goal in listed.values()) == missed


def test_a_change_near_the_object_counts_in_fives_convention_alone() -> None:
    near, far = FRAMES.copy(), FRAMES.copy()
    near[:, 40:46, 20:40] = 0
    far[:, 55:, :] = 0
    whole, close, away = (figures(FRAMES, clip, OBJECT, Judges(), EDIT) for clip in (FRAMES, near, far))
    assert whole.keys() == set(PLAIN) and whole["background_psnr_db"] == 100 and whole["background_ssim"] == pytest.approx(1)
    assert close["background_psnr_db"] == 100 and close["background_psnr_db_five_convention"] < 40
    assert away["background_psnr_db"] < 40 and away["background_ssim"] < 0.99


def test_judges_with_weights_of_their_own_add_their_figures() -> None:
    asked = []
    clip = SimpleNamespace(figures=lambda *given: asked.append(given[1:]) or {"tem_con": 0.9, "frame_acc": 0.5})
    lpips = SimpleNamespace(background=lambda before, after, masks: float(masks.sum()))
    found = figures(FRAMES, FRAMES, OBJECT, Judges(clip, lpips), EDIT)
    assert (found["tem_con"], found["frame_acc"]) == (0.9, 0.5) and asked == [("a red cat", "a blue cat")]
    assert found["background_lpips_five_convention"] == OBJECT.sum()


def test_the_picture_shows_the_clip_the_mask_and_all_that_was_made() -> None:
    assert set(PANELS) - {"source", "mask"} == set(ROWS) - {VAE}
    made = {name: np.full((3, 32, 64, 3), 20 * index, np.uint8) for index, name in enumerate(PANELS)}
    one, two = (strip(made, moments, 60, "a blue cat") for moments in ([1], [0, 2]))
    width = one.shape[1] // len(PANELS)
    assert [int(one[40, width * index + width // 2, 0]) for index in range(len(PANELS))] == [20 * index for index in range(len(PANELS))]
    assert width > 2 * 60 and two.shape == (2 * one.shape[0], *one.shape[1:])  # a wide frame stays wide


def test_edits_of_one_clip_follow_each_other() -> None:
    edits = together([Edit(clip, source, target) for clip, source, target in ("cad", "abd", "cae", "cbd", "abe")])
    assert [edit.clip + edit.source_prompt + edit.target_prompt for edit in edits] == ["cad", "cae", "abd", "abe", "cbd"]
    assert [edit.seed for edit in edits] == [0, 1, 2, 3, 4]


PROMPTS = ["--source-prompt", "a red cat", "--target-prompt", "a blue cat"]
VIDEO = Path(__file__).parents[3] / "demo" / "clips" / "blade_red_circle.mp4"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The program with these options on a checkpoint that is empty: how it ends."""
    (tmp_path / "a.safetensors").write_bytes(b"")

    def run(*given: object, checkpoint: str = "a.safetensors") -> int:
        arguments = ["--checkpoint", tmp_path / checkpoint, "--out", tmp_path / "out", *given]
        monkeypatch.setattr("sys.argv", ["footage", *map(str, arguments)])
        return main()

    return run


@pytest.mark.parametrize("more, steps", [([], 50), (["--quick"], 25), (["--quick", "--steps", "9"], 9)])
def test_steps_are_50_and_with_quick_25_unless_they_are_given(run, monkeypatch, more: list[str], steps: int) -> None:
    asked = []
    monkeypatch.setattr(program, "listed", lambda options: asked.append(options.steps) or int("no edits"))
    assert run("--clips", "b", *more) == 1 and asked == [steps]


@pytest.mark.parametrize(
    "given, told",
    [
        ([], "give either --clips FOLDER, or --video FILE"),
        (["--clips", "a", "--video", "b"], "give either --clips FOLDER, or --video FILE"),
        (["--video", "a", *PROMPTS[:2]], "--video wants --source-prompt"),
        (["--clips", "a", *PROMPTS], "go with --video"),
        (["--clips", "a", "--frames", "1"], "--frames must be 2 or more"),
        (["--clips", "a", "--longest-side", "100"], "--longest-side a multiple of 8"),
        (["--clips", "a", "--steps", "1"], "--steps from 2 to 999"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused(run, given: list[str], told: str, capsys) -> None:
    assert run(*given) == 1 and told in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named_before_all_else(run, tmp_path, capsys) -> None:
    assert run("--clips", tmp_path, checkpoint="none.safetensors") == 1
    assert "there is no file" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("judge, told", [("--clip-model", "no folder with a config.json"), ("--lpips", "--lpips: ")])
def test_weights_of_a_judge_that_are_not_there_are_named_before_the_checkpoint_is_loaded(run, judge, told, tmp_path, capsys) -> None:
    assert run("--video", VIDEO, *PROMPTS, judge, tmp_path / "none") == 1 and told in capsys.readouterr().err
