"""Cross-Attention Mask: where the words of the source prompt look, as a mask per frame."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..attention.draw import MaskRule, draw_mask
from ..attention.heat import record_heat
from ..attention.masks import HALF_HEIGHT, LIMIT, MATTES, THRESHOLDS
from ..attention.pictures import contour_pictures, heat_pictures, step_strip
from ..host.job import frame_ticks
from ..video.pictures import picked
from .checks import check_trajectory
from .common import CATEGORY, TrajectorySocket, checked, clip_mask, naming, resize_note, tell
from .inputs import grow_input

TITLE = "Cross-Attention Mask (BLADE)"
CONTOURS, HEAT, STEPS = SHOWS = ("contours", "heat", "steps")
MOST_SHOWN = 16  # frames in the node itself; the outputs have all


class CrossAttentionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_CrossAttentionMask",
            display_name=TITLE,
            category=CATEGORY,
            description="Draws a mask from the cross-attention that the inversion recorded. Runs no model: change words, threshold and smoothing freely.",
            inputs=[
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE), whose source came from a Prompt (BLADE) node."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip='Words or phrases of the source prompt, separated by commas: "red car, wheels". "wheels:0.5" counts half, "-road" pushes '
                    'the mask away, "-car" alone is everything but the car, "car#2" the second car alone. All the words that describe the object find it best: "red car", not "car".',
                ),
                io.Combo.Input(
                    "threshold",
                    options=list(THRESHOLDS),
                    default=HALF_HEIGHT,
                    tooltip="What heat is inside. half height: half way between background and object, found for the clip. otsu: wider. "
                    "hysteresis: wider, but only connected areas that somewhere exceed half height. fixed: the value of fixed_threshold.",
                ),
                io.Float.Input("fixed_threshold", default=0.3, min=0.0, max=1.0, step=0.01, tooltip="For the threshold fixed."),
                io.Boolean.Input(
                    "edges",
                    default=True,
                    tooltip="Moves the outline to where colours have their edges (GrabCut). Needs frames. Off where object and ground look alike.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=6,
                    min=0,
                    max=32,
                    tooltip="How many frames to either side each frame agrees with, along the clip's optical flow, against flicker. Needs frames.",
                ),
                io.Int.Input(
                    "objects", default=0, min=0, max=99, tooltip="Keeps so many of each frame's largest connected areas; 0 keeps all."
                ),
                io.Boolean.Input("fill_holes", default=False, tooltip="Fills what the mask encloses."),
                grow_input(),
                io.Float.Input(
                    "blur",
                    default=0.0,
                    min=0.0,
                    max=64.0,
                    step=0.5,
                    tooltip="Softens the outline by a Gaussian blur of this sigma, in pixels.",
                ),
                io.Combo.Input(
                    "matte_mode",
                    options=list(MATTES),
                    default=LIMIT,
                    tooltip="What the matte does: limit keeps the mask inside it, add joins it to the mask, subtract keeps the mask out of it.",
                ),
                io.Combo.Input(
                    "show",
                    options=list(SHOWS),
                    default=CONTOURS,
                    tooltip=f"What this node shows, of at most {MOST_SHOWN} frames: the mask's outline over the clip, each phrase's heat, or the heat by noise level.",
                ),
                io.Image.Input(
                    "frames",
                    optional=True,
                    tooltip="The clip's frames, for edges and smoothing. Without them the mask is as coarse as the attention's maps.",
                ),
                io.Mask.Input("matte", optional=True, tooltip="A rough mask of your own, one for the clip or one a frame; see matte_mode."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="[frames, height, width], 1 inside."),
                io.Image.Output(display_name="heat_map", tooltip="Each phrase's heat over the clip, the mask's outline in white."),
                io.Image.Output(
                    display_name="heat_by_step",
                    tooltip="One picture: each phrase's heat by noise level, of the frame in the middle of the clip.",
                ),
                io.Image.Output(display_name="contours", tooltip="The clip, dimmed outside the mask, with the mask's outline."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked()
    def execute(
        cls,
        trajectory,
        words: str,
        threshold: str = HALF_HEIGHT,
        fixed_threshold: float = 0.3,
        edges: bool = True,
        smoothing: int = 6,
        objects: int = 0,
        fill_holes: bool = False,
        grow: int = 0,
        blur: float = 0.0,
        matte_mode: str = LIMIT,
        show: str = CONTOURS,
        frames: torch.Tensor | None = None,
        matte: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_trajectory(TITLE, trajectory)
        record = trajectory.record
        if record is None:
            raise ValueError(
                f"{TITLE}, input trajectory: no words were recorded with it. Make the source prompt of DDIM Invert with a Prompt (BLADE) node."
            )
        with naming(TITLE, "words"):
            phrases = record.words.choose(words, all_but=True)
        height, width = trajectory.pixels
        count = trajectory.frames
        if frames is not None:
            with naming(TITLE, "frames"):
                check_frames(frames, count, height, width)
        note = ""
        if matte is not None:
            with naming(TITLE, "matte"):
                matte, note = clip_mask(matte, trajectory), resize_note(matte, height, width, "matte")
                if matte_mode == LIMIT and not matte.any():
                    raise ValueError(
                        "it is empty in every frame, and with matte_mode limit the mask stays inside it. Paint it, or set matte_mode to add or subtract."
                    )
        rule = MaskRule(threshold, fixed_threshold, edges, smoothing, objects, fill_holes, grow, blur, matte_mode)
        tick = frame_ticks(count * (edges + (smoothing > 0)) if frames is not None else 0)
        with naming(TITLE, "trajectory"):
            heat = record_heat(record, phrases, height, width)
            mask, found = draw_mask(heat, rule, frames, matte, tick)
        heat_map, by_step = heat_pictures(heat, mask), step_strip(record, phrases, height, width)
        contours = contour_pictures(torch.zeros(count, height, width, 3) if frames is None else frames, mask)
        tell(cls, summary(mask, threshold, found, frames is None and (edges or smoothing > 0), heat.all_but), note)
        shown = {CONTOURS: contours, HEAT: heat_map, STEPS: by_step}[show]
        return io.NodeOutput(mask, heat_map, by_step, contours, ui=ui.PreviewImage(shown[picked(len(shown), MOST_SHOWN)], cls=cls))


def check_frames(frames: torch.Tensor, count: int, height: int, width: int) -> None:
    """Raises ValueError for pictures that are not the clip's."""
    if frames.ndim != 4 or frames.shape[3] not in (3, 4):
        raise ValueError(f"their shape is {list(frames.shape)}; give [frames, height, width, 3].")
    if frames.shape[1:3] != (height, width):
        raise ValueError(
            f"they are {frames.shape[2]}x{frames.shape[1]} pixels, but the clip was inverted at {width}x{height}. Connect the frames that were encoded."
        )
    if len(frames) != count:
        raise ValueError(f"there are {len(frames)} frames, but the trajectory has {count}. Connect the frames that were encoded.")
    if not all(torch.isfinite(frame.float()).all() for frame in frames):
        raise ValueError("they hold values that are not finite (NaN or infinity). Connect the frames that were encoded.")


def summary(mask: torch.Tensor, rule: str, threshold: float, without_frames: bool, all_but: bool = False) -> str:
    """What came out, in a few words, and what an artist should know of it."""
    covered = mask.mean((1, 2))
    lines = [f"threshold {threshold:.2f} ({rule}); {100 * covered.mean():.1f} % of the clip is inside"]
    if empty := int((covered == 0).sum()):
        lines.append(f"nothing is inside in {empty} of {len(mask)} frames")
    if covered.mean() > 0.6 and not all_but:
        lines.append(
            "Most of the clip is inside: name the object with more of its words, or set the threshold to fixed and raise fixed_threshold."
        )
    if without_frames:
        lines.append("frames is not connected, so edges and smoothing do nothing.")
    return "\n".join(lines)
