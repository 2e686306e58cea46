"""Pixel Composite: the edit inside the mask, the source's own pixels outside, bit for bit."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..blending.composite import ALPHA, METHODS, composite, window
from ..host.job import frame_ticks
from .common import CATEGORY, check_count, checked, empty_note, masks_of, naming, resize_note, resized, tell
from .inputs import check_pictures, composite_inputs

TITLE = "Pixel Composite (BLADE)"


class PixelComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_PixelComposite",
            display_name=TITLE,
            category=CATEGORY,
            description="Lays the edited clip over its source: outside the mask every pixel is the source's own, bit for bit, so that nothing is "
            "lost there in the VAE.",
            inputs=[
                io.Image.Input(
                    "edited", tooltip="The edited frames, from VAE Decode."
                ),  # first, since a bypassed node hands its first picture on
                *composite_inputs("Raise it where a rim of the old object stays."),
                io.Float.Input(
                    "feather",
                    default=4.0,
                    min=0.0,
                    max=256.0,
                    step=0.5,
                    tooltip="The edit fades out over so many pixels around the mask; from there on all is source. The mask itself stays whole.",
                ),
                io.Float.Input(
                    "colour_match",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Takes off the slight shift of colours that the VAE leaves, so that no seam shows. It is measured in the ground around "
                    "the mask. 0 leaves the edit as it is; lower it where the edit shall change the whole frame's colours.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=ALPHA,
                    tooltip="alpha: mixes by the mask, and keeps the edit's colours. poisson (OpenCV's seamlessClone, 8 bits): keeps the object's gradients "
                    "and takes on the surroundings' colours. Good where the surroundings have one colour; it changes the object's colour, which defeats "
                    "a colour edit.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="The source with the edit in it, of the source's size."),
                io.Mask.Output(display_name="used_mask", tooltip="The feathered mask; where it is 0, the source is untouched."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        edited: torch.Tensor,
        source: torch.Tensor,
        mask: torch.Tensor,
        grow: int = 2,
        feather: float = 4.0,
        colour_match: float = 1.0,
        method: str = ALPHA,
    ) -> io.NodeOutput:
        with naming(TITLE, "source"):
            check_pictures(source)
        with naming(TITLE, "edited"):
            check_pictures(edited)
            if len(edited) != len(source):
                raise ValueError(
                    f"it has {len(edited)} frames, but source has {len(source)}. Connect as source the very frames that were encoded."
                )
            part = window(source.shape[1:3], edited.shape[1:3])
        with naming(TITLE, "mask"):
            mask, note = mask_of_edit(mask, source, edited.shape[1:3], part)
        frames, used = composite(source, edited, mask, grow, feather, colour_match, method, frame_ticks(len(source)))
        tell(cls, note, empty_note(used.flatten(1).any(1), len(source)))
        return io.NodeOutput(frames, used)


def mask_of_edit(mask: torch.Tensor, source: torch.Tensor, size: tuple[int, ...], part: tuple[slice, slice]) -> tuple[torch.Tensor, str]:
    """A MASK of the source's or the edit's size, (h, w), as one of the edit's, [frames or 1, h, w] fp32 on the CPU; one of another size is resized to
    the source's, which the sentence tells. Raises ValueError where it does not fit."""
    mask = masks_of(mask)
    check_count(mask, len(source))
    height, width = source.shape[1:3]
    note = "" if mask.shape[1:] == size else resize_note(mask, height, width)
    mask = resized(mask.cpu(), height, width) if note else mask.float().cpu()
    return (mask if mask.shape[1:] == size else mask[:, part[0], part[1]]), note
