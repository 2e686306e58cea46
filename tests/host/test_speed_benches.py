"""The benches of speed, run on a U-Net of SD1.5's kind that is small enough for seconds: that they compare what they say they do."""

import json
from functools import partial

import pytest
import torch

from benchmarks.report import ROOT
from benchmarks.speed import bench as bench_module
from benchmarks.speed import overheads, times
from benchmarks.speed.bench import CFG, interleaved, random_bench, start_comfy
from benchmarks.speed.memory import fatezero
from benchmarks.speed.overheads import SETTINGS, grid, made_up, pairs_of

TINY = {"model_channels": 32, "num_heads": 8}
FRAMES, STEPS = 3, 5
tiny_bench = partial(random_bench, frames=FRAMES, pixels=128, unet=TINY)
PUBLISHED = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def started(comfy, comfy_folder, one_thread):
    start_comfy(comfy_folder)


@pytest.fixture(scope="module")
def bench(started):
    bench = tiny_bench(STEPS)
    bench.trajectory = made_up(bench, grid(bench, STEPS)[::-1])
    return bench


def paths(found: dict, before: str = "") -> set[str]:
    """Of all values in nested dicts, their keys with dots between."""
    inside = [paths(value, f"{before}{name}.") if isinstance(value, dict) else {before + name} for name, value in found.items()]
    return set().union(*inside)


@pytest.mark.parametrize(
    ("question", "begins"),
    [
        (times.steps, ("temporal.step",)),
        (times.inversion, ("inversion.ratio", "inversion.time")),
        (times.edit, ("edit",)),
        (overheads.recording, ("overhead.recording",)),
        (overheads.blending, ("overhead.blending", "overhead.confine", "overhead.structure")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_question_answers_with_all_published_keys(question, begins, monkeypatch, comfy_folder, tmp_path) -> None:
    for module in (times, overheads):
        monkeypatch.setattr(module, "random_bench", tiny_bench)
    for module in (bench_module, times, overheads):
        monkeypatch.setattr(module, "interleaved", lambda timed, rounds: interleaved(timed, 1, warm_up=0))
    found = question(comfy_folder, tmp_path, quick=True)
    assert paths(found) == {path for path in paths(PUBLISHED) if path.startswith(begins)}
    if question is overheads.recording:
        assert found["overhead"]["recording_latents_identical"]


def test_both_sides_of_a_step_are_the_same_model_calls_and_structure_asks_for_the_clips_pass_too(bench) -> None:
    for setting in SETTINGS:
        found = pairs_of(bench, setting, STEPS)
        assert [pair["sigma"] for pair in found] == pytest.approx(grid(bench, STEPS)[:-1])
        assert [pair["stock_rows"] for pair in found] == [2 * FRAMES] * STEPS  # the target and the negative prompt's
        more = [True, True, False, False, False] if setting == "structure" else [False] * STEPS  # for half of the way
        assert [pair["ours_rows"] for pair in found] == [(3 if asks else 2) * FRAMES for asks in more]
        assert all(pair["ours"] > 0 and pair["stock"] > 0 for pair in found)


def test_the_steps_end_where_they_are_told_to(bench) -> None:
    assert len(pairs_of(bench, "masks", 2)) == 2


def test_a_step_of_ours_draws_a_mask_and_records_the_target(bench, monkeypatch) -> None:
    from blade.attention import online

    drawn, found = [], []
    add = online.add_level
    monkeypatch.setattr(online, "add_level", lambda heat, words, maps, *rest: found.append(maps.sigma) or add(heat, words, maps, *rest))
    at_step = online.OnlineMask.at_step
    monkeypatch.setattr(online.OnlineMask, "at_step", lambda mask, step: drawn.append(at_step(mask, step)) or drawn[-1])
    pairs_of(bench, "masks", STEPS)
    assert len(drawn) == STEPS
    assert len(found) == STEPS - 1  # a level counts from the next one on
    assert all(0.02 < float(mask.mean()) < 0.9 for mask in drawn)


def test_a_whole_edit_passes_the_rows_that_its_floor_counts() -> None:
    edit, rows = tiny_bench(2), []
    assert edit.patch_as_default() == 3
    stages = edit.stages()
    with edit.model.get_model_object("diffusion_model").register_forward_pre_hook(lambda unet, inputs: rows.append(len(inputs[0]))):
        for stage, cfg in (("invert", 1.0), ("sample", CFG)):
            passed = []
            for what in (f"stock_{stage}", stage):
                rows.clear()
                assert stages[what]() > 0
                passed.append(sum(rows))
            assert passed[0] == passed[1] == FRAMES * 2 * (1 if cfg == 1 else 2)
    assert edit.trajectory.record is not None


def test_a_made_up_trajectory_weighs_what_an_inversion_of_as_many_steps_does() -> None:
    bench = tiny_bench(2, frames=2, pixels=256)  # of which maps are recorded at two resolutions, and spread at one
    bench.invert()
    found = made_up(bench, grid(bench, 2)[::-1])
    assert (found.steps, found.nbytes) == (2, bench.trajectory.nbytes)
    assert torch.equal(found.sigmas, bench.trajectory.sigmas)
    assert found.record.spread.keys() == bench.trajectory.record.spread.keys() != found.record.stores.keys()


@pytest.mark.slow
def test_sides_are_measured_in_processes_of_their_own(comfy_folder, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("benchmarks.speed.memory.CASE", {"frames": 2, "steps": 6, "calls": 2, "unet": TINY, "pixels": 128})
    sides = []
    monkeypatch.setattr("benchmarks.speed.memory.case_figures", lambda stock, edit, case: sides.extend([stock, edit]) or {})
    fatezero(comfy_folder, tmp_path, quick=False)
    stock, edit = sides
    assert all(2**20 < peak < 2**30 for peak in (stock["sample"], edit["sample"], edit["invert"]))
    assert edit["levels"] > edit["further"] > 0
