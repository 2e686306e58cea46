"""A plain image check, without learning: which coloured shape does a picture of the demo world show?

A pixel belongs to the palette colour, at some shade of it, or to the ground that is nearest in Lab. The ground's colours are taken
from the picture's own border, so that white on snow or red on brick is judged against that snow and that brick.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from demo.scenes import COLOURS, SHAPES, outline

SHADES = np.linspace(0.74, 1.26, 9)  # shading and patterns scale an object's colour by 0.78 to 1.25
TOO_FAR = 16.0  # Lab distance from the palette beyond which a pixel has none of its colours: grass is no green, sand no white
GRID = 64  # side of the raster on which outlines are compared
ANGLES = np.linspace(-0.4, 0.4, 17)
LEAST_IOU = 0.84  # no two different outlines overlap better than that (circle and square: 0.838), rendered objects reach 0.90
LEAST_AREA = 0.012  # of the picture


@dataclass(frozen=True)
class Found:
    """The largest object of a picture. mask: bool [height, width], holes filled. iou: with the best outline of its shape."""

    colour: str
    shape: str
    mask: np.ndarray
    iou: float

    @property
    def words(self) -> str:
        """Such as "red circle"."""
        return f"{self.colour} {self.shape}"


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """RGB [..., 3] in 0..255 to CIE Lab with L in 0..100, float32 of the same shape."""
    flat = (np.clip(rgb, 0, 255) / 255).astype(np.float32).reshape(1, -1, 3)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(rgb.shape)


@cache
def palette() -> np.ndarray:
    """Every palette colour in every shade, in Lab. [colours, shades, 3]"""
    return to_lab(np.array(list(COLOURS.values()))[:, None] * SHADES[:, None])


def nearest(lab: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest of some colours. lab [pixels, 3], colours [n, 3] -> [pixels]"""
    squares = (colours**2).sum(1)[:, None] - 2 * colours @ lab.T
    return np.sqrt(np.maximum(squares.min(0) + (lab**2).sum(1), 0))


def ground_colours(pixels: np.ndarray) -> np.ndarray:
    """A ground's texture moves its colour along one line; samples of that line, in Lab. pixels: RGB [n, 3] -> [13, 3]"""
    middle = np.median(pixels, 0)
    direction = np.array([1, 1, 0.85]) / np.linalg.norm([1, 1, 0.85])
    low, high = np.percentile((pixels - middle) @ direction, [3, 97])
    beyond = 0.25 * (high - low)  # the border has not seen all of the texture
    return to_lab(middle + np.linspace(low - beyond, high + beyond, 13)[:, None] * direction)


def label(picture: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The palette index of each pixel, -1 for the ground and for colours of neither. RGB [h, w, 3], ground: RGB pixels [n, 3] -> [h, w]"""
    lab = to_lab(picture).reshape(-1, 3)
    distances = np.stack([nearest(lab, shades) for shades in palette()])
    best, distance = distances.argmin(0), distances.min(0)
    best[(distance > nearest(lab, ground_colours(ground))) | (distance > TOO_FAR)] = -1
    return best.reshape(picture.shape[:2])


def border(picture: np.ndarray) -> np.ndarray:
    """The pixels of a frame of a sixteenth of the height. [n, 3]"""
    width = max(2, picture.shape[0] // 16)
    rim = np.ones(picture.shape[:2], bool)
    rim[width:-width, width:-width] = False
    return picture[rim]


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part with its holes filled; all False when there is none. bool [h, w]"""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    part = (parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(part, contours, -1, 1, cv2.FILLED).astype(bool)


def disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def clean(mask: np.ndarray, unit: int) -> np.ndarray:
    """Specks and threads removed, gaps closed, largest part kept. bool [h, w]; unit: pixels"""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc(unit))
    return largest_part(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, disc(2 * unit)).astype(bool))


def refine(picture: np.ndarray, mask: np.ndarray, unit: int) -> np.ndarray:
    """Redraws a rough mask where a pixel is half object and half ground, along Fisher's discriminant of their colours.

    Halfway, not where the ground's colours end: a soft edge must not make the object larger. picture: RGB float [h, w, 3]"""
    inside = cv2.erode(mask.astype(np.uint8), disc(2 * unit)).astype(bool)
    outside = ~cv2.dilate(mask.astype(np.uint8), disc(4 * unit)).astype(bool)
    if inside.sum() < 20 or outside.sum() < 20:
        return mask
    thing, ground = picture[inside], picture[outside]
    means = np.median(thing, 0), np.median(ground, 0)
    weights = np.linalg.solve(np.cov(thing.T) + np.cov(ground.T) + 8 * np.eye(3), means[0] - means[1])
    score = cv2.transform(picture - (means[0] + means[1]) / 2, weights[None].astype(np.float32))
    return clean(cv2.GaussianBlur(score, (0, 0), 0.5 * unit) > 0, unit)


@cache
def outlines() -> np.ndarray:
    """Each shape at each angle, with the same area (a fifth of the raster) and its centre of mass in the middle. [shapes, angles, GRID**2]"""
    rasters = []
    for shape in SHAPES:
        for angle in ANGLES:
            cos, sin = np.cos(angle), np.sin(angle)
            points = outline(shape) @ np.array([[cos, sin], [-sin, cos]], np.float32)
            moments = cv2.moments(points)
            points = (points - [moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]]) * np.sqrt(0.2 / moments["m00"])
            large = np.zeros((4 * GRID, 4 * GRID), np.uint8)
            cv2.fillPoly(large, [np.round((points + 0.5) * 4 * GRID * 16).astype(np.int32)], 1, shift=4)
            rasters.append(cv2.resize(large.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA).ravel())
    return np.stack(rasters).reshape(len(SHAPES), len(ANGLES), -1)


def fit_shape(mask: np.ndarray) -> tuple[str, float]:
    """The shape whose outline, fitted in scale, place and angle, overlaps a mask best, and the IoU. bool [h, w]"""
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    best = np.zeros(len(SHAPES))
    for size in (0.96, 1.0, 1.04):  # a mask that lost its corners has a smaller area than the outline that fits it
        scale = size * np.sqrt(0.2 / moments["m00"]) * GRID
        move = np.array([[scale, 0, GRID / 2 - 0.5 - scale * centre[0]], [0, scale, GRID / 2 - 0.5 - scale * centre[1]]])
        raster = cv2.warpAffine(mask.astype(np.float32), move, (GRID, GRID), flags=cv2.INTER_LINEAR).ravel()
        shared = outlines() @ raster
        best = np.maximum(best, (shared / (0.2 * GRID**2 + raster.sum() - shared)).max(1))
    return SHAPES[best.argmax()], float(best.max())


def find_object(picture: np.ndarray) -> Found | None:
    """The largest object of a picture, or None when there is none of a palette colour and a known shape.

    picture: RGB uint8 [height, width, 3]"""
    unit = max(1, round(picture.shape[0] / 128))
    smooth = cv2.GaussianBlur(picture, (0, 0), 0.8 * unit).astype(np.float32)
    labels = label(smooth, border(smooth))
    parts = [clean(labels == index, unit) for index in range(len(COLOURS))]
    areas = [(part & (labels == index)).sum() for index, part in enumerate(parts)]  # unfilled: a blurred rim can have a third colour
    index = int(np.argmax(areas))
    if areas[index] < LEAST_AREA * labels.size:
        return None
    mask = parts[index]
    for _ in range(2):
        mask = refine(smooth, mask, unit)
    if mask.sum() < LEAST_AREA * labels.size:
        return None
    shape, iou = fit_shape(mask)
    if iou < LEAST_IOU:
        return None
    return Found(list(COLOURS)[index], shape, mask, iou)


def colour_in(picture: np.ndarray, mask: np.ndarray) -> str:
    """The palette colour of most pixels inside a known mask, or "ground" where most look like what surrounds it.

    picture: RGB uint8 [height, width, 3]; mask: 0..1 or bool [height, width]. Raises ValueError for an empty mask."""
    unit = max(1, round(picture.shape[0] / 128))
    solid = (mask > 0.5).astype(np.uint8)
    if not solid.any():
        raise ValueError("colour_in: the mask is empty, so there is no object whose colour could be judged.")
    inside = cv2.erode(solid, disc(3 * unit)).astype(bool)
    if not inside.any():
        inside = solid.astype(bool)
    outside = ~cv2.dilate(solid, disc(5 * unit)).astype(bool)
    smooth = cv2.GaussianBlur(picture, (0, 0), 0.8 * unit).astype(np.float32)
    labels = label(smooth, smooth[outside] if outside.any() else border(smooth))[inside]
    counts = np.bincount(labels + 1, minlength=len(COLOURS) + 1)
    return ("ground", *COLOURS)[counts.argmax()]


def iou(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Intersection over union of each frame. [frames]

    found, exact: [frames, height, width], bool or 0..1, where more than a half counts as inside. Two empty masks agree: 1.
    Raises ValueError for shapes that differ."""
    if found.shape != exact.shape or found.ndim != 3:
        raise ValueError(f"iou: masks of shape {found.shape} and {exact.shape}: give two of one shape [frames, height, width].")
    first, second = found > 0.5, exact > 0.5
    union = (first | second).sum((1, 2))
    return np.where(union == 0, 1.0, (first & second).sum((1, 2)) / np.maximum(union, 1))
