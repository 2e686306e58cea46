"""A trajectory as one safetensors file."""

from __future__ import annotations

import json
import math
import mmap
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..video.whole import whole
from .coordinates import Coordinates
from .grid import Grid
from .trajectory import MappedFile, Origin, Trajectory

FORMAT, VERSION = "blade_trajectory", 2  # the newest that is read
DTYPES = {"F32": torch.float32, "F16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
RECORD = "record/"
MOST_HEADER = 2**24  # bytes, many times what a description takes; what is read of a file before anything says that it is a trajectory
MOST_LEVELS = 2**16
PIECE = 2**24  # bytes written at once, unless a level has more


def save_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Writes a trajectory in one piece or not at all; what lay at `path` stays until the new file is whole.

    The record needs `to_tensors() -> (tensors by name, what JSON holds)`; axis 1 of its tensors are the frames.
    It goes to the disk a level at a time, so that one in a mapped file needs no memory. Raises ValueError where the trajectory is not one that
    `load_trajectory` takes, Unwritable where the disk has no room or refuses."""
    trajectory.check_file()
    try:
        check(trajectory)
    except ValueError as error:
        raise ValueError(f"the trajectory cannot be saved: {error}. Invert the clip again.") from error
    origin = trajectory.origin
    kept, record = ({}, None) if trajectory.record is None else trajectory.record.to_tensors()
    tensors = {"sigmas": trajectory.sigmas, "latents": trajectory.latents, "weights": origin.weights}
    tensors |= {RECORD + name: tensor for name, tensor in kept.items()}
    if trajectory.exact_clip is not None:
        tensors["exact_clip"] = trajectory.exact_clip
    description = {
        "family": trajectory.coordinates.prediction,
        "origin": {
            "patches": origin.patches,
            "prompt": origin.prompt,
            "schedule": origin.schedule,
            "method": origin.method,
            "refine": origin.refine,
            "tolerance": origin.tolerance,
            "residuals": origin.residuals,
        },
        "record": record,
    }
    version = trajectory.coordinates.file_version
    if version > 1:
        description["grid"] = [trajectory.grid.cell, trajectory.grid.time]
    metadata = {"format": FORMAT, "version": str(version), "trajectory": json.dumps(description)}
    needed = sum(tensor.nbytes for tensor in tensors.values()) + 2 * len(metadata["trajectory"]) + 2**16
    with whole(path) as made:
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise OSError(f"it needs {mebibytes(needed)}, and its disk has {mebibytes(free)} free")
        with made.open("xb") as file:
            for part in safetensors_of(tensors, metadata):
                trajectory.check_file()
                file.write(part)


def safetensors_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[Any]:
    """The bytes of a safetensors file, in parts that take no memory of their own where the tensors are contiguous; of its library the versions before
    0.8 hold the whole file. Larger types first, so that each tensor lies at a multiple of its size."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    yield len(described).to_bytes(8, "little") + described
    for name in names:
        tensor = tensors[name]
        row = max(1, tensor.nbytes // max(1, len(tensor)))
        for rows in tensor.split(max(1, PIECE // row)):
            yield rows.contiguous().numpy()


ReadRecord = Callable[[dict[str, Tensor], Any, Coordinates], Any]


def load_trajectory(path: Path, read_record: ReadRecord) -> Trajectory:
    """The trajectory of a file, equal to the saved one to the bit. Its tensors are mapped: pages come into memory when they are used,
    changes stay in memory, and on Linux and macOS the file may be deleted or replaced meanwhile. Windows lets go of it with the tensors.

    read_record: the record of its tensors by name, what JSON held and the trajectory's coordinates (CrossAttentionRecord.from_tensors).
    Raises ValueError with a sentence that begins with the file's name for everything that is no whole trajectory."""
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path.name!r} is a safetensors file, but holds no trajectory. Choose one that Save Trajectory (BLADE) wrote.")
    version = metadata.get("version", "")
    if re.fullmatch("[1-9][0-9]{0,8}", version) and int(version) > VERSION:
        raise ValueError(f"{path.name!r} was saved by a newer BLADE (file version {version}, this one reads {VERSION}). Update BLADE.")
    try:
        trajectory = build(metadata, *map_tensors(path), read_record)
        if version != str(trajectory.coordinates.file_version):
            raise ValueError(f"its file version is {version!r}")
        check(trajectory)
    except (OSError, OverflowError, RecursionError, ValueError) as error:
        raise ValueError(f"{path.name!r} is damaged: {error}. Save the trajectory again, or choose another file.") from error
    return trajectory


def read_metadata(path: Path) -> dict[str, str]:
    """The header's metadata. Reads nothing else, and raises ValueError where there is no whole safetensors file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path.name!r}. Choose another.")
    try:
        with path.open("rb") as content:
            if (size := int.from_bytes(content.read(8), "little")) > MOST_HEADER:
                raise OSError(f"its header claims {size} bytes")
        with safe_open(path, "numpy") as file:  # checks the header against the file's length
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path.name!r} is no safetensors file, or only a part of one ({error}). Save the trajectory again, or choose another file."
        ) from error


def map_tensors(path: Path) -> tuple[dict[str, Tensor], MappedFile]:
    """The tensors of a file whose header `read_metadata` has accepted, and the file. Nothing is read yet, so no header can ask for memory.

    Not by safetensors itself: it maps for writing, and Linux refuses such a map where the file is larger than memory and swap."""
    with path.open("rb") as file:
        mapped = MappedFile(file)  # as it is before anything is read
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        try:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"its tensor {name!r} is of type {entry['dtype']}, not {' or '.join(DTYPES)}")
        shape, dtype, offset = entry["shape"], DTYPES[entry["dtype"]], start + entry["data_offsets"][0]
        if 0 in shape:  # of which nothing else limits the other sides
            if math.prod(max(side, 1) for side in shape) >= 2**63:
                raise ValueError(f"its tensor {name!r} is {shape}, which no tensor is")
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            tensors[name] = torch.frombuffer(pages, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)
    return tensors, mapped


def build(metadata: dict[str, str], tensors: dict[str, Tensor], mapped: MappedFile, read_record: ReadRecord) -> Trajectory:
    """The trajectory of what a file holds. Raises ValueError where a part is missing or of another kind."""
    for name in ("sigmas", "latents", "weights"):
        if name not in tensors:
            raise ValueError(f"its tensor {name!r} is missing")
    description = json.loads(metadata.get("trajectory", "null"))
    found = part(description, "origin", dict)
    residuals, patches = part(found, "residuals", list), part(found, "patches", dict)
    if not all(isinstance(value, float | int) for value in residuals) or not all(isinstance(value, str) for value in patches.values()):
        raise ValueError("its residuals are no numbers, or its patches no text")
    origin = Origin(
        tensors["weights"],
        patches,
        part(found, "prompt", str, type(None)),
        part(found, "schedule", str),
        part(found, "method", str),
        part(found, "refine", int),
        float(part(found, "tolerance", float, int)),
        tuple(map(float, residuals)),
    )
    coordinates = Coordinates(part(description, "family", str))
    record = part(description, "record", dict, type(None))
    if record is not None:
        maps = {name.removeprefix(RECORD): tensor for name, tensor in tensors.items() if name.startswith(RECORD)}
        frames = tensors["latents"].shape[1:2]
        for name, tensor in maps.items():
            if tensor.shape[1:2] != frames:
                raise ValueError(f"its record {name!r} is {list(tensor.shape)}, its latents are {list(tensors['latents'].shape)}")
            if not finite(tensor):
                raise ValueError(f"its record {name!r} holds values that are not finite numbers")
        record = read_record(maps, record, coordinates)
    sides = part(description, "grid", list) if coordinates.file_version > 1 else [Grid.cell, Grid.time]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"its grid is {sides!r:.60}, not two whole numbers above 0")
    return Trajectory(tensors["sigmas"], tensors["latents"], record, coordinates, tensors.get("exact_clip"), origin, Grid(*sides), mapped)


def part(description: Any, name: str, *kinds: type) -> Any:
    """An entry of a JSON object, of one of these kinds."""
    if not isinstance(description, dict) or name not in description or not isinstance(description[name], kinds):
        raise ValueError(f"its description has no {name!r} as BLADE writes it")
    return description[name]


def check(trajectory: Trajectory) -> None:
    """Raises ValueError where a trajectory is not as its class says, before anything larger than a level's part is read."""
    check_form(trajectory)
    for level, values in enumerate(trajectory.latents):
        trajectory.check_file()
        if not finite(values) or (level == 0 and trajectory.exact_clip is not None and not finite(trajectory.exact_clip)):
            raise ValueError(f"its latents at level {level} are not all finite numbers")


def check_form(trajectory: Trajectory) -> None:
    """Raises ValueError where sizes and kinds of a trajectory's parts are not as its class says. Reads no latents."""
    sigmas, latents, clip = trajectory.sigmas, trajectory.latents, trajectory.exact_clip
    if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas.dtype != torch.float32:
        raise ValueError(f"its sigmas are {list(sigmas.shape)} in {sigmas.dtype}, not two or more in fp32")
    if len(sigmas) > MOST_LEVELS:
        raise ValueError(f"it has {len(sigmas)} levels, more than any inversion makes ({MOST_LEVELS})")
    if not sigmas.isfinite().all() or sigmas[0] != 0 or (sigmas.diff() <= 0).any():
        raise ValueError("its sigmas are not finite numbers that rise from 0")
    if latents.ndim != 5 or 0 in latents.shape or latents.dtype not in DTYPES.values():
        raise ValueError(
            f"its latents are {list(latents.shape)} in {latents.dtype}, not [levels, frames, channels, height, width] in fp32 or fp16"
        )
    if len(latents) != len(sigmas):
        raise ValueError(f"it has {len(latents)} levels of latents and {len(sigmas)} sigmas")
    if clip is not None and (clip.shape != latents.shape[1:] or clip.dtype != torch.float32):
        raise ValueError(f"its exact clip is {list(clip.shape)} in {clip.dtype}, not {list(latents.shape[1:])} in fp32")
    if trajectory.origin.weights.dtype != torch.float32:
        raise ValueError(f"its sample of the weights is in {trajectory.origin.weights.dtype}, not fp32")


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; a few MiB at a time, for tensors that do not fit in memory."""
    return all(bool(some.isfinite().all()) for some in values.flatten().split(2**22))


def mebibytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**20:,.1f} MiB"
