"""locales/ against what a real server says of the nodes, and as it hands it to the page."""

import pytest

from tools.translations import LANGUAGES, LOCALES, STAMPS, english_texts, faults, option_names, read, translated_texts, up_to_date


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_translated_from_the_present_english_is_translated_rightly(server, language):
    """Texts that are new or changed since wait for the release."""
    info = server.object_info()
    texts = english_texts(info), translated_texts(language), read(STAMPS).get(language, {})
    places = up_to_date(*texts)
    english, translated, stamps = ({place: text for place, text in of.items() if place in places} for of in texts)
    found = faults(english, option_names(info), translated, stamps)
    assert places and not found, "\n".join(found)


@pytest.mark.release
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_from_the_english_that_the_nodes_have_now(server, language):
    """Once a translation is right again: `python -m tools.translations --stamp`."""
    info = server.object_info()
    found = faults(english_texts(info), option_names(info), translated_texts(language), read(STAMPS).get(language, {}))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_hands_the_translations_to_the_page(server, language):
    handed = server.translations()[language]["nodeDefs"]
    ours = read(LOCALES / language / "nodeDefs.json")
    assert ours and {name: handed.get(name) for name in ours} == ours
