"""Figures of one run stand beside those of others, and an interrupted run leaves the file whole."""

import json
from pathlib import Path

import pytest

from benchmarks.report import command, judge, machine, merge


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_nested_figures_are_merged_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "speed.json"  # neither exists yet
    merge(path, {"temporal": {"step": {"first": 1.0, "all": 2.0}}, "machine": {"cpu": "one"}})
    merge(path, {"temporal": {"step": {"first": 1.5}, "seam": 0.1}})
    assert read(path) == {"temporal": {"step": {"first": 1.5, "all": 2.0}, "seam": 0.1}, "machine": {"cpu": "one"}}


def test_a_figure_takes_the_place_of_a_dict_and_a_dict_that_of_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    merge(path, {"a": {"b": 1}, "c": 2})
    merge(path, {"a": 3, "c": {"d": 4}})
    assert read(path) == {"a": 3, "c": {"d": 4}}


def test_what_cannot_be_written_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "speed.json"
    merge(path, {"a": 1})

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no room"):
        merge(path, {"a": 2})
    with pytest.raises(TypeError):
        merge(path, {"a": object()})
    assert read(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("text", "sentence"), [("{", "no JSON"), ("[]", "a JSON list, not an object")])
def test_a_file_that_holds_no_figures_is_not_overwritten(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "speed.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        merge(path, {"a": 1})
    assert path.read_text() == text


def test_the_machine_is_named_with_its_versions(tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "1.2.3"\n')
    found = machine(tmp_path)
    assert found["cpu"] and found["cores"] >= 1 and found["memory_gib"] >= 1
    assert found["comfyui"] == "1.2.3"
    assert {"torch", "python", "blade", "system"} <= found.keys()


PARTS = {"one": lambda subject, out, quick: quick, "two": lambda subject, out, quick: (out / "there").is_dir()}


def run(monkeypatch, tmp_path: Path, *given: str, **settings) -> int:
    monkeypatch.setattr("sys.argv", ["benchmark", "--out", str(tmp_path), *given])
    return command("What it is.\nMore.", PARTS | settings.pop("parts", {}), "out", "less", subject=lambda chosen: chosen.out, **settings)


def test_a_missed_goal_is_the_exit_status_and_parts_are_chosen_by_name(monkeypatch, tmp_path: Path, capsys) -> None:
    reported = []
    assert run(monkeypatch, tmp_path, report=lambda subject, out: reported.append((subject, out))) == 2
    assert capsys.readouterr().out.splitlines()[::2] == ["MISSED one (0.0 min)", "MISSED two (0.0 min)"]
    assert reported == [(tmp_path, tmp_path)]
    (tmp_path / "there").mkdir()
    assert run(monkeypatch, tmp_path, "--only", "two") == run(monkeypatch, tmp_path, "--quick") == 0
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "--only", "two,three")
    assert "no part 'three': take from one, two" in capsys.readouterr().err


def test_what_cannot_run_ends_with_a_sentence_and_no_report(monkeypatch, tmp_path: Path, capsys) -> None:
    def refuse(*_: object) -> bool:
        raise ValueError("no such clip")

    assert run(monkeypatch, tmp_path, parts={"one": refuse}, report=lambda *_: pytest.fail("reported")) == 1
    assert capsys.readouterr().err == "The benchmark failed: no such clip\n"


def test_every_goal_is_printed_and_one_that_is_missed_counts(capsys) -> None:
    assert judge({"a": (1.23456, "at least", 1), "b": (0, "at most", 0)})
    assert not judge({"a": (1.0, "at most", 0.5), "b": (0, "at most", 0)})
    assert capsys.readouterr().out.splitlines() == [
        "met    a: 1.235, at least 1",
        "met    b: 0, at most 0",
        "MISSED a: 1, at most 0.5",
        "met    b: 0, at most 0",
    ]
