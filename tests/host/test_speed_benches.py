"""The benches of speed, run on a U-Net of SD1.5's kind that is small enough for seconds: that they compare what they say they do."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed.blending_cost import SETTINGS, BlendingBench
from benchmarks.speed.edit_cost import EditBench
from benchmarks.speed.fatezero_case import Case, measure_apart, stretched
from benchmarks.speed.step_cost import SD15_UNET, start_comfy

TINY = {**SD15_UNET, "model_channels": 32, "num_heads": 8}
FRAMES, PIXELS, STEPS = 3, 128, 5


@pytest.fixture(scope="module", autouse=True)
def started(comfy, comfy_folder, one_thread):
    start_comfy(comfy_folder)


@pytest.fixture(scope="module")
def bench(started):
    return BlendingBench(FRAMES, PIXELS, TINY, STEPS)


def test_both_sides_of_a_step_are_the_same_model_calls_and_structure_asks_for_the_clips_pass_too(bench) -> None:
    for setting in SETTINGS:
        found = bench.pairs(setting)
        assert len(found) == STEPS
        assert [pair["stock_rows"] for pair in found] == [2 * FRAMES] * STEPS  # the target and the negative prompt's
        more = bench.acting(setting) if setting == "structure" else [False] * STEPS
        assert [pair["ours_rows"] for pair in found] == [(3 if asks else 2) * FRAMES for asks in more]
        assert all(pair["ours"] > 0 and pair["stock"] > 0 for pair in found)


def test_confine_acts_early_and_structure_for_half_of_the_way(bench) -> None:
    assert bench.acting("confine") == [True, False, False, False, False]
    assert bench.acting("structure") == [True, True, False, False, False]


def test_a_step_of_ours_draws_a_mask_and_records_the_target(bench, monkeypatch) -> None:
    from blade.attention import online

    drawn, found = [], []
    add = online.add_level
    monkeypatch.setattr(online, "add_level", lambda heat, words, maps, *more: found.append(maps.sigma) or add(heat, words, maps, *more))
    at_step = online.OnlineMask.at_step
    monkeypatch.setattr(online.OnlineMask, "at_step", lambda mask, step: drawn.append(at_step(mask, step)) or drawn[-1])
    bench.pairs("masks")
    assert len(drawn) == STEPS
    assert len(found) == STEPS - 1  # a level counts from the next one on
    assert all(0.02 < float(mask.mean()) < 0.9 for mask in drawn)


def test_a_whole_edit_passes_the_rows_that_its_floor_counts() -> None:
    edit, rows = EditBench(FRAMES, PIXELS, TINY, 2), []
    unet = edit.model.get_model_object("diffusion_model")
    hook = unet.register_forward_pre_hook(lambda unet, inputs: rows.append(len(inputs[0])))
    for stock, ours in (("stock_invert", "invert"), ("stock_sample", "sample")):
        passed = []
        for what in (stock, ours):
            rows.clear()
            assert edit.stages.timed()[what]() > 0
            passed.append(sum(rows))
        assert passed[0] == passed[1] == FRAMES * 2 * (1 if ours == "invert" else 2)
    hook.remove()
    assert edit.key_frames() == 3
    assert edit.stages.trajectory.record is not None


def test_a_stretched_trajectory_weighs_what_one_of_as_many_steps_does() -> None:
    from blade.nodes.invert import DDIMInvert

    stages = EditBench(FRAMES, PIXELS, TINY, 2).stages
    with torch.inference_mode():
        few, many = (DDIMInvert.execute(stages.patched, stages.source, {"samples": stages.clip}, steps).result[0] for steps in (2, 6))
    found = stretched(few, 6)
    assert (found.steps, found.nbytes) == (6, many.nbytes)
    assert torch.equal(found.clip, few.clip)
    assert (found.sigmas.diff() > 0).all()
    assert stretched(many, 6) is many


@pytest.mark.slow
def test_a_side_is_measured_in_a_process_of_its_own(comfy_folder) -> None:
    case = Case(2, PIXELS, 6, 2, TINY)
    stock, edit = (SimpleNamespace(**measure_apart(comfy_folder, side, case)) for side in ("stock", "edit"))
    assert 2**20 < stock.sample < 2**30
    assert 2**20 < edit.sample < 2**30
    assert edit.levels > edit.levels_measured > 0
