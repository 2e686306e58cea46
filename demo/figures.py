"""Measures the demo checkpoint against exact ground truth, inside ComfyUI's own loader and sampler.

    COMFYUI_PATH=... python -m demo.figures [--checkpoint FILE] [--out FOLDER] [--steps 25] [--only check,vae,samples,twin,attention]

Prints the figures, writes them to figures.json beside picture sheets, and ends with status 1 when one misses its goal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo import pictures
from demo.base import CHECKPOINT_NAME, DEMO, TWIN_NAME
from demo.check import find_object
from demo.pictures import sheet
from demo.scenes import COLOURS, GROUNDS, SHAPES, SIZE, caption, draw, finish, paint_ground, plain_scene, random_scene, random_thing
from runner.in_process import import_comfy

SEED = 880_000  # of all held-out scenes, as [SEED, stage, ...]; training's are single numbers below 10 000
TOO_CLOSE = {  # grounds on which a colour is hard to tell even when it is rendered
    "red": ("brick",),
    "green": ("grass",),
    "blue": ("water",),
    "yellow": ("sand",),
    "orange": ("sand", "brick"),
    "white": ("snow",),
}
NOTHING = "nothing"  # what the check says of a picture without an object
LEVELS = range(100, 801, 50)  # timesteps at which attention is read: steps 5 to 40 of 50, neither noise alone nor almost no noise
THRESHOLDS = torch.linspace(0.02, 0.98, 97)  # shares of an attention map's maximum
GOALS = {  # figure -> (least or most, bound)
    "check.right": ("at least", 0.99),
    "check.right_blurred": ("at least", 0.99),
    "check.wrongly_accepted": ("at most", 0.01),
    "check.wrongly_accepted_blurred": ("at most", 0.01),
    "vae.scenes_db": ("at least", 27.0),
    "vae.photographs_db": ("at least", 24.0),
    "samples.right": ("at least", 0.90),
    "twin.plain.right": ("at least", 0.90),
    "twin.zero_terminal_snr.right": ("at least", 0.90),
    "attention.shape_word.iou_best_threshold": ("at least", 0.75),
}


def forty() -> list[tuple[str, str, str]]:
    """Every colour with every shape, each on a ground: a colour's shapes walk through the grounds that are not TOO_CLOSE to it,
    one colour starting one ground later than the colour before it."""
    triples = []
    for first, colour in enumerate(COLOURS):
        grounds = [ground for ground in GROUNDS if ground not in TOO_CLOSE.get(colour, ())]
        triples += [(colour, shape, grounds[(first + second) % len(grounds)]) for second, shape in enumerate(SHAPES)]
    return triples


def words(colour: str, shape: str, ground: str) -> str:
    """The caption of a scene with one object, as in training."""
    return caption([random_thing(np.random.default_rng(0), colour, shape)], ground)


class Demo:
    """The checkpoint, loaded by ComfyUI the way CheckpointLoaderSimple does it; another one than the demo's too. Raises SystemExit when the file is
    missing. cpu: as import_comfy takes it."""

    model = property(lambda self: self.parts[0])
    clip = property(lambda self: self.parts[1])
    vae = property(lambda self: self.parts[2])

    def __init__(self, checkpoint: Path, cpu: bool = True):
        self.checkpoint, self.cpu = checkpoint, cpu

    @cached_property
    def parts(self) -> tuple[Any, Any, Any]:
        if not self.checkpoint.is_file():
            raise SystemExit(f"There is no checkpoint at {self.checkpoint}: train one (demo.train) or name one with --checkpoint.")
        import_comfy(self.cpu)
        import comfy.sd

        import demo.model_pack  # noqa: F401 - makes ComfyUI recognise the checkpoint

        return comfy.sd.load_checkpoint_guess_config(str(self.checkpoint))[:3]

    def encode_text(self, texts: list[str]) -> Tensor:
        """[texts, 77, width]"""
        return torch.cat([self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))[0][0] for text in texts])

    def token_columns(self, text: str, word: str) -> list[int]:
        """Positions of a word among the 77 tokens of a text. Raises ValueError when it is not there."""
        ids, wanted = ([int(token[0]) for token in self.clip.tokenize(t)["l"][0]] for t in (text, word))
        wanted = wanted[1 : wanted.index(49407)]  # between the start and the end token
        for column in range(len(ids) - len(wanted)):
            if ids[column : column + len(wanted)] == wanted:
                return list(range(column, column + len(wanted)))
        raise ValueError(f"The word {word!r} is not in {text!r}.")

    def encode(self, pictures: np.ndarray) -> Tensor:
        """uint8 [n, h, w, 3] -> latents [n, 4, h/8, w/8] as the VAE node gives them"""
        return self.vae.encode(torch.from_numpy(pictures).float() / 255)

    def decode(self, latents: Tensor) -> np.ndarray:
        """latents [n, 4, h, w] -> uint8 [n, 8h, 8w, 3]"""
        return (self.vae.decode(latents).float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two uint8 pictures, in dB."""
    return float(10 * np.log10(255**2 / max(np.square(a.astype(np.float64) - b).mean(), 1e-9)))


def save(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, and says where."""
    pictures.save(path, picture)
    print(f"  {path}", flush=True)


def blurred(picture: np.ndarray) -> np.ndarray:
    """What a poor autoencoder would leave of a picture: half the resolution, then a Gaussian of one pixel."""
    height, width = picture.shape[:2]
    half = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR), (0, 0), 1)


def measure_check(demo: Demo, out: Path, steps: int) -> dict[str, Any]:
    """The image check on rendered scenes, sharp and blurred: every colour, shape and ground, plain and patterned objects.

    `wrongly_accepted` is the share of scenes for which it would say yes to some other colour or shape."""
    pictures, truth = [], []
    for index, (colour, shape, ground) in enumerate(itertools.product(COLOURS, SHAPES, GROUNDS)):
        rng = np.random.default_rng([SEED, 1, index])
        plain, _ = plain_scene(rng, colour, shape, ground)
        textured, _ = draw(paint_ground(ground, rng), random_thing(rng, colour, shape))
        pictures += [plain, finish(textured, rng, rng.uniform(0, 3))]
        truth += [f"{colour} {shape}"] * 2
    figures: dict[str, Any] = {"scenes": len(pictures)}
    for suffix, change in (("", lambda picture: picture), ("_blurred", blurred)):
        began, found = time.perf_counter(), [find_object(change(picture)) for picture in pictures]
        milliseconds = 1000 * (time.perf_counter() - began) / len(pictures)
        answers = [thing.words if thing else NOTHING for thing in found]
        failures = [(wanted, answer) for wanted, answer in zip(truth, answers, strict=True) if answer != wanted]
        figures[f"right{suffix}"] = 1 - len(failures) / len(pictures)
        figures[f"wrongly_accepted{suffix}"] = sum(answer != NOTHING for _, answer in failures) / len(pictures)
        figures[f"failures{suffix}"] = [f"{wanted}: found {answer}" for wanted, answer in failures]
        figures[f"milliseconds_a_picture{suffix}"] = milliseconds
    empty = [finish(paint_ground(ground, rng), rng) for rng in [np.random.default_rng([SEED, 2])] for ground in GROUNDS for _ in range(20)]
    figures["found_on_empty_grounds"] = sum(find_object(picture) is not None for picture in empty) / len(empty)
    return figures


def measure_vae(demo: Demo, out: Path, steps: int) -> dict[str, Any]:
    """Round trips through encoder and decoder: mean PSNR of 200 held-out scenes, and of whole held-out photographs."""
    demo.parts  # ComfyUI first: its options must be set before demo.train imports the rest of it  # noqa: B018
    from demo.train import HELD_OUT_PHOTOS, load_photo

    rng = np.random.default_rng([SEED, 3])
    scenes = [random_scene(rng) for _ in range(200)]
    pictures, back = np.stack([scene[0] for scene in scenes]), []
    for begin in range(0, len(pictures), 40):
        back.append(demo.decode(demo.encode(pictures[begin : begin + 40])))
        print(f"  {begin + 40} of {len(pictures)} scenes", flush=True)
    values = [psnr(a, b) for a, b in zip(pictures, np.concatenate(back), strict=True)]
    tiles = [np.concatenate([a, b], 1) for a, b in zip(pictures[:40], back[0], strict=True)]
    save(out / "vae_scenes.png", sheet(tiles, [[s[1], f"{v:.1f} dB"] for s, v in zip(scenes, values[:40], strict=False)], 5))
    figures: dict[str, Any] = {"scenes_db": float(np.mean(values)), "scenes_worst_db": min(values), "photographs": {}}
    for name in HELD_OUT_PHOTOS:
        photo = load_photo(name)
        photo = photo[: photo.shape[0] // 8 * 8, : photo.shape[1] // 8 * 8]
        again = demo.decode(demo.encode(photo[None]))[0]
        figures["photographs"][name] = psnr(photo, again)
        save(out / f"vae_{Path(name).stem}.png", np.concatenate([photo, again], 1))
    figures["photographs_db"] = float(np.mean(list(figures["photographs"].values())))
    return figures


def measure_twin(demo: Demo, out: Path, steps: int) -> dict[str, Any]:
    """What sample_forty says of the U-Net that predicts v, on both schedules that it was trained for."""
    demo.parts  # noqa: B018 - puts ComfyUI on the import path
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    twin = comfy.sd.load_diffusion_model(str(demo.checkpoint.with_name(TWIN_NAME)))
    return {
        "plain": sample_forty(demo, ModelSamplingDiscrete().patch(twin, "v_prediction", False)[0], steps, out / "samples_v.png"),
        "zero_terminal_snr": sample_forty(demo, twin, steps, out / "samples_v_zsnr.png"),
    }


def sample_forty(demo: Demo, model: Any, steps: int, target: Path) -> dict[str, Any]:
    """Forty fixed prompts from pure noise: the share whose largest object has the right colour and the right shape."""
    triples = forty()
    import comfy.sample

    texts = [words(*triple) for triple in triples]
    positive, negative = [[demo.encode_text(texts), {}]], [[demo.encode_text([""]), {}]]
    latents = torch.zeros(len(texts), 4, SIZE // 8, SIZE // 8)
    noise = torch.cat([comfy.sample.prepare_noise(latents[:1], SEED + index) for index in range(len(texts))])

    def progress(step: int, *_: Any) -> None:
        if (step + 1) % 5 == 0:
            print(f"  step {step + 1} of {steps}", flush=True)

    sampled = comfy.sample.sample(
        model, noise, steps, 7.5, "euler", "normal", positive, negative, latents, callback=progress, disable_pbar=True, seed=SEED
    )
    pictures = demo.decode(sampled)
    captions, frames, failures = [], [], []
    for picture, (colour, shape, _), text in zip(pictures, triples, texts, strict=True):
        found = find_object(picture)
        answer = found.words if found else NOTHING
        right = answer == f"{colour} {shape}"
        captions.append([text, f"{answer} {found.iou:.2f}" if found else answer])
        frames.append((0, 160, 0) if right else (220, 0, 0))
        if not right:
            failures.append(f"{text}: found {answer}")
    large = [cv2.resize(picture, (192, 192), interpolation=cv2.INTER_CUBIC) for picture in pictures]
    save(target, sheet(large, captions, 8, frames))
    return {"right": 1 - len(failures) / len(texts), "prompts": len(texts), "steps": steps, "failures": failures}


def attention_maps(demo: Demo, pictures: np.ndarray, texts: list[str], sought: list[list[list[str]]]) -> Tensor:
    """Softmax cross-attention of words in the layers of the latent's own resolution, averaged over heads, layers and LEVELS of noise.

    pictures: uint8 [n, h, w, 3]; sought: for each picture, groups of words whose columns are summed -> [n, groups, h, w]"""
    model = demo.model
    import comfy.model_management
    from comfy.ldm.modules.attention import optimized_attention

    chosen = torch.zeros(len(texts), 77, len(sought[0]))
    for index, text in enumerate(texts):
        for group, wanted in enumerate(sought[index]):
            chosen[index, [column for word in wanted for column in demo.token_columns(text, word)], group] = 1
    z = model.model.process_latent_in(demo.encode(pictures))
    total, layers = torch.zeros(len(texts), len(sought[0]), *z.shape[2:]), 0

    def record(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        nonlocal total, layers
        heads = options["n_heads"]
        if q.shape[1] == total.shape[2] * total.shape[3]:
            a, b = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
            weights = (a @ b.transpose(-1, -2) * a.shape[-1] ** -0.5).softmax(-1).mean(1)  # [n, h*w, 77]
            total += (weights.cpu() @ chosen).transpose(1, 2).unflatten(-1, total.shape[2:])
            layers += 1
        return optimized_attention(q, k, v, heads, transformer_options=options)

    blocks = {(part, number): record for part in ("input", "middle", "output") for number in range(12)}
    comfy.model_management.load_models_gpu([model])
    context = demo.encode_text(texts).to(model.load_device)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for count, level in enumerate(LEVELS, 1):
            sigma = model.model.model_sampling.sigmas[level].cpu()
            noisy = (z + sigma * torch.randn(z.shape, generator=generator)).to(model.load_device)
            options = {"patches_replace": {"attn2": blocks}}
            model.model.apply_model(noisy, sigma.expand(len(noisy)).to(noisy), c_crossattn=context, transformer_options=options)
            if count % 5 == 0:
                print(f"  noise level {count} of {len(LEVELS)}", flush=True)
    large = F.interpolate(total / layers, pictures.shape[1:3], mode="bicubic")
    return large / large.amax((2, 3), keepdim=True)


def iou_by_threshold(maps: Tensor, masks: Tensor) -> Tensor:
    """Of maps [n, h, w] at each of THRESHOLDS with their masks, bool [n, h, w]. [n, thresholds]"""
    guesses, true = maps[:, None] > THRESHOLDS.view(1, -1, 1, 1), masks[:, None]
    return (guesses & true).sum((2, 3)) / (guesses | true).sum((2, 3))


def measure_attention(demo: Demo, out: Path, steps: int) -> dict[str, Any]:
    """How well the words' attention covers the object on forty plain held-out scenes, as IoU with the exact mask.

    `iou_best_threshold`: each scene at the threshold (a share of the map's maximum) that suits it best;
    `iou_one_threshold`: all scenes at the one that suits them best together."""
    triples = forty()
    scenes = [plain_scene(np.random.default_rng([SEED, 4, index]), *triple) for index, triple in enumerate(triples)]
    pictures, masks = np.stack([s[0] for s in scenes]), torch.from_numpy(np.stack([s[1] for s in scenes])) > 0.5
    groups = {"shape_word": lambda c, s: [s], "colour_word": lambda c, s: [c], "colour_and_shape_words": lambda c, s: [c, s]}
    texts = [words(*triple) for triple in triples]
    maps = attention_maps(demo, pictures, texts, [[group(c, s) for group in groups.values()] for c, s, _ in triples])
    ious = {name: iou_by_threshold(maps[:, index], masks) for index, name in enumerate(groups)}
    figures: dict[str, Any] = {"scenes": len(scenes)}
    for name, iou in ious.items():
        one = iou.mean(0).argmax()
        figures[name] = {
            "iou_best_threshold": float(iou.max(1).values.mean()),
            "iou_one_threshold": float(iou[:, one].mean()),
            "one_threshold": float(THRESHOLDS[one]),
        }
    best = ious["shape_word"].max(1)
    tiles, captions = [], []
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        heat = cv2.applyColorMap((maps[index, 0].clamp(0, 1) * 255).byte().numpy(), cv2.COLORMAP_INFERNO)
        heat = np.ascontiguousarray(cv2.cvtColor(heat, cv2.COLOR_BGR2RGB))
        contours, _ = cv2.findContours(masks[index].byte().numpy(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        tiles.append(np.concatenate([picture, cv2.drawContours(heat, contours, -1, (0, 255, 0), 1)], 1))
        captions.append([text, f"IoU {best.values[index]:.2f} at {THRESHOLDS[best.indices[index]]:.2f}"])
    save(out / "attention.png", sheet(tiles, captions, 5))
    return figures


STAGES: dict[str, Callable[[Demo, Path, int], dict[str, Any]]] = {
    "check": measure_check,
    "vae": measure_vae,
    "samples": lambda demo, out, steps: sample_forty(demo, demo.model, steps, out / "samples.png"),
    "twin": measure_twin,
    "attention": measure_attention,
}


def missed(figures: dict[str, Any]) -> list[str]:
    """One sentence for every measured figure that misses its goal."""
    found: dict[str, Any] = {name: reduce(lambda tree, key: tree.get(key, {}), name.split("."), figures) for name in GOALS}
    return [
        f"{name} is {found[name]:.3f}; the goal is {side} {bound}."
        for name, (side, bound) in GOALS.items()
        if found[name] != {} and not (found[name] >= bound if side == "at least" else found[name] <= bound)
    ]


def show(name: str, value: Any, indent: int = 1) -> None:
    if isinstance(value, dict):
        print("  " * indent + name)
        for key, inner in value.items():
            show(key, inner, indent + 1)
    elif isinstance(value, list):
        print("  " * indent + f"{name}: {'none' if not value else ''}", *value, sep="\n" + "  " * (indent + 1) if value else "")
    else:
        print("  " * indent + f"{name}: {round(value, 4)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=DEMO / CHECKPOINT_NAME)
    parser.add_argument("--out", type=Path, default=Path("out/figures"))
    parser.add_argument("--steps", type=int, default=25, help="of the samples")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        parser.error(f"--only names {', '.join(unknown)}; the stages are {', '.join(STAGES)}.")
    options.out.mkdir(parents=True, exist_ok=True)
    demo, figures = Demo(options.checkpoint), {}
    for name in chosen:
        began = time.perf_counter()
        print(f"{name} ...", flush=True)
        figures[name] = STAGES[name](demo, options.out, options.steps)
        show(name, figures[name])
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    misses = missed(figures)
    print("\n".join(["Missed:", *misses]) if misses else "Every goal is met.")
    return bool(misses)


if __name__ == "__main__":
    raise SystemExit(main())
