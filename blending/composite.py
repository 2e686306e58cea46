"""The edit laid over the source's own pixels: outside the mask every bit is the source's."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from ..attention.masks import fade_out, grow_mask
from ..inversion.grid import Grid

ALPHA, POISSON = METHODS = ("alpha", "poisson")
RING = 32  # pixels around the mask in which source and edit are compared
ROUNDS = 10  # of the fit; it moves by less than a tenth of a grey level after the fifth
TUKEY = 4.685  # times the scale: a pixel farther off than this is an edit, not a shift (95 % efficient on Gaussian noise)
PRIOR = 8  # pixels that say "no shift": a ring of hardly any pixels corrects hardly anything
ERODED = 3  # pixels that OpenCV's seamlessClone takes from every mask before it uses it
Tick = Callable[[], None]


def composite(
    source: Tensor,
    edited: Tensor,
    mask: Tensor,
    grow: int = 2,
    feather: float = 4.0,
    colour_match: float = 1.0,
    method: str = ALPHA,
    tick: Tick = lambda: None,
) -> tuple[Tensor, Tensor]:
    """The clip, and the feathered mask that was used: fp32 on the CPU, [frames, H, W, 3] and [frames, H, W].

    source: [frames, H, W, 3] in 0..1. edited: [frames, h, w, 3], the same size or what `window` allows. mask: [frames or 1, h, w] in
    0..1. grow, feather: pixels, by which the mask is widened and over which it then fades out (masks.fade_out). colour_match: 0..1, how much of the colour shift around the mask is taken from the edit,
    see `colour_shift`. method: "alpha" mixes, "poisson" sets the edit's gradients into the source's colours.
    Where the used mask is 0, and where there is no edit, the source bit for bit; with "alpha" where it is 1, the corrected edit.
    tick is called after each frame. Raises ValueError for an edit of another size. Paper silent."""
    rows, columns = window(source.shape[1:3], edited.shape[1:3])
    result = torch.empty(source.shape, dtype=torch.float32)
    used = torch.zeros(len(mask), *source.shape[1:3])
    for frame, (original, edit) in enumerate(zip(source, edited, strict=True)):
        if frame < len(mask):
            used[frame, rows, columns] = fade_out(grow_mask(mask[frame : frame + 1].float().cpu(), grow), feather)[0]
        share = used[min(frame, len(mask) - 1), rows, columns].numpy()
        result[frame] = original
        if share.any():
            below = result[frame, rows, columns].numpy()
            above = edit.float().cpu().numpy()
            if colour_match:
                above = np.clip(above + np.float32(colour_match) * colour_shift(below, above, share), 0, 1)
            if method == POISSON:
                above = poisson(below, above, share)
            shown = share > 0
            below[shown] = mixed(below[shown], above[shown], share[shown][:, None])
        tick()
    return result, used.expand(len(source), -1, -1)


def window(size: tuple[int, ...], kept: tuple[int, ...]) -> tuple[slice, slice]:
    """Where in frames of `size` an edit of size `kept` lies, both (height, width): everywhere, or where core's VAE Encode crops sides
    to whole cells, in the middle. Raises ValueError for any other size."""
    for side, left in zip(size, kept, strict=True):
        if left not in (side, side // Grid.cell * Grid.cell):
            raise ValueError(
                f"it is {kept[1]}x{kept[0]} pixels, but source is {size[1]}x{size[0]}. Connect as source the frames that were encoded, "
                "or resize one of the two."
            )
    rows, columns = (slice((side - left) // 2, (side - left) // 2 + left) for side, left in zip(size, kept, strict=True))
    return rows, columns


def colour_shift(source: np.ndarray, edited: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What to add to the edit so that its ground has the source's colours: float32 [height, width, 3], all 0 where there is nothing to compare.

    source, edited: [height, width, 3]; mask: [height, width], above 0 where the edit shows. A plane for each channel, fitted to source - edited
    over the RING pixels around the mask, where both show the same ground; Tukey's biweight leaves out what was edited there too. A plane is
    steady from frame to frame, and continues under the object without taking its colour from the ring's texture; it ends at the ring's own extremes."""
    distance = cv2.distanceTransform((mask <= 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.nonzero((distance > 0) & (distance <= RING))
    if not len(y):
        return np.zeros_like(edited)
    apart = source[y, x].astype(np.float64) - edited[y, x]
    centre, deviation = (y.mean(), x.mean()), (max(y.std(), 1), max(x.std(), 1))
    axes = [(np.arange(side) - middle) / by for side, middle, by in zip(mask.shape, centre, deviation, strict=True)]
    terms = np.stack([np.ones(len(y)), axes[0][y], axes[1][x]], 1)
    plane = np.zeros((3, 3))  # terms x channels
    plane[0] = np.median(apart, 0)
    for _ in range(ROUNDS):
        left = apart - terms @ plane
        scale = 1.4826 * np.median(np.abs(left), 0) + 1e-4  # the deviation of Gaussian noise, and never 0
        weight = np.clip(1 - ((left / scale) ** 2).mean(1, keepdims=True) / TUKEY**2, 0, 1) ** 2
        plane = np.linalg.solve(terms.T @ (weight * terms) + PRIOR * np.eye(3), terms.T @ (weight * apart))
    at_ring = terms @ plane
    field = plane[0] + axes[0][:, None, None] * plane[1] + axes[1][None, :, None] * plane[2]
    return np.clip(field, at_ring.min(0), at_ring.max(0)).astype(np.float32)


def poisson(source: np.ndarray, edited: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The edit's gradients in the source's colours (Perez et al. 2003, as OpenCV's seamlessClone has it), in steps of 1/255.

    source, edited: [height, width, 3] in 0..1; mask: [height, width], above 0 where the edit shows; it must somewhere. Float32 in the shape of source.
    Where the mask meets the frame's border no ground is left to continue, and the edit keeps its own colours there."""
    room = ERODED + 2
    below, above, inside = (
        cv2.copyMakeBorder(picture, room, room, room, room, cv2.BORDER_REPLICATE)
        for picture in (to_bytes(source), to_bytes(edited), (mask > 0).astype(np.uint8))
    )
    margin = np.pad(np.zeros(mask.shape, bool), room, constant_values=True)
    below[margin] = np.where(inside[..., None], above, below)[margin]
    inside = cv2.dilate(inside, np.ones((2 * ERODED + 1, 2 * ERODED + 1), np.uint8))
    inside[[0, -1]] = inside[:, [0, -1]] = 0  # seamlessClone clears these itself, and then looks for the centre of what is left
    left, top, width, height = cv2.boundingRect(inside)
    cloned = cv2.seamlessClone(above, below, 255 * inside, (left + width // 2, top + height // 2), cv2.NORMAL_CLONE)
    return cloned[room:-room, room:-room].astype(np.float32) / 255


def mixed(source: np.ndarray, edited: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Exactly the edit at a share of 1."""
    return np.where(share == 1, edited, source + share * (edited - source))


def to_bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
