"""The command line of the speed figures: which parts run, and what a missed goal or a failed prompt ends with."""

import sys

import pytest

from benchmarks.speed import __main__ as speed
from runner.host import HostError


@pytest.fixture
def parts(monkeypatch, tmp_path) -> list:
    """Two parts that do nothing but note what they were given; the second misses its goal."""
    calls: list = []

    def part(name: str, met: bool):
        return lambda comfy, out, quick: calls.append((name, comfy, out, quick)) or met

    monkeypatch.setattr(speed, "PARTS", {"one": part("one", True), "two": part("two", False)})
    monkeypatch.setattr(speed, "find_comfy", lambda cache: tmp_path)
    return calls


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    return speed.main()


def test_all_parts_run_in_their_order_and_a_missed_goal_ends_with_2(monkeypatch, parts, tmp_path) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "out")) == 2
    assert parts == [("one", tmp_path, tmp_path / "out", False), ("two", tmp_path, tmp_path / "out", False)]


def test_tables_are_written_of_what_the_parts_measured(monkeypatch, parts, tmp_path) -> None:
    written = []
    monkeypatch.setattr(speed, "write_report", lambda out: written.append((out, len(parts))))
    run(monkeypatch, "--out", str(tmp_path / "out"))
    assert written == [(tmp_path / "out", 2)]


def test_the_usage_names_every_part_in_its_order() -> None:
    assert f"[--only {','.join(speed.PARTS)}]" in speed.__doc__


def test_only_the_named_parts_run(monkeypatch, parts) -> None:
    assert run(monkeypatch, "--only", "one", "--quick") == 0
    assert [(name, quick) for name, _, _, quick in parts] == [("one", True)]


def test_an_unknown_part_is_refused_with_those_there_are(monkeypatch, parts, capsys) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--only", "one,three")
    assert "no part 'three': take from one, two" in capsys.readouterr().err
    assert parts == []


def test_a_prompt_that_fails_ends_with_1_and_its_sentence(monkeypatch, parts, capsys) -> None:
    def fail(*_: object) -> bool:
        raise HostError("it did not start")

    monkeypatch.setitem(speed.PARTS, "one", fail)
    assert run(monkeypatch, "--only", "one") == 1
    assert "it did not start" in capsys.readouterr().err
