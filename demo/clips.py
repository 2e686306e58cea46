"""The demo's clips: small H.264 files rendered from seeds that training never saw, whose exact masks can be rendered again; and a mask that an
artist might have drawn over one of them.

    python -m demo.clips        writes demo/clips/*.mp4

Training draws its scenes from the seeds 1 to 200 and its sample pictures from 7 and a few hundred upwards; a demo clip's seed is
900,000 or more. The things and paths below are chosen by hand: no scene of the training moves at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from demo import scenes
from demo.scenes import Thing, caption, draw_mask
from metrics.background import dilate
from video.colour import to_rgb

FOLDER = Path(__file__).parent / "clips"
FRAMES = 12
FPS = 8
CRF = 12  # near transparent: the file is a source to edit, and its own loss should not be what the figures measure
MASKED, ROUGH = "blade_red_circle", 4  # the clip over which a mask was drawn, and how many pixels wider than its thing it is
MASK = FOLDER / f"{MASKED}_mask.mp4"


@dataclass(frozen=True)
class Clip:
    """A thing that moves over a ground by `velocity` (heights a frame) and turns by `spin` (radians a frame), and maybe a second one over it,
    which moves by its own velocity."""

    seed: int
    thing: Thing
    ground: str
    velocity: tuple[float, float]
    spin: float = 0.0
    second: Thing | None = None
    second_velocity: tuple[float, float] = (0.0, 0.0)

    @property
    def words(self) -> str:
        """The clip's source prompt, such as "a red circle on grass"."""
        return caption(self.things(0), self.ground)

    def things(self, frame: int) -> list[Thing]:
        """Where its things are in a frame, in the order in which they are drawn."""
        found = [self.thing.moved(frame, self.velocity, self.spin)]
        return found if self.second is None else [*found, self.second.moved(frame, self.second_velocity)]


CLIPS = {
    "blade_red_circle": Clip(900_001, Thing("red", "circle", 0.30, 0.40, 0.20), "grass", (0.034, 0.016)),
    "blade_yellow_square": Clip(900_002, Thing("yellow", "square", 0.68, 0.62, 0.21, angle=0.12), "water", (-0.032, -0.018), spin=-0.02),
    "blade_two_things": Clip(
        900_003,
        Thing("red", "circle", 0.26, 0.28, 0.20),
        "sand",
        (0.040, 0.0),
        second=Thing("blue", "square", 0.75, 0.76, 0.17, angle=0.1),
        second_velocity=(-0.042, 0.0),
    ),
}


def find(name: str) -> Clip:
    """The clip of that name. Raises ValueError with the names there are."""
    if name not in CLIPS:
        raise ValueError(f"demo clip {name!r} does not exist: take one of {', '.join(CLIPS)}.")
    return CLIPS[name]


def path(name: str) -> Path:
    """Where the clip's committed file lies."""
    find(name)
    return FOLDER / f"{name}.mp4"


def render(name: str) -> np.ndarray:
    """The clip's frames as they were before H.264. uint8 RGB [frames, size, size, 3]"""
    clip = find(name)
    return scenes.render(clip.seed, clip.ground, [clip.things(frame) for frame in range(FRAMES)])


def truth(name: str, shape: str | None = None, which: int = 0) -> np.ndarray:
    """The exact masks: how much of each pixel a moving thing covers, float32 0..1. [frames, size, size]

    `shape` lays another outline on the same path instead, which is where an edit of the shape should draw. `which`: 1 for a clip's second thing."""
    clip = find(name)
    things = [clip.things(frame)[which] for frame in range(FRAMES)]
    return np.stack([draw_mask(replace(thing, shape=shape or thing.shape)) for thing in things])


def rough_mask() -> np.ndarray:
    """A mask of the clip MASKED such as an artist draws: too wide all around, white on black. uint8 RGB [frames, size, size, 3]"""
    wide = dilate(truth(MASKED), ROUGH)
    return np.where(wide[..., None], np.uint8(255), np.uint8(0)).repeat(3, -1)


def write_mp4(target: Path, frames: np.ndarray, fps: int = FPS, crf: int = CRF) -> None:
    """Writes H.264 in yuv420p with BT.601 colours, tagged as such, in the limited range that every player expects.

    frames: uint8 RGB [frames, height, width, 3] with even sides."""
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": "slow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 6  # SMPTE 170M, which is BT.601 at 525 lines
        context.color_range = 1  # limited
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def read_mp4(source: Path) -> np.ndarray:
    """All frames of a video file, in the colours in which the pack reads it. uint8 RGB [frames, height, width, 3]"""
    with av.open(str(source)) as file:
        return np.stack([to_rgb(frame) for frame in file.decode(video=0)])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in CLIPS:
        write_mp4(path(name), render(name))
        print(f"{path(name).name}: {find(name).words}, {FRAMES} frames, {path(name).stat().st_size / 1000:.0f} kB")
    write_mp4(MASK, rough_mask())
    print(f"{MASK.name}: where the thing of {MASKED} is, roughly, {MASK.stat().st_size / 1000:.0f} kB")
