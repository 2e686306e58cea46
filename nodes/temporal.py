"""Temporal-Spatial Attention: a MODEL whose self-attention looks across the frames of a batch."""

from __future__ import annotations

from comfy_api.latest import io

from ..attention.temporal import KEYS_FROM, temporal_attention
from ..host.attention import with_attention
from ..host.sampling import unet_family
from .common import CATEGORY, naming

TITLE = "Temporal-Spatial Attention (BLADE)"


class TemporalAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_TemporalAttention",
            display_name=TITLE,
            category=CATEGORY,
            description="Makes every self-attention layer look across frames, so that an edit holds still over time. Nothing is trained; "
            "the model you put in is not changed. Use the same patched model for inversion and sampling.",
            inputs=[
                io.Model.Input("model", tooltip="An SD1.5, SD2.x or SDXL model."),
                io.Combo.Input(
                    "keys_from",
                    options=list(KEYS_FROM),
                    default=KEYS_FROM[0],
                    tooltip="Whose keys and values a frame sees. first_previous: the first and the previous frame. "
                    "self_middle: itself and the middle frame. all: every frame (costs the most).",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The patched model.")],
        )

    @classmethod
    def execute(cls, model, keys_from: str) -> io.NodeOutput:
        with naming(TITLE, "model"):
            unet_family(model)

        def across_frames(q, k, v, attend, options):
            conds = len(options.get("cond_or_uncond", [0]))
            if k.shape != q.shape or len(q) % conds:  # another patch has changed what this layer attends to: leave it to that one
                return attend(q, k, v)
            return temporal_attention(q, k, v, len(q) // conds, keys_from, attend)

        return io.NodeOutput(with_attention(model, "blade_temporal", self_attention=across_frames))
