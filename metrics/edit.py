"""All figures of one edit, frame by frame: what the background kept, and how steady it is inside the mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from .background import IDENTICAL, dilate, psnr_outside, psnr_outside_five
from .temporal import RIM, mean_colour, solid_part, step_error, step_flicker

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
Values = dict[str, float | None]
Series = dict[str, list[float | None]]

PSNR, FIVE = "background_psnr_db", "background_psnr_db_five"
GROUND, CHANGED, CHANGED_SHARE, MASK_SHARE = "background_pixels", "changed_pixels", "changed_share", "mask_share"
WARP, WARP_SOURCE = "warp_error_edited", "warp_error_source"
FLICKER, FLICKER_SOURCE = "colour_flicker_edited", "colour_flicker_source"
PER_FRAME = {
    PSNR: f"dB, over the background's pixels alone; {IDENTICAL:.0f} where none differs",
    FIVE: "dB, FiVE-Bench's convention: the rest is zeroed and the mean runs over the whole frame",
    GROUND: "pixels farther than margin_px from the mask",
    CHANGED: "pixels of these whose colour differs in 8 bits",
    CHANGED_SHARE: "share of these, 0..1",
    MASK_SHARE: "share of the frame's pixels where the mask is above a half, 0..1",
}
PER_STEP = {
    WARP: "mean squared difference, colours in 0..1, of the mask's pixels and where the source's optical flow takes them in the next frame",
    WARP_SOURCE: "the same of the source: what the flow itself leaves",
    FLICKER: "half the mean squared change, colours in 0..1, of the mean colour inside the mask",
    FLICKER_SOURCE: "the same of the source",
}
SUMS = (GROUND, CHANGED)  # whose summary is a sum; of the others it is the mean over what could be judged


@dataclass
class EditFigures:
    """per_frame, per_step: a value for each frame, and from each frame to the next, by the keys of PER_FRAME and PER_STEP; None where there is
    nothing to judge: no background, or nothing inside the mask. margin: pixels. size: (height, width)."""

    margin: int
    size: tuple[int, int] = (0, 0)
    per_frame: Series = field(default_factory=lambda: {key: [] for key in PER_FRAME})
    per_step: Series = field(default_factory=lambda: {key: [] for key in PER_STEP})

    @property
    def frames(self) -> int:
        return len(self.per_frame[PSNR])

    def add(self, values: Values) -> None:
        """Appends the values of one frame or step, by key."""
        for key, value in values.items():
            (self.per_frame if key in PER_FRAME else self.per_step)[key].append(value)

    def summary(self) -> Values:
        """One value by each key; None where no frame or step has one."""
        found: Values = {}
        for key, values in {**self.per_frame, **self.per_step}.items():
            given = [value for value in values if value is not None]
            found[key] = None if not given else sum(given) if key in SUMS else float(np.mean(given))
        ground, changed = found[GROUND], found[CHANGED]
        if ground and changed is not None:
            found[CHANGED_SHARE] = changed / ground
        return found

    def as_json(self) -> str:
        """All of it, with the units of its keys; null where there is nothing to judge."""
        height, width = self.size
        tree = {
            "frames": self.frames,
            "width_px": width,
            "height_px": height,
            "margin_px": self.margin,
            "summary": {key: short(value) for key, value in self.summary().items()},
            "per_frame": {key: [short(value) for value in values] for key, values in self.per_frame.items()},
            "per_step": {key: [short(value) for value in values] for key, values in self.per_step.items()},
            "units": PER_FRAME | PER_STEP,
        }
        return json.dumps(tree, indent=1, allow_nan=False)

    def rows(self) -> list[tuple[str, str]]:
        """The summary in words: what, and how much."""
        found = self.summary()
        changed = told(found[CHANGED], "{:,} px") + ("" if found[CHANGED] is None else f" ({found[CHANGED_SHARE]:.1%})")
        return [
            ("background PSNR", told(found[PSNR], "{:.1f} dB")),
            ("in FiVE's convention", told(found[FIVE], "{:.1f} dB")),
            ("changed there", changed),
            ("mask", told(found[MASK_SHARE], "{:.1%} of the frame")),
            ("warp error, e-3", beside(found[WARP], found[WARP_SOURCE], 1e3)),
            ("colour flicker, e-5", beside(found[FLICKER], found[FLICKER_SOURCE], 1e5)),
        ]

    def notes(self) -> list[str]:
        """What could not be judged, a sentence each."""
        found, steps = [], self.frames - 1
        full, empty = (sum(not value for value in self.per_frame[key]) for key in (GROUND, MASK_SHARE))
        no_motion, no_colour = (self.per_step[key].count(None) for key in (WARP, FLICKER))
        if full:
            found.append(f"No background in {full} of {self.frames} frames: the mask, grown by {self.margin} px, covers all.")
        if empty:
            found.append(f"The mask is empty in {empty} of {self.frames} frames.")
        if not steps:
            found.append("One frame has no next one: nothing is said of warp error and flicker.")
        if no_motion:
            found.append(f"No warp error in {no_motion} of {steps} steps: the mask has no pixel there that stays in the picture.")
        if no_colour:
            found.append(f"No colour flicker in {no_colour} of {steps} steps: nothing of the mask lies more than {RIM} px inside its rim.")
        return found

    def text(self) -> str:
        """Summary and notes, a line each."""
        return "\n".join([*(f"{label}: {value}" for label, value in self.rows()), *self.notes()])


class Seen(NamedTuple):
    """A frame that has been looked at, with the mean colours inside its mask, where it has one."""

    source: np.ndarray
    edited: np.ndarray
    mask: np.ndarray
    colour: np.ndarray | None
    source_colour: np.ndarray | None


def measure(
    frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], margin: int, flow: Flow, tick: Callable[[], None] = lambda: None
) -> EditFigures:
    """The figures of an edit, whose frames are looked at two at a time, so that a clip's length costs no memory.

    frames: of each frame the source and the edit, uint8 RGB [height, width, 3], and the mask, 0..1 [height, width]. margin: pixels by which the
    mask is grown before the background is judged; there everything above 0 counts as mask, for the figures inside it what is above a half.
    flow: from each pixel of a grey frame to its place in another, see `warp_error`. tick is called after each frame.
    Raises ValueError for a negative margin."""
    found, before = EditFigures(margin), None
    for source, edited, mask in frames:
        found.size = mask.shape[0], mask.shape[1]
        found.add({**background(source, edited, mask, margin), MASK_SHARE: float((mask > 0.5).mean())})
        solid = solid_part(mask[None])[0]
        seen = Seen(source, edited, mask, mean_colour(edited, solid), mean_colour(source, solid))
        if before is not None:
            found.add(step(before, seen, flow))
        before = seen
        tick()
    return found


def background(source: np.ndarray, edited: np.ndarray, mask: np.ndarray, margin: int) -> Values:
    """The figures of one frame's background."""
    inside = dilate(mask[None], margin)
    pixels = int((~inside).sum())
    if not pixels:
        return {PSNR: None, FIVE: None, GROUND: 0, CHANGED: None, CHANGED_SHARE: None}
    changed = int(((source != edited).any(-1) & ~inside[0]).sum())
    psnr, five = (float(judge(source[None], edited[None], inside)[0]) for judge in (psnr_outside, psnr_outside_five))
    return {PSNR: psnr, FIVE: five, GROUND: pixels, CHANGED: changed, CHANGED_SHARE: changed / pixels}


def step(now: Seen, then: Seen, flow: Flow) -> Values:
    """The figures from a frame to the next."""
    warp = warp_source = None
    if (now.mask > 0.5).any():
        motion = flow(*(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (now.source, then.source)))
        warp, warp_source = (step_error(*pair, motion, now.mask) for pair in ((now.edited, then.edited), (now.source, then.source)))
    flicker, flicker_source = (
        None if one is None or other is None else step_flicker(one, other)
        for one, other in ((now.colour, then.colour), (now.source_colour, then.source_colour))
    )
    return {WARP: warp, WARP_SOURCE: warp_source, FLICKER: flicker, FLICKER_SOURCE: flicker_source}


def told(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def beside(edited: float | None, source: float | None, scale: float) -> str:
    if edited is None or source is None:
        return "-"
    one, other = (f"{value:.2f}" if value < 100 else f"{value:,.0f}" for value in (scale * edited, scale * source))
    return f"{one} (source {other})"


def short(value: float | None) -> float | None:
    """With six digits, which is more than any of these figures is sure of; counts stay whole."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")
