"""CLIP's figures by hand, and on a CLIP with random weights that was saved to a folder; LPIPS on a network with random weights."""

import json
import math
import sys

import numpy as np
import pytest
import torch

from benchmarks.metrics.perceptual import DEVIATION, MEAN, BackgroundLpips, ClipFigures, frame_acc, prepared, tem_con

SIDE = 16
WORDS = ("a", "red", "blue", "cat")


def unit(*angles: float) -> torch.Tensor:
    """Vectors of length 1 at these angles, in degrees. [angles, 2]"""
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in angles])


def test_tem_con_is_the_mean_cosine_of_consecutive_frames() -> None:
    assert tem_con(unit(0, 60, 60)) == pytest.approx((0.5 + 1) / 2)
    assert tem_con(unit(0, 90, 0)) == pytest.approx(0, abs=1e-6)


def test_tem_con_wants_two_frames() -> None:
    with pytest.raises(ValueError, match="1 frame has no next one"):
        tem_con(unit(0))


def test_frame_acc_is_the_share_of_frames_nearer_to_the_target() -> None:
    source, target = unit(0, 90)
    assert frame_acc(unit(10, 44, 46, 80), source, target) == 0.5
    assert frame_acc(unit(45), source, source) == 0  # as near to one as to the other is no success


def test_frames_are_prepared_as_clip_takes_them() -> None:
    frames = np.zeros((1, 20, 40, 3), np.uint8)
    frames[:, :, 10:30] = 255  # the middle, which a square crop keeps
    found = prepared(frames, 10)
    assert found.shape == (1, 3, 10, 10)
    for channel in range(3):
        assert found[0, channel, :, 2:-2] == pytest.approx((1 - MEAN[channel]) / DEVIATION[channel], abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of random weights as transformers saves it, with a tokenizer of a few words."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: index for index, name in enumerate(("<|startoftext|>", "<|endoftext|>"))}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 300, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(place)
    letters = sorted({letter for word in WORDS for letter in word})
    pieces = letters + [letter + "</w>" for letter in letters]
    (place / "vocab.json").write_text(json.dumps(ids | {piece: 2 + index for index, piece in enumerate(pieces)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return place


FRAMES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def test_the_figures_are_those_of_the_models_own_towers(folder) -> None:
    clip = ClipFigures(folder)
    found = clip.figures(FRAMES, "a red cat", "a blue cat")
    with torch.inference_mode():
        pooled = clip.model.vision_model(pixel_values=prepared(FRAMES, SIDE)).pooler_output
        images = torch.nn.functional.normalize(clip.model.visual_projection(pooled), dim=1)
        texts = []
        for text in ("a red cat", "a blue cat"):
            pooled = clip.model.text_model(**clip.tokenizer([text], return_tensors="pt")).pooler_output
            texts.append(torch.nn.functional.normalize(clip.model.text_projection(pooled), dim=1)[0])
    cosines = [float(images[0] @ images[1]), float(images[1] @ images[2])]
    assert found["tem_con"] == pytest.approx(sum(cosines) / 2, abs=1e-5) and abs(found["tem_con"]) < 1
    assert found["frame_acc"] == pytest.approx(np.mean([float(image @ texts[1] > image @ texts[0]) for image in images]))
    assert abs(float(texts[0] @ texts[1])) < 1 - 1e-6  # the prompts are told apart


def test_a_clip_that_stands_still_is_wholly_steady_and_the_other_way_round_the_accuracy_is_the_rest(folder) -> None:
    clip = ClipFigures(folder)
    assert clip.figures(FRAMES[[0, 0, 0]], "a red cat", "a blue cat")["tem_con"] == pytest.approx(1, abs=1e-5)
    there, back = (clip.figures(FRAMES, *prompts)["frame_acc"] for prompts in (("a red cat", "a blue cat"), ("a blue cat", "a red cat")))
    assert there + back == pytest.approx(1)


def test_a_folder_without_a_clip_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no folder with a config.json"):
        ClipFigures(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no CLIP model that transformers can load"):
        ClipFigures(tmp_path)


def test_lpips_says_how_to_get_its_package(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="`pip install lpips`"):
        BackgroundLpips(tmp_path / "alexnet.pth")


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """torchvision's file of an AlexNet with random weights."""
    pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    model, file = alexnet(weights=None), tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(model.state_dict(), file)
    return model, file


def test_lpips_has_the_files_weights(alexnet) -> None:
    model, file = alexnet
    lpips = BackgroundLpips(file)
    assert lpips.network == "alex"
    own = dict(lpips.model.net.named_parameters())
    assert torch.equal(own["slice1.0.weight"], model.features[0].weight) and torch.equal(own["slice5.10.bias"], model.features[10].bias)


def test_lpips_sees_nothing_of_the_object(alexnet) -> None:
    lpips = BackgroundLpips(alexnet[1])
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    masks = np.zeros((2, 64, 64))
    masks[:, :, :32] = 1
    inside, everywhere = frames.copy(), 255 - frames
    inside[:, :, :32] = 0
    assert lpips.background(frames, inside, masks) == pytest.approx(0, abs=1e-7)
    assert lpips.background(frames, everywhere, masks) > 1e-4


def test_lpips_refuses_another_file(alexnet, tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        BackgroundLpips(tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold torchvision's weights"):
        BackgroundLpips(tmp_path / "other.pth")
