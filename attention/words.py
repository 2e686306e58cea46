"""Words of a prompt and the cross-attention columns that belong to them."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

WORD_END = "</w>"
CHUNK = 77
INVERSION = "embedding:"  # a textual inversion in a prompt, before its name
MARKS = ":#"  # of choose's syntax

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

        Only letters, digits and the marks in `keep` are compared, without case. A textual inversion is found as
        "embedding:mycar" and, where nothing else of the prompt is called that, as "mycar"."""
        wanted = letters(phrase, keep)

        def runs(texts: list[str]) -> list[tuple[int, ...]]:
            found = []
            for start in range(len(texts)):
                joined, end = "", start
                while end < len(texts) and len(joined) < len(wanted):
                    joined += texts[end]
                    end += 1
                if wanted and joined == wanted and texts[start]:
                    found.append(tuple(column for word in self.words[start:end] for column in word.columns))
            return found

        return runs([letters(word.text, keep) for word in self.words]) or runs(
            [letters(word.text.removeprefix(INVERSION), keep) for word in self.words]
        )

    def find(self, phrase: str) -> tuple[int, ...]:
        """Columns, rising, of all `occurrences` of a phrase. Raises ValueError that lists the prompt's words and suggests the nearest."""
        found = self.occurrences(phrase)
        if not found:
            candidates = {letters(text): text for word in self.words for text in (squeeze(word.text), word.text.removeprefix(INVERSION))}
            near = difflib.get_close_matches(letters(phrase), [text for text in candidates if text], 1)
            hint = f" Did you mean {candidates[near[0]]!r}?" if near else ""
            name = squeeze(phrase).removeprefix(INVERSION)
            if name and re.search(re.escape(INVERSION + name) + r"(?![\w.-]*\w)", self.text.lower()):
                hint = f" ComfyUI left out the embedding {name!r}: it has no such file, or cannot read it."
            raise ValueError(f"the word {phrase.strip()!r} is not in the prompt {self.text!r}. Name one that is. {self._listed()}{hint}")
        return tuple(sorted({column for columns in found for column in columns}))

    def choose(self, phrases: str) -> tuple[Phrase, ...]:
        """The phrases that an artist wrote, separated by commas.

        "sports car, wheels": every occurrence of each. "car#2": only the second; overlapping occurrences all count.
        "(wheels:0.5)" or "wheels:0.5": a weight. "-road": weight -1; signs multiply, so "-road:0.5", "-(road:0.5)" and
        "(-road:0.5)" are -0.5. Parentheses without a weight change nothing. A colon or a hash that stands in the prompt as
        written ("16:9", "embedding:mycar") belongs to the word. A sign stands only before a phrase: "t-shirt" is a word.

        Raises ValueError as `find` does; where no phrase or only negative ones are given; and for parentheses, a weight or a
        number that cannot be read, a weight of 0, and an occurrence that the prompt does not have."""
        chosen = tuple(self._choose(written.strip()) for written in phrases.split(",") if written.strip())
        if not chosen:
            raise ValueError(f"no word was given. Name one or more words of the prompt {self.text!r}, separated by commas.")
        if all(phrase.weight < 0 for phrase in chosen):
            raise ValueError(f"{phrases.strip()!r} only says where the mask shall not be. Add a word that it is drawn towards.")
        return chosen

    def _choose(self, written: str) -> Phrase:
        name, weight, number = written, 1.0, ""
        while name.startswith("-") or (name.startswith("(") and name.endswith(")")):
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

    def _listed(self) -> str:
        return f"Its words are: {', '.join(filter(None, (squeeze(word.text) for word in self.words))) or 'none: the prompt is empty'}."

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


def squeeze(text: str) -> str:
    """Lower case, without punctuation at either end."""
    return re.sub(r"^[^\w]+|[^\w]+$", "", text.strip().lower())


def letters(text: str, keep: str = "") -> str:
    """Only letters, digits and the marks in `keep`, lower case, composed as CLIP's tokenizer composes them (NFC)."""
    return re.sub(rf"[^\w{keep}]|_", "", unicodedata.normalize("NFC", text).lower())


def read_words(text: str, chunks: list[list[str]]) -> PromptWords:
    """The words of a tokenised prompt.

    chunks: the vocabulary's entries, start and end tokens and padding included, 77 a chunk, with CLIP's "</w>" at the end of a
    word. A word may go on in the next chunk, where ComfyUI breaks a long text."""
    words: list[Word] = []
    spelled, columns = "", []
    for number, chunk in enumerate(chunks):
        for position, piece in enumerate(chunk[1:], 1):
            if piece == "<|endoftext|>":
                break
            spelled += piece.removesuffix(WORD_END)
            columns.append(number * CHUNK + position)
            if piece.endswith(WORD_END):
                words.append(Word(decode(spelled), tuple(columns)))
                spelled, columns = "", []
    return PromptWords(text, tuple(words), len(chunks) * CHUNK)


def decode(spelled: str) -> str:
    """A word from the vocabulary's spelling of its UTF-8 bytes; what is no such spelling stays as it is."""
    try:
        return bytes(BYTES[character] for character in spelled).decode()
    except (KeyError, UnicodeDecodeError):
        return spelled


def changed_columns(source: PromptWords, target: PromptWords) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Columns of the words in which two prompts differ: of the source prompt, and of the target prompt.

    Source: FateZero and prompt-to-prompt blend where the swapped words look. Raises ValueError when nothing differs."""
    a, b = [squeeze(word.text) for word in source.words], [squeeze(word.text) for word in target.words]
    from_source: list[int] = []
    from_target: list[int] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            from_source += [column for word in source.words[a0:a1] for column in word.columns]
            from_target += [column for word in target.words[b0:b1] for column in word.columns]
    if not from_source and not from_target:
        raise ValueError(
            f"source and target prompt have the same words ({source.text!r}), so no word says what to edit. Change the target prompt, or connect a mask."
        )
    return tuple(from_source), tuple(from_target)
