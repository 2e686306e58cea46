"""Figures that need another model's weights: CLIP's of an edit and of its steadiness, and LPIPS of the background. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.in_process import mend_companions

mend_companions()  # transformers and lpips import it

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures, RGB
# LPIPS's networks, by a tensor that torchvision's file of each has and the ones below do not
NETWORKS = {"squeeze": "features.3.squeeze.weight", "vgg": "features.28.weight", "alex": "features.10.weight"}


def tem_con(images: Tensor) -> float:
    """Tem-Con: the mean cosine similarity of consecutive frames. FateZero (ICCV 2023), section 4.1.

    images: CLIP's embeddings, [frames, width], of length 1. Raises ValueError for fewer than two frames."""
    if len(images) < 2:
        raise ValueError(f"tem_con: {len(images)} frame has no next one to compare with: give two frames or more.")
    return float((images[1:] * images[:-1]).sum(1).mean())


def frame_acc(images: Tensor, source: Tensor, target: Tensor) -> float:
    """Frame-Acc: the share of frames that are more like the target prompt than like the source prompt. FateZero (ICCV 2023), section 4.1.

    images: [frames, width]; source, target: [width]; CLIP's embeddings, of length 1."""
    return float((images @ target > images @ source).float().mean())


class ClipFigures:
    """CLIP from a folder as transformers saves it: config.json, model.safetensors and the tokenizer's files. On the CPU, in fp32.

    Raises ValueError where the folder holds no such model."""

    def __init__(self, folder: Path):
        from transformers import CLIPModel, CLIPTokenizer

        if not (folder / "config.json").is_file():
            raise ValueError(
                f"--clip-model: {folder} is no folder with a config.json. Give the folder of a CLIP model with both its towers, as transformers "
                "saves it: config.json, model.safetensors, and the tokenizer's vocab.json and merges.txt."
            )
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model = CLIPModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"--clip-model: {folder} holds no CLIP model that transformers can load ({error}).") from error

    @torch.inference_mode()
    def figures(self, frames: np.ndarray, source_prompt: str, target_prompt: str) -> dict[str, float]:
        """frames: uint8 RGB [frames, height, width, 3]. Prompts of more than 77 tokens are cut."""
        tokens = self.tokenizer([source_prompt, target_prompt], padding=True, truncation=True, max_length=77, return_tensors="pt")
        found = self.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=prepared(frames, self.model.config.vision_config.image_size)
        )  # fmt: skip
        images, (source, target) = found.image_embeds, found.text_embeds  # of length 1, as CLIPModel returns them
        return {"tem_con": tem_con(images), "frame_acc": frame_acc(images, source, target)}


def prepared(frames: np.ndarray, side: int) -> Tensor:
    """Frames as CLIP takes them: the shorter side scaled to `side`, cropped from the centre. [frames, 3, side, side]

    frames: uint8 RGB [frames, height, width, 3]. What a wide frame has at its ends is not seen, as in CLIP's own preparation."""
    height, width = frames.shape[1:3]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    pictures = torch.nn.functional.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (pictures[..., top : top + side, left : left + side] - mean) / deviation


class BackgroundLpips:
    """LPIPS by the package lpips, which brings the small heads, on torchvision's file of a network's weights for ImageNet: AlexNet (LPIPS's
    usual one), SqueezeNet 1.1 (FiVE-Bench's) or VGG16. On the CPU.

    Raises ValueError where the package is missing or the file is none of these."""

    def __init__(self, file: Path):
        try:
            import lpips
        except ImportError as error:
            raise ValueError(
                "--lpips: the package lpips is not installed. Install it into this environment (`pip install lpips`), or leave --lpips out."
            ) from error
        if not file.is_file():
            raise ValueError(
                f"--lpips: there is no file {file}. Give torchvision's weights of AlexNet, SqueezeNet 1.1 or VGG16 (a .pth file)."
            )
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
            self.network = next(name for name, key in NETWORKS.items() if key in weights)
            # Random at first (pnet_rand), else lpips downloads what the next lines fill in.
            self.model = lpips.LPIPS(net=self.network, pnet_rand=True, verbose=False).eval()
            own = self.model.net.state_dict()  # slice2.3.weight for torchvision's features.3.weight
            self.model.net.load_state_dict({name: weights["features." + name.split(".", 1)[1]] for name in own})
        except Exception as error:  # whatever torch says of a file that it cannot read
            raise ValueError(
                f"--lpips: {file} does not hold torchvision's weights of AlexNet, SqueezeNet 1.1 or VGG16 ({error!r})."
            ) from error

    @torch.inference_mode()
    def background(self, reference: np.ndarray, edited: np.ndarray, masks: np.ndarray) -> float:
        """Mean over the frames, both pictures multiplied by 1 - mask, which is FiVE-Bench's convention. Lower is more alike.

        reference, edited: uint8 RGB [frames, height, width, 3]; masks: bool or 0..1 [frames, height, width]."""
        weight = torch.from_numpy(1 - masks.astype(np.float32))[:, None]
        pair = (torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255 * weight * 2 - 1 for clip in (reference, edited))
        return float(self.model(*pair).mean())
