"""CFG Schedule: a guider whose strength changes over the steps."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.sampling import ScheduledGuider
from .common import CATEGORY, checked

TITLE = "CFG Schedule (BLADE)"


class CFGSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_CFGSchedule",
            display_name=TITLE,
            category=CATEGORY,
            description="Core's CFG Guider, with a strength that changes evenly from the first step to the last. Strong guidance at the beginning "
            "decides what is drawn; less at the end keeps colours and textures natural.",
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Conditioning.Input("positive", tooltip="What should be there."),
                io.Conditioning.Input("negative", tooltip="What should not be."),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance at the first step."),
                io.Float.Input("cfg_end", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance at the last step."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    @checked()
    def execute(cls, model, positive, negative, cfg: float, cfg_end: float) -> io.NodeOutput:
        guider = ScheduledGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg, cfg_end)
        return io.NodeOutput(guider)
