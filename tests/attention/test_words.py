import pytest

from blade.attention.words import changed_columns, read_words

START, END = 1, 2


def prompt(text, pieces, padding=END):
    """A prompt of one chunk from pieces such as "sports</w>"; unknown tokens (None) stand for textual inversions."""
    names = {START: "<|startoftext|>", END: "<|endoftext|>", 0: "!</w>"}
    ids = []
    for piece in pieces:
        if piece is None:
            ids.append(object())
            continue
        names[len(names) + 10] = piece
        ids.append(len(names) + 9)
    chunk = [START, *ids, END] + [padding] * (75 - len(ids))
    return read_words(text, [chunk], names.__getitem__)


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


def test_several_phrases_are_united():
    assert CAR.find_all("car, red") == (2, 4)


def test_a_part_of_a_word_is_not_the_word():
    with pytest.raises(ValueError):
        CAR.find("shi")


def test_a_missing_word_is_named_with_the_prompts_words_and_the_nearest():
    with pytest.raises(ValueError, match=r"'cat' is not in the prompt.*a, red, sports, car, shiny.*Did you mean 'car'"):
        CAR.find("cat")


@pytest.mark.parametrize("phrases", ["", " , "])
def test_no_word_at_all_is_refused(phrases):
    with pytest.raises(ValueError, match="no word was given"):
        CAR.find_all(phrases)


def test_padding_by_zero_is_no_word():
    """SD2's and SDXL's second tokenizer pad with "!"."""
    assert [word.text for word in prompt("cat", ["cat</w>"], padding=0).words] == ["cat"]


def test_textual_inversions_keep_the_other_words_columns():
    assert prompt("embedding:x cat", [None, None, "cat</w>"]).find("cat") == (3,)


def test_a_second_chunks_columns_follow_the_firsts():
    names = {START: "<|startoftext|>", END: "<|endoftext|>", 5: "cat</w>"}
    chunk = [START, 5, END] + [END] * 74
    words = read_words("cat cat", [chunk, chunk], names.__getitem__)
    assert words.find("cat") == (1, 78)
    assert words.length == 154


def test_changed_words_are_those_that_differ():
    a = prompt("a red car", ["a</w>", "red</w>", "car</w>"])
    b = prompt("a blue sports car", ["a</w>", "blue</w>", "sports</w>", "car</w>"])
    assert changed_columns(a, b) == ((2,), (2, 3))


def test_prompts_of_the_same_words_are_refused():
    a = prompt("a car", ["a</w>", "car</w>"])
    with pytest.raises(ValueError, match="same words"):
        changed_columns(a, a)
