"""Cross-Attention Mask: where the words of the source prompt look, as a mask per frame."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..attention.masks import half_height, histogram, paint_heat, record_heat, threshold_mask
from .common import CATEGORY, CELL, TrajectorySocket, naming

TITLE = "Cross-Attention Mask (BLADE)"


class CrossAttentionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_CrossAttentionMask",
            display_name=TITLE,
            category=CATEGORY,
            description="Draws a mask from the cross-attention that the inversion recorded. Runs no model: change words and threshold freely.",
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE), whose source came from a Prompt (BLADE) node."),
                io.String.Input(
                    "words", default="", tooltip='Words or phrases of the source prompt, separated by commas: "red car, wheels".'
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Heat above which a pixel belongs to the mask. 0 finds it for the clip.",
                ),
                io.Int.Input("grow", default=0, min=-256, max=256, tooltip="Widens the mask by so many pixels; negative values shrink it."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="[frames, height, width], 1 inside."),
                io.Image.Output(display_name="heat_map", tooltip="The words' heat over the clip, the mask's outline in white."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trajectory, words: str, threshold: float, grow: int) -> io.NodeOutput:
        record = trajectory.record
        if record is None:
            raise ValueError(
                f"{TITLE}, input trajectory: no words were recorded with it. Make the source prompt of DDIM Invert with a Prompt (BLADE) node."
            )
        with naming(TITLE, "words"):
            columns = record.words.find_all(words)
        height, width = (side * CELL for side in trajectory.latents.shape[-2:])
        with naming(TITLE, "trajectory"):
            words_heat = record_heat(record, columns, height, width)
            heat = words_heat.normalised(slice(None), words_heat.scale())
        mask = threshold_mask(heat, threshold or half_height(histogram(heat)), grow)
        heat_map = paint_heat(heat, mask)
        return io.NodeOutput(mask, heat_map, ui=ui.PreviewImage(heat_map, cls=cls))
