"""tools.translations on two small nodes: each thing that can be wrong with a translation is found, and named by its node and input."""

import json
import re

import pytest

from tools.translations import (
    LANGUAGES,
    LOCALES,
    MARKS,
    STAMPS,
    english_texts,
    faults,
    flat,
    option_names,
    read,
    stamped,
    translated_texts,
    up_to_date,
)

INFO = {
    "BLADE_Paint": {
        "display_name": "Paint Mask (BLADE)",
        "description": 'Paints what the words name: "red car".',
        "input": {
            "required": {
                "brush_size": ["INT", {"tooltip": "In pixels; -1 takes 8x8."}],
                "mode": ["COMBO", {"options": ["soft", "hard"], "tooltip": "soft: fades by brush_size."}],
            },
            "optional": {"vae": ["VAE", {}]},
        },
        "output_name": ["mask"],
        "output_tooltips": ["For Paint Mask."],
    },
    "BLADE_Again": {
        "display_name": "Again (BLADE)",
        "description": "Paints once more.",
        "input": {"required": {"brush_size": ["INT", {"tooltip": "In pixels; -1 takes 8x8."}]}},
        "output_name": [],
        "output_tooltips": [],
    },
    "KSampler": {"display_name": "KSampler"},
}
GERMAN = {
    "BLADE_Paint": {
        "display_name": "Maske malen (BLADE)",
        "description": "Malt, was die Wörter nennen: „red car“.",
        "inputs": {
            "brush_size": {"name": "Pinselgröße", "tooltip": "In Pixeln; -1 nimmt 8x8."},
            "mode": {"name": "Art", "tooltip": "soft: blendet um Pinselgröße aus."},
            "vae": {"name": "VAE"},
        },
        "outputs": {"0": {"name": "Maske", "tooltip": "Für Maske malen."}},
    },
    "BLADE_Again": {
        "display_name": "Noch einmal (BLADE)",
        "description": "Malt noch einmal.",
        "inputs": {"brush_size": {"name": "Pinselgröße", "tooltip": "In Pixeln; -1 nimmt 8x8."}},
    },
}
SIZE, MODE = "BLADE_Paint.inputs.brush_size", "BLADE_Paint.inputs.mode"


@pytest.fixture
def english():
    return english_texts(INFO)


@pytest.fixture
def german():
    return flat(GERMAN)


def found(english, german, stamps=None):
    return faults(english, option_names(INFO), german, stamped(english, german, {}) if stamps is None else stamps)


def test_texts_are_those_of_the_pack_that_the_page_shows(english):
    assert english.keys() == flat(GERMAN).keys()
    assert english[f"{SIZE}.name"] == "brush_size" and english["BLADE_Paint.outputs.0.tooltip"] == "For Paint Mask."


def test_a_faithful_translation_has_no_faults(english, german):
    assert found(english, german) == []


@pytest.mark.parametrize("lost", flat(GERMAN))
def test_a_text_without_translation_is_named(english, german, lost):
    del german[lost]
    assert f"{lost}: has no translation of {english[lost]!r}" in found(english, german)


def test_an_empty_translation_is_none(english, german):
    assert any(fault.startswith(f"{SIZE}.tooltip: has no translation") for fault in found(english, german | {f"{SIZE}.tooltip": ""}))


def test_a_translation_of_what_does_not_exist_is_named(english, german):
    assert found(english, german | {"BLADE_Paint.inputs.colour.name": "Farbe"}) == ["BLADE_Paint.inputs.colour.name: there is no such text"]


def test_a_record_of_what_does_not_exist_is_named(english, german):
    stamps = stamped(english, german, {}) | {"BLADE_Gone.description": "1 2"}
    assert found(english, german, stamps) == ["BLADE_Gone.description: there is no such text"]


def test_a_changed_english_text_is_named_until_it_is_translated_again(english, german):
    stamps = stamped(english, german, {})
    changed = english | {f"{MODE}.tooltip": "soft: fades out by brush_size."}
    (fault,) = found(changed, german, stamps)
    assert fault.startswith(f"{MODE}.tooltip: the English text has changed since it was translated, to 'soft: fades out")
    assert len(found(changed, german, stamped(changed, german, stamps))) == 1  # the record alone does not mend it
    assert found(changed, german, stamped(changed, german, stamps, as_is=True)) == []
    again = german | {f"{MODE}.tooltip": "soft: blendet um Pinselgröße ganz aus."}
    assert found(changed, again, stamped(changed, again, stamps)) == []


def test_a_translation_that_was_never_recorded_is_named(english, german):
    stamps = stamped(english, german, {})
    del stamps[f"{SIZE}.tooltip"]
    assert found(english, german, stamps) == [f"{SIZE}.tooltip: no record says from which English text it was translated"]


def test_of_what_is_up_to_date_only_the_words_can_be_wrong(english, german):
    """A text that is new, one that has changed, one that is gone and one that was never recorded wait until they are translated."""
    stamps = stamped(english, german, {})
    del stamps[f"{MODE}.name"]
    changed = english | {"BLADE_Again.description": "Paints twice.", "BLADE_Paint.inputs.new_one.name": "new_one"}
    del changed["BLADE_Paint.inputs.vae.name"]
    wrong = german | {f"{SIZE}.tooltip": "In Pixeln; 1 nimmt 8x8."}
    places = up_to_date(changed, wrong, stamps)
    assert places == german.keys() - {"BLADE_Again.description", f"{MODE}.name", "BLADE_Paint.inputs.vae.name"}
    current = [{place: text for place, text in of.items() if place in places} for of in (changed, wrong, stamps)]
    number, _ = faults(current[0], option_names(INFO), *current[1:])
    assert number == f"{SIZE}.tooltip: lacks numbers of the English text: -1"


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        ("BLADE_Again.description", "Paints once more.", "is still in English"),
        (f"{MODE}.name", "Mode", "is still in English"),
        ("BLADE_Again.display_name", "Noch einmal", "does not end with ' (BLADE)'"),
        ("BLADE_Again.description", "Malt {einmal} mehr.", "holds one of { } @ |"),
        ("BLADE_Again.description", "Malt oder | malt nicht.", "holds one of { } @ |"),
        ("BLADE_Paint.description", "Malt „rotes Auto“.", 'lacks the example "red car"'),
        (f"{MODE}.tooltip", "weich: blendet um Pinselgröße aus.", "does not name the option 'soft'"),
        (f"{MODE}.tooltip", "soft: blendet um Stiftbreite aus.", "calls 'brush_size' otherwise than the page does: 'Pinselgröße'"),
        ("BLADE_Paint.outputs.0.tooltip", "Für Maskenmaler.", "calls 'Paint Mask' otherwise than the page does: 'Maske malen'"),
    ],
)
def test_a_wrong_translation_is_named(english, german, place, text, fault):
    (told,) = found(english, german | {place: text})
    assert told.startswith(f"{place}: ") and fault in told


def test_numbers_must_be_the_same_and_texts_that_are_the_same_translated_alike(english, german):
    number, alike = found(english, german | {f"{SIZE}.tooltip": "In Pixeln; 1 nimmt 8x8."})
    assert number == f"{SIZE}.tooltip: lacks numbers of the English text: -1"
    assert alike == f"{SIZE}.tooltip: the same text is translated otherwise at BLADE_Again.inputs.brush_size.tooltip"


def test_the_files_are_the_languages_and_of_one_form():
    files = sorted(LOCALES.rglob("*.json"))
    assert files == sorted([STAMPS, *(LOCALES / language / "nodeDefs.json" for language in LANGUAGES)])
    for file in files:
        assert file.read_text(encoding="utf-8") == json.dumps(read(file), indent=2, ensure_ascii=False) + "\n", file
    assert read(STAMPS).keys() == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_show_every_translation_an_old_one_too(language):
    assert [place for place, text in translated_texts(language).items() if MARKS.search(text)] == []


@pytest.mark.parametrize(("language", "letters"), [("zh", r"[\u4e00-\u9fff]"), ("ja", r"[\u3040-\u30ff]")])
def test_a_language_is_written_in_its_own_script(language, letters):
    """Japanese has letters that Chinese has not: neither file may stand in the other's place."""
    texts = {place: text for place, text in translated_texts(language).items() if place.endswith((".tooltip", ".description"))}
    assert texts and [place for place, text in texts.items() if not re.search(letters, text)] == []
    if language == "zh":
        assert [place for place, text in texts.items() if re.search(r"[\u3040-\u30ff]", text)] == []
