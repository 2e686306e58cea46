"""The command line of the speed figures: which parts run, what they write, and what a missed goal or a failed prompt ends with."""

import json
import sys

import pytest

from benchmarks import report
from benchmarks.speed import __main__ as speed
from runner.host import HostError


@pytest.fixture
def parts(monkeypatch, tmp_path) -> list:
    """Two questions that only note what they were given; the second one's goal is missed."""
    calls: list = []

    def one(comfy, out, quick) -> dict:
        calls.append(("one", comfy, out, quick))
        return {"inversion": {"ratio_to_stock": 1.0}}

    def two(comfy, out, quick) -> dict:
        calls.append(("two", comfy, out, quick))
        return {"overhead": {"recording": 0.04}}

    monkeypatch.setattr(speed, "PARTS", {question.__name__: speed.part(question) for question in (one, two)})
    monkeypatch.setattr(speed, "start_comfy", lambda comfy: None)
    monkeypatch.setattr(speed, "machine", lambda comfy: {"cpu": "any"})
    monkeypatch.setattr(report, "find_comfy", lambda cache: tmp_path)
    return calls


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    return speed.main()


def test_all_parts_run_in_their_order_and_a_missed_goal_ends_with_2(monkeypatch, parts, tmp_path) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "out")) == 2
    assert parts == [("one", tmp_path, tmp_path / "out", False), ("two", tmp_path, tmp_path / "out", False)]


def test_what_the_parts_measured_is_written_printed_and_told_in_tables(monkeypatch, parts, tmp_path, capsys) -> None:
    run(monkeypatch, "--out", str(tmp_path))
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert found == {
        "machine": {"one": {"cpu": "any"}, "two": {"cpu": "any"}},
        "inversion": {"ratio_to_stock": 1.0},
        "overhead": {"recording": 0.04},
    }
    told, printed = (tmp_path / "speed.md").read_text(encoding="utf-8"), capsys.readouterr().out
    for line in (
        "| DDIM Invert with its record, of stock KSampler's time | 1 | at most 1.05 | met |",
        "| recording adds | 0.04 | at most 0.03 | MISSED |",
    ):
        assert line in told and printed.count(line) == 1  # each part prints its own
    assert (tmp_path / "speed.png").exists()


def test_the_usage_names_every_part_in_its_order() -> None:
    assert f"[--only {','.join(speed.PARTS)}]" in speed.__doc__


def test_only_the_named_parts_run(monkeypatch, parts, tmp_path) -> None:
    assert run(monkeypatch, "--only", "one", "--quick", "--out", str(tmp_path)) == 0
    assert [(name, quick) for name, _, _, quick in parts] == [("one", True)]


def test_an_unknown_part_is_refused_with_those_there_are(monkeypatch, parts, capsys) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--only", "one,three")
    assert "no part 'three': take from one, two" in capsys.readouterr().err
    assert parts == []


def test_a_prompt_that_fails_ends_with_1_and_its_sentence(monkeypatch, parts, capsys) -> None:
    def fail(*_: object) -> dict:
        raise HostError("it did not start")

    monkeypatch.setitem(speed.PARTS, "one", speed.part(fail))
    assert run(monkeypatch, "--only", "one") == 1
    assert "it did not start" in capsys.readouterr().err
