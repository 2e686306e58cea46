"""What the clip's own pixels say of a mask: where colours have their edges, and where objects move."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from ..video.motion import optical_flow
from ..video.pictures import to_bytes
from .heat import spans

SURELY_OUT, SURELY_IN = 0.5, 1.8  # times the threshold: heat below is no object, heat above is
ROUNDS = 3  # of GrabCut
LEAST = 0.25  # of the drawn mask: where less is left, the colours do not tell object and ground apart
ROOM = 0.5  # of the object's box, to every side: what GrabCut learns the background from
SAME = 0.1  # of the range of colours: a pixel that differs by this much from the one it came from hardly counts
Tick = Callable[[], None]


def cut_along_edges(frames: Tensor, heat: Tensor, mask: Tensor, threshold: float, tick: Tick = lambda: None) -> Tensor:
    """A mask that the heat has drawn, with its outline moved to where colours have their edges.

    frames: RGB [frames, height, width, 3] in 0..1; heat, mask: [frames, height, width] in 0..1, the mask being where the heat exceeds about
    the threshold; returns 0 and 1 in the mask's shape. tick is called after each frame. GrabCut (Rother et al. 2004) in OpenCV, to
    which the heat says what is surely in and surely out; paper silent."""
    masks = []
    for picture, warmth, drawn in zip(frames, heat.numpy(), mask.numpy(), strict=True):
        masks.append(cut_frame(to_bgr(picture), warmth, drawn > 0.5, threshold))
        tick()
    return torch.from_numpy(np.stack(masks)).float()


def cut_frame(picture: np.ndarray, heat: np.ndarray, inside: np.ndarray, threshold: float) -> np.ndarray:
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[heat < SURELY_OUT * threshold] = cv2.GC_BGD
    labels[heat > min(SURELY_IN * threshold, 1 - 0.3 * (1 - threshold))] = cv2.GC_FGD
    if not inside.any():
        return inside
    box = box_around(labels != cv2.GC_BGD)
    part = labels[box]
    likely = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if likely.all():
        return inside
    cv2.setRNGSeed(0)  # its colour models begin with a k-means: the same mask on every run
    models = np.zeros((2, 1, 65))
    cv2.grabCut(np.ascontiguousarray(picture[box]), part, (0, 0, 1, 1), models[0], models[1], ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.zeros_like(inside)
    found[box] = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found if found.sum() >= LEAST * inside.sum() else inside


def box_around(where: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is set, with ROOM around it."""
    box = []
    for axis, length in enumerate(where.shape):
        set_there = np.flatnonzero(where.any(1 - axis))
        first, last = int(set_there[0]), int(set_there[-1]) + 1
        room = max(16, int(ROOM * (last - first)))
        box.append(slice(max(0, first - room), min(length, last + room)))
    return box[0], box[1]


def along_motion(frames: Tensor, values: Tensor, passes: int, tick: Tick = lambda: None) -> Tensor:
    """Heat or mask in agreement with its neighbours, each warped along the clip's optical flow; `passes` frames to either side have a say.

    frames: RGB [frames, height, width, 3] in 0..1; values: [frames, height, width]; returns the same. Both neighbours count alike, so
    nothing lags. A neighbour's pixel counts by how much its colour agrees: what was hidden there, or where the flow is wrong, does not.
    A mask of 0 and 1 comes out soft where its outline lies between pixels. tick is called after each frame.
    Paper silent."""
    if not passes or len(values) < 2:
        return values
    found = torch.empty_like(values)
    for span in spans(len(values)):  # with the frames around it that reach into it: the same as the whole clip at once
        first, last = max(0, span.start - passes), min(len(values), span.stop + passes)
        near = neighbours(frames[first:last])
        smoothed = list(values[first:last].numpy())
        for _ in range(passes):
            smoothed = [agreed(smoothed, frame, of_frame) for frame, of_frame in enumerate(near)]
        found[span] = torch.from_numpy(np.stack(smoothed))[span.start - first : span.stop - first]
        for _ in range(span.start, span.stop):
            tick()
    return found


Neighbour = tuple[int, np.ndarray, np.ndarray]  # its number, where this frame's pixels lie in it, and how much each of those counts


def agreed(values: list[np.ndarray], frame: int, near: list[Neighbour]) -> np.ndarray:
    total, weight = values[frame].copy(), np.ones_like(values[frame])
    for other, coords, share in near:
        total += share * warp(values[other], coords)
        weight += share
    return total / weight


def neighbours(frames: Tensor) -> list[list[Neighbour]]:
    """Of each frame the one before and the one after it, with the coordinates there of its pixels, [height, width, 2] as (x, y)."""
    pictures = [to_bgr(picture) for picture in frames]
    greys = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures]
    height, width = greys[0].shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    found: list[list[Neighbour]] = [[] for _ in pictures]
    for first in range(len(pictures) - 1):
        for here, there in ((first, first + 1), (first + 1, first)):
            coords = pixels + optical_flow(greys[here], greys[there])
            apart = np.abs(warp(pictures[there].astype(np.float32), coords) - pictures[here]).mean(-1) / 255
            found[here].append((there, coords, 0.5 * np.exp(-((apart / SAME) ** 2))))
    return found


def warp(picture: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """A picture's values at coordinates in pixels, (x, y). [height, width, ...]"""
    return cv2.remap(picture, coords[..., 0], coords[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def to_bgr(picture: Tensor) -> np.ndarray:
    return np.ascontiguousarray(to_bytes(picture[..., :3])[..., ::-1])
