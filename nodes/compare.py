"""Compare: source, mask and edit beside each other, as a clip that plays in the node and as a contact sheet."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..host.job import frame_ticks
from ..video.pictures import Panels, contact_sheet, panels, picked, side_by_side, thumbnail_size, to_bytes, to_fit
from ..video.save import check_fps, save_video
from ..video.whole import Unwritable
from .common import CATEGORY, CELL, check_count, checked, empty_note, masks_of, naming, resize_note, resized, tell
from .inputs import check_pictures, fps_input

TITLE = "Compare (BLADE)"


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_Compare",
            display_name=TITLE,
            category=CATEGORY,
            description="Shows the source, the mask over it and the edit beside each other: as a clip that plays in the node, and as a sheet of a "
            "few frames.",
            inputs=[
                edited_input(),
                source_input(),
                fps_input(),
                io.Int.Input("rows", default=4, min=1, max=64, tooltip="Rows of the sheet. Its frames are evenly spaced over the clip."),
                io.Int.Input("columns", default=1, min=1, max=16, tooltip="Frames in each row of the sheet."),
                io.Int.Input(
                    "longest_side",
                    default=512,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Makes larger pictures smaller, so that the longer side of each has this many pixels. 0 keeps the size: three 4K "
                    "pictures side by side take much memory.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Blended Sampler's, in pixels or latent cells, or your own; one for the clip or one a frame. Without it two pictures "
                    "are shown.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="The clip that plays here, for Save Video."),
                io.Image.Output(
                    display_name="sheet", tooltip="One picture: some frames, each as source, mask and edit, with their numbers."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked("fps")
    def execute(
        cls,
        edited: torch.Tensor,
        source: torch.Tensor,
        fps: float,
        rows: int = 4,
        columns: int = 1,
        longest_side: int = 512,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_pair(TITLE, source, edited)
        (height, width), count = source.shape[1:3], len(source)
        masks = None if mask is None else ClipMask(TITLE, mask, count, height, width)
        with naming(TITLE, "fps"):
            check_fps(fps)
        tell(cls, *(masks.notes if masks else ()))
        size, small, chosen = to_fit(height, width, longest_side), thumbnail_size(height, width), picked(count, rows * columns)
        tick = frame_ticks(count)
        thumbnails: dict[int, Panels] = {}
        clip = torch.empty(0)

        def pictures() -> Iterator[np.ndarray]:
            nonlocal clip
            for frame in range(count):
                tick()
                given = to_bytes(source[frame]), to_bytes(edited[frame]), masks[frame] if masks else None
                if frame in chosen:
                    thumbnails[frame] = panels(*given, small)
                picture = side_by_side(panels(*given, size), frame)
                if not frame:
                    clip = torch.empty(count, *picture.shape)
                clip[frame] = torch.from_numpy(picture).float() / 255
                yield picture[None]

        folder = Path(folder_paths.get_temp_directory())  # which ComfyUI empties when it starts
        folder.mkdir(parents=True, exist_ok=True)
        name = f"blade_compare_{uuid.uuid4().hex}.mp4"
        with naming(TITLE, kind=Unwritable):  # no input says where ComfyUI's temp folder is
            save_video(folder / name, pictures(), fps)
        sheet = torch.from_numpy(contact_sheet(thumbnails, columns)).float()[None] / 255
        return io.NodeOutput(clip, sheet, ui=ui.PreviewVideo([ui.SavedResult(name, "", io.FolderType.temp)]))


def source_input() -> io.Input:  # behind edited_input, since a bypassed node hands its first picture on
    return io.Image.Input("source", tooltip="The clip before the edit, from Load Video (BLADE).")


def edited_input() -> io.Input:
    return io.Image.Input(
        "edited", tooltip="The clip after the edit, from Pixel Composite or VAE Decode: as many frames, of the same size."
    )


def check_pair(title: str, source: torch.Tensor, edited: torch.Tensor) -> None:
    """Raises ValueError unless these are two clips of RGB frames, as many and of one size."""
    with naming(title, "source"):
        check_pictures(source)
    with naming(title, "edited"):
        check_pictures(edited)
        if len(edited) != len(source):
            raise ValueError(
                f"it has {len(edited)} frames, but source has {len(source)}. Connect as source the very frames that were edited."
            )
        (height, width), (rows, columns) = source.shape[1:3], edited.shape[1:3]
        if (height, width) != (rows, columns):
            raise ValueError(
                f"it is {columns}x{rows} pixels, but source is {width}x{height}. Connect as source the frames that were edited, or resize one of "
                "the two."
            )


class ClipMask:
    """A MASK in pixels or latent cells, one for the clip or one a frame, looked at frame by frame; one of another size is resized. notes: what an
    artist should know of it.

    Raises ValueError, which names the node, where it does not fit a clip of so many frames of height x width pixels."""

    def __init__(self, title: str, mask: torch.Tensor, frames: int, height: int, width: int):
        self.size = height, width
        with naming(title, "mask"):
            self.mask = masks_of(mask, (height / CELL, width / CELL))
            check_count(self.mask, frames)
        rows, columns = self.mask.shape[1:]
        self.times = CELL if (CELL * rows, CELL * columns) == (height, width) else 1
        size_note = "" if self.times == CELL else resize_note(self.mask, height, width)
        self.notes = [note for note in (size_note, empty_note(self.mask.flatten(1).any(1), frames)) if note]

    def __getitem__(self, frame: int) -> np.ndarray:
        """float32 [height, width] in 0..1"""
        mask = self.mask[min(frame, len(self.mask) - 1)].float().cpu()
        if (self.times * mask.shape[0], self.times * mask.shape[1]) != self.size:
            return resized(mask[None], *self.size)[0].numpy()
        return mask.numpy().repeat(self.times, 0).repeat(self.times, 1)
