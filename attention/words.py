"""Words of a prompt and the cross-attention columns that belong to them."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WORD_END = "</w>"
CHUNK = 77
INVERSION = "embedding:"  # a textual inversion in a prompt, before its name
MARKS = ":#"  # of choose's syntax
JOINER = "\u200d"  # between the parts of one emoji
UNKNOWN = ("Cn", "Co")  # Unicode's categories of what this Python's tables lack, such as a newer emoji
LIKE = 0.6  # how much alike two words must be for a hint, difflib's own measure

# CLIP's vocabulary writes each byte as one visible character. Source: openai/CLIP, simple_tokenizer.py, bytes_to_unicode.
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in VISIBLE} | {chr(256 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(VISIBLE)))}


@dataclass(frozen=True)
class Word:
    """One word as the tokenizer sees it, lower case, and the columns of its tokens in the prompt's context.

    A textual inversion is one word, "embedding:" and its name, with the columns of all its vectors."""

    text: str
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Phrase:
    """A word or a run of words that an artist chose. A negative weight pushes the mask away."""

    text: str  # as written, without weight, sign and number
    columns: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class PromptWords:
    """A prompt's words in order. `length` is the context's number of columns, a multiple of 77."""

    text: str
    words: tuple[Word, ...]
    length: int

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of all real tokens, rising."""
        return tuple(column for word in self.words for column in word.columns)

    def occurrences(self, phrase: str, keep: str = "") -> list[tuple[int, ...]]:
        """Columns of each occurrence, in the prompt's order, of a word or of a run of words such as "sports car".

        Case, spaces and punctuation do not count, but for the marks in `keep`; nor do symbols between the words of a phrase that has none.
        Of a phrase of punctuation alone all of it counts. A textual inversion is found as "embedding:mycar" and, where nothing else of
        the prompt is called that, as "mycar"."""
        apart = "PS" if spelling(phrase) == spelling(phrase, "PS") else "P"
        apart = apart if spelling(phrase) else ""
        wanted = spelling(phrase, apart, keep)

        def runs(texts: Iterable[str]) -> list[tuple[int, ...]]:
            found, spelled = [], [spelling(text, apart, keep) for text in texts]
            for start in range(len(spelled)):
                joined, end = "", start
                while end < len(spelled) and len(joined) < len(wanted):
                    joined += spelled[end]
                    end += 1
                if wanted and joined == wanted and spelled[start]:
                    found.append(tuple(column for word in self.words[start:end] for column in word.columns))
            return found

        return runs(word.text for word in self.words) or runs(word.text.removeprefix(INVERSION) for word in self.words)

    def find(self, phrase: str) -> tuple[int, ...]:
        """Columns, rising, of all `occurrences` of a phrase. Raises ValueError that lists the prompt's words and suggests the nearest."""
        found = self.occurrences(phrase)
        if not found:
            near = self._nearest(phrase.split())
            hint = f" Did you mean {quoted(near)}?" if near else ""
            name = squeeze(phrase).removeprefix(INVERSION)
            if name and re.search(re.escape(INVERSION + name) + r"(?![\w.-]*\w)", self.text.lower()):
                hint = f" ComfyUI left out the embedding {name!r}: it has no such file, or cannot read it."
            called = "phrase" if len(phrase.split()) > 1 else "word"
            raise ValueError(
                f"the {called} {phrase.strip()!r} is not in the prompt {self.text!r}. Name one that is. {self._listed()}{hint}"
            )
        return tuple(sorted({column for columns in found for column in columns}))

    def choose(self, phrases: str, all_but: bool = False) -> tuple[Phrase, ...]:
        """The phrases that an artist wrote, separated by commas.

        "sports car, wheels": every occurrence of each. "car#2": only the second; overlapping occurrences all count.
        "(wheels:0.5)" or "wheels:0.5": a weight. "-road": weight -1; signs multiply, so "-road:0.5", "-(road:0.5)" and
        "(-road:0.5)" are -0.5. Parentheses without a weight change nothing. A colon or a hash that stands in the prompt as
        written ("16:9", "embedding:mycar") belongs to the word. A sign stands only before a phrase: "t-shirt" is a word.

        all_but: whether negative phrases alone are taken, which then mean everything but them.

        Raises ValueError as `find` does; where no phrase or, without all_but, only negative ones are given; and for parentheses, a weight
        or a number that cannot be read, a weight of 0, and an occurrence that the prompt does not have."""
        chosen = tuple(self._choose(written.strip()) for written in phrases.split(",") if written.strip())
        if not chosen:
            raise ValueError(f"no word was given. Name one or more words of the prompt {self.text!r}, separated by commas.")
        if not all_but and means_all_but(chosen):
            raise ValueError(f"{phrases.strip()!r} only says where the mask shall not be. Add a word that it is drawn towards.")
        return chosen

    def _choose(self, written: str) -> Phrase:
        name, weight, number = written, 1.0, ""
        while (name.startswith("-") and name[1:].strip()) or (name.startswith("(") and name.endswith(")")):
            if name.startswith("-"):
                name, weight = name[1:].strip(), -weight
            else:
                name = name[1:-1].strip()
        if "(" in name or ")" in name:
            raise ValueError(f"the parentheses of {written!r} cannot be read. Put them around one phrase and its weight: (wheels:0.5).")
        if ":" in name.lower().removeprefix(INVERSION) and not self._literal(name):
            name, _, factor = name.rpartition(":")
            try:
                weight *= float(factor)
            except ValueError:
                weight = math.nan
            if not math.isfinite(weight) or not weight:
                raise ValueError(
                    f"{factor.strip()!r} is no weight for {name.strip()!r}. Write a finite number other than 0: (wheels:0.5). {self._listed()}"
                )
        if "#" in name and not self._literal(name):
            name, _, number = (part.strip() for part in name.rpartition("#"))
            if not re.fullmatch("0*[1-9][0-9]*", number):
                raise ValueError(f"{number!r} is no occurrence of {name!r}. Count them from 1: car#2 is the second car. {self._listed()}")
        name = name.strip()
        columns = self.find(name)
        if number:
            found = self.occurrences(name)
            if int(number) > len(found):
                times = "once" if len(found) == 1 else f"{len(found)} times"
                raise ValueError(
                    f"{name!r} occurs {times} in the prompt {self.text!r}, so there is no {name}#{number}. Give a lower number."
                )
            columns = found[int(number) - 1]
        return Phrase(name, columns, weight)

    def _literal(self, phrase: str) -> bool:
        """Whether the marks inside a phrase stand in the prompt itself."""
        inside = squeeze(phrase)
        return any(mark in inside for mark in MARKS) and bool(self.occurrences(inside, MARKS))

    def _nearest(self, asked: list[str]) -> str:
        """What an artist who asked for these words, which the prompt does not have side by side, may have meant: the same words apart, as many
        words of the prompt, or one of them; the most alike, and rather a phrase than a word. "" where nothing is alike."""
        if len(asked) > 1 and all(self.occurrences(word) for word in asked):
            return ", ".join(asked)
        names = [squeeze(word.text) for word in self.words if spelling(word.text)]
        runs = [names[start : start + len(asked)] for start in range(len(names) - len(asked) + 1)] if len(asked) > 1 else []
        runs = [run for run in runs if not any(len(end) < 3 and end.isascii() and end.isalpha() for end in (run[0], run[-1]))]  # "a", "on"
        best, most = "", 0.0
        for run in [*runs, *([name] for name in names), *([name.removeprefix(INVERSION)] for name in names)]:
            pairs = zip(asked, run, strict=True) if len(run) == len(asked) else ((word, run[0]) for word in asked)
            alike = [likeness(*pair) for pair in pairs]
            total = sum(alike) if len(run) == len(asked) else max(alike, default=0)
            if max(alike, default=0) >= LIKE and total > most:
                best, most = " ".join(run), total
        return best

    def _listed(self) -> str:
        names = [squeeze(word.text) for word in self.words if spelling(word.text)] or [word.text for word in self.words]
        return f"Its words are: {', '.join(names) or 'none: the prompt is empty'}."

    def describe(self) -> dict[str, Any]:
        """All of it as JSON takes it; `from_description` reads it."""
        return {"text": self.text, "words": [[word.text, list(word.columns)] for word in self.words], "length": self.length}

    @classmethod
    def from_description(cls, found: Any) -> PromptWords:
        """Raises ValueError where it is not what `describe` gives."""
        try:
            words = tuple(Word(text, tuple(columns)) for text, columns in found["words"])
            read = cls(found["text"], words, found["length"])
            fits = (
                all(isinstance(text, str) for text in (read.text, *(word.text for word in words)))
                and read.length % CHUNK == 0 < read.length
            )
            fits = fits and all(0 <= column < after for column, after in zip(read.columns, (*read.columns, read.length)[1:], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its words lack a part or have one of another kind ({error!r})") from error
        if not fits or not all(isinstance(column, int) for column in read.columns):
            raise ValueError(f"its words have columns that do not rise within a context of {read.length}, or no text")
        return read


def means_all_but(phrases: Sequence[Phrase]) -> bool:
    """Whether phrases say only where a mask shall not be: it is everything but them."""
    return bool(phrases) and all(phrase.weight < 0 for phrase in phrases)


def kind(character: str) -> str:
    """What a character is, by its Unicode category's first letter: L a letter, N a digit, M a mark on a letter, S a symbol, P punctuation,
    Z a space; C what is not seen, such as the joiners inside an emoji. What is unknown counts as a symbol."""
    if "\ufe00" <= character <= "\ufe0f":  # picks an emoji's or a text's look
        return "C"
    category = unicodedata.category(character)
    return "S" if category in UNKNOWN else category[0]


def spelling(text: str, without: str = "P", keep: str = "") -> str:
    """A text as words are compared: lower case, composed as CLIP's tokenizer composes it (NFC), without what is not seen and the kinds of
    characters in `without`, save those in `keep`."""
    return "".join(
        character for character in unicodedata.normalize("NFC", text).lower() if character in keep or kind(character) not in f"{without}ZC"
    )


def quoted(text: str) -> str:
    """As repr writes it, but for emoji, which stay whole."""
    return "".join(character if character == JOINER or kind(character) == "S" else repr(character)[1:-1] for character in text).join("''")


def squeeze(text: str) -> str:
    """Lower case, without punctuation at either end; a text of punctuation alone stays."""
    text = text.strip().lower()
    return text.strip("".join(character for character in text if kind(character) in "PZ")) or text


def likeness(one: str, other: str) -> float:
    """How much alike two words are, 0 to 1."""
    return difflib.SequenceMatcher(None, spelling(one), spelling(other)).ratio()


def read_words(text: str, chunks: list[list[str]]) -> PromptWords:
    """The words of a tokenised prompt.

    chunks: the vocabulary's entries, start and end tokens and padding included, 77 a chunk, with CLIP's "</w>" at the end of a
    word. A word may go on in the next chunk, where ComfyUI breaks a long text. What CLIP takes for one word, though it is several symbols or
    ideographs in a row, is parted where its tokens are."""
    words: list[Word] = []
    pieces: list[tuple[str, int]] = []
    for number, chunk in enumerate(chunks):
        for position, piece in enumerate(chunk[1:], 1):
            if piece == "<|endoftext|>":
                break
            pieces.append((piece.removesuffix(WORD_END), number * CHUNK + position))
            if piece.endswith(WORD_END):
                words += part_symbols(pieces)
                pieces = []
    return PromptWords(text, tuple(words), len(chunks) * CHUNK)


def part_symbols(pieces: list[tuple[str, int]]) -> list[Word]:
    """The words in one of CLIP's. pieces: its tokens' spellings and columns."""
    spelled = "".join(piece for piece, _ in pieces)
    whole = decode(spelled)
    if len(whole.encode()) != len(spelled):  # no spelling of bytes
        return [Word(whole, tuple(column for _, column in pieces))]
    characters = {len(whole[:index].encode()): index for index in range(1, len(whole))}  # by their first byte: a token may end inside one
    words, begin, byte = list[Word](), 0, 0
    columns: list[int] = []
    for piece, column in pieces:
        index = characters.get(byte, 0)
        if index and is_parted(whole[index - 1], whole[index]):
            words.append(Word(whole[begin:index], tuple(columns)))
            begin, columns = index, []
        columns.append(column)
        byte += len(piece)
    return [*words, Word(whole[begin:], tuple(columns))]


def is_parted(before: str, after: str) -> bool:
    """Whether two characters side by side are of two words since one is a symbol or an ideograph: not inside an emoji of several, such as one
    with a colour of skin, or a flag."""
    flag = all("\U0001f1e6" <= half <= "\U0001f1ff" for half in (before, after))
    if flag or before == JOINER or kind(after) in "MC" or unicodedata.category(after) == "Sk":
        return False
    return any(unicodedata.category(c) in ("So", *UNKNOWN) or unicodedata.name(c, "").startswith("CJK") for c in (before, after))


def decode(spelled: str) -> str:
    """A word from the vocabulary's spelling of its UTF-8 bytes; what is no such spelling stays as it is."""
    try:
        return bytes(BYTES[character] for character in spelled).decode()
    except (KeyError, UnicodeDecodeError):
        return spelled


def changed_columns(source: PromptWords, target: PromptWords) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Columns of the words in which two prompts differ: of the source prompt, and of the target prompt.

    Source: FateZero and prompt-to-prompt blend where the swapped words look. Raises ValueError when nothing differs."""
    a, b = ([spelling(word.text) or spelling(word.text, "") or word.text for word in prompt.words] for prompt in (source, target))
    changed = [codes[1:] for codes in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if codes[0] != "equal"]
    from_source = [word for start, end, _, _ in changed for word in source.words[start:end]]
    from_target = [word for _, _, start, end in changed for word in target.words[start:end]]
    if not from_source and not from_target:
        raise ValueError(
            f"source and target prompt have the same words ({quoted(source.text)}), so no word says what to edit. Change the target prompt, or connect a mask."
        )
    if any(spelling(word.text) for word in (*from_source, *from_target)):  # a comma that went with a word does not say where to edit
        from_source, from_target = ([word for word in words if spelling(word.text)] for words in (from_source, from_target))
    return tuple(c for word in from_source for c in word.columns), tuple(c for word in from_target for c in word.columns)
