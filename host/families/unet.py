"""Image U-Nets that predict noise or v: SD1.x, SD2.x, SDXL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import comfy.ldm.modules.attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete
from torch import Tensor

from ...inversion import coordinates
from ..layers import Handler, Layer, ModelCall, Size
from .family import Family

Block = tuple[str, int]  # "input", "middle" or "output", and its number


class UNet(Family):
    ends = ("time_embed.2.bias", "out.0.weight", "out.0.bias", "out.2.bias")  # small; the samples of older trajectory files end here
    blocks = re.compile(r"\.transformer_blocks\..*\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)\.weight$")  # what LoRAs are merged into

    def is_of(self, network) -> bool:
        return isinstance(network, UNetModel)

    def coordinates(self, model) -> coordinates.Coordinates:
        channels, latent = model.get_model_object("diffusion_model").in_channels, model.model.latent_format.latent_channels
        if channels != latent:
            raise ValueError(
                f"the model takes {channels} channels instead of {latent}, as inpainting checkpoints do. Load the ordinary checkpoint."
            )
        sampling = model.get_model_object("model_sampling")  # a node such as core's ModelSamplingDiscrete may have replaced it
        if isinstance(sampling, ModelSamplingDiscrete):
            for prediction, found in ((EPS, coordinates.EPS), (V_PREDICTION, coordinates.V)):
                if type(sampling).calculate_denoised is prediction.calculate_denoised:
                    return found
        raise ValueError(
            f"the model samples by {' and '.join(kind.__name__ for kind in type(sampling).__bases__)}; only noise (eps) and v-prediction on a "
            "discrete schedule can be inverted. Load an ordinary SD1.5, SD2.x or SDXL checkpoint, without LCM or other sampling patches."
        )

    def context_width(self, model) -> int | None:
        return model.model.model_config.unet_config.get("context_dim")

    def attention_wrapper(
        self,
        network,
        *,
        self_attention: Handler | None = None,
        cross_attention: Handler | None = None,
        self_where: Callable[[Size], bool] | None = None,
    ) -> Callable:
        """By patches_replace: the handlers are placed around whatever it holds by the time of the call, so the order in which packs patched does not
        matter and nothing outlives the call."""
        handlers = {name: handler for name, handler in (("attn1", self_attention), ("attn2", cross_attention)) if handler is not None}
        preferred = {name: preferred_attention(network, name) for name in handlers}

        def wrapper(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
            replace, call = dict(transformer_options.get("patches_replace", {})), ModelCall(transformer_options, tuple(x.shape[-2:]))
            for name, handler in handlers.items():
                chosen = blocks_where(network, call.shown, self_where) if name == "attn1" and self_where else None
                replace[name] = Replacements(replace.get(name, {}), handler, call, preferred[name], chosen)
            return executor(x, timesteps, context, y, control, {**transformer_options, "patches_replace": replace}, **kwargs)

        return wrapper

    def watched(self, options: dict, ran: set[int]) -> dict:
        def note(h: Tensor, skipped: Tensor, told: dict) -> tuple[Tensor, Tensor]:
            ran.add(told["block"][1])
            return h, skipped

        patches = options.get("patches", {})
        return {**options, "patches": {**patches, "output_block_patch": [*patches.get("output_block_patch", ()), note]}}

    def ran_whole(self, network, ran: set[int]) -> bool:
        return len(ran) >= len(network.output_blocks)


@dataclass(frozen=True)
class Beneath:
    """Runs whatever would have run without our patch: another pack's replacement, or the host's attention of choice."""

    replacement: Callable | None
    options: dict
    more: dict  # what the host's call said besides
    preferred: dict  # what the layer would say to the host's attention

    @property
    def replaced(self) -> bool:
        return self.replacement is not None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.replacement is not None:
            return self.replacement(q, k, v, self.options, **self.more)
        told = {"attn_precision": self.options["attn_precision"], **self.preferred, **self.more}
        # By the module, since packs put another function there.
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, self.options["n_heads"], transformer_options=self.options, **told)


class Replacements(dict):
    """What a transformer block looks its replacement up in: answers for every block, or for those named, with the handler around the
    previous entry. preferred: `preferred_attention`."""

    def __init__(self, previous: dict, handler: Handler, call: ModelCall, preferred: dict, blocks: frozenset[Block] | None = None):
        super().__init__(previous)
        self.previous, self.handler, self.call, self.preferred, self.blocks = previous, handler, call, preferred, blocks

    def __contains__(self, block: object) -> bool:
        return self.handles(block) or block in self.previous

    def handles(self, block: object) -> bool:
        return isinstance(block, tuple) and (self.blocks is None or block[:2] in self.blocks)

    def __getitem__(self, block: tuple) -> Callable:
        if not self.handles(block):
            return self.previous[block]
        previous = self.previous[block] if block in self.previous else None
        if previous is None and block[:2] in self.previous:  # a key without the transformer's index covers all of a block's
            previous = self.previous[block[:2]]

        def replacement(q: Tensor, k: Tensor, v: Tensor, options: dict, **more) -> Tensor:
            batch, size = options["activations_shape"][0], tuple(options["activations_shape"][-2:])
            layer = Layer(self.call, (options["block"], options["block_index"]), size, options["n_heads"], batch, len(q))
            return self.handler(q, k, v, Beneath(previous, options, more, self.preferred.get(block, {})), layer)

        return replacement


def preferred_attention(network: UNetModel, name: str) -> dict[tuple[str, int, int], dict]:
    """What each of the "attn1" or "attn2" layers says to core's attention function of its own choice of one (since 0.40; core does not say
    it to what replaces a layer), by block and number of the transformer in it."""
    blocks = {"input": network.input_blocks, "middle": [network.middle_block], "output": network.output_blocks}
    return {
        (kind, number, index): {"preferred_attention": layer.comfy_attention}
        for kind, listed in blocks.items()
        for number, block in enumerate(listed)
        for part in block or ()
        for index, transformer in enumerate(getattr(part, "transformer_blocks", ()))
        if hasattr(layer := getattr(transformer, name), "comfy_attention")
    }


def blocks_where(network: UNetModel, size: Size, where: Callable[[Size], bool]) -> frozenset[Block]:
    """The U-Net's blocks whose feature maps have a size that passes, for a latent of that height and width."""
    found, skipped = [], []
    for number, block in enumerate(network.input_blocks):
        if any(isinstance(layer, Downsample) for layer in block):
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        skipped.append(size)
        found += [("input", number)] if where(size) else []
    found += [("middle", 0)] if where(size) else []
    for number, size in enumerate(reversed(skipped)):  # each block takes up what one of the input's gave, of its size
        found += [("output", number)] if where(size) else []
    return frozenset(found)
