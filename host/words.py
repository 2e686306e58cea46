"""From a CLIP and a text to the words that later nodes look for, carried inside CONDITIONING."""

from __future__ import annotations

from ..attention.words import PromptWords, read_words

KEY = "blade_words"


def encode_prompt(clip, text: str) -> list:
    """CONDITIONING as core's CLIPTextEncode makes it, with the prompt's words beside it."""
    tokens = clip.tokenize(text)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    words = tokenised_words(clip, text, tokens)
    return [[embedding, {**options, KEY: words}] for embedding, options in conditioning]


def tokenised_words(clip, text: str, tokens: dict) -> PromptWords:
    """Words and columns. SDXL's two encoders share one tokenisation, so that of the first ("l", else the only one) serves both.

    Raises ValueError for text encoders that are not CLIP: their words end differently."""
    name = "l" if "l" in tokens else next(iter(tokens))
    tokenizer = getattr(clip.tokenizer, f"clip_{name}", None)
    if tokenizer is None or not hasattr(tokenizer, "inv_vocab"):
        raise ValueError(
            f"the CLIP's text encoder ({name}) is not a CLIP one, so its words cannot be found. Use the CLIP of an SD1.5, SD2.x or SDXL checkpoint."
        )
    chunks = [[pair[0] for pair in chunk] for chunk in tokens[name]]
    return read_words(text, chunks, tokenizer.inv_vocab.__getitem__)


def words_of(conditioning: list) -> PromptWords | None:
    """The words that a Prompt (BLADE) node put into this CONDITIONING, if one did."""
    return next((options[KEY] for _, options in conditioning if KEY in options), None)
