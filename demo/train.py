"""Trains the demo checkpoint from a seed: autoencoder, then U-Net and text encoder, then one safetensors file; and its twin, a U-Net that
predicts v, fine-tuned from the first and kept in a file of its own.

    COMFYUI_PATH=... python -m demo.train all --out out/train

Stages: `vae`, `unet`, `twin`, `export`; `all` runs the four. Each writes its state every hundred steps and goes on from there when started
again. Architectures are ComfyUI's own; only their weights are made here. The committed file was made by these stages with these
steps, rates and data, stopped and continued several times on the way (the learning rate's plateau was planned longer at first), so
a run in one go gives its like, not its bits.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.in_process import import_comfy

COMFY = import_comfy()

import comfy.ldm.modules.attention as comfy_attention  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.sd1_clip import SDTokenizer  # noqa: E402
from comfy.taesd.taesd import Decoder, Encoder  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from demo import pictures  # noqa: E402
from demo.base import CHECKPOINT_NAME, DEMO, TWIN_NAME  # noqa: E402
from demo.model_pack.architecture import CLIP_CONFIG, UNET_CONFIG  # noqa: E402
from demo.scenes import random_scene  # noqa: E402

SD15_LATENT_SCALE = 0.18215
ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()
ROOTS = ALPHA_BAR.sqrt()
ZERO_TERMINAL = ((ROOTS - ROOTS[-1]) * ROOTS[0] / (ROOTS[0] - ROOTS[-1])).square()  # Lin et al. 2023, algorithm 1
TRAIN_PHOTOS = ("skimage/astronaut.png", "skimage/coffee.png", "skimage/motorcycle_left.png", "skimage/rocket.jpg", "sklearn/china.jpg")
HELD_OUT_PHOTOS = ("skimage/chelsea.png", "sklearn/flower.jpg")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_photo(name: str) -> np.ndarray:
    """A photograph that scikit-image or scikit-learn ships inside its package. RGB uint8 [height, width, 3]"""
    package, file = name.split("/")
    folder = {"skimage": "data", "sklearn": "datasets/images"}[package]
    return pictures.load(Path(str(importlib.import_module(package).__file__)).parent / folder / file)


@torch.no_grad()
def muon_step(parameters: list[nn.Parameter], momenta: list[Tensor], rate: float, decay: float = 0.01) -> None:
    """Momentum whose matrices are orthogonalised by five Newton-Schulz steps before they are applied (Jordan et al. 2024,
    with the step scaled to AdamW's size as in Liu et al. 2025, arXiv 2502.16982). Convolutions count as [out, in*kh*kw].

    torch.optim.Muon takes two-dimensional parameters only. On the autoencoder, 150 s of training on one core reached
    19 dB with it and 15 dB with AdamW."""
    for parameter, momentum in zip(parameters, momenta, strict=True):
        if parameter.grad is None:
            continue
        momentum.lerp_(parameter.grad, 0.05)
        x = parameter.grad.lerp(momentum, 0.95).flatten(1)
        x = (x / (x.norm() + 1e-7)).bfloat16()
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
        x = x.T if tall else x
        parameter.mul_(1 - rate * decay).add_(x.reshape(parameter.shape), alpha=-rate * 0.2 * max(x.shape) ** 0.5)


def initialise(module: nn.Module, zero: tuple[str, ...] = ()) -> None:
    """ComfyUI's layers come without initial values. Layers whose name ends in one of `zero` start as no-ops."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            if name.endswith(zero) and zero:
                nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def save_state(path: Path, **state) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_state(path: Path) -> dict:
    return torch.load(path, map_location=DEVICE, weights_only=True)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(F.mse_loss(a.float().clamp(0, 1), b.float()).detach()))


def as_pixels(pictures: list[np.ndarray]) -> Tensor:
    """[pictures, 3, height, width] in 0..1"""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255)
    return pixels.to(DEVICE).contiguous(memory_format=torch.channels_last)


class Crops:
    """Random crops, three quarters from rendered scenes and one quarter from photographs at random scales."""

    def __init__(self, scenes: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.scenes = [random_scene(self.rng)[0] for _ in range(scenes)]
        photos = [load_photo(name) for name in TRAIN_PHOTOS]
        self.photos = [cv2.resize(p, None, fx=s, fy=s, interpolation=cv2.INTER_AREA) for p in photos for s in (1, 0.8, 0.6)]

    def batch(self, count: int, size: int) -> Tensor:
        """[count, 3, size, size] in 0..1"""
        crops = []
        for index in range(count):
            pool = self.photos if index % 4 == 0 else self.scenes
            picture = pool[self.rng.integers(len(pool))]
            y, x = self.rng.integers(0, picture.shape[0] - size + 1), self.rng.integers(0, picture.shape[1] - size + 1)
            crop = picture[y : y + size, x : x + size]
            crops.append(crop[:, ::-1] if self.rng.random() < 0.5 else crop)
        return as_pixels(crops)


def make_autoencoder() -> nn.ModuleDict:
    parts = {"encoder": Encoder(), "decoder": Decoder()}
    for part in parts.values():
        initialise(part)
        part.to(DEVICE, memory_format=torch.channels_last)
    return nn.ModuleDict(parts)


Losses = Iterator[tuple[Tensor, Any]]  # of each step: what is to be made smaller, and what is told of it


def train(
    path: Path, model: nn.ModuleDict, matrices: list[nn.Parameter], rate: float, steps: int,
    losses: Callable[[int], Losses], told: Callable[[list], str], **kept: Tensor,
) -> None:  # fmt: skip
    """Trains up to so many steps, from those on that `path` has behind it; its file holds the model and the running average of it.

    matrices: the parameters for Muon; AdamW takes embeddings, norms, biases, first and last layers. losses(first step) yields without end.
    told(what they yielded to tell) makes words of it. kept: what else the file holds."""
    chosen, everything = {id(p) for p in matrices}, [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW([p for p in everything if id(p) not in chosen], rate, betas=(0.9, 0.95), weight_decay=0.01)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    momenta, start, began, seen = [torch.zeros_like(p) for p in matrices], 0, time.time(), []
    if path.exists():
        state = load_state(path)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        average, momenta, start = state["average"], state["momenta"], state["step"]
    for step, (loss, figures) in zip(range(start, steps), losses(start), strict=False):
        now = rate * min(1.0, (step + 1) / 60, (1 - step / steps) / 0.7)  # warm-up, a plateau of 30 %, then a straight line to zero
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        adam.param_groups[0]["lr"] = now
        adam.step()
        muon_step(matrices, momenta, now)
        keep = min(0.998, (step + 1) / (step + 20))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep) if value.is_floating_point() else average[name].copy_(value)
        seen.append(figures)
        if (step + 1) % 50 == 0:
            print(f"{path.stem} {step + 1}/{steps} {time.time() - began:.0f} s: {told(seen)}", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "average": average, "adam": adam.state_dict(), "momenta": momenta, "step": step + 1}
            save_state(path, **state, **kept)


def train_autoencoder(out: Path, steps: int, batch: int, rate: float, scenes: int) -> None:
    """Mean squared error plus a little L1; latents are kept near mean 0, deviation 1 per channel, and the decoder sees
    them with noise of 0.05, as it will from a sampler."""
    torch.manual_seed(0)
    both = make_autoencoder()
    matrices = [p for p in both.parameters() if p.requires_grad and p.ndim == 4 and p.shape[:2] == (64, 64)]
    photos = torch.arange(batch) % 4 == 0

    def losses(start: int) -> Losses:
        crops = Crops(scenes, seed=100 + start)
        while True:
            pixels = crops.batch(batch, 64)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                latents = both["encoder"](pixels).float()
                decoded = both["decoder"](latents + 0.05 * torch.randn_like(latents)).float()
            loss = F.mse_loss(decoded, pixels) + 0.1 * F.l1_loss(decoded, pixels)
            spread = (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()
            loss = loss + 0.02 * spread + 0.1 * F.relu(latents.abs() - 2.7).mean()
            yield loss, [psnr(decoded[those], pixels[those]) for those in (~photos, photos)]

    train(
        out / "vae.pt", both, matrices, rate, steps, losses,
        lambda seen: "scenes {:.2f} dB, photographs {:.2f} dB".format(*np.mean(seen[-50:], 0)),
    )  # fmt: skip


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *_, **__) -> Tensor:
    """[batch, tokens, heads*dim]. On a CPU the backward pass of fused attention took half of a training step; this does not."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return ((q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def make_unet() -> nn.Module:
    unet = UNetModel(**UNET_CONFIG, operations=comfy.ops.disable_weight_init, dtype=torch.float32)
    initialise(unet, zero=("out_layers.3", "proj_out", "out.2"))
    return unet.to(DEVICE)  # at 16x16 and with its group norms, channels-last costs a tenth more than it saves


def make_text_encoder() -> nn.Module:
    config = CLIPTextConfig(
        **CLIP_CONFIG, projection_dim=CLIP_CONFIG["hidden_size"], bos_token_id=49406, pad_token_id=49407, attn_implementation="eager"
    )
    text = CLIPTextModel(config)
    nn.init.zeros_(text.get_input_embeddings().weight)  # rows that no caption uses stay zero
    return text.to(DEVICE)


def tokenizer() -> SDTokenizer:
    return SDTokenizer(tokenizer_path=str(COMFY / "comfy" / "sd1_tokenizer"), embedding_key="clip_l")


def encode_scenes(encoder: nn.Module, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents [count, 4, 16, 16] and CLIP token ids [count, 77] of freshly rendered scenes."""
    rng, tokens, latents, ids = np.random.default_rng(seed), tokenizer(), [], []
    with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
        for _ in range(0, count, 32):
            scenes = [random_scene(rng) for _ in range(32)]
            latents.append(encoder(as_pixels([s[0] for s in scenes])).float().contiguous())
            ids += [[t[0] for t in tokens.tokenize_with_weights(s[1])[0]] for s in scenes]
    return torch.cat(latents)[:count], torch.tensor(ids[:count], device=DEVICE)


def train_unet(out: Path, steps: int, batch: int, rate: float, scenes: int, twin: bool = False) -> None:
    """Noise prediction with SD's betas, min-SNR weights (Hang et al. 2023, gamma 5), captions dropped in one case of ten.

    twin: instead, v-prediction from the finished U-Net on, the text encoder left as it is. Half of each batch is noised by SD's betas and
    half by their zero-terminal-SNR rescaling, without weights, so that one file serves both schedules."""
    comfy_attention.optimized_attention = plain_attention
    torch.manual_seed(2 if twin else 1)
    autoencoder = make_autoencoder()
    autoencoder.load_state_dict(load_state(out / "vae.pt")["model"])
    cache = out / "latents.pt"
    if not cache.exists():
        encoded = encode_scenes(autoencoder["encoder"].eval(), scenes, seed=7)
        save_state(cache, latents=encoded[0], ids=encoded[1])
    latents, ids = (load_state(cache)[name][:scenes] for name in ("latents", "ids"))
    mean, deviation = latents.mean(), latents.std()
    latents = (latents - mean) / deviation
    print(f"{scenes} scenes encoded: latent mean {mean:.3f}, deviation {deviation:.3f}", flush=True)
    both = nn.ModuleDict({"unet": make_unet(), "text": make_text_encoder()})
    if twin:
        both.load_state_dict(load_state(out / "unet.pt")["average"])
        both["text"].requires_grad_(False)
    matrices = [
        p for n, p in both["unet"].named_parameters() if p.ndim >= 2 and not n.startswith(("input_blocks.0.", "out.", "time_embed"))
    ]
    matrices += [p for n, p in both["text"].named_parameters() if p.ndim == 2 and "embedding" not in n and p.requires_grad]
    empty = torch.tensor([t[0] for t in tokenizer().tokenize_with_weights("")[0]], device=DEVICE)
    schedules = torch.stack([ALPHA_BAR, ZERO_TERMINAL if twin else ALPHA_BAR]).to(DEVICE)

    def losses(start: int) -> Losses:
        for step in itertools.count(start):
            pick = torch.randint(0, scenes, (batch,), device=DEVICE)
            z, tokens = latents[pick], ids[pick].clone()
            tokens[torch.rand(batch, device=DEVICE) < 0.1] = empty
            t = ((torch.arange(batch, device=DEVICE) + torch.rand(batch, device=DEVICE)) * (1000 / batch)).long()  # stratified
            half = (torch.arange(batch, device=DEVICE) + step) % 2
            noise, a = torch.randn_like(z), schedules[half, t].view(-1, 1, 1, 1)
            noisy = a.sqrt() * z + (1 - a).sqrt() * noise
            with torch.autocast(DEVICE.type, torch.bfloat16):
                predicted = both["unet"](noisy, t.float(), context=both["text"](input_ids=tokens).last_hidden_state)
            goal = a.sqrt() * noise - (1 - a).sqrt() * z if twin else noise
            error = (predicted.float() - goal).square().mean((1, 2, 3))
            weight = 1 if twin else (5 * (1 - a) / a).clamp(max=1).flatten()
            yield (error * weight).mean(), float(error.detach().mean())

    path = out / ("twin.pt" if twin else "unet.pt")
    train(path, both, matrices, rate, steps, losses, lambda seen: f"error {np.mean(seen[-200:]):.4f}", mean=mean, deviation=deviation)


def export(out: Path, file: Path, twin_file: Path) -> None:
    """One fp16 checkpoint that CheckpointLoaderSimple loads while the demo model's node pack is installed; and the v-predicting U-Net alone, in
    fp16, for UNETLoader, whose two empty entries are those by which core knows SDXL checkpoints of this kind."""
    unet, vae = load_state(out / "unet.pt"), load_state(out / "vae.pt")
    scale = SD15_LATENT_SCALE * float(unet["deviation"])  # ComfyUI: latent = encoder / scale + shift, and x0.18215 after that
    weights = {}
    for name, value in unet["average"].items():
        part, key = name.split(".", 1)
        if part == "unet":
            weights["model.diffusion_model." + key] = value
        elif "position_ids" not in key:  # transformers' own prefix has come and gone between its versions
            weights["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = value
    weights |= {f"first_stage_model.taesd_{name}": value for name, value in vae["model"].items()}
    weights = {name: value.cpu().half().contiguous() for name, value in weights.items()}
    weights["first_stage_model.vae_scale"] = torch.tensor(scale)
    weights["first_stage_model.vae_shift"] = torch.tensor(-float(unet["mean"]) / scale)
    save(file, weights)
    average = load_state(out / "twin.pt")["average"]
    weights = {name.removeprefix("unet."): value.cpu().half() for name, value in average.items() if name.startswith("unet.")}
    save(twin_file, weights | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})


def save(file: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, file)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {sum(value.numel() for value in weights.values()) / 1e6:.1f} M values")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "unet", "twin", "export", "all"])
    parser.add_argument("--out", type=Path, default=Path("out/train"))
    parser.add_argument("--file", type=Path, default=DEMO / CHECKPOINT_NAME)
    parser.add_argument("--twin-file", type=Path, default=DEMO / TWIN_NAME)
    parser.add_argument("--vae-steps", type=int, default=1600)
    parser.add_argument("--unet-steps", type=int, default=4200)
    parser.add_argument("--twin-steps", type=int, default=1200)
    parser.add_argument("--scenes", type=int, default=8000, help="scenes whose latents the U-Net learns from")
    options = parser.parse_args()
    out, scenes = options.out, options.scenes
    out.mkdir(parents=True, exist_ok=True)
    stages = {
        "vae": lambda: train_autoencoder(out, options.vae_steps, 16, 4e-3, 4000),
        "unet": lambda: train_unet(out, options.unet_steps, 32, 2e-3, scenes),
        "twin": lambda: train_unet(out, options.twin_steps, 32, 1e-3, scenes, twin=True),
        "export": lambda: export(out, options.file, options.twin_file),
    }
    for stage in stages if options.stage == "all" else [options.stage]:
        stages[stage]()
