"""Words and columns from ComfyUI's own tokenizers."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from blade.attention.words import changed_columns, decode
from blade.host.words import KEY, encode_prompt, tokenised_words

WIDTH = 64  # of the demo checkpoint's text encoder


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """A folder with textual inversions of 1, 3 and 10 vectors, and one of another model."""
    folder = tmp_path_factory.mktemp("embeddings")
    for name, vectors in (("one", 1), ("Three", 3), ("ten", 10)):
        save_file({"emb_params": torch.full((vectors, WIDTH), 0.1)}, folder / f"{name}.safetensors")
    torch.save({"string_to_param": {"*": torch.full((2, WIDTH), 0.1)}}, folder / "two.pt")
    save_file({"emb_params": torch.zeros(1, 768)}, folder / "foreign.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(comfy, checkpoint, embeddings):
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, embedding_directory=str(embeddings))[1]


@pytest.fixture(scope="module")
def sdxl(comfy, embeddings):
    """SDXL's tokenizers as a CLIP without weights."""
    import comfy.sdxl_clip

    return SimpleNamespace(tokenizer=comfy.sdxl_clip.SDXLTokenizer(embedding_directory=str(embeddings)))


def words_from(clip, text):
    return tokenised_words(clip, text, clip.tokenizer.tokenize_with_weights(text))


def read(words):
    return [(word.text, word.columns) for word in words.words]


def spread(first, last):
    return tuple(range(first, last + 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A RED car.", [("a", (1,)), ("red", (2,)), ("car", (3,)), (".", (4,))]),
        ("((red:1.2) sports:0.5) car", [("red", (1,)), ("sports", (2,)), ("car", (3,))]),
        (r"a car \(blue\)", [("a", (1,)), ("car", (2,)), ("(", (3,)), ("blue", (4,)), (")", (5,))]),
        ("a naïve x-ray", [("a", (1,)), ("naïve", (2, 3, 4)), ("x", (5,)), ("-", (6,)), ("ray", (7,))]),
        ("embedding:one car", [("embedding:one", (1,)), ("car", (2,))]),
        ("a embedding:none, car", [("a", (1,)), (",", (2,)), ("car", (3,))]),
        ("a embedding:Three, car", [("a", (1,)), ("embedding:three", (2, 3, 4)), (",", (5,)), ("car", (6,))]),
        ("embedding:two embedding:two embedding:one", [("embedding:two", (1, 2)), ("embedding:two", (3, 4)), ("embedding:one", (5,))]),
        ("a\nembedding:one\ncar", [("a", (1,)), ("embedding:one", (2,)), ("car", (3,))]),
        ("(embedding:two:1.2)(embedding:one)", [("embedding:two", (1, 2)), ("embedding:one", (3,))]),
        ("embedding:none a embedding:one. embedding:two", [("a", (1,)), ("embedding:two", (2, 3))]),
        ("embedding:two.pt cat", [("embedding:two.pt", (1, 2)), ("cat", (3,))]),
    ],
)
def test_every_token_belongs_to_its_word(clip, text, expected):
    assert read(words_from(clip, text)) == expected


def test_a_word_of_several_tokens_has_all_their_columns(clip):
    (word,) = words_from(clip, "antidisestablishmentarianism").words
    pieces = clip.tokenizer.clip_l.tokenizer("antidisestablishmentarianism")["input_ids"][1:-1]
    assert len(pieces) > 2
    assert word.columns == spread(1, len(pieces))


def test_a_word_that_comfyui_breaks_between_two_chunks_stays_one(clip):
    text = "a " * 74 + "antidisestablishmentarianism car"
    words = words_from(clip, text)
    assert words.length == 154
    assert words.find("antidisestablishmentarianism")[:2] == (75, 78)
    assert words.find("car") == (words.columns[-1],)


def test_a_small_inversion_that_does_not_fit_moves_to_the_next_chunk(clip):
    assert read(words_from(clip, "a " * 73 + "embedding:Three car"))[-2:] == [("embedding:three", (78, 79, 80)), ("car", (81,))]


def test_a_large_inversion_that_does_not_fit_is_broken_over_two_chunks(clip):
    words = words_from(clip, "a " * 73 + "embedding:ten car")
    assert read(words)[-2:] == [("embedding:ten", (74, 75, *spread(78, 85))), ("car", (86,))]


@pytest.mark.parametrize("text", ["a red car on a road " * 15, "(red:1.2) car, antidisestablishmentarianism"])
def test_columns_hold_the_tokens_that_the_encoder_sees(clip, text):
    """Each column's token id, put in order, is what the tokenizer makes of the words one by one."""
    ids = [token for chunk in clip.tokenizer.tokenize_with_weights(text)["l"] for token, _ in chunk]
    for word in words_from(clip, text).words:
        assert [ids[column] for column in word.columns] == clip.tokenizer.clip_l.tokenizer(word.text)["input_ids"][1:-1]


SYMBOLS = ["🔴", "♥", "★", "!!!", "圆", "❤\ufe0f", "\U0001f44d\U0001f3ff", "🇩🇪", "🫠", "\U0001f469\u200d\U0001f680"]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbols_columns_hold_its_tokens(clip, symbol):
    text = f"a red {symbol} on grass"
    words, vocabulary = words_from(clip, text), clip.tokenizer.clip_l.inv_vocab
    ids = [token for chunk in clip.tokenizer.tokenize_with_weights(text)["l"] for token, _ in chunk]
    (phrase,) = words.choose(symbol)
    spelled = decode("".join(vocabulary[ids[column]].removesuffix("</w>") for column in phrase.columns))
    assert spelled.replace("\u200d", "") == symbol.replace("\u200d", "")  # some tokenizers leave out what joins an emoji's parts
    instead = "???" if symbol == "!!!" else "○"
    other = words_from(clip, f"a red {instead} on grass")
    assert changed_columns(words, other) == (phrase.columns, other.find(instead))


def test_symbols_in_a_row_and_with_punctuation_are_found_one_by_one(clip):
    words = words_from(clip, "🔴🔵, 红圆 on (grass♥)")
    found = [words.find(symbol) for symbol in ("🔴", "🔵", "红", "圆", "♥")]
    assert sorted(column for columns in found for column in columns) == [column for columns in found for column in columns]
    assert words.find("🔴🔵") == found[0] + found[1] and words.find("红圆") == found[2] + found[3]


@pytest.mark.parametrize("text", ["", "a (red:1.2) car", "a skateboarder " * 30, "a embedding:Three, embedding:ten car"])
def test_sdxls_two_encoders_share_words_and_columns(sdxl, text):
    tokens = sdxl.tokenizer.tokenize_with_weights(text)
    both = tokenised_words(sdxl, text, tokens)
    assert both == tokenised_words(sdxl, text, {"g": tokens["g"]}) == tokenised_words(sdxl, text, {"l": tokens["l"]})


@torch.inference_mode()
def test_a_chosen_inversions_columns_are_those_where_the_context_changes(clip, embeddings):
    """The encoder is causal: contexts agree up to the first vector that differs."""
    one, two = (encode_prompt(clip, f"a red {name} car") for name in ("embedding:two", "embedding:Three"))
    (phrase,) = two[0][1][KEY].choose("embedding:three")
    first_difference = (one[0][0] != two[0][0]).any(-1)[0].nonzero()[0].item()
    assert phrase.columns == (3, 4, 5)
    assert first_difference == 5  # their first two vectors are equal


@torch.inference_mode()
def test_an_inversion_of_another_model_is_refused(clip):
    with pytest.raises(ValueError, match=r"vectors hold 768 numbers.*takes 64"):
        encode_prompt(clip, "a embedding:foreign car")


def test_a_text_encoder_beside_clip_is_refused(sdxl):
    tokens = sdxl.tokenizer.tokenize_with_weights("a car")
    with pytest.raises(ValueError, match="not a CLIP one of 77 tokens"):
        tokenised_words(sdxl, "a car", {"l": tokens["l"], "t5xxl": tokens["l"]})


def test_a_clip_of_longer_chunks_is_refused(sdxl):
    with pytest.raises(ValueError, match="not a CLIP one of 77 tokens"):
        tokenised_words(sdxl, "a car", {"l": [[(49406, 1.0)] * 248]})


def test_a_text_encoder_that_overflows_is_told_of_by_the_prompt(clip, monkeypatch):
    from blade.nodes.prompt import Prompt

    real = clip.encode_from_tokens_scheduled
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", lambda tokens: [[found * torch.inf, more] for found, more in real(tokens)])
    with pytest.raises(
        ValueError, match=r"Prompt \(BLADE\), input clip: the text encoder gives values that are not finite .*--fp32-text-enc"
    ):
        Prompt.execute(clip, "a red circle")
