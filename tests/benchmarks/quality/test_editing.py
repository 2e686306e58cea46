"""The figures of an edit's background and success: on clips drawn for the purpose, and on made-up rows whose means are known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS, DEVELOPMENT_SHAPE_EDITS
from benchmarks.quality.bench import CFG, FRAMES, STEPS, Made, changed_outside, exact_mask, objects, one_level_off, random_noise
from benchmarks.quality.editing import (
    AS_GRAPHS,
    BY_KIND,
    COMPARED,
    COMPOSED,
    MARGIN,
    MARGINS,
    NAMES,
    OPPOSED,
    STARTS,
    TITLES,
    VARIANTS,
    WAYS,
    figures,
    goals,
    leak,
    make,
    summary,
    tables,
)
from benchmarks.quality.part import Rows, strip
from benchmarks.report import interval, met
from blade.inversion.trajectory import Trajectory
from demo.check import COLOURS
from metrics.background import dilate

COLOUR_EDIT, SHAPE_EDIT = DEVELOPMENT_COLOUR_EDITS[0], DEVELOPMENT_SHAPE_EDITS[0]
SIGMAS = torch.tensor([0.0, 0.5, 2.0, 10.0])


def trajectory() -> Trajectory:
    latents = torch.randn(len(SIGMAS), FRAMES, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    return Trajectory(SIGMAS, latents, record="words")


def judges(edit) -> dict[str, Made]:
    source, perfect = Made(edit.clip.render(FRAMES)), Made(edit.perfect.render(FRAMES))
    return {"source": source, "vae_round_trip": source, "perfect_edit": perfect, "perfect_edit_blended": perfect}


def judged(edit, frames: np.ndarray) -> dict[str, float]:
    return figures(edit, judges(edit), Made(frames))


def test_random_noise_ends_on_the_clip_and_has_each_levels_variance_around_it() -> None:
    before = trajectory()
    after = random_noise(before, 3)
    assert torch.equal(after.at(0.0), before.clip)
    noises = [(after.at(sigma) - before.clip) / sigma for sigma in SIGMAS[1:]]
    for noise in noises:
        assert abs(float(noise.mean())) < 0.02 and float(noise.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((noises[0] * noises[1]).mean())) < 0.02  # fresh at each level
    assert after.record == "words" and torch.equal(after.sigmas, SIGMAS)


def test_random_noise_is_the_seeds_and_keeps_an_exact_clip_that_was_stored_apart() -> None:
    before = replace(trajectory(), exact_clip=torch.full((FRAMES, 4, 32, 32), 0.123456789))
    assert torch.equal(random_noise(before, 3).clip, before.exact_clip)
    assert torch.equal(random_noise(before, 3).latents, random_noise(before, 3).latents)
    assert not torch.equal(random_noise(before, 3).latents[1], random_noise(before, 4).latents[1])


def test_one_level_off_reads_the_next_noisier_level_and_the_highest_twice() -> None:
    before = trajectory()
    after = one_level_off(before, 0)
    for level, read in ((0, 0), (1, 2), (2, 3), (3, 3)):
        assert torch.equal(after.at(SIGMAS[level]), before.latents[read])
    assert after.record == "words"


def test_only_one_level_off_stops_blending_before_the_clip() -> None:
    assert {name for name, variant in VARIANTS.items() if "blend_until" in variant.inputs} == {"one_level_off_blend"}
    assert VARIANTS["one_level_off_blend"].inputs == VARIANTS["latent_blend"].inputs | {"blend_until": 0.8}


def test_latent_composite_is_measured_under_both_kinds_of_mask() -> None:
    assert [VARIANTS[name].mask for name in COMPOSED] == [None, None, exact_mask] and set(COMPOSED.values()) <= set(NAMES)


def test_each_other_background_is_compared_under_the_same_kind_of_mask_and_settings() -> None:
    assert {name for name, variant in VARIANTS.items() if variant.background} == set(OPPOSED)
    assert not any(
        VARIANTS[other].mask or VARIANTS[other].inputs | VARIANTS["latent_blend"].inputs != VARIANTS[other].inputs for other in OPPOSED
    )


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_each_kind_of_edit_is_set_as_its_graph(kind: str) -> None:
    graph = json.loads((Path(__file__).parents[2] / "runner" / f"blade_change_{kind}.prompt.json").read_text(encoding="utf-8"))
    known = json.loads((Path(__file__).parents[2] / "runner" / "object_info.json").read_text(encoding="utf-8"))["BLADE_BlendedSampler"][
        "input"
    ]
    (sampler,) = (node["inputs"] for node in graph.values() if node["class_type"] == "BLADE_BlendedSampler")
    own = {"steps": STEPS, "cfg": CFG} | VARIANTS[AS_GRAPHS[kind]].inputs
    for name, spec in (known["required"] | known["optional"]).items():
        if len(spec) > 1 and "default" in spec[1] and name not in ("source_words", "target_words"):
            assert sampler[name] == own.get(name, spec[1]["default"]), name
    assert "mask" not in sampler and VARIANTS[AS_GRAPHS[kind]].mask is None


def leaking(rows: slice) -> float:
    """The colour edit's leak when its target colour lies over some rows of the background."""
    edited = COLOUR_EDIT.perfect.render(FRAMES)
    background = ~dilate(objects(COLOUR_EDIT), MARGIN)
    painted = np.zeros_like(background)
    painted[:, rows] = True
    edited[painted & background] = COLOURS[COLOUR_EDIT.colour]
    return leak(COLOUR_EDIT.clip.render(FRAMES), edited, background, COLOUR_EDIT.colour)


def test_a_perfect_edit_leaks_nothing() -> None:
    assert leaking(slice(0, 0)) == 0


@pytest.mark.parametrize("rows", [slice(0, 4), slice(20, 60), slice(0, 128)])
def test_a_leak_is_the_share_of_the_background_that_took_the_colour(rows: slice) -> None:
    background = ~dilate(objects(COLOUR_EDIT), MARGIN)
    assert leaking(rows) == pytest.approx(background[:, rows].sum() / background.sum(), abs=1e-3)


def test_what_had_the_colour_before_did_not_leak() -> None:
    source = COLOUR_EDIT.clip.render(FRAMES)
    background = ~dilate(objects(COLOUR_EDIT), MARGIN)
    source[background & (np.arange(source.shape[1]) > 100)[None, :, None]] = COLOURS[COLOUR_EDIT.colour]
    assert leak(source, source.copy(), background, COLOUR_EDIT.colour) == 0


def test_an_object_that_grows_out_of_its_margin_is_a_leak_and_a_second_one_too() -> None:
    frames = SHAPE_EDIT.perfect.render(FRAMES)
    background = ~dilate(objects(SHAPE_EDIT), MARGIN)
    edited = frames.copy()
    edited[:, 2:12, 2:12] = COLOURS[SHAPE_EDIT.colour]
    found = leak(frames, edited, background, SHAPE_EDIT.colour)
    assert found == pytest.approx(background[:, 2:12, 2:12].sum() / background.sum(), rel=0.1)


@pytest.mark.parametrize("edit", [COLOUR_EDIT, SHAPE_EDIT], ids=["colour", "shape"])
def test_a_perfect_edit_is_right_and_leaves_background_and_border_alone(edit) -> None:
    found = judged(edit, edit.perfect.render(FRAMES))
    for figure in ("background_psnr_db", "vs_vae_db", "border_psnr_vs_vae_db", "border_psnr_vs_perfect_db"):
        assert found[figure] == 100, figure
    assert (found["success"], found["right"], found["leak"]) == (1, 1, 0)


@pytest.mark.parametrize("edit", [COLOUR_EDIT, SHAPE_EDIT], ids=["colour", "shape"])
def test_the_unedited_clip_is_no_success(edit) -> None:
    assert judged(edit, edit.clip.render(FRAMES))["right"] == 0


def test_success_is_judged_wherever_the_object_is() -> None:
    assert judged(SHAPE_EDIT, np.roll(SHAPE_EDIT.perfect.render(FRAMES), 5, axis=2))["right"] == 1
    half = np.concatenate([SHAPE_EDIT.perfect.render(FRAMES)[:2], SHAPE_EDIT.clip.render(FRAMES)[:6]])
    assert judged(SHAPE_EDIT, half)["right"] == pytest.approx(2 / FRAMES)


@pytest.mark.parametrize(
    "distance, changes", [(1, ()), (7, ("border",)), (9, ("border", "background")), (11, ("border", "background")), (16, ("background",))]
)
def test_border_and_background_meet_where_they_say(distance: int, changes: tuple) -> None:
    """A ring that many pixels from the object counts where it lies: the border reaches from 2 to 12 pixels, the background begins after 8."""
    exact = objects(COLOUR_EDIT)
    ring = dilate(exact, distance) & ~dilate(exact, distance - 1)
    edited = COLOUR_EDIT.perfect.render(FRAMES)
    edited[ring] = 255 - edited[ring]
    found = judged(COLOUR_EDIT, edited)
    figure_of = {"border": "border_psnr_vs_vae_db", "background": "background_psnr_db"}
    assert {name for name, figure in figure_of.items() if found[figure] < 100} == set(changes)


def test_changed_pixels_are_counted_outside_the_mask_to_the_bit() -> None:
    source, mask = np.random.default_rng(0).random((2, 6, 6, 3), np.float32), np.zeros((2, 6, 6), np.float32)
    mask[:, :2] = 0.01
    composite = source.copy()
    composite[:, :2] = 0
    assert changed_outside(source, composite, mask) == {"changed": 0, "compared": 48}
    composite[1, 5, 5, 2] = np.nextafter(composite[1, 5, 5, 2], np.float32(2))
    assert changed_outside(source, composite, mask)["changed"] == 1


def test_a_difference_has_an_interval_over_edits() -> None:
    found = interval(np.array([2.0, 3.0, 4.0]) - 1)
    assert found["mean"] == 2 and 1 <= found["low"] < 2 < found["high"] <= 3


def rows(value: Callable[[str, str, str], float]) -> Rows:
    """Two edits of each kind. value(name, kind, figure)"""
    margins = (f"background_psnr_db_{margin}_px" for margin in MARGINS)
    listed = (*COMPARED, *margins, "background_psnr_db_five_convention", "right", "seconds", "changed", "compared")
    found = {}
    for kind in ("colour", "shape"):
        of = {name: {figure: value(name, kind, figure) for figure in listed} for name in (*WAYS, *NAMES)}
        for number in range(2):
            found[f"{kind}/{number}"] = of | {name: of[by_kind[kind]] for name, by_kind in BY_KIND.items()}
    return Rows(found)


GOOD = {
    "vae_round_trip": 30.0,
    "latent_blend": 29.6,
    "latent_blend_exact_mask": 29.95,
    "latent_composite_exact_mask": 29.98,
    "latent_composite": 29.9,
    "latent_composite_structure": 29.9,
    "structure": 29.6,
}


def good(name: str, kind: str, figure: str) -> float:
    if figure == "background_psnr_db":
        return GOOD.get(name, 28.0)
    if figure == "vs_vae_db":
        return 41.0
    return {"success": 0.95, "right": 0.97, "compared": 5.0, "leak": 0.002}.get(figure, 0.0)


def test_goals_are_met_where_all_is_within_bounds() -> None:
    found = summary(rows(good))
    assert all(met(*goal) for goal in goals(found).values()) and len(goals(found)) == 11
    assert all(one["colour"] == pytest.approx(0.95 / 0.97) for one in found["success_over_stock"].values())
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "name, kind, figure, bad",
    [
        ("latent_blend_exact_mask", "", "background_psnr_db", 29.8),
        ("latent_composite_exact_mask", "", "background_psnr_db", 29.8),
        ("latent_blend", "", "background_psnr_db", 29.3),
        ("structure", "", "background_psnr_db", 29.3),
        ("latent_composite", "", "background_psnr_db", 28.9),
        ("latent_composite_structure", "", "background_psnr_db", 28.9),
        ("latent_blend_exact_mask", "", "vs_vae_db", 39.0),
        ("composite", "", "changed", 1),
        ("structure", "colour", "success", 0.93),
        ("latent_blend", "shape", "success", 0.86),
        ("latent_composite_structure", "colour", "success", 0.93),
        ("latent_composite", "shape", "success", 0.86),
        ("latent_blend", "", "leak", 0.02),
    ],
)
def test_each_goal_is_missed_by_its_own_figure(name: str, kind: str, figure: str, bad: float) -> None:
    def value(n: str, k: str, f: str) -> float:
        return bad if (n, f) == (name, figure) and kind in ("", k) else good(n, k, f)

    assert sum(not met(*goal) for goal in goals(summary(rows(value))).values()) == 1


def test_the_summary_has_the_promised_keys() -> None:
    found = summary(rows(good))
    backgrounds = {"vae_round_trip", "latent_blend", "latent_blend_exact_mask", "random_noise_blend", "one_level_off_blend", "composite"}
    assert backgrounds <= found["background_psnr_db"].keys() == found["background_psnr_db_five_convention"].keys()
    assert {"automatic", "exact_mask", "random_noise", "one_level_off"} == found["latent_blend_vs_vae_db"].keys()
    assert found["composite_pixels_changed_outside"] == 0 and found["composite_pixels_compared"] == 20
    assert found["success"].keys() == found["success_of_stock_sampling"].keys() == {"colour", "shape"}
    assert found["inverted_less"].keys() == set(OPPOSED) and found["start"].keys() == set(STARTS)
    assert found["background_psnr_db_by_margin"].keys() == {"8 px", "12 px", "16 px"}
    assert found["inverted_less"]["random_noise_blend"]["background_psnr_db"]["mean"] == pytest.approx(1.6)


def test_the_table_has_a_row_for_each_variant_and_as_many_cells_in_each() -> None:
    whole, starts = (text.splitlines() for text in tables(summary(rows(good))))
    assert {line.count("|") for line in whole} == {11}
    assert {line.count("|") for line in starts} == {8}
    assert len(whole) == 2 + len(TITLES) + 1 and set(TITLES) | set(STARTS) | set(COMPOSED.values()) == set(NAMES)
    assert "| latent blend, exact mask | 29.95 | 0.00 |" in "\n".join(whole)
    assert (
        whole[2].endswith("| 30.00 | 0.00 |" + "  |" * 7) and whole[-1] == "| stock sampling from noise |  |  |  | 97% | 97% |" + "  |" * 4
    )


def test_each_variant_of_the_vae_s_loss_is_the_one_that_it_is_called_after() -> None:
    names = ("latent_blend", "latent_blend_exact_mask", "random_noise_blend", "one_level_off_blend")
    found = summary(rows(lambda name, kind, figure: float(names.index(name)) if name in names else 9.0))
    assert list(found["latent_blend_vs_vae_db"].values()) == [0, 1, 2, 3]


def test_what_is_made_later_may_use_what_was_made_before_and_every_clip_has_its_figures() -> None:
    class Judge:
        judges = staticmethod(judges)

    def first(bench, edit, before):
        assert before.keys() == judges(edit).keys()
        return Made(before["perfect_edit"].frames, figures={"changed": 3})

    found, made = make(Judge(), COLOUR_EDIT, {"first": first, "second": lambda bench, edit, before: Made(before["first"].frames)})
    assert list(made) == list(found) == [*judges(COLOUR_EDIT), "first", "second"]
    assert found["first"]["changed"] == 3 and found["second"]["success"] == 1 and found["second"]["seconds"] >= 0
    assert found["source"]["success"] == 0 and "seconds" not in found["source"]


def test_a_strip_shows_the_chosen_frames_of_every_clip() -> None:
    clips = {f"clip_{index}": np.full((FRAMES, 8, 8, 3), 10 * index, np.uint8) for index in range(5)}
    for frames in clips.values():
        frames[4] += 1
    picture = strip(clips, [3, 4], 60, "a red circle")
    height, width = picture.shape[0] // 2, picture.shape[1] // len(clips)
    shown = [[int(picture[row * height + 30, width * index + width // 2, 0]) for index in range(5)] for row in (0, 1)]
    assert shown == [[10 * index + row for index in range(5)] for row in (0, 1)]
