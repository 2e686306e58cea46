"""Every sentence that the pack can end a run with: ERRORS.md has it, it says what to do, and the program that sees to both sees what is wrong."""

import re
import sys

import pytest
from coverage import CoverageData

from tools import errors

INSTRUCTIONS = """add begin change choose connect convert count crop encode give invert leave load look lower make move name put read resize save set start
take update upload use write""".split()
FUNCTION = "def check(self, edited, mask, title, fps, audio):\n    {}\n"


def faults(sentence):
    """What the house's rule for such sentences wants and this one lacks, as far as a program can judge."""
    found = []
    if sentence.words < errors.FEWEST_WORDS:
        found.append("has too few words of its own: write the sentence where it is raised")
    if not sentence.quotes and not sentence.part:
        if not sentence.fixed.endswith("."):
            found.append("does not end with a full stop")
        if not re.search(rf"(?:[.:;,]|\band|\bor|\bso) (?:{'|'.join(INSTRUCTIONS)})\b", sentence.fixed, re.IGNORECASE):
            found.append("does not say what to do")
    return found


def test_the_page_is_current():
    assert errors.PAGE.read_text(encoding="utf-8") == errors.page(), "`python -m tools.errors` makes it anew"


def test_every_sentence_says_what_is_wrong_and_what_to_do():
    assert len(errors.sentences()) > 100
    assert {f"{one.file}, {one.function}: {one.text}": wrong for one in errors.sentences() if (wrong := faults(one))} == {}


def test_what_stands_inside_another_sentence_comes_from_where_that_is_known():
    told = {one.text for one in errors.sentences()}
    assert any("is damaged: {reason}. " in text for text in told) and any("cannot be saved: {reason}. " in text for text in told)
    for file, functions in errors.PARTS.items():
        assert functions <= {one.function for one in errors.sentences() if one.file == file}


def test_the_page_s_example_is_one_of_its_sentences():
    example = re.search(r"here \*(.*)\*", errors.PREFACE)[1]
    assert example in re.search(r"^> (.*)$", errors.PREFACE, re.MULTILINE)[1]
    assert len([one for one in errors.sentences() if example in one.text]) > 0


# The program, on a house of one file


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Writes the one file of the pack, video/a.py, and gives its sentences."""
    monkeypatch.setattr(errors, "REPOSITORY", tmp_path)
    (tmp_path / "video").mkdir()

    def write(text):
        (tmp_path / "video" / "a.py").write_text(text, encoding="utf-8")
        errors.source.cache_clear()
        errors.sentences.cache_clear()
        return errors.sentences()

    yield write
    errors.source.cache_clear()
    errors.sentences.cache_clear()


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("raise ValueError(f'it has {len(edited)} frames, not {fps:.2f}.')", "it has {number} frames, not {fps}."),
        ("raise ValueError(f'{edited.shape[2]}x{edited.shape[1]} pixels in {mask.dtype}')", "{width}x{height} pixels in {type}"),
        ("raise ValueError(f'{title}: {self.frame_rate!r} of {list(mask.shape)}')", "{node}: {frame rate} of {shape}"),
        ("raise ValueError(f'at least {2 * CELL}, one of {\", \".join(KINDS)}')", "at least 16, one of a, b"),
        ("raise ValueError(LONG.format(len(mask)))", "before {number}"),
        ("raise ValueError(f'frame {int(mask.argmax()) + 1} of {str(audio)}')", "frame {number} of {audio}"),
        ('raise ValueError(f\'a {"video " if fps else ""}VAE\')', "a (video) VAE"),
        ("far = f'{title} is far'\n    raise ValueError(far)", "{node} is far"),
        ("raise ValueError(self.sentence())", "{sentence}"),
        ("raise ValueError", "{ValueError}"),
    ],
)
def test_a_sentence_reads_with_its_values_in_words(house, statement, text):
    constants = "CELL = 8\nKINDS, LONG = ('a', 'b'), 'before {}'\n"
    (sentence,) = house(constants + FUNCTION.format(statement))
    assert (sentence.text, sentence.file, sentence.function) == (text, "video/a.py", "check")


def test_what_a_check_of_inputs_answers_is_a_sentence_and_what_is_passed_on_is_none(house):
    passed = "try:\n        pass\n    except ValueError as error:\n        raise ValueError(f'{title}: {error}') from error"
    assert house(FUNCTION.format(passed)) == ()
    answer = FUNCTION.format("return f'there is no {title}. Choose one.' if fps else True").replace("audio):", "audio) -> bool | str:")
    assert house(answer.replace(" if fps else True", ""))[0].text == "there is no {node}. Choose one."
    assert house(FUNCTION.format("return f'there is no {title}.'")) == ()


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("'it has no frames. Give at least one.'", []),
        ("f'it has no frames: give {fps} at least.'", []),
        ("f'it has no frames. Name one that has. {audio}'", []),
        ("'it has no frames. Give at least one'", ["does not end with a full stop"]),
        ("'it has no frames to give.'", ["does not say what to do"]),
        ("title", ["has too few words of its own: write the sentence where it is raised", "does not end with a full stop", "does not say what to do"]),
    ],
)  # fmt: skip
def test_a_sentence_that_breaks_the_rule_is_seen(house, message, wrong):
    (sentence,) = house(FUNCTION.format(f"raise ValueError({message})"))
    assert faults(sentence) == wrong


def test_a_reason_that_stands_in_another_s_parentheses_needs_no_instruction(house):
    (reason,) = house(FUNCTION.format("raise OSError(f'its header claims {fps} bytes')"))
    assert faults(reason) == []


@pytest.mark.parametrize(("lines", "left"), [([2, 3, 4, 6, 7], 0), ([2, 3, 6, 7], 0), ([2, 6, 7], 1), ([], 2)])
def test_a_sentence_that_no_test_reaches_is_named_and_fails_the_check(house, tmp_path, monkeypatch, capsys, lines, left):
    house(
        "def check(fps):\n    if fps < 0:\n        raise ValueError(\n            f'{fps} is low.'\n        )\n    if fps > 9:\n        raise ValueError('high.')\n"
    )
    data = CoverageData(str(tmp_path / "data"))
    data.add_lines({str(tmp_path / "video" / "a.py"): lines})
    data.write()
    monkeypatch.setattr(sys, "argv", ["errors", "--untested", str(tmp_path / "data")])
    assert errors.main() == (1 if left else 0)
    out, err = capsys.readouterr()
    assert f"{left} of 2 sentences" in out
    assert err.splitlines() == ["video/a.py:3, check: {fps} is low.", "video/a.py:7, check: high."][:left]


def test_without_a_run_of_the_tests_the_check_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["errors", "--untested", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as caught:
        errors.main()
    assert caught.value.code == 2
    assert "run the tests under coverage first" in capsys.readouterr().err
