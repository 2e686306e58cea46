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
from blade.inversion.coordinates import FLOW, V
from blade.inversion.file import load_trajectory, save_trajectory
from blade.inversion.grid import Grid
from blade.inversion.trajectory import Origin, Trajectory
from blade.video.whole import PART, Unwritable
from tests.system import file_limit, kill_at_work, on_linux, run

SIGMAS = torch.tensor([0.0, 0.1, 2.0, 14.6])
LATENTS = torch.randn(4, 3, 4, 5, 6)
ORIGIN = Origin(torch.randn(7), {"temporal": "first, previous"}, "a cät\n\ud800", "ddim", "refined", 3, 1e-5, (0.1, 1 / 3, 5e-324))
PLAIN = Trajectory(SIGMAS, LATENTS, coordinates=V, origin=ORIGIN)
HALVED = Trajectory(SIGMAS, LATENTS.half(), exact_clip=LATENTS[0], origin=ORIGIN)
MAPS = {"2x3": torch.rand(3, 3, 2, 2, 3).half()}


def recorded(maps=MAPS):
    return replace(HALVED, record=SimpleNamespace(to_tensors=lambda: (maps, {"sigmas": [0.1, 1 / 3]}), nbytes=0))


def read_nothing(tensors, description, coordinates):
    raise AssertionError("this file has no record")


def read_pair(tensors, description, coordinates):
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
    assert (found.coordinates, found.record) == (trajectory.coordinates, None)


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


CUT = """
import os
import torch
from pathlib import Path
from blade.inversion.coordinates import FLOW, V
from blade.inversion.file import load_trajectory, save_trajectory
from blade.inversion.trajectory import Trajectory
path = Path(sys.argv[2], "a.safetensors")
size = 0

def told(change):
    global size
    save_trajectory(path, Trajectory(torch.arange(6.0), torch.randn(6, 20, 4, 64, 64)))
    size = path.stat().st_size
    found = load_trajectory(path, None)
    found.at(2.5), found.clip
    change()
    for use in (lambda: found.at(4.5), lambda: found.level(5), lambda: found.clip, lambda: save_trajectory(path.with_name("b.safetensors"), found)):
        try:
            use()
        except ValueError as error:
            print(error)

told(lambda: os.truncate(path, size // 2))
told(lambda: path.write_bytes(b""))
told(lambda: os.truncate(path, size + 8))
with path.open("r+b") as file:
    told(lambda: (file.seek(size - 100), file.write(bytes(100)), file.flush(), os.utime(path, ns=(1, 1))))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows neither cuts nor writes a file that is mapped")
def test_a_loaded_trajectory_whose_file_is_cut_short_or_written_to_is_refused_and_the_process_lives(tmp_path):
    sentences = run(CUT, tmp_path).splitlines()
    assert len(sentences) == 4 * 4
    assert all(
        s.startswith("the trajectory's file 'a.safetensors' was changed or cut short") and "Queue the graph again" in s for s in sentences
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_change_to_the_tensors_stays_out_of_the_file(saved):
    load_trajectory(saved, read_nothing).latents.zero_()
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)


def test_a_map_for_writing_that_the_system_refuses_becomes_one_for_reading(saved, monkeypatch, recwarn):
    real = file.mmap.mmap

    def refusing(*args, access):
        if access == file.mmap.ACCESS_COPY:
            raise OSError(12, "Cannot allocate memory")
        return real(*args, access=access)

    monkeypatch.setattr(file.mmap, "mmap", refusing)
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)
    assert not recwarn.list


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
    rewrite(saved, version="3")
    refused(saved, "newer BLADE", "file version 3", "Update")


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
        ({"family": "x0"}, "'x0'"),
        ({"family": "flow"}, "no 'grid'"),
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
    def failing(tensors, metadata):
        yield b"half"
        raise error

    before = saved.read_bytes()
    monkeypatch.setattr(file, "safetensors_of", failing)
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


@on_linux
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(saved):
    before = saved.read_bytes()
    with file_limit(20_000), pytest.raises(Unwritable, match=r"^'clip.safetensors' cannot be written \(.*File too large.*\)\. Make room"):
        save_trajectory(saved, Trajectory(SIGMAS, torch.zeros(4, 3, 4, 25, 24)))
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


KEPT = """
import torch
from pathlib import Path
from blade.inversion.coordinates import FLOW, V
from blade.inversion.file import load_trajectory, save_trajectory
from blade.inversion.trajectory import Trajectory
path = Path(sys.argv[2], "a.safetensors")

def work(kill):
    save_trajectory(path, Trajectory(torch.arange(6.0), torch.full((6, 20, 4, 64, 64), float(kill))))

def check():
    values = load_trajectory(path, None).latents
    assert values.shape == (6, 20, 4, 64, 64) and values.unique().numel() == 1
"""


@on_linux
def test_a_killed_process_leaves_a_whole_file_and_folders_of_a_name_that_is_ours(tmp_path):
    kill_at_work(KEPT, tmp_path)
    others = [path for path in tmp_path.iterdir() if path.name != "a.safetensors"]
    assert others and all(PART.fullmatch(path.name) for path in others)


@pytest.mark.parametrize("latents", [LATENTS, LATENTS.transpose(0, 1).contiguous().transpose(0, 1), LATENTS[:, :1].expand(4, 3, 4, 5, 6)])
def test_the_content_is_as_the_library_itself_writes_it(tmp_path, latents):
    maps = {"1x1": torch.rand(3, 3, 1, 1, 1).half(), "2x3": torch.rand(3, 3, 2, 2, 3).half()}  # odd numbers of 16-bit values
    description = SimpleNamespace(to_tensors=lambda: (maps, None), nbytes=0)
    ours, theirs = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_trajectory(ours, replace(PLAIN, latents=latents, record=description))
    tensors = load_file(ours)
    assert same(tensors["latents"], latents) and same(tensors["record/1x1"], maps["1x1"]) and same(tensors["weights"], ORIGIN.weights)
    save_file(tensors, theirs)
    (header, data), (expected, values) = taken_apart(ours), taken_apart(theirs)
    del header["__metadata__"]
    assert header == expected and data == values
    assert int.from_bytes(ours.read_bytes()[:8], "little") % 8 == 0


GROWS = """
import torch
from pathlib import Path
from blade.inversion.coordinates import FLOW, V
from blade.inversion.file import save_trajectory
from blade.inversion.trajectory import Trajectory

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) // 1024

small = Trajectory(torch.arange(6.0), torch.zeros(6, 2, 4, 64, 64))
whole = Trajectory(torch.arange(25.0), torch.randn(25, 64, 4, 64, 64))  # 100 MiB
save_trajectory(Path(sys.argv[2], "small.safetensors"), small)
before = peak()
save_trajectory(Path(sys.argv[2], "whole.safetensors"), whole)
print(peak() - before)
"""


@on_linux
def test_saving_takes_no_memory_beside_the_trajectory(tmp_path):
    assert int(run(GROWS, tmp_path)) < 20  # MiB
    assert (tmp_path / "whole.safetensors").stat().st_size > 100 * 2**20


def forged(header, data=b""):
    """A file of a header, as an object or as bytes, and what comes behind it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def taken_apart(path):
    """Header and data of a file."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begin]), content[begin:]


def with_tensor(path, shape, offsets, dtype="F32"):
    """The file with one more tensor in its header, whose offsets count from the data's end."""
    header, data = taken_apart(path)
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [len(data) + offset for offset in offsets]}
    return forged(header | {"more": entry}, data)


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([1], [-4, 0]),  # another tensor's
        ([1], [4, 8]),
        ([1], [0, 4]),
        ([1], [8, 4]),
        ([2**60], [0, 2**62]),
        ([2**32, 2**32], [0, 0]),
        ([2**31, 2**31, 2**31], [0, 4]),
        ([-1], [0, 0]),
        ([-1, -1], [0, 4]),
        ([0.0], [0, 0]),
        ([None], [0, 0]),
        ([0, 2**63], [0, 0]),
        ([0, 2**64 - 1], [0, 0]),
        ([0, 2**62, 2**62], [0, 0]),
        ([1], [-(2**62), 0]),
    ],
)
def test_a_shape_or_a_place_that_the_file_does_not_hold_is_refused(saved, shape, offsets):
    saved.write_bytes(with_tensor(saved, shape, offsets))
    refused(saved, "Save the trajectory again")


@pytest.mark.parametrize("dtype", ["F31", "", "BF16", "BOOL", "I64", "F8_E4M3", "C64", None, 5])
def test_a_type_that_is_none_of_ours_is_refused(saved, dtype):
    saved.write_bytes(with_tensor(saved, [0], [0, 0], dtype))
    refused(saved, "Save the trajectory again")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"\0" * 100,
        b"\xff\xfe{}",
        b'{"__metadata__":null}',
        b'{"__metadata__":["format"]}',
        b'{"__metadata__":{"format":5}}',
        b'{"__metadata__":{"format":null}}',
        b'{"__metadata__":{"format":"blade_trajectory"},"__metadata__":{}}',
        b'{"latents":[]}',
        b'{"latents":{"dtype":"F32","shape":[1],"data_offsets":[NaN,4]}}',
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(forged(header, bytes(64)))
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_s_length_that_cannot_be_is_refused(saved, length):
    saved.write_bytes(struct.pack("<Q", length) + saved.read_bytes()[8:])
    refused(saved, "no safetensors file, or only a part")


def test_a_header_longer_than_any_of_ours_is_not_parsed(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(forged({"__metadata__": {"format": "a" * file.MOST_HEADER}}))
    refused(path, "header claims")


def test_more_levels_than_any_inversion_makes_are_refused(saved):
    rewrite(saved, {"sigmas": torch.arange(file.MOST_LEVELS + 1.0)})
    refused(saved, f"{file.MOST_LEVELS + 1} levels, more than any inversion makes")


@pytest.mark.parametrize(
    "change",
    [
        {"origin": {"residuals": [10**400]}},
        {"origin": {"tolerance": 10**400}},
        {"origin": {"refine": 1.5}},
        {"origin": {"prompt": ["a"]}},
        {"record": {"sigmas": [10**400], "levels": {}, "words": {}}},
    ],
    ids=str,
)
def test_numbers_of_another_kind_in_the_description_are_refused(saved, change):
    header, data = taken_apart(saved)
    described = json.loads(header["__metadata__"]["trajectory"])
    described |= {name: described[name] | part if name == "origin" else part for name, part in change.items()}
    header["__metadata__"]["trajectory"] = json.dumps(described)
    saved.write_bytes(forged(header, data))
    with pytest.raises(ValueError, match="damaged.*Save the trajectory again"):
        load_trajectory(saved, lambda tensors, description, coordinates: [float(sigma) for sigma in description["sigmas"]])


def test_a_file_cut_short_at_any_byte_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trajectory(path, Trajectory(SIGMAS[:2], torch.zeros(2, 1, 1, 1, 1)))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path, "only a part of one")


@pytest.mark.parametrize("before", [b" ", b"   "])
def test_tensors_at_odd_bytes_are_read(saved, before):
    header, data = taken_apart(saved)
    saved.write_bytes(forged(before + json.dumps(header).encode().ljust(8 * 200 + 1), data))
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)


CLAIMS = """
import json, struct
from pathlib import Path
from blade.inversion.coordinates import FLOW, V
from blade.inversion.file import load_trajectory, read_metadata
path, size = Path(sys.argv[2]), 100 * 2**30
origin = {"patches": {}, "prompt": None, "schedule": "", "method": "", "refine": 0, "tolerance": 0, "residuals": []}
described = {"format": "blade_trajectory", "version": "1"}
described["trajectory"] = json.dumps({"family": "eps", "origin": origin, "record": None})

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) // 1024

def entry(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}

def told():
    for read in (read_metadata, lambda path: load_trajectory(path, None)):
        try:
            read(path)
        except ValueError as error:
            print(error)

whole = [size // 4]
rest = {"latents": entry([0], 0, 0), "weights": entry([0], 0, 0), "sigmas": entry([0], 0, 0)}
before = peak()
path.write_bytes(struct.pack("<Q", size) + b"{")
told()
for held in (0, size):  # nothing behind the header; a hole, which takes no room on the disk
    for name in rest:
        header = json.dumps({"__metadata__": described} | rest | {name: entry(whole, 0, size)}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + held)
        told()
print(peak() - before)
"""


@on_linux
def test_a_file_that_claims_a_hundred_gigabytes_takes_no_memory(tmp_path):
    *sentences, grown = run(CLAIMS, tmp_path / "a.safetensors").splitlines()
    assert len(sentences) == 2 + 3 * 2 + 3 and all("'a.safetensors' is" in sentence for sentence in sentences), sentences
    assert int(grown) < 50  # MiB


def test_a_flow_models_trajectory_is_a_file_of_version_2_that_says_what_its_cells_cover(tmp_path):
    trajectory, path = replace(PLAIN, coordinates=FLOW, grid=Grid(16, 4)), tmp_path / "a.safetensors"
    save_trajectory(path, trajectory)
    found = load_trajectory(path, read_nothing)
    assert (found.coordinates, found.grid) == (FLOW, Grid(16, 4)) and torch.equal(found.latents, LATENTS)
    with safe_open(path, "pt") as saved:
        assert saved.metadata()["version"] == "2"
    for version in ("1", "02", "x"):
        rewrite(path, version=version)
        refused(path, "damaged", f"its file version is '{version}'")


@pytest.mark.parametrize("sides", [[], [8], [8, 0], [8, 1, 1], [8.0, 1], ["8", 1], [True, 1]], ids=str)
def test_a_grid_that_is_none_is_refused(tmp_path, sides):
    path = tmp_path / "a.safetensors"
    save_trajectory(path, replace(PLAIN, coordinates=FLOW))
    with safe_open(path, "pt") as saved:
        described = json.loads(saved.metadata()["trajectory"])
    rewrite(path, trajectory=json.dumps(described | {"grid": sides}))
    refused(path, "damaged", "not two whole numbers above 0")


def test_a_file_is_written_in_pieces_of_whole_rows(monkeypatch):
    monkeypatch.setattr(file, "PIECE", 64)
    tensors = {"small rows": torch.rand(10, 4), "large rows": torch.rand(3, 25), "half": torch.rand(5, 4).half(), "none": torch.empty(0)}
    header, *parts = file.safetensors_of(tensors, {"format": "any"})
    assert [part.nbytes for part in parts if part.nbytes] == [100, 100, 100, 64, 64, 32, 40]
    described = json.loads(header[8:])
    assert described.pop("__metadata__") == {"format": "any"} and list(described) == ["large rows", "none", "small rows", "half"]
    assert [entry["data_offsets"] for entry in described.values()] == [[0, 300], [300, 300], [300, 460], [460, 500]]
    assert len(header) % 8 == 0 and int.from_bytes(header[:8], "little") == len(header) - 8


def test_a_disk_with_room_for_tensors_and_header_is_used_and_one_with_a_byte_less_is_not(saved, monkeypatch):
    with safe_open(saved, "pt") as old:
        described = len(old.metadata()["trajectory"])
    needed = SIGMAS.nbytes + LATENTS.nbytes + ORIGIN.weights.nbytes + 2 * described + 2**16
    for free in (needed, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: namedtuple("Usage", "total used free")(9 << 30, 0, free))
        if free == needed:
            save_trajectory(saved, PLAIN)
        else:
            with pytest.raises(Unwritable, match="it needs 0.1 MiB, and its disk has 0.1 MiB free"):
                save_trajectory(saved, PLAIN)


def test_a_header_of_just_the_greatest_length_is_read(saved, monkeypatch):
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    monkeypatch.setattr(file, "MOST_HEADER", length)
    assert same(load_trajectory(saved, read_nothing).latents, LATENTS)
    monkeypatch.setattr(file, "MOST_HEADER", length - 1)
    refused(saved, f"its header claims {length} bytes")


def test_as_many_levels_as_an_inversion_makes_at_most_are_taken():
    levels = file.MOST_LEVELS
    file.check_form(Trajectory(torch.arange(float(levels)), torch.zeros(1, 1, 1, 1, 1).expand(levels, 1, 1, 1, 1)))
    assert levels == 65536


@pytest.mark.parametrize(("size", "told"), [(0, "0.0 MiB"), (2**20, "1.0 MiB"), (3 * 2**29, "1,536.0 MiB")])
def test_bytes_are_told_in_mebibytes(size, told):
    assert file.mebibytes(size) == told


def test_one_value_among_millions_that_is_no_number_is_found():
    values = torch.zeros(3, 2**21)
    assert file.finite(values)
    for place in ((0, 0), (1, 2**20), (2, -1)):
        marred = values.clone()
        marred[place] = torch.inf
        assert not file.finite(marred)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("3", "saved by a newer BLADE .file version 3, this one reads 2"),
        ("999999999", "newer"),
        ("2", "damaged"),
        ("0", "damaged"),
        ("1000000000", "damaged"),
        ("", "damaged"),
    ],
)
def test_a_version_above_ours_is_a_newer_one_and_any_other_is_damage(saved, version, sentence):
    rewrite(saved, version=version)
    with pytest.raises(ValueError, match=sentence):
        load_trajectory(saved, read_nothing)
