"""The count of odd inputs, without running them."""

import json
import sys

import pytest

from benchmarks.faults import fuzz

FAILED = """<testsuites><testsuite><testcase name="test_prompt"/><testcase name="test_edit"><failure message="took 99 s">trace</failure></testcase>
</testsuite></testsuites>"""


def test_a_report_s_failures_are_told_by_test_and_message(tmp_path):
    (tmp_path / "report.xml").write_text(FAILED, encoding="utf-8")
    assert fuzz.failed(tmp_path / "report.xml") == ["test_edit: took 99 s"]


def test_rounds_go_on_until_so_many_examples_have_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fuzz, "one_round", lambda out, each: (asked.append(each) or 30, []))
    result = fuzz.run(tmp_path, 100)
    assert result == json.loads((tmp_path / "fuzz.json").read_text(encoding="utf-8")) == {"examples": 120, "unexpected": []}
    assert len(asked) == 2 * fuzz.WORKERS and min(asked) >= 1


@pytest.mark.parametrize(("found", "code"), [((5000, []), 0), ((5000, ["test_edit: took 99 s"]), 2), ((0, []), 2)])
def test_it_ends_with_2_where_anything_unexpected_was_found(tmp_path, monkeypatch, found, code):
    monkeypatch.setattr(fuzz, "one_round", lambda out, each: found)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--out", str(tmp_path)])
    assert fuzz.main() == code
