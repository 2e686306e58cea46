"""Temporal-Spatial Attention: a MODEL whose self-attention looks across the frames of a batch."""

from __future__ import annotations

from comfy_api.latest import io

from ..attention.temporal import KeyFrames
from ..host.attention import with_temporal_attention
from ..host.families import coordinates_of
from .common import CATEGORY, checked, naming

TITLE = "Temporal-Spatial Attention (BLADE)"
SCALES = {
    "all": (1, 8),
    "1/1": (1, 1),
    "1/2": (2, 2),
    "1/4": (4, 4),
    "1/8": (8, 8),
    "1/1 and 1/2": (1, 2),
    "1/1 to 1/4": (1, 4),
    "1/2 to 1/8": (2, 8),
    "1/4 and 1/8": (4, 8),
}


class TemporalAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sees = "Every frame takes keys and values from"
        return io.Schema(
            node_id="BLADE_TemporalAttention",
            display_name=TITLE,
            category=CATEGORY,
            description="Makes self-attention look across frames, so that an edit holds still over time, and lets clips of any length pass in "
            "batches. Nothing is trained; the model you put in is not changed. Use the same patched model for inversion and sampling.",
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5, SD2.x or SDXL model."),
                io.Boolean.Input("self_frame", default=True, tooltip=f"{sees} itself, as without this node."),
                io.Boolean.Input("first_frame", default=True, tooltip=f"{sees} the first frame."),
                io.Boolean.Input("previous_frame", default=True, tooltip=f"{sees} the frame before it."),
                io.Boolean.Input("next_frame", default=False, tooltip=f"{sees} the frame after it."),
                io.Boolean.Input("middle_frame", default=False, tooltip=f"{sees} the clip's middle frame."),
                io.Boolean.Input(
                    "all_frames", default=False, tooltip=f"{sees} all frames. Costs the most: time grows with the square of the length."
                ),
                io.Int.Input(
                    "anchor_every",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip=f"{sees} the latest frame at a multiple of this number. 0: no anchors.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1: temporal attention. 0: the model's own self-attention, to the bit. Between: a mixture of both.",
                ),
                io.Combo.Input(
                    "blocks",
                    options=list(SCALES),
                    default="all",
                    tooltip="Which blocks take part, by their feature maps' size in shares of the latent's.",
                ),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Where it begins. 0: at pure noise."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Where it ends. 1: at the clean clip."),
                io.Int.Input(
                    "batch_frames",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="How many frames pass the model at once; longer clips pass in batches, which bounds the memory. 0: as many as fit, "
                    "16 at most. With self, first, previous and anchor frames the result does not depend on it. For next_frame and all_frames, "
                    "four frames spread over the clip stand in for those of later batches.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The patched model.")],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model,
        self_frame: bool,
        first_frame: bool,
        previous_frame: bool,
        next_frame: bool,
        middle_frame: bool,
        all_frames: bool,
        anchor_every: int,
        strength: float,
        blocks: str,
        start_percent: float,
        end_percent: float,
        batch_frames: int,
    ) -> io.NodeOutput:
        with naming(TITLE, "model"):
            coordinates_of(model)
        chosen = {
            "self": self_frame,
            "first": first_frame,
            "previous": previous_frame,
            "next": next_frame,
            "middle": middle_frame,
            "all": all_frames,
        }
        with naming(TITLE, "self_frame"):
            keys = KeyFrames(tuple(kind for kind, wanted in chosen.items() if wanted), anchor_every)
        with naming(TITLE, "start_percent"):
            if start_percent > end_percent:
                raise ValueError(f"it is {start_percent}, after end_percent, which is {end_percent}. Give a start before the end.")
        patched = with_temporal_attention(model, keys, batch_frames, strength, SCALES[blocks], (start_percent, end_percent))
        return io.NodeOutput(patched)
