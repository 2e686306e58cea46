"""The file form of a trajectory: equal to the bit, and one sentence for everything that is no trajectory."""

import gc
import json
import os
import pickle
import shutil
import struct
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import blade.inversion.file as file
from blade.inversion.file import load_trajectory, save_trajectory
from blade.inversion.trajectory import Origin, Trajectory
from blade.video.whole import Unwritable

SIGMAS = torch.tensor([0.0, 0.1, 2.0, 14.6])
LATENTS = torch.randn(4, 3, 4, 5, 6)
ORIGIN = Origin(torch.randn(7), {"temporal": "first, previous"}, "a cät\n\ud800", "ddim", "refined", 3, 1e-5, (0.1, 1 / 3, 5e-324))
PLAIN = Trajectory(SIGMAS, LATENTS, family="v", origin=ORIGIN)
HALVED = Trajectory(SIGMAS, LATENTS.half(), exact_clip=LATENTS[0], origin=ORIGIN)
MAPS = {"2x3": torch.rand(3, 3, 2, 2, 3).half()}


def recorded(maps=MAPS):
    return replace(HALVED, record=SimpleNamespace(to_tensors=lambda: (maps, {"sigmas": [0.1, 1 / 3]}), nbytes=0))


def read_nothing(tensors, description):
    raise AssertionError("this file has no record")


def read_pair(tensors, description):
    return SimpleNamespace(to_tensors=lambda: (tensors, description))


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def rewrite(path, tensors=None, **metadata):
    """The file again with some of its tensors and metadata changed; None takes an entry out."""
    with safe_open(path, "pt") as old:
        found = old.metadata() | metadata
    changed = {name: tensor.clone() for name, tensor in load_file(path).items()} | (tensors or {})
    save_file({k: v for k, v in changed.items() if v is not None}, path, {k: v for k, v in found.items() if v is not None})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "clip.safetensors"
    save_trajectory(path, PLAIN)
    return path


@pytest.mark.parametrize("trajectory", [PLAIN, HALVED, replace(PLAIN, origin=Origin())], ids=["fp32", "fp16 and exact clip", "no origin"])
def test_a_trajectory_comes_back_to_the_bit(tmp_path, trajectory):
    save_trajectory(tmp_path / "a.safetensors", trajectory)
    found = load_trajectory(tmp_path / "a.safetensors", read_nothing)
    assert same(found.sigmas, trajectory.sigmas) and same(found.latents, trajectory.latents)
    assert found.exact_clip is None if trajectory.exact_clip is None else same(found.exact_clip, trajectory.exact_clip)
    assert same(found.origin.weights, trajectory.origin.weights)
    assert (found.family, found.record) == (trajectory.family, None)


def test_origin_comes_back_with_its_numbers_exact(saved):
    found = load_trajectory(saved, read_nothing).origin
    assert [getattr(found, name) for name in ("patches", "prompt", "schedule", "method", "refine", "tolerance", "residuals")] == [
        {"temporal": "first, previous"},
        "a cät\n\ud800",
        "ddim",
        "refined",
        3,
        1e-5,
        (0.1, 1 / 3, 5e-324),
    ]


def test_the_record_is_read_by_whoever_loads(tmp_path):
    save_trajectory(tmp_path / "a.safetensors", recorded())
    tensors, description = load_trajectory(tmp_path / "a.safetensors", read_pair).record.to_tensors()
    assert list(tensors) == ["2x3"] and same(tensors["2x3"], MAPS["2x3"])
    assert description == {"sigmas": [0.1, 1 / 3]}


def test_saving_what_was_loaded_writes_the_same_content(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_trajectory(first, recorded())
    save_trajectory(second, load_trajectory(first, read_pair))
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    with safe_open(first, "pt") as a, safe_open(second, "pt") as b:
        assert a.metadata() == b.metadata()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a file that is mapped")
def test_a_loaded_trajectory_outlives_its_file(saved):
    found = load_trajectory(saved, read_nothing)
    save_trajectory(saved, replace(PLAIN, latents=LATENTS + 1))
    saved.unlink()
    gc.collect()
    assert same(found.latents, LATENTS)


def test_a_change_to_the_tensors_stays_out_of_the_file(saved):
    load_trajectory(saved, read_nothing).latents.zero_()
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)


def test_a_map_for_writing_that_the_system_refuses_becomes_one_for_reading(saved, monkeypatch):
    real = file.mmap.mmap

    def refusing(*args, access):
        if access == file.mmap.ACCESS_COPY:
            raise OSError(12, "Cannot allocate memory")
        return real(*args, access=access)

    monkeypatch.setattr(file.mmap, "mmap", refusing)
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)


def test_a_file_has_the_rights_that_any_new_file_has(saved):
    (saved.parent / "other").touch()
    assert saved.stat().st_mode == (saved.parent / "other").stat().st_mode


def refused(path, *words):
    with pytest.raises(ValueError) as caught:
        load_trajectory(path, read_nothing)
    assert all(word in str(caught.value) for word in (path.name, *words)), caught.value


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "nowhere.safetensors", "there is no file")


def test_a_file_cut_short_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for length in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        refused(saved, "only a part of one", "Save the trajectory again")


def test_a_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"latents": [0.0] * 999}))
    refused(path, "no safetensors file")


@pytest.mark.parametrize("shape", [[2**20, 2**20], [2**62, 2**62], [2**40]])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, shape):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(path, "no safetensors file, or only a part")


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"latents": LATENTS}, path, {"format": "pt"})
    refused(path, "holds no trajectory")


def test_a_newer_file_says_that_blade_wants_an_update(saved):
    rewrite(saved, version="2")
    refused(saved, "newer BLADE", "file version 2", "Update")


def test_values_that_are_not_finite_are_refused_with_their_level(saved):
    latents = LATENTS.clone()
    latents[2, 1, 0, 0, 0] = torch.nan
    rewrite(saved, {"latents": latents})
    refused(saved, "level 2")


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"latents": None}, "'latents' is missing"),
        ({"sigmas": None}, "'sigmas' is missing"),
        ({"weights": None}, "'weights' is missing"),
        ({"sigmas": SIGMAS + 0.1}, "rise from 0"),
        ({"sigmas": torch.tensor([0.0, 2.0, 1.0, 3.0])}, "rise from 0"),
        ({"sigmas": torch.tensor([0.0, 1.0, 2.0, torch.inf])}, "rise from 0"),
        ({"sigmas": torch.tensor([0.0, 1.0, torch.nan, 3.0])}, "rise from 0"),
        ({"sigmas": SIGMAS.half()}, "not two or more in fp32"),
        ({"sigmas": SIGMAS[None].clone()}, "not two or more in fp32"),
        ({"sigmas": torch.zeros(1)}, "not two or more in fp32"),
        ({"sigmas": SIGMAS[:3].clone()}, "4 levels of latents and 3 sigmas"),
        ({"latents": LATENTS[0].clone()}, "[3, 4, 5, 6]"),
        ({"latents": torch.zeros(4, 0, 4, 5, 6)}, "[4, 0, 4, 5, 6]"),
        ({"latents": LATENTS.double()}, "'latents' is of type F64"),
        ({"exact_clip": LATENTS[0, :2].clone()}, "exact clip is [2, 4, 5, 6]"),
        ({"exact_clip": LATENTS[0].half()}, "exact clip is [3, 4, 5, 6] in torch.float16"),
        ({"exact_clip": torch.full((3, 4, 5, 6), torch.inf)}, "level 0"),
        ({"weights": torch.zeros(3).half()}, "sample of the weights"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_what_it_is(saved, tensors, sentence):
    rewrite(saved, tensors)
    refused(saved, "damaged", sentence, "Save the trajectory again")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"family": "flow"}, "'flow'"),
        ({"family": 3}, "no 'family'"),
        ({"origin": None}, "no 'origin'"),
        ({"origin": {"residuals": [], "patches": {}, "prompt": 5}}, "no 'prompt'"),
        ({"origin": {"residuals": ["a"], "patches": {}}}, "residuals"),
        ({"origin": {"residuals": [], "patches": {"a": 1}}}, "patches"),
        ({"record": 7}, "no 'record'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, change, sentence):
    with safe_open(saved, "pt") as old:
        description = json.loads(old.metadata()["trajectory"])
    rewrite(saved, trajectory=json.dumps(description | change))
    refused(saved, "damaged", sentence)


@pytest.mark.parametrize("text", [None, "no JSON", "[" * 10**6, "[]", "NaN"], ids=["none", "no JSON", "deep", "list", "number"])
def test_a_description_that_is_none_is_refused(saved, text):
    rewrite(saved, trajectory=text)
    refused(saved, "damaged")


def test_a_version_that_is_no_number_is_refused(saved):
    rewrite(saved, version="one")
    refused(saved, "damaged", "'one'")


@pytest.mark.parametrize(
    ("maps", "sentence"), [(torch.rand(3, 2, 2, 2, 3).half(), "[3, 2, 2, 2, 3]"), (torch.full((3, 3, 2, 2, 3), torch.nan), "not finite")]
)
def test_a_record_of_other_frames_or_without_numbers_is_refused(tmp_path, maps, sentence):
    save_trajectory(tmp_path / "a.safetensors", recorded({"2x3": maps}))
    refused(tmp_path / "a.safetensors", "record '2x3'", sentence)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be saved: .*level 0.*Invert the clip again"):
        save_trajectory(tmp_path / "a.safetensors", replace(PLAIN, latents=LATENTS / 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_other(saved, monkeypatch, error):
    def failing(tensors, path, metadata):
        path.write_bytes(b"half")
        raise error

    before = saved.read_bytes()
    monkeypatch.setattr(file, "save_file", failing)
    with pytest.raises(Unwritable if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        save_trajectory(saved, HALVED)
    assert isinstance(error, KeyboardInterrupt) or "'clip.safetensors' cannot be written" in str(caught.value)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_refused_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(9 << 30, 0, 2**20))
    with pytest.raises(Unwritable, match=r"needs 11\.\d MiB, and its disk has 1\.0 MiB free"):
        save_trajectory(tmp_path / "a.safetensors", Trajectory(SIGMAS, torch.zeros(4, 3, 4, 250, 240)))
    assert not list(tmp_path.iterdir())
