"""What `nox -s faults` says of what it found."""

import pytest

from benchmarks.faults.__main__ import CELLS, ending, markdown
from benchmarks.faults.cells import AT_ONCE, IN_A_PROCESS_OF_ITS_OWN, STAGES, TENSOR_FAULTS, Fresh, name_of_a_part
from benchmarks.faults.graph import Ran, graph
from benchmarks.faults.soak import SETTINGS, settings
from runner.host import Outcome

STATE = {kind: [] for kind in AT_ONCE}
FRESH = Fresh({"digest of a": "1", "digest of b": "2"}, ["whole"], STATE, {}, 1.0, {"digest of core": "3"})


def ran(error=None, state=STATE, digests=FRESH.digests, files=None):
    return Ran(Outcome(error=error), state, digests, files or {})


def test_there_are_more_cells_than_the_goal_asks_for():
    tensor = sum(not place.endswith(".passing") for place in STAGES)
    assert tensor * len(TENSOR_FAULTS) + len(STAGES) - tensor + sum(map(len, IN_A_PROCESS_OF_ITS_OWN.values())) > CELLS
    assert {place for places in IN_A_PROCESS_OF_ITS_OWN.values() for place in places} <= STAGES.keys()


def test_every_stage_has_a_door_in_the_graph():
    doors = {node["inputs"]["name"] for node in graph(0).values() if node["class_type"].startswith("Fault") and "name" in node["inputs"]}
    assert {place.split(".")[0] for place in STAGES} <= doors


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
