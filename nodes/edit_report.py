"""Edit Report: what an edit kept of the background, and how steady it is inside the mask, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..host.job import frame_ticks, show_in_node
from ..metrics.edit import measure
from ..metrics.edit_chart import plot
from ..video.motion import optical_flow
from ..video.pictures import to_bytes
from .common import CATEGORY, checked, naming
from .compare import ClipMask, check_pair, edited_input, source_input

TITLE = "Edit Report (BLADE)"


class EditReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_EditReport",
            display_name=TITLE,
            category=CATEGORY,
            description="Measures an edit: what the background kept, and whether what was edited holds still. Runs no model.",
            inputs=[
                edited_input(),
                source_input(),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the edit is: Blended Sampler's, in pixels or latent cells, or your own; one for the clip or one a frame.",
                ),
                io.Int.Input(
                    "margin",
                    default=8,
                    min=0,
                    max=1024,
                    tooltip="The mask grows by so many pixels before the background is judged: next to it the VAE's decoder mixes both. 0 with "
                    "Pixel Composite's used_mask tells whether it left all else alone.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The figures by frame."),
                io.String.Output(
                    display_name="json", tooltip="All figures with their units, by frame and for the whole clip; null where there is none."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked()
    def execute(cls, edited: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, margin: int = 8) -> io.NodeOutput:
        check_pair(TITLE, source, edited)
        inside = ClipMask(TITLE, mask, len(source), *source.shape[1:3])

        def frames() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for frame in range(len(source)):
                yield to_bytes(source[frame]), to_bytes(edited[frame]), inside[frame]

        with naming(TITLE, "margin"):
            figures = measure(frames(), margin, partial(optical_flow, finest=0), frame_ticks(len(source)))
        lines = dict.fromkeys([*figures.text().splitlines(), *inside.notes])  # both may say that the mask is empty in some frames
        show_in_node("\n".join(lines), cls.hidden.unique_id if cls.hidden else None)
        image = torch.from_numpy(plot(figures)).float()[None] / 255
        return io.NodeOutput(image, figures.as_json(), ui=ui.PreviewImage(image, cls=cls))
