"""What `nox -s faults` says of what it found."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from benchmarks.faults import soak
from benchmarks.faults.__main__ import GOAL, ending, markdown
from benchmarks.faults.cells import AT_ONCE, CELLS, IN_A_PROCESS_OF_ITS_OWN, REFUSED, STAGES, Fresh, name_of_a_part
from benchmarks.faults.graph import EDIT, FRAMES, Ran, graph
from benchmarks.faults.soak import SETTINGS, settings
from runner.host import Outcome

STATE = {kind: [] for kind in AT_ONCE}
FRESH = Fresh({"digest of a": "1", "digest of b": "2"}, ["whole"], STATE, {}, 1.0, {"digest of core": "3"})


def ran(error=None, state=STATE, digests=FRESH.digests, files=None):
    return Ran(Outcome(error=error), state, digests, files or {})


def test_there_are_more_cells_than_the_goal_asks_for():
    assert len([place for place, kind in CELLS if kind != REFUSED]) > GOAL and len(CELLS) == len(set(CELLS))
    assert {place for places in IN_A_PROCESS_OF_ITS_OWN.values() for place in places} <= STAGES.keys()


def test_every_stage_has_a_door_in_the_graph():
    doors = {node["inputs"]["name"] for node in graph(0).values() if node["class_type"] == "FaultDoor"}
    assert {place.split(".")[0] for place in STAGES} <= doors


def test_the_prompts_tell_of_the_clip_that_is_edited():
    made, core = graph(7), graph(7, "core")
    texts = EDIT.clip.source_prompt, EDIT.target_prompt, ""
    assert tuple(made[f"text of {name}"]["inputs"]["value"] for name in ("source", "target", "negative")) == texts
    assert made["mask"]["inputs"]["words"] == made["edited"]["inputs"]["source_words"] == EDIT.source_words
    assert made["edited"]["inputs"]["target_words"] == EDIT.target_words
    assert core["words"]["inputs"]["text"] == EDIT.clip.source_prompt
    assert {made[name]["inputs"]["frame_count"] for name in ("latent", "frames")} == {core["empty"]["inputs"]["batch_size"]} == {FRAMES}


def test_another_number_changes_what_is_done_anew_and_nothing_else():
    for name in ("edit", "core"):
        one, other = graph(1, name), graph(2, name)
        differing = {key for key in one if one[key] != other[key]}
        assert differing == ({"anew"} if name == "core" else {"start", "text of source", "text of target", "text of negative"})


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (ran(), []),
        (ran(state=STATE | {"threads": ["left"]}), ["threads: [] -> ['left']"]),
        (ran(files={"a.mkv": "half"}), ["file a.mkv: half"]),
        (ran(files={"a.mkv": "whole"}), []),
        (ran(digests={"digest of a": "1", "digest of b": "other"}), ["digest of b differs"]),
        (ran(digests={"digest of a": "1"}), ["digest of b differs"]),
        (ran(state=STATE | {"leaks": [1, 2]}), ["leaks: [] -> [1, 2]"]),
        (ran("it broke"), ["the next prompt fails: it broke"]),
    ],
)
def test_what_is_not_as_in_a_fresh_server_is_told(found, told):
    assert FRESH.unlike(found, ("threads", "leaks")) + FRESH.missed(found) == told


def test_what_cores_own_prompt_gives_is_held_against_its_own():
    found = ran(digests={"digest of core": "other"})
    assert FRESH.missed(found, core=True) == ["digest of core differs"]
    assert FRESH.missed(ran(digests=FRESH.cores), core=True) == []


@pytest.mark.parametrize(
    ("name", "part"), [("faults/.blade_0123456789abcdef.part/edited_00001_.mkv", True), ("faults/edited_00001_.mkv", False)]
)
def test_what_a_killed_process_had_not_named_yet_is_known_by_its_folder(name, part):
    assert name_of_a_part(name) == part


def test_settings_of_the_soak_differ_and_repeat():
    made = [settings(number) for number in range(SETTINGS)]
    assert made == [settings(number) for number in range(SETTINGS)]
    assert len({str(prompt) for prompt in made}) == SETTINGS
    for prompt in made:  # no link leads to a node that was left out
        links = [value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
        assert set(links) <= prompt.keys()


def test_the_table_has_a_row_for_each_stage_and_names_what_is_dirty():
    stages = list(STAGES.values())
    rows = [
        {"stage": stages[0], "fault": "cancel", "end": "interrupted", "dirt": []},
        {"stage": stages[1], "fault": "NaN", "end": "Encode Video (BLADE), input vae: it encodes ...", "dirt": ["threads"]},
    ]
    table = markdown({"table": rows, "cells": 2, "dirty_cells": 1}).splitlines()
    assert table[0] == "|  | cancel | NaN |"
    assert table[2] == f"| {stages[0]} | stopped |  |"
    assert table[3] == f"| {stages[1]} |  | **dirty** a sentence of ours |"
    assert table[-1] == "2 cells, 1 dirty."


def test_the_table_counts_only_the_cancellations_that_stopped_an_edit():
    table = markdown({"random_cancellations": 60, "late_cancellations": 22, "dirty_cancellations": ["1.00 s: threads"]})
    assert table.strip() == "60 edits stopped at random moments, and 22 that had ended by then; 1 dirty."


@pytest.mark.parametrize(
    ("sentence", "cell"),
    [("finished", "finished"), ("the server was killed", "old files whole"), ("RuntimeError", "the fault's own error")],
)
def test_a_cell_says_what_the_artist_gets(sentence, cell):
    assert ending(sentence) == cell


@pytest.mark.parametrize(("quick", "digest", "met"), [(True, "same", True), (True, "other", False), (False, "same", False)])
def test_with_quick_the_growth_of_memory_is_told_and_not_judged(monkeypatch, tmp_path, quick, digest, met):
    """On a server whose memory grows by 1 MiB an edit, and whose second result of any settings is `digest`."""
    edits = []

    def edit(prompt):
        edits.append(prompt)
        held = digest if prompt in edits[:-1] else "same"
        return ran(state=STATE | {"resident": len(edits) * 2**20}, digests={"digest of edited": held})

    host = SimpleNamespace(arm=lambda: None, edit=edit)
    monkeypatch.setattr(soak, "FaultHost", lambda *_: nullcontext(host))
    monkeypatch.setattr(soak, "prepare", lambda base: base)
    assert soak.run_soak(tmp_path, tmp_path, quick) == met
    figures = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["soak"]
    assert figures["different_settings"] == (5 if quick else SETTINGS)
    assert figures["mib_per_edit"] == pytest.approx(1) and figures["edits"] == len(edits) == soak.EDITS[quick]
    assert bool(figures["not_reproduced"]) == (digest == "other")
