"""From a decoded frame's colours to plain RGB."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np

# libswscale's flags: bicubic, whole chroma, accurate rounding. Without them flat colours are off by up to 3
EXACT = 4 | 0x2000 | 0x4000 | 0x40000
PQ, HLG = 16, 18  # SMPTE ST 2084 and ARIB STD-B67 among the transfer characteristics of ITU-T H.273
UNSPECIFIED = 2  # of the matrix coefficients
HD_LINES, HD_COLUMNS = 720, 1280
REFERENCE_WHITE = 203 / 1000  # of an HLG display's peak: ITU-R BT.2408, section 2.2; it becomes SDR's white
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # ITU-R BT.2087


def to_rgb(frame, hlg: bool = False) -> np.ndarray:
    """uint8 RGB [height, width, 3] of a decoded frame, by the matrix and the range that its file names. Where it is transparent, it is black.

    hlg: its colours are HDR of that kind, and become SDR. A frame without a named matrix is taken as players take it: BT.709 from HD sizes on, else BT.601."""
    matrix = frame.colorspace
    if matrix == UNSPECIFIED and (frame.height >= HD_LINES or frame.width >= HD_COLUMNS):
        matrix = "ITU709"
    # Old PyAV decodes everything as BT.601 unless source and destination differ here; new PyAV needs no such hint for the same.
    conversion: dict[str, Any] = {
        "src_colorspace": matrix,
        "dst_colorspace": "ITU601",
        "src_color_range": frame.color_range,
        "dst_color_range": "JPEG",
    }
    conversion["interpolation"] = EXACT
    if hlg:
        return hlg_to_sdr(frame.reformat(format="rgb48le", **conversion).to_ndarray())
    if frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components):
        return over_black(frame.reformat(format="rgba", **conversion).to_ndarray())
    return frame.reformat(format="rgb24", **conversion).to_ndarray()


def over_black(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA [height, width, 4] to RGB"""
    alpha = picture[..., 3:]
    if alpha.min() == 255:
        return picture[..., :3]
    return ((picture[..., :3].astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def hlg_to_sdr(picture: np.ndarray) -> np.ndarray:
    """uint16 RGB [height, width, 3] in HLG and BT.2020 to uint8 RGB in BT.709, as an SDR display of gamma 2.4 shows it. Lights brighter than
    the reference white are clipped.

    Source: ITU-R BT.2100, table 5 (inverse OETF; OOTF of a display of 1000 cd/m2, whose gamma is 1.2); BT.2087; BT.1886."""
    scene = hlg_scene_light()[picture]
    luma = scene @ BT2020_LUMA
    display = scene * (luma ** np.float32(0.2) / np.float32(REFERENCE_WHITE))[..., None]
    sdr = cv2.transform(display, BT2020_TO_BT709)
    return bt1886()[(sdr.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@cache
def hlg_scene_light() -> np.ndarray:
    """[65536] fp32: scene light, of 1 at most, of each signal value"""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.arange(65536) / 65535
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@cache
def bt1886() -> np.ndarray:
    """[65536] uint8: the signal that makes an SDR display show so much of its light"""
    return np.rint(255 * (np.arange(65536) / 65535) ** (1 / 2.4)).astype(np.uint8)
