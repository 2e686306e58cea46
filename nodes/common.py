"""What several nodes share: the category, sockets, places of files, and errors that name the node."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from numbers import Integral, Real
from pathlib import Path

import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io

from ..host.job import show_in_node
from ..host.leaks import collected_after_errors
from ..inversion.grid import Grid
from ..inversion.trajectory import Trajectory

CATEGORY = "BLADE"
CELL = Grid.cell  # pixels a side that one latent cell covers, where nothing says it
NO_MASK = (64, 64)  # height and width of the empty mask that core's Load Image gives for a picture without alpha
TrajectorySocket = io.Custom("BLADE_TRAJECTORY")
FitSocket = io.Custom("BLADE_FIT")  # a clip's source and the stretch of it that was read, which say how it was cropped or padded


@contextmanager
def naming(node: str, input_name: str = "", kind: type[Exception] = ValueError) -> Iterator[None]:
    """Errors of the rooms, of one kind, say what is wrong; this adds where: the node's title, and the input's name, in a ValueError."""
    try:
        yield
    except kind as error:
        if str(error).startswith(f"{node}, input "):
            raise  # what is nested in here knows better
        where = f"{node}, input {input_name}" if input_name else node
        raise ValueError(f"{where}: {error}") from error


def checked(*own: str) -> Callable:
    """Decorates a node's `execute`: its values are held against the node's own schema before anything else, since ComfyUI asks neither for the range nor
    for the choice of what arrives by a link. own: inputs that `execute` answers for itself.

    Errors name node and input."""

    def decorate(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
        signature, widgets = inspect.signature(execute), list[io.Input]()
        title = ""

        @wraps(execute)
        def answering(cls, *args, **kwargs) -> io.NodeOutput:
            nonlocal title
            if not title:
                schema = cls.define_schema()
                title, widgets[:] = schema.display_name, [given for given in schema.inputs if given.id not in own]
            given = signature.bind(cls, *args, **kwargs).arguments
            for widget in widgets:
                if widget.id in given:
                    with naming(title, widget.id):
                        check_value(widget, given[widget.id])
            with collected_after_errors():
                return execute(cls, *args, **kwargs)

        return answering

    return decorate


def check_value(widget: io.Input, value) -> None:
    """Raises ValueError for what an artist could not have set in the widget of an input."""
    if isinstance(widget, io.Combo.Input) and value not in widget.options:
        raise ValueError(f"it is {value!r:.80}. Choose one of: {', '.join(map(str, widget.options))}.")
    if isinstance(widget, io.Int.Input | io.Float.Input):
        whole = isinstance(widget, io.Int.Input)
        if not isinstance(value, Integral if whole else Real) or not widget.min <= value <= widget.max:
            raise ValueError(f"it is {value!r:.80}. Give a {'whole number' if whole else 'number'} from {widget.min} to {widget.max}.")
    if isinstance(widget, io.String.Input) and (not isinstance(value, str) or any("\ud800" <= mark <= "\udfff" for mark in value)):
        raise ValueError(f"it is {value!r:.80}, which is no text, or holds halves of characters. Write it again.")


def masks_of(mask: torch.Tensor, cells: tuple[float, ...] = ()) -> torch.Tensor:
    """A MASK with one axis of frames, [frames, height, width] in 0..1. cells: the size of a clip's latent, where a mask of it may be meant.

    Raises ValueError for one without pixels or with values that are not finite, and for what core gives where a picture has no mask."""
    if mask.ndim < 2 or 0 in mask.shape:
        raise ValueError(f"its shape is {list(mask.shape)}; give at least one frame, [frames, height, width].")
    low, high = (float(extreme) for extreme in torch.aminmax(mask.float()))  # a copy of the clip only where it is not fp32
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite (NaN or infinity). Make it again.")
    if high <= 0 and tuple(mask.shape[-2:]) == NO_MASK != tuple(cells):
        raise ValueError(
            f"it is {NO_MASK[1]}x{NO_MASK[0]} pixels and empty, as core's Load Image gives it for a picture that has no mask: no alpha channel, and "
            "nothing painted on it. Paint a mask in Load Image's Mask Editor, load a picture with an alpha channel, or, for a black and white one, use "
            "Load Image (as Mask) with channel red."
        )
    return (mask if 0 <= low and high <= 1 else mask.clamp(0, 1)).reshape(-1, *mask.shape[-2:])


def check_count(mask: torch.Tensor, frames: int, clip: str = "clip") -> None:
    """Raises ValueError for masks that are neither one for the clip nor one for each of its frames."""
    if len(mask) not in (1, frames):
        raise ValueError(f"it has {len(mask)} frames, but the {clip} has {frames}. Give one mask, or one for each frame.")


def resized(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks at another size, [frames, height, width] fp32, as core's nodes resize one (comfy.utils.reshape_mask, ImageCompositeMasked): bilinear."""
    return F.interpolate(mask[:, None].float(), (height, width), mode="bilinear")[:, 0]


def resize_note(mask: torch.Tensor, height: int, width: int, name: str = "mask") -> str:
    """What an artist should know of a mask that is resized to a clip's size; nothing where it has that size."""
    rows, columns = mask.shape[-2:]
    if (rows, columns) == (height, width):
        return ""
    # what rounding a side to whole pixels may cost is no stretch
    stretched = abs(rows * width - columns * height) > max(height, width, rows, columns)
    told = f"The {name} of {columns}x{rows} pixels is resized to the clip's {width}x{height}"
    told += ", and stretched, since its sides are in another proportion." if stretched else "."
    cells = (CELL * rows, CELL * columns) == (height, width)
    return told + (" If it is Blended Sampler's, set mask_size there to pixels for a sharper one." if cells else "")


def empty_note(filled: torch.Tensor, frames: int) -> str:
    """What an artist should know of a clip's mask that is empty in some frames; nothing where it is in none. filled: which masks have anything inside,
    one for the clip or one a frame."""
    empty = int((~filled).expand(frames).sum())
    if empty == frames:
        return f"The mask is empty in {empty} of {frames} frames. If it is from Load Image, its picture has no mask: no transparent part, and nothing painted."
    return f"The mask is empty in {empty} of {frames} frames." if empty else ""


def tell(node: type[io.ComfyNode], *notes: str) -> None:
    """Shows an artist, in the node and in the log, what there is to know of its inputs; nothing where all notes are empty."""
    if told := "\n".join(filter(None, notes)):
        logging.info("BLADE: %s", told)
        show_in_node(told, node.hidden.unique_id if node.hidden else None)


def clip_mask(mask: torch.Tensor, trajectory: Trajectory) -> torch.Tensor:
    """An artist's MASK for every latent frame of a trajectory's clip, [frames, height, width] fp32 on the CPU; one of another size is resized, as
    `resize_note` tells. Raises ValueError where it does not fit the clip."""
    mask, frames = masks_of(mask), trajectory.grid.frames(trajectory.frames)
    check_count(mask, frames, "trajectory")
    mask = mask.float().cpu()
    sized = mask if tuple(mask.shape[1:]) == trajectory.pixels else resized(mask, *trajectory.pixels)
    return trajectory.grid.to_latent_frames(sized) if len(sized) == frames else sized.expand(trajectory.frames, -1, -1)


def place(prefix: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Folder, name, next number and subfolder of a file in ComfyUI's output folder.

    Raises ValueError where that would be elsewhere, through ".." or through a link, before any folder is made."""
    output = folder_paths.get_output_directory()
    if "\0" in prefix:
        raise ValueError(f"{prefix!r:.80} holds a NUL character, which no file's name does. Give another.")
    outside = f"{prefix!r:.80} leads out of ComfyUI's output folder. Give a place inside it, such as 'blade/trajectory'."
    prefix = os.path.normpath(prefix)  # core would not see the earlier files of "a/", and count from 1 again
    if not within(os.path.join(output, prefix + "_"), output):
        raise ValueError(outside)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    except OSError as error:
        raise ValueError(f"the folder of {prefix!r:.80} cannot be used ({error}). Choose another.") from error
    except Exception as error:  # core's own check, on paths whose links are not followed, raises nothing narrower
        raise ValueError(outside) from error
    # %width% and the like are known only now, and Windows takes "D:name" for a place of its own
    if not within(os.path.join(folder, f"{name}_"), output):
        raise ValueError(outside)
    return folder, name, counter, subfolder


def within(path: str, folder: str) -> bool:
    """Whether a path lies in a folder, links followed. What no file can be called, for a NUL in it, lies nowhere."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except ValueError:
        return False


def check_inside(path: str, name: str) -> None:
    """Raises ValueError for a file or folder to be read, `name` to the artist, that lies outside ComfyUI's output and input folders, links followed."""
    if not any(within(path, folder) for folder in (folder_paths.get_output_directory(), folder_paths.get_input_directory())):
        raise ValueError(f"{name!r} lies outside ComfyUI's output and input folders. Move the file into one of them.")
