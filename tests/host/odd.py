"""Inputs as graphs and other packs bring them, most of them ordinary, some of them odd: strategies of hypothesis."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from fractions import Fraction

import torch
from hypothesis import strategies as st

from blade.inversion.coordinates import FLOW

NASTY_INTS = (-1, 0, 1, 2**31, -(2**63), 2**64, 10**30)
NASTY_FLOATS = (math.nan, math.inf, -math.inf, -0.0, 5e-324, -1.0, 1e9, 1e308)
WORDS = ("", "red circle", "circle", "a", "grass:0.5", "-grass", "red circle, -grass", "circle#2", "circle#1", "(circle", ")(", ",,,", "blue", "красный",
         "circle:nan", "circle:1e999", "circle:0", "#", ":", "-", "- -circle", "circle" * 300, "\0", "the", "red  circle ,  on")  # fmt: skip
PROMPTS = ("a red circle on grass", "a blue circle on grass", "a blue circle on grass today", "", "   ", "красный круг 円 🟥", "\0\n\t", "word " * 200,
           "(red:1.2) circle", "(red:1e30) circle", "(red:nan) circle", "(red:-3)", "((((((((a", "a))))", "(" * 3000 + "a" + ")" * 3000, "embedding:nothing here",
           "embedding:../../x", "a, b. c! d?", "red" * 500, "\\(a\\)", "{a|b}", "e\u0301\u0301\u0301", "\ufdd0\u200b\u202e")  # fmt: skip
PREFIXES = ("video/blade", "a", "", ".", "..", "../out", "a/../../b", "/etc/x", "a/", "a/b/c/d", "a\0b", "%date%", "%width%x%height%", "%year%/%x%", "n" * 230,
            "n" * 5000, "é/円/🟥", "CON", "aux.txt", "a:b", "a\\b", " ", "~", "-rf", "a\nb", "a_00001_", "%" * 9, "taken/inside")  # fmt: skip


def seldom(one_in: int = 8) -> st.SearchStrategy[bool]:
    return st.sampled_from([False] * (one_in - 1) + [True])


def near(value: float, low: float, high: float, width: float) -> tuple[float, float]:
    return max(low, value - width), min(high, value + width)


def set_there(widget) -> st.SearchStrategy:
    """What an artist sets in a widget: its default, something near it, or the ends of its range."""
    from comfy_api.latest import io

    if isinstance(widget, io.Combo.Input):
        return st.just(widget.options[0]) | st.sampled_from(widget.options)
    if isinstance(widget, io.Boolean.Input):
        return st.booleans()
    if isinstance(widget, io.Int.Input):
        low, high = near(widget.default, widget.min, widget.max, 6)
        return st.just(widget.default) | st.just(widget.default) | st.integers(int(low), int(high)) | st.just(widget.min)
    low, high = near(widget.default, widget.min, widget.max, 8)
    return st.just(widget.default) | st.just(widget.default) | st.floats(low, high) | st.sampled_from([widget.min, widget.max])


def linked(widget, tamed: bool = False) -> st.SearchStrategy:
    """What another node's output may bring in the widget's place: ComfyUI asks for its type alone. tamed: without the largest value that is
    allowed, since the work that it orders is real work, of minutes and gigabytes."""
    from comfy_api.latest import io

    if isinstance(widget, io.Combo.Input):
        return st.sampled_from(["", "nonsense", "lcm", "None", "\ud800", "x" * 1000])
    if isinstance(widget, io.Boolean.Input):
        return st.booleans()
    if isinstance(widget, io.Int.Input):
        return st.sampled_from([widget.min - 1, widget.max + 1, *NASTY_INTS, *([] if tamed else [widget.max])])
    if isinstance(widget, io.Float.Input):
        return st.sampled_from([widget.min - 0.01, widget.max + 1, *NASTY_FLOATS])
    return st.sampled_from(["\ud800", "\udfff half"])


@st.composite
def settings_of(draw, node, skip: tuple[str, ...] = (), **tame: st.SearchStrategy) -> dict:
    """Values of all the widgets of a node; now and then one of them comes by a link. tame: strategies of some; skip: inputs that are left out."""
    from comfy_api.latest import io

    widgets = [given for given in node.define_schema().inputs if isinstance(given, io.WidgetInput) and given.id not in skip]
    odd = draw(st.sampled_from([None] * 3 * len(widgets) + widgets)) if widgets else None
    return {
        widget.id: draw(linked(widget, widget.id in tame) if widget is odd else tame[widget.id] if widget.id in tame else set_there(widget))
        for widget in widgets
    }


DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool)
CONTENTS = ("noise", "zeros", "ones", "negative", "large", "huge", "nan", "inf", "steps")


def filled(shape: tuple[int, ...], content: str, seed: int) -> torch.Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if content in ("nan", "inf") and noise.numel():
        noise.view(-1)[seed % noise.numel()] = float(content)
    kinds = {
        "zeros": 0 * noise,
        "ones": noise * 0 + 1,
        "negative": -noise,
        "large": 300 * noise,
        "huge": (noise - 0.5) * 3e38,
        "steps": (noise > 0.5).float(),
    }
    return kinds.get(content, noise)


@st.composite
def tensors(draw, *shape: int, odd: int = 5) -> torch.Tensor:
    """A tensor of a shape, one in so many of another shape, type, content or layout."""
    content, seed = draw(st.sampled_from(["noise", "noise", "steps"])), draw(st.integers(0, 7))
    if not draw(seldom(odd)):
        return filled(shape, content, seed)
    kind = draw(st.sampled_from(["shape", "axes", "content", "content", "type", "layout"]))
    if kind == "shape":
        axis, size = draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([0, 1, 2, 4, 5, 7, 16, 40]))
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    elif kind == "axes":
        shape = draw(st.sampled_from([(1, *shape), shape[1:], shape[-1:], (), (*shape, 1), shape[::-1]]))
    made = filled(shape, draw(st.sampled_from(CONTENTS)) if kind == "content" else content, seed)
    if kind == "type":
        made = (made * 2).to(draw(st.sampled_from(DTYPES)))
        made = made * 1e300 if made.dtype == torch.float64 and draw(st.booleans()) else made
    if kind == "layout" and made.ndim > 1:
        made = draw(
            st.sampled_from(
                [made.flip(-1), made.transpose(-1, -2).contiguous().transpose(-1, -2), made[:1].expand_as(made), made[..., ::1]]
            )
        )
    return made


@st.composite
def masks(draw, frames: int, height: int, width: int, odd: int = 5) -> torch.Tensor:
    """A MASK for a clip: one a frame, one for all, in pixels, or an odd one."""
    return draw(tensors(draw(st.sampled_from([1, frames])), height, width, odd=odd))


SIDES = st.sampled_from([8, 16, 24, 1, 7, 9, 33])


@st.composite
def sizes(draw) -> tuple[int, int, int]:
    """Frames, height and width of a small clip."""
    return draw(st.integers(1, 3)), draw(SIDES), draw(SIDES)


@st.composite
def sounds(draw) -> dict | None:
    """AUDIO: mostly as core makes it."""
    if draw(st.booleans()):
        return None
    shape = (draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([1, 2, 2, 6])), draw(st.sampled_from([800, 4000, 4000, 1, 0])))
    waveform = draw(tensors(*shape, odd=4))
    rates = st.sampled_from([8000, 44100, 48000, 22050, 11111]) if not draw(seldom(5)) else st.sampled_from(
        [0, -1, 1, 3, 96001, 10**6, 2**31 - 1, 2**40, 44100.0, math.nan, 8000.5])  # fmt: skip
    return {"waveform": waveform, "sample_rate": draw(rates)}


RATES = st.sampled_from([24.0, 8.0, 29.97, 30000 / 1001, 0.01, 1000.0, 1, 25]) | st.floats(0.01, 1000)
ODD_RATES = st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-300, 1e-6, 1e300, 1e6, 2**31, 5e-324, 0])


@st.composite
def latents(draw, frames: int = 1, odd: int = 6) -> dict:
    """LATENT of a small clip of an SD model, with what other nodes leave beside the samples."""
    height, width = draw(st.sampled_from([(8, 8), (4, 8), (5, 3), (1, 1), (16, 8)]))
    latent = {"samples": draw(tensors(frames, 4, height, width, odd=odd))}
    if draw(seldom(5)):
        latent["noise_mask"] = draw(masks(frames, 8 * height, 8 * width))
    if draw(seldom(5)):
        latent["batch_index"] = draw(st.sampled_from([[0], [5, 1, 1], []]))
    return latent


@st.composite
def grids(draw) -> torch.Tensor:
    """SIGMAS: mostly falling to 0."""
    good = torch.tensor(draw(st.sampled_from([[10.0, 3.0, 0.0], [14.6, 5.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.4, 0.1, 0.0]])))
    if not draw(seldom(3)):
        return good
    odd = [[], [0.0], [1.0, 0.0], [3.0, 3.0, 0.0], [1.0, 2.0, 0.0], [3.0, 2.0, 1.0], [9e9, 1.0, 0.0], [math.nan, 1.0, 0.0], [math.inf, 1.0, 0.0], [2.0, 1.0, -1.0],
           [1e-30, 1e-38, 0.0], [1.0, 1 - 1e-7, 0.0], [14.7, 1.0, 0.0]]  # fmt: skip
    return draw(
        st.sampled_from([good.double(), good.half(), good[None], good[:, None], good.flip(0), torch.tensor(3.0), *map(torch.tensor, odd)])
    )


@st.composite
def promptings(draw, studio, frames: int = 3) -> list:
    """CONDITIONING: our prompts, core's, joined, weighed, in regions, of other models."""
    made = studio.prompt(draw(st.sampled_from(PROMPTS[:4])))
    if not draw(seldom(3)):
        return made
    (embedding, options), bare = made[0], {name: value for name, value in made[0][1].items() if name != "blade_words"}
    wide = draw(st.sampled_from([768, 1, 128]))
    return draw(
        st.sampled_from(
            [
                [],
                [[embedding, bare]],
                [*made, *studio.prompt("a blue star")],
                [[torch.cat([embedding, embedding], 1), options]],
                [[embedding.repeat(frames, 1, 1), options]],
                [[embedding.repeat(2, 1, 1), options]],
                [[embedding[:, :30], options]],
                [[embedding[:, :0], options]],
                [[embedding[0], options]],
                [[torch.zeros(1, 77, wide), bare]],
                [[embedding * math.nan, options]],
                [[embedding * 1e30, options]],
                [[embedding.half(), options]],
                [[embedding, {**options, "pooled_output": None}]],
                [[embedding, {**options, "strength": 0.0}]],
                [[embedding, {**options, "area": (4, 4, 0, 0), "strength": 1.0}]],
                [[embedding, {**options, "area": ("percentage", 0.5, 0.5, 0.25, 0.25)}]],
                [[embedding, {**options, "mask": torch.rand(1, 16, 16), "mask_strength": 1.0, "set_area_to_bounds": True}]],
                [[embedding, {**options, "mask": torch.rand(2, 64, 64), "mask_strength": 0.5}]],
                [[embedding, {**options, "start_percent": 0.3, "end_percent": 0.6}]],
                [[embedding, {**options, "start_percent": 0.0, "end_percent": 0.0}]],
            ]
        )
    )


def spoiled(trajectory):
    """A trajectory that other code has had its hands on."""
    sigmas, latents = trajectory.sigmas, trajectory.latents
    return st.sampled_from(
        [
            replace(trajectory, record=None),
            replace(trajectory, latents=latents.half()),
            replace(trajectory, latents=latents * math.nan),
            replace(trajectory, latents=latents.double()),
            replace(trajectory, latents=latents[:-1]),
            replace(trajectory, latents=latents[:, :0]),
            replace(trajectory, latents=latents[0]),
            replace(trajectory, latents=torch.tensor(1.0)),
            replace(trajectory, sigmas=sigmas[:0]),
            replace(trajectory, sigmas=sigmas.flip(0)),
            replace(trajectory, sigmas=sigmas * math.nan),
            replace(trajectory, sigmas=sigmas.double()),
            replace(trajectory, coordinates=FLOW),
            replace(trajectory, exact_clip=torch.zeros(1)),
        ]
    )


def rate_of(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(10_000)


def odd_vae(data, studio):
    """The checkpoint's VAE, seldom one that is of no use."""
    vae = copy.copy(studio.vae)
    kind = data.draw(st.sampled_from([""] * 9 + ["none", "empty", "channels", "video", "nan"]))
    if kind == "empty":
        vae.first_stage_model = None
    elif kind == "channels":
        vae.latent_channels = 16
    elif kind == "video":
        vae.downscale_ratio = (lambda frames: frames, 8, 8)
    elif kind == "nan":
        vae.decode = lambda samples: studio.vae.decode(samples) * math.nan
    return None if kind == "none" else vae


def damage(data, content: bytes) -> bytes:
    """A file's content cut off or changed in a few places."""
    content, kind = bytearray(content), data.draw(st.sampled_from(["cut", "flip", "zero", "twice"]))
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4))
    if kind == "cut":
        del content[places[0] :]
    elif kind == "twice":
        content = content[: places[0]] + content
    for place in places:
        if kind == "flip" and place < len(content):
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "zero":
            content[place : place + 8] = bytes(len(content[place : place + 8]))
    return bytes(content)
