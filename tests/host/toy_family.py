"""A family that is nobody's: a flow-matching transformer whose latents are [1, channels, frames, h, w] and whose frames see each other. A second family
needs no more than this."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from einops import rearrange
from torch import nn

from blade.host.families.family import Family
from blade.host.layers import Layer, ModelCall
from blade.inversion.coordinates import FLOW
from blade.inversion.grid import Grid

WIDTH, HEADS, CONTEXT = 16, 2, 6
HOOKS, RAN = (
    "toy_hooks",
    "toy_ran",
)  # in transformer_options: what runs in attention's place, by kind; where the network says that it has run


class ToyNetwork(nn.Module):
    def __init__(self, device=None, operations=None, dtype=torch.float32, **config):
        super().__init__()
        self.dtype = dtype
        sides = {"inside": (5, WIDTH), "outside": (WIDTH, 4), "read": (CONTEXT, WIDTH)}
        sides |= {f"{kind}_{part}": (WIDTH, WIDTH) for kind in ("self", "text") for part in "qkv"}
        self.layers = nn.ModuleDict({name: nn.Linear(*of, device=device) for name, of in sides.items()})

    def forward(self, x, timesteps, context=None, control=None, transformer_options={}, **kwargs):
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        return WrapperExecutor.new_class_executor(self.run, self, wrappers).execute(x, timesteps, context, transformer_options)

    def run(self, x, timesteps, context, options):
        frames, height = x.shape[2:4]
        level = (timesteps / 1000).view(-1, 1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        tokens = self.layers["inside"](rearrange(torch.cat([x, level], 1), "b c t h w -> b (t h w) c"))
        text = self.layers["read"](context)
        for kind, seen in (("self", tokens), ("text", text)):
            q, k, v = (self.layers[f"{kind}_{part}"](of) for part, of in (("q", tokens), ("k", seen), ("v", seen)))
            tokens = tokens + options.get(HOOKS, {}).get(kind, plain)(q, k, v)
        options.get(RAN, set()).add(0)
        return rearrange(self.layers["outside"](tokens.tanh()), "b (t h w) c -> b c t h w", t=frames, h=height)


def plain(q, k, v):
    return optimized_attention(q, k, v, HEADS)


class Toy(Family):
    grid, frame_axis = Grid(cell=8, time=4), 2

    def is_of(self, network):
        return isinstance(network, ToyNetwork)

    def coordinates(self, model):
        return FLOW

    def context_width(self, model):
        return CONTEXT

    def watched(self, options, ran):
        return {**options, RAN: ran}

    def ran_whole(self, network, ran):
        return bool(ran)

    def attention_wrapper(self, network, *, self_attention=None, cross_attention=None, self_where=None):
        handlers = {name: handler for name, handler in (("self", self_attention), ("text", cross_attention)) if handler is not None}

        def wrapper(executor, x, timesteps, context, options):
            hooks, call = dict(options.get(HOOKS, {})), ModelCall(options, tuple(x.shape[-2:]))
            for kind, handler in handlers.items():
                hooks[kind] = hooked(kind, handler, hooks.get(kind, plain), call, x.shape[2])
            return executor(x, timesteps, context, {**options, HOOKS: hooks})

        return wrapper


class Beneath:
    """Each frame's queries see all keys, which are there once for each frame."""

    replaced = False

    def __init__(self, run, frames):
        self.run, self.frames = run, frames

    def __call__(self, q, k, v):
        out = self.run(rearrange(q, "(b t) n d -> b (t n) d", t=self.frames), k[:: self.frames], v[:: self.frames])
        return rearrange(out, "b (t n) d -> (b t) n d", t=self.frames)


def hooked(kind, handler, run, call, frames):
    def attention(q, k, v):
        rows = rearrange(q, "b (t n) d -> (b t) n d", t=frames)
        layer = Layer(call, kind, call.shown, HEADS, len(rows), len(rows))
        out = handler(rows, *(part.repeat_interleave(frames, 0) for part in (k, v)), Beneath(run, frames), layer)
        return rearrange(out, "(b t) n d -> b (t n) d", t=frames)

    return attention


class ToyLatents(comfy.latent_formats.LatentFormat):
    latent_channels, latent_dimensions, scale_factor = 4, 3, 0.5


class ToyConfig(comfy.supported_models_base.BASE):
    unet_extra_config: dict = {}
    latent_format, sampling_settings = ToyLatents, {"shift": 3.0}


def toy_model(seed: int = 0):
    """A MODEL with random weights."""
    config, cpu = ToyConfig({"context_dim": CONTEXT}), torch.device("cpu")
    config.set_inference_dtype(torch.float32, None)
    torch.manual_seed(seed)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.FLOW, cpu, ToyNetwork)
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)
