"""What the demo measures, on edits whose quality is known because they are rendered."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo.clips import CLIPS, FRAMES, render, truth
from demo.run import EDITS, MEASURE, add_measuring, goals, measure, seconds_by_stage
from runner.graphs import to_prompt
from tests.clips import render_clip

HERE = Path(__file__).resolve().parents[1] / "runner"
CASES = [("colour", "blade_red_circle"), ("shape", "blade_yellow_square")]


def perfect(edit: str, clip: str) -> dict[str, np.ndarray]:
    """What a perfect edit leaves: the object painted anew in its place, nothing else touched."""
    source, scene, aim = render(clip), CLIPS[clip], EDITS[edit]
    thing = replace(scene.thing, colour=aim.colour, shape=aim.shape)
    edited, masks = render_clip(scene.seed, [thing], scene.ground, FRAMES, scene.velocity, scene.spin)
    mask = np.maximum(masks, truth(clip))
    return {"source": source, "round_trip": source, "edited": edited, "mask": mask, "composite": edited, "composite_mask": mask}


@pytest.mark.parametrize(("edit", "clip"), CASES)
def test_a_perfect_edit_meets_every_goal(edit: str, clip: str) -> None:
    figures = measure(perfect(edit, clip), clip, EDITS[edit])
    assert figures["background_psnr_db"] == dict.fromkeys(("vae_round_trip", "latent_blend", "latent_blend_vs_vae", "composite"), 100)
    assert figures["mask_iou"] == 1 and figures["object_colour_ok"] == 1 and figures["composite_pixels_changed_outside"] == 0
    assert all(goals(figures).values())


@pytest.mark.parametrize(("edit", "clip"), CASES)
def test_the_clip_itself_is_no_edit(edit: str, clip: str) -> None:
    clips = perfect(edit, clip) | {"edited": render(clip), "composite": render(clip)}
    figures = measure(clips, clip, EDITS[edit])
    assert figures["object_colour_ok" if edit == "colour" else "object_shape_ok"] == 0
    assert not all(goals(figures).values())


def test_only_the_background_beyond_the_margin_counts() -> None:
    clips = perfect("colour", "blade_red_circle")
    edited = clips["edited"].copy()
    edited[:, -4:] = 0  # the circle never comes down here
    figures = measure(clips | {"edited": edited}, "blade_red_circle", EDITS["colour"])
    assert figures["background_psnr_db"]["latent_blend"] < 25
    assert figures["background_psnr_db"]["vae_round_trip"] == 100
    true, five = figures["background_psnr_db"]["latent_blend"], figures["background_psnr_db_five_convention"]["latent_blend"]
    assert true < five


def test_a_composite_that_touches_one_pixel_outside_its_mask_misses_the_goal() -> None:
    clips = perfect("colour", "blade_red_circle")
    composite = clips["composite"].copy()
    composite[3, -1, -1, 0] ^= 1
    figures = measure(clips | {"composite": composite}, "blade_red_circle", EDITS["colour"])
    assert figures["composite_pixels_changed_outside"] == 1
    assert [goal for goal, met in goals(figures).items() if not met] == ["composite changes no pixel outside its mask"]


def graph(edit: str) -> dict:
    workflow = json.loads((HERE.parents[1] / "workflows" / f"{EDITS[edit].workflow}.json").read_text(encoding="utf-8"))
    return to_prompt(workflow, json.loads((HERE / "object_info.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("edit", EDITS)
def test_measuring_adds_nodes_and_changes_none(edit: str) -> None:
    prompt = graph(edit)
    more = add_measuring(prompt, "run")
    assert {node: more[node] for node in prompt} == prompt
    saved = {node["_meta"]["title"] for name, node in more.items() if name.startswith(MEASURE) and node["class_type"] == "SaveImage"}
    assert saved == {"source", "round_trip", "edited", "mask", "composite", "composite_mask"}


def test_a_graph_with_two_samplers_is_not_measured() -> None:
    prompt = graph("colour")
    sampler = next(node for node in prompt.values() if node["class_type"] == "BLADE_BlendedSampler")
    with pytest.raises(ValueError, match="has 2 nodes of type BLADE_BlendedSampler"):
        add_measuring({**prompt, "99": sampler}, "run")


def test_seconds_are_told_by_title_and_measuring_is_one_stage() -> None:
    class Outcome:
        seconds = {"1": 2.0, "2": 0.5, "measure_a": 1.0, "measure_b": 0.25}

    prompt = {"1": {"_meta": {"title": "Prompt"}}, "2": {"_meta": {"title": "Prompt"}}}
    assert seconds_by_stage(prompt, Outcome()) == {"Prompt": 2.5, "measuring": 1.25}
