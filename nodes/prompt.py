"""Prompt: a text encoded as core does, which remembers its words for the nodes that look for them."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.words import encode_prompt
from .common import CATEGORY, checked, naming

TITLE = "Prompt (BLADE)"


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_Prompt",
            display_name=TITLE,
            category=CATEGORY,
            description="Encodes a text like CLIP Text Encode does, and keeps its words, so that masks can be drawn for them.",
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP (SD1.5, SD2.x or SDXL)."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip='The whole picture in words: "a red car on a road". Source and target prompt should differ only in what is edited.',
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Usable wherever CONDITIONING is.")],
        )

    @classmethod
    @checked()
    def execute(cls, clip, text: str) -> io.NodeOutput:
        if clip is None:
            raise ValueError(
                f"{TITLE}, input clip: there is no CLIP. The checkpoint holds no text encoder: load one that does, or use a CLIP loader."
            )
        with naming(TITLE, "clip"):
            try:
                return io.NodeOutput(encode_prompt(clip, text))
            except RecursionError as error:
                raise ValueError(f"{TITLE}, input text: its parentheses lie too deep inside each other. Take some away.") from error
