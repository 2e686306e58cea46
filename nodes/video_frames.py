"""Video to Frames: a VIDEO of core's nodes to frames, frame rate and sound, as Load Video gives them."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.job import free_memory
from ..host.video import video_source
from ..video.fit import CROP
from ..video.load import Stretch, load_clip
from .common import CATEGORY, checked, naming
from .load_video import clip_outputs, stretch_inputs, stretch_outputs, ticks_of

TITLE = "Video to Frames (BLADE)"


class VideoToFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_VideoToFrames",
            display_name=TITLE,
            category=CATEGORY,
            description="Reads a stretch of a VIDEO, from core's Load Video or any node that makes one, as Load Video (BLADE) reads one of a file.",
            inputs=[io.Video.Input("video", tooltip="The clip."), *stretch_inputs()],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="[frames, height, width, 3], both sides multiples of 8."),
                *stretch_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        video,
        start_frame: int = 0,
        frame_count: int = 0,
        every_nth: int = 1,
        longest_side: int = 0,
        force_fps: float = 0.0,
        sides: str = CROP,
        deinterlace: bool = True,
    ) -> io.NodeOutput:
        stretch = Stretch(start_frame, frame_count, every_nth, longest_side, force_fps, sides)
        with naming(TITLE, "video"):
            source = video_source(video, deinterlace)
            clip = load_clip(source, stretch, free_memory(), ticks_of(source, stretch))
        return clip_outputs(cls, clip, source, stretch)
