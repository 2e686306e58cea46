"""Figures of one run stand beside those of others, and an interrupted run leaves the file whole."""

import json
from pathlib import Path

import pytest

from benchmarks.report import machine, merge


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
