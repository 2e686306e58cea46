"""Pictures of heat and masks, for an artist to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ..video.pictures import masked, outlined, picked, to_bytes
from .heat import WordsHeat, level_heat
from .record import CrossAttentionRecord
from .words import Phrase

WHITE = (255, 255, 255)
LINE = 16  # pixels of height of a line of text
STRIP_LEVELS = 10  # that a strip shows at the most


def paint_heat(heat: Tensor) -> np.ndarray:
    """Heat 0..1 [height, width] as a colour map, RGB uint8."""
    return cv2.cvtColor(cv2.applyColorMap((heat.clamp(0, 1) * 255).byte().numpy(), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def titled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture under a line of text."""
    line = np.zeros((LINE, picture.shape[1], 3), np.uint8)
    cv2.putText(line, text, (2, LINE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.36, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([line, picture])


def to_image(pictures: Sequence[np.ndarray]) -> Tensor:
    """RGB uint8 pictures of one size as IMAGE, [frames, height, width, 3] in 0..1."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


def heat_pictures(heat: WordsHeat, mask: Tensor) -> Tensor:
    """Each phrase's heat beside the others, over the clip, with the mask's outline. IMAGE [frames, ...]"""
    pictures = []
    for frame, drawn in enumerate(mask):
        each = heat.of_phrases(slice(frame, frame + 1))[:, 0]
        parts = [
            titled(outlined(paint_heat(warmth), drawn.numpy(), WHITE), name(phrase))
            for phrase, warmth in zip(heat.phrases, each, strict=True)
        ]
        pictures.append(np.concatenate(parts, 1))
    return to_image(pictures)


def contour_pictures(frames: Tensor, mask: Tensor) -> Tensor:
    """The clip, dimmed outside the mask, with the mask's outline. frames: RGB [frames, height, width, 3] in 0..1; IMAGE of its size."""
    pairs = zip(frames, mask, strict=True)
    return to_image([masked(to_bytes(picture[..., :3]), drawn.numpy()) for picture, drawn in pairs])


def step_strip(record: CrossAttentionRecord, phrases: Sequence[Phrase], height: int, width: int) -> Tensor:
    """Heat by noise level, from clip to noise, a row for each phrase, of the frame in the middle of the clip. IMAGE of one picture."""
    columns = []
    for level in picked(len(record.sigmas), STRIP_LEVELS):
        heat = level_heat(record, level, phrases, height, width)
        middle = len(heat) // 2
        each = heat.of_phrases(slice(middle, middle + 1))[:, 0]
        rows = [titled(paint_heat(warmth), name(phrase)) for phrase, warmth in zip(heat.phrases, each, strict=True)]
        columns.append(titled(np.concatenate(rows), f"sigma {record.sigmas[level]:.3g}"))
    return to_image([np.concatenate(columns, 1)])


def mask_strip(masks: Sequence[Tensor], sigmas: Sequence[float], height: int, width: int) -> Tensor:
    """One frame's mask by sampling step, from noise to clip. masks: [h, w] each, latent cells in 0..1. IMAGE of one picture."""
    columns = []
    for step in picked(len(masks), STRIP_LEVELS):
        cells = cv2.resize(masks[step].cpu().numpy(), (width, height), interpolation=cv2.INTER_NEAREST)
        columns.append(titled(np.repeat((255 * cells[..., None]).astype(np.uint8), 3, -1), f"sigma {sigmas[step]:.3g}"))
    return to_image([np.concatenate(columns, 1)])


def name(phrase: Phrase) -> str:
    """cv2's font has ASCII only."""
    text = phrase.text.encode("ascii", "replace").decode()
    return text if phrase.weight == 1 else f"{text} {phrase.weight:+g}"
