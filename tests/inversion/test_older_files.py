"""saved_by_0fb17e5.safetensors, which the code of that commit wrote: it comes back to the bit, and is written again with the same words."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open

from blade.attention.record import CrossAttentionRecord
from blade.inversion.file import load_trajectory, save_trajectory

SAVED = Path(__file__).parent / "saved_by_0fb17e5.safetensors"


def counted(*shape: int) -> torch.Tensor:
    """What it was filled with: 0, 1/7, 2/7, ..."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape) / 7


def load(path: Path):
    return load_trajectory(path, CrossAttentionRecord.from_tensors)


def test_it_comes_back_to_the_bit(tmp_path):
    found = load(Path(shutil.copy(SAVED, tmp_path)))
    assert found.sigmas.tolist() == torch.tensor([0.0, 0.1, 2.5]).tolist()
    assert found.latents.dtype == torch.float16 and torch.equal(found.latents, counted(3, 2, 4, 3, 2).half())
    assert torch.equal(found.clip, counted(2, 4, 3, 2)) and torch.equal(found.origin.weights, counted(5))
    origin = found.origin
    assert (origin.patches, origin.prompt, origin.schedule) == ({"temporal attention": "first, previous"}, "a red cär", "ddim")
    assert (origin.method, origin.refine, origin.tolerance, origin.residuals) == ("refined", 3, 1e-4, (0.25, 1 / 3))
    record = found.record
    assert [(word.text, word.columns) for word in record.words.words] == [("a", (1,)), ("red", (2,)), ("cär", (3, 4))]
    assert record.words.text == "a red cär" and record.words.length == 77 and record.sigmas == [0.1, 2.5]
    for level, maps in enumerate(record.levels):
        assert maps.keys() == {(3, 2)} and torch.equal(maps[3, 2], (counted(2, 4, 3, 2) + level).half())
    assert torch.equal(record.spread[3, 2], (2 * counted(2, 4, 3, 2).half()).float())


def test_it_is_written_again_with_the_same_description(tmp_path):
    """Byte for byte, so that earlier versions read what this one saves. The order of tensors is the library's or ours."""
    save_trajectory(tmp_path / "again.safetensors", load(Path(shutil.copy(SAVED, tmp_path))))
    with safe_open(SAVED, "pt") as old, safe_open(tmp_path / "again.safetensors", "pt") as new:
        assert new.metadata() == old.metadata() and sorted(new.keys()) == sorted(old.keys())
        for name in old.keys():
            assert new.get_tensor(name).dtype == old.get_tensor(name).dtype and torch.equal(new.get_tensor(name), old.get_tensor(name))
