"""From a CLIP and a text to the words that later nodes look for, carried inside CONDITIONING."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..attention.words import CHUNK, INVERSION, WORD_END, PromptWords, read_words

KEY = "blade_words"
CLIPS = {"l", "g", "h"}  # ComfyUI's names of the text encoders of SD1.5, SD2.x and SDXL


def encode_prompt(clip, text: str) -> list:
    """CONDITIONING as core's CLIPTextEncode makes it, with the prompt's words beside it.

    Raises ValueError as `tokenised_words` and `refuse_foreign_inversions` do, and where the text encoder gives no numbers."""
    tokens = clip.tokenize(text)
    words = tokenised_words(clip, text, tokens)
    refuse_foreign_inversions(clip, tokens)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    if not all(torch.isfinite(embedding).all() for embedding, _ in conditioning):
        raise ValueError(
            "the text encoder gives values that are not finite (NaN or infinity). Give words in the prompt finite weights, as (red:1.2), start ComfyUI with "
            "--fp32-text-enc, or take another checkpoint."
        )
    return [[embedding, {**options, KEY: words}] for embedding, options in conditioning]


def tokenised_words(clip, text: str, tokens: dict) -> PromptWords:
    """Words and columns. SDXL's two encoders share one tokenisation, so that of the first ("l", else the only one) serves both.

    Raises ValueError for text encoders that are not CLIP (their words end differently) or take more than 77 tokens."""
    tokenizers: dict[str, Any] = {name: getattr(clip.tokenizer, f"clip_{name}", None) for name in tokens}
    if not set(tokens) <= CLIPS or any(
        not hasattr(tokenizers[name], "inv_vocab") or any(len(chunk) != CHUNK for chunk in tokens[name]) for name in tokens
    ):
        raise ValueError(
            f"the CLIP's text encoder ({', '.join(tokens)}) is not a CLIP one of {CHUNK} tokens, so its words cannot be found. "
            "Use the CLIP of an SD1.5, SD2.x or SDXL checkpoint."
        )
    name = "l" if "l" in tokens else next(iter(tokens))
    ids = [[pair[0] for pair in chunk] for chunk in tokens[name]]
    has_vectors = any(not isinstance(token, int) for chunk in ids for token in chunk)
    vectors = iter(spell_inversions(tokenizers[name], text) if has_vectors else [])
    vocabulary = tokenizers[name].inv_vocab
    return read_words(text, [[vocabulary[token] if isinstance(token, int) else next(vectors) for token in chunk] for chunk in ids])


def refuse_foreign_inversions(clip, tokens: dict) -> None:
    """Raises ValueError for textual inversions whose vectors another model's encoder takes.

    ComfyUI leaves such vectors out, which moves the columns of all that follows, for SDXL in one encoder only."""
    for name, chunks in tokens.items():
        widths = [vector.shape[-1] for chunk in chunks for vector, *_ in chunk if not isinstance(vector, int)]
        width = getattr(clip.cond_stage_model, f"clip_{name}").transformer.get_input_embeddings().weight.shape[-1] if widths else 0
        for found in widths:
            if found != width:
                raise ValueError(
                    f"the prompt has an embedding whose vectors hold {found} numbers, and this CLIP's encoder {name} takes {width}. "
                    "Use embeddings made for the checkpoint's family."
                )


def spell_inversions(tokenizer, text: str) -> list[str]:
    """What read_words takes for each textual-inversion vector of a prompt, in order: nothing, and the name for an inversion's last.

    ComfyUI's tokens are vectors without a name, and it leaves out those that it cannot load, so a copy of its tokenizer is
    overheard while it loads them."""
    pieces: list[str] = []

    def overhear(name: str, *args, **kwargs):
        found = tokenizer._try_get_embedding(name, *args, **kwargs)
        vectors = found[0]
        if len(found) > 2:  # since 0.28 vectors, name, and what is left of the text; before, without the name
            name = found[1]
        if vectors is not None:
            count = 1 if vectors.ndim == 1 else len(vectors)
            # As ComfyUI does: the name ends at white space, and commas after it are text.
            pieces.extend([""] * (count - 1) + [INVERSION + name.split()[0].strip(",").lower() + WORD_END])
        return found

    listener = copy.copy(tokenizer)
    listener._try_get_embedding = overhear
    listener.tokenize_with_weights(text)
    return pieces


def words_of(conditioning: list) -> PromptWords | None:
    """The words that a Prompt (BLADE) node put into this CONDITIONING, if one did."""
    return next((options[KEY] for _, options in conditioning if KEY in options), None)
