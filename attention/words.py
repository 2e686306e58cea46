"""Words of a prompt and the cross-attention columns that belong to them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WORD_END = "</w>"
CHUNK = 77


@dataclass(frozen=True)
class Word:
    """One word as the tokenizer sees it, lower case, and the columns of its tokens in the prompt's context."""

    text: str
    columns: tuple[int, ...]


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

    def find(self, phrase: str) -> tuple[int, ...]:
        """Columns of every occurrence of a word, or of a run of words such as "sports car". Case and punctuation around it
        do not matter. Raises ValueError that lists the prompt's words and suggests the nearest."""
        wanted = "".join(squeeze(phrase).split())
        texts = [squeeze(word.text) for word in self.words]
        found: set[int] = set()
        for start in range(len(texts)):
            joined, end = "", start
            while end < len(texts) and len(joined) < len(wanted):
                joined += texts[end]
                end += 1
            if wanted and joined == wanted and texts[start]:
                found.update(column for word in self.words[start:end] for column in word.columns)
        if not found:
            near = difflib.get_close_matches(wanted, texts, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(text for text in texts if text) or "none: the prompt is empty"
            raise ValueError(f"the word {phrase.strip()!r} is not in the prompt {self.text!r}. Its words are: {listed}.{hint}")
        return tuple(sorted(found))

    def find_all(self, phrases: str) -> tuple[int, ...]:
        """Columns of several phrases separated by commas. Raises ValueError as `find` does, or when no phrase is given."""
        wanted = [phrase for phrase in phrases.split(",") if phrase.strip()]
        if not wanted:
            raise ValueError(f"no word was given. Name one or more words of the prompt {self.text!r}, separated by commas.")
        return tuple(sorted({column for phrase in wanted for column in self.find(phrase)}))

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


def read_words(text: str, chunks: list[list[object]], spell: Callable[[object], str]) -> PromptWords:
    """The words of a tokenised prompt.

    chunks: token ids, start and end tokens and padding included, 77 a chunk. spell: the vocabulary's entry for an id, with
    CLIP's "</w>" at the end of a word. Tokens that are no ids (textual inversions) have no spelling and belong to no word."""
    words: list[Word] = []
    for number, chunk in enumerate(chunks):
        letters, columns = "", []
        for position, token in enumerate(chunk):
            if position == 0 or not isinstance(token, int):
                continue
            piece = spell(token)
            if piece == "<|endoftext|>":
                break
            letters += piece.removesuffix(WORD_END)
            columns.append(number * CHUNK + position)
            if piece.endswith(WORD_END):
                words.append(Word(letters, tuple(columns)))
                letters, columns = "", []
    return PromptWords(text, tuple(words), len(chunks) * CHUNK)


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
        raise ValueError(f"source and target prompt have the same words ({source.text!r}), so no word says what to edit.")
    return tuple(from_source), tuple(from_target)
