import pytest

from blade.attention.words import (
    BYTES,
    Phrase,
    PromptWords,
    Word,
    changed_columns,
    is_parted,
    kind,
    means_all_but,
    quoted,
    read_words,
    squeeze,
)

START, END = "<|startoftext|>", "<|endoftext|>"


def prompt(text, pieces=None, padding=END):
    """A prompt of one chunk from pieces such as "sports</w>", or of the text's words."""
    pieces = [word + "</w>" for word in text.lower().split()] if pieces is None else pieces
    return read_words(text, [[START, *pieces, END] + [padding] * (75 - len(pieces))])


CAR = prompt("A red Sports car, shiny", ["a</w>", "red</w>", "sports</w>", "car</w>", ",</w>", "shi", "ny</w>"])


def test_words_know_their_columns():
    assert [(word.text, word.columns) for word in CAR.words][-1] == ("shiny", (6, 7))
    assert CAR.columns == (1, 2, 3, 4, 5, 6, 7)
    assert CAR.length == 77


@pytest.mark.parametrize(
    ("phrase", "columns"),
    [("car", (4,)), ("SPORTS  Car", (3, 4)), ("car,", (4,)), ("shiny", (6, 7)), ("red sports car", (2, 3, 4))],
)
def test_a_phrase_is_found_whatever_its_case_and_punctuation(phrase, columns):
    assert CAR.find(phrase) == columns


def test_every_occurrence_counts():
    assert prompt("cat cat", ["cat</w>", "cat</w>"]).find("cat") == (1, 2)


def test_a_part_of_a_word_is_not_the_word():
    with pytest.raises(ValueError):
        CAR.find("shi")


def test_a_missing_word_is_named_with_the_prompts_words_and_the_nearest():
    with pytest.raises(ValueError, match=r"'cat' is not in the prompt.*a, red, sports, car, shiny.*Did you mean 'car'"):
        CAR.find("cat")


def test_padding_by_zero_is_no_word():
    """SD2's and SDXL's second tokenizer pad with "!"."""
    assert [word.text for word in prompt("cat", ["cat</w>"], padding="!</w>").words] == ["cat"]


def test_a_word_goes_on_in_the_next_chunk():
    chunks = [[START, "a</w>", *["x</w>"] * 73, "shi", END], [START, "ny</w>", "cat</w>", *[END] * 74]]
    words = read_words("a ... shiny cat", chunks)
    assert words.find("shiny") == (75, 78)
    assert words.find("cat") == (79,)
    assert words.length == 154


def test_letters_beyond_ascii_are_read_from_the_vocabularys_bytes():
    cafe = prompt("Café", ["caf", "Ã©</w>"])
    assert [word.text for word in cafe.words] == ["café"]
    assert cafe.find("CAFÉ") == cafe.find("CAFE\u0301") == (1, 2)


TWO = prompt("a red car, a road, a red car and a blue car", [
    "a</w>", "red</w>", "car</w>", ",</w>", "a</w>", "road</w>", ",</w>", "a</w>", "red</w>", "car</w>", "and</w>", "a</w>", "blue</w>", "car</w>"
])  # fmt: skip


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        ("Road", [("Road", (6,), 1.0)]),
        ("blue car, road", [("blue car", (13, 14), 1.0), ("road", (6,), 1.0)]),
        (" , road ,, ", [("road", (6,), 1.0)]),
        ("(road:0.5)", [("road", (6,), 0.5)]),
        ("road : 2", [("road", (6,), 2.0)]),
        ("(road)", [("road", (6,), 1.0)]),
        ("car#2", [("car", (10,), 1.0)]),
        ("red car #2", [("red car", (9, 10), 1.0)]),
        ("(-road:-0.5)", [("road", (6,), 0.5)]),
        ("blue car, car#2", [("blue car", (13, 14), 1.0), ("car", (10,), 1.0)]),
    ],
)
def test_phrases_are_chosen_with_weight_and_occurrence(written, chosen):
    assert TWO.choose(written) == tuple(Phrase(*phrase) for phrase in chosen)


@pytest.mark.parametrize("road", ["-road:0.5", "-(road:0.5)", "(-road:0.5)", "road:-0.5", "- road#1:0.5", "-(road#1:0.5)"])
def test_a_sign_pushes_the_mask_away_wherever_it_stands(road):
    assert TWO.choose(f"car#1, {road}") == (Phrase("car", (3,)), Phrase("road", (6,), -0.5))


def test_a_sign_alone_is_a_weight_of_minus_one():
    assert TWO.choose("blue, -road")[1].weight == -1.0


@pytest.mark.parametrize(
    ("phrase", "pieces"),
    [
        ("t-shirt", ["t</w>", "-</w>", "shirt</w>"]),
        ("X-ray", ["x</w>", "-</w>", "ray</w>"]),
        ("16:9", ["1</w>", "6</w>", ":</w>", "9</w>"]),
        ("no#2", ["no</w>", "#</w>", "2</w>"]),
    ],
)
def test_marks_of_the_prompt_itself_belong_to_the_word(phrase, pieces):
    words = prompt(f"a {phrase}", ["a</w>", *pieces])
    columns = tuple(range(2, 2 + len(pieces)))
    assert words.choose(phrase) == (Phrase(phrase, columns),)
    assert words.choose(f"a, -({phrase}#1:0.5)")[1] == Phrase(phrase, columns, -0.5)


def test_a_number_in_the_prompt_is_not_taken_for_a_weight_or_an_occurrence():
    words = prompt("car 2 car")
    assert words.choose("car:2, car#2") == (Phrase("car", (1, 3), 2.0), Phrase("car", (3,)))


def test_overlapping_occurrences_are_counted_each():
    words = prompt("very very very big")
    assert words.find("very very") == (1, 2, 3)
    assert words.choose("very very#2")[0].columns == (2, 3)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "no word was given"),
        (" , ", "no word was given"),
        ("car, raod", r"'raod' is not in the prompt.*Did you mean 'road'"),
        ("-", "the word '-' is not in the prompt"),
        ("-  ", "the word '-' is not in the prompt"),
        ("car#4", r"'car' occurs 3 times.*no car#4"),
        ("road#2", r"'road' occurs once"),
        ("car#0", r"Count them from 1"),
        ("car#two", r"'two' is no occurrence of 'car'"),
        ("road:0", r"'0' is no weight for 'road'"),
        ("road:half", r"'half' is no weight.*Its words are: a, red"),
        ("road:", r"'' is no weight"),
        ("road:nan", "finite number"),
        ("(road:inf)", "finite number"),
        ("(car, road:0.5)", "Put them around one phrase"),
        ("-road, car:-2", "Add a word that it is drawn towards"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_what_to_do(written, message):
    with pytest.raises(ValueError, match=message):
        TWO.choose(written)


@pytest.mark.parametrize(
    ("text", "asked", "meant"),
    [
        ("a purple circle on grass", "blue circle", "purple circle"),
        ("a crimson circle on grass", "blue circle", "crimson circle"),
        ("a red square and a purple circle", "purple circles", "purple circle"),
        ("a circle on grass", "blue circle", "circle"),
        ("a circle on blue grass", "blue circle", "blue, circle"),
        ("a big purple circle and a circle", "big blue circle", "big purple circle"),
        ("a red ♥ on grass", "blue ♥", "red ♥"),
        ("a red car", "rd", "red"),
    ],
)
def test_the_best_match_is_offered_a_phrase_for_a_phrase(text, asked, meant):
    """ "a" and "on" do not make a word a phrase."""
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        spelled(text).choose(asked)


def test_what_is_like_nothing_in_the_prompt_has_no_hint():
    with pytest.raises(ValueError, match=r"Its words are: a, red, square\.$"):
        prompt("a red square").choose("blue lion")


def test_what_is_missing_is_called_a_word_or_a_phrase():
    for asked, called in (("lion", "word 'lion'"), ("t-shirt", "word 't-shirt'"), ("blue lion", "phrase 'blue lion'")):
        with pytest.raises(ValueError, match=f"the {called} is not in the prompt"):
            TWO.choose(asked)


# Symbols: CLIP writes them by bytes, several tokens a character or several characters a token, and takes a row of them for one word


def spelled(text, row=None):
    """A prompt of one token a word or, where these are given, of one word of the tokens `row`, texts or bytes, in the vocabulary's spelling."""
    letters = {byte: letter for letter, byte in BYTES.items()}
    tokens = row or text.lower().split()
    pieces = ["".join(letters[byte] for byte in (token if isinstance(token, bytes) else token.encode())) for token in tokens]
    return prompt(text, [*(piece + "</w>" * (row is None) for piece in pieces[:-1]), pieces[-1] + "</w>"])


MELTING = "\U0001fae0"  # of Unicode 14, which Python 3.10 does not know
ASTRONAUT = "\U0001f469\u200d\U0001f680"  # a woman and a rocket, joined
THUMB, PALE, DARK = "\U0001f44d", "\U0001f3fb", "\U0001f3ff"


@pytest.mark.parametrize("symbol", ["🔴", "♥", "★", "車", "+", "❤\ufe0f", ASTRONAUT, THUMB + DARK, "🇩🇪", MELTING, "½"])
def test_a_symbol_is_a_word(symbol):
    words = spelled(f"a red {symbol} on grass")
    assert words.choose(f"{symbol}:0.5") == (Phrase(symbol, (3,), 0.5),)
    assert words.choose(f"red {symbol}") == (Phrase(f"red {symbol}", (2, 3)),)
    assert changed_columns(words, spelled("a red ○ on grass")) == ((3,), (3,))
    with pytest.raises(ValueError, match="the phrase 'red ○' is not in the prompt.*red, .*, on, grass"):
        words.choose("red ○")


@pytest.mark.parametrize(("one", "other"), [("🔴", "🔵"), ("♥", "★"), ("!!!", "???"), (THUMB + PALE, THUMB + DARK), ("की", "का")])
def test_two_symbols_differ(one, other):
    assert changed_columns(spelled(f"a {one} on grass"), spelled(f"a {other} on grass")) == ((2,), (2,))


@pytest.mark.parametrize("marks", ["!!!", "…", "&", "?!"])
def test_punctuation_is_a_word_where_nothing_else_was_asked_for(marks):
    words = spelled(f"a red {marks} on grass")
    assert words.find(marks) == (3,)
    assert words.find(f"red {marks}") == words.find("red") == (2,)
    with pytest.raises(ValueError, match="is not in the prompt"):
        words.find("!?")


def test_a_symbol_is_found_whichever_look_is_picked_for_it():
    assert spelled("a ❤\ufe0f").find("❤") == spelled("a ❤").find("❤\ufe0f") == (2,)


def test_a_minus_alone_is_a_word():
    words = spelled("red - blue")
    assert words.choose("red, --") == (Phrase("red", (1,)), Phrase("-", (2,), -1.0))
    assert words.choose("-") == (Phrase("-", (2,)),)


ROW = {
    "two symbols": (["🔴", "🔵,"], ["🔴", "🔵,"]),
    "a symbol and a word of punctuation": (["★", "!"], ["★", "!"]),
    "ideographs, a token ending inside one": ([b"\xe7", b"\xba\xa2", "圆"], ["红", "圆"]),
    "two emoji of several characters": (["❤\ufe0f", "🔥", THUMB, PALE, THUMB + DARK], ["❤\ufe0f", "🔥", THUMB + PALE, THUMB + DARK]),
    "one emoji, joined": (["\U0001f469\u200d", "\U0001f680"], [ASTRONAUT]),
    "one flag": (["\U0001f1e9", "\U0001f1ea"], ["🇩🇪"]),
    "letters": (["shi", "ny"], ["shiny"]),
    "punctuation": (["!!", "??"], ["!!??"]),
    "two symbols in one token": (["♥♥"], ["♥♥"]),
    "a token that ends inside two symbols": (["🔴".encode() + b"\xf0", "🔵".encode()[1:]], ["🔴🔵"]),
}


@pytest.mark.parametrize(("tokens", "parted"), ROW.values(), ids=ROW)
def test_symbols_and_ideographs_in_a_row_are_words_of_their_own_where_tokens_part_them(tokens, parted):
    words = spelled("row", tokens)
    assert [word.text for word in words.words] == parted
    assert words.columns == tuple(range(1, len(tokens) + 1))


INVERSIONS = prompt("embedding:MyCar-v2 on a road, embedding:road", [
    "", "", "embedding:mycar-v2</w>", "on</w>", "a</w>", "road</w>", ",</w>", "embedding:road</w>"
])  # fmt: skip


@pytest.mark.parametrize(
    ("written", "columns", "weight"),
    [
        ("embedding:mycar-v2", (1, 2, 3), 1.0),
        ("(Embedding:MyCar-v2:1.2)", (1, 2, 3), 1.2),
        ("mycar-v2", (1, 2, 3), 1.0),
        ("mycar-v2 on", (1, 2, 3, 4), 1.0),
        ("embedding:mycar-v2#1", (1, 2, 3), 1.0),
        ("road", (6,), 1.0),
        ("embedding:road", (8,), 1.0),
    ],
)
def test_a_textual_inversion_is_a_word_with_or_without_its_prefix(written, columns, weight):
    (phrase,) = INVERSIONS.choose(written)
    assert (phrase.columns, phrase.weight) == (columns, weight)


def test_words_with_a_minus_alone_are_taken_where_everything_else_is_meant():
    assert TWO.choose("-road, -(blue car:0.5)", all_but=True) == (Phrase("road", (6,), -1.0), Phrase("blue car", (13, 14), -0.5))
    assert [means_all_but(TWO.choose(words, all_but=True)) for words in ("-road", "-road, car", "car")] == [True, False, False]
    assert not means_all_but(())


def test_an_inversion_that_comfyui_left_out_is_said_so():
    words = prompt("a embedding:mycar on grass", ["a</w>", "on</w>", "grass</w>"])
    for written in ("mycar", "embedding:mycar", "(embedding:mycar:0.5)"):
        with pytest.raises(ValueError, match="left out the embedding 'mycar'"):
            words.choose(written)


def test_part_of_an_inversions_name_is_not_taken_for_one_left_out():
    with pytest.raises(ValueError, match="Did you mean 'mycar-v2'"):
        INVERSIONS.choose("mycar")


def test_words_of_inversions_return_from_json():
    assert PromptWords.from_description(INVERSIONS.describe()) == INVERSIONS


def test_changed_words_are_those_that_differ():
    a = prompt("a red car", ["a</w>", "red</w>", "car</w>"])
    b = prompt("a blue sports car", ["a</w>", "blue</w>", "sports</w>", "car</w>"])
    assert changed_columns(a, b) == ((2,), (2, 3))


def test_punctuation_counts_where_nothing_else_differs():
    plain, asked = ["a</w>", "car</w>", ",</w>", "red</w>"], ["a</w>", "bus</w>", ".</w>", "red</w>"]
    assert changed_columns(prompt("a car, red", plain), prompt("a bus. red", asked)) == ((2,), (2,))
    assert changed_columns(prompt("a car, red", plain), prompt("a car. red", [*plain[:2], ".</w>", "red</w>"])) == ((3,), (3,))


def test_prompts_of_the_same_words_are_refused():
    a = prompt("a car", ["a</w>", "car</w>"])
    with pytest.raises(ValueError, match="same words"):
        changed_columns(a, a)


@pytest.mark.parametrize(
    ("written", "weight"),
    [
        ("--road", 1.0),
        ("---road", -1.0),
        ("((road:0.5))", 0.5),
        ("(-(road:0.5))", -0.5),
        ("( road )", 1.0),
        ("-(-road:2)", 2.0),
        ("road:+.5", 0.5),
    ],
)
def test_signs_multiply_and_parentheses_nest(written, weight):
    (found,) = TWO.choose(written, all_but=True)
    assert found == Phrase("road", (6,), weight)


@pytest.mark.parametrize("written", ["(road", "road)", "(road):0.5", "car (road)", "(road:0.5) car"])
def test_parentheses_that_do_not_stand_around_a_phrase_are_refused(written):
    with pytest.raises(ValueError, match="Put them around one phrase and its weight"):
        TWO.choose(written)


@pytest.mark.parametrize(("number", "columns"), [("1", (3,)), ("3", (14,)), ("03", (14,)), ("002", (10,))])
def test_occurrences_are_counted_from_one_to_the_last(number, columns):
    assert TWO.choose(f"car#{number}")[0].columns == columns


@pytest.mark.parametrize("number", ["", "0", "00", "-1", "1.0", "+1", "1 2", "x1"])
def test_what_is_no_number_counts_nothing(number):
    with pytest.raises(ValueError, match="is no occurrence of 'car'. Count them from 1"):
        TWO.choose(f"car#{number}")


def test_how_often_a_phrase_occurs_is_told_where_it_was_asked_for_once_more():
    for phrase, said in (("road", "occurs once "), ("red car", "occurs 2 times "), ("car", "occurs 3 times ")):
        with pytest.raises(ValueError, match=said):
            TWO.choose(f"{phrase}#{TWO.text.count(phrase) + 1}")


@pytest.mark.parametrize(("asked", "offered"), [("abcxy", True), ("abxyz", False)], ids=["three of five letters", "two"])
def test_a_word_is_offered_that_is_alike_in_three_fifths(asked, offered):
    with pytest.raises(ValueError) as caught:
        prompt("an abcde").choose(asked)
    assert ("Did you mean 'abcde'" in str(caught.value)) == offered


@pytest.mark.parametrize(
    ("text", "asked", "meant"),
    [
        ("a red cab", "red cat", "red cab"),  # three letters are a word
        ("green grass grows", "green grows", "green, grows"),
        ("green grass grows", "green gras", "green grass"),
        ("old green grass", "green gras", "green grass"),
        ("a green, green grass", "greet", "green"),
    ],
)
def test_phrases_at_either_end_of_a_prompt_are_offered(text, asked, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        prompt(text).choose(asked)


@pytest.mark.parametrize(
    ("character", "found"),
    [("a", "L"), ("7", "N"), ("\u0301", "M"), ("+", "S"), ("🔴", "S"), ("!", "P"), (" ", "Z"), ("\u200d", "C"), ("\ufdfd", "S"), ("\ufe00", "C"), ("\ufe0f", "C"), ("\ufe10", "P"), ("\ue000", "S"), ("\U000e1000", "S")],
    ids=ascii,
)  # fmt: skip
def test_a_character_is_of_its_categorys_kind_but_for_what_picks_a_look_and_what_is_unknown(character, found):
    assert kind(character) == found


@pytest.mark.parametrize(
    ("pair", "parted"),
    [
        ("🔴🔵", True),
        ("a🔴", True),
        ("🔴a", True),
        ("ab", False),
        ("a!", False),
        ("紅圓", True),
        ("a圓", True),
        ("\U0001f1e6\U0001f1ff", False),
        ("\U0001f1e6🔴", True),
        ("\U0001f1ff\U0001f200", True),
        ("🔴\u200d", False),
        ("\u200d🔴", False),
        (THUMB + PALE, False),
        ("🔴\u0301", False),
        ("+a", False),
        (MELTING + "a", True),
    ],
    ids=ascii,
)
def test_characters_are_parted_where_one_is_a_symbol_or_an_ideograph(pair, parted):
    assert is_parted(*pair) == parted


@pytest.mark.parametrize(
    ("text", "squeezed"),
    [(" Car, ", "car"), ("'t-shirt'", "t-shirt"), ("!!!", "!!!"), ("", ""), ("¿Qué?", "qué"), ("(a b)", "a b"), ("a+", "a+")],
)
def test_punctuation_at_either_end_is_squeezed_off(text, squeezed):
    assert squeeze(text) == squeezed


def test_emoji_are_quoted_whole_and_the_rest_as_repr_writes_it():
    assert quoted(f"a {ASTRONAUT}\n'b'") == f"'a {ASTRONAUT}\\n'b''"


def test_columns_from_the_first_to_the_last_are_taken_from_json():
    words = PromptWords("a b", (Word("a", (0,)), Word("b", (153,))), 154)
    assert PromptWords.from_description(words.describe()) == words
    for length, columns in ((154, (153, 153)), (154, (5, 154)), (0, ()), (-77, ())):
        with pytest.raises(ValueError):
            PromptWords.from_description({"text": "a", "words": [["a", list(columns)]], "length": length})


def test_words_that_went_and_words_that_came_are_told_apart():
    red, none = prompt("a red car"), prompt("a car")
    assert changed_columns(red, none) == ((2,), ()) and changed_columns(none, red) == ((), (2,))
    assert changed_columns(prompt("red car on red road"), prompt("blue car on blue road")) == ((1, 4), (1, 4))


def test_what_an_embedding_left_out_is_called_must_be_its_whole_name():
    words = prompt("a embedding:mycar.v2 on grass", ["a</w>", "on</w>", "grass</w>"])
    for written, left_out in (("mycar.v2", True), ("embedding:mycar.v2", True), ("mycar", False)):
        with pytest.raises(ValueError) as caught:
            words.choose(written)
        assert ("left out the embedding" in str(caught.value)) == left_out


def test_an_empty_prompt_says_so():
    with pytest.raises(ValueError, match="none: the prompt is empty"):
        prompt("", []).choose("car")
    with pytest.raises(ValueError, match=r"Its words are: !!!\."):
        prompt("!!!", ["!!!</w>"]).choose("car")


def test_a_word_that_comes_often_in_a_long_prompt_is_no_change():
    """Past 200 words difflib would take such a word for noise."""

    def long(letter):
        chunks = [[START, *[piece for _ in range(37) for piece in (f"{letter}</w>", "and</w>")], END, END] for _ in range(3)]
        return read_words("long", chunks)

    changed = tuple(77 * chunk + 1 + 2 * place for chunk in range(3) for place in range(37))
    assert changed_columns(long("x"), long("y")) == (changed, changed)
