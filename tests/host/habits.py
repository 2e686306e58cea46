"""Stand-ins for the habits of other packs, each at the patch points that the pack uses. Each makes a clone of a MODEL."""

import contextlib

import torch
import torch.nn.functional as F
from einops import rearrange

BLOCKS = [("input", 1), ("input", 3), ("middle", 0), *(("output", number) for number in range(4))]


def attend(q, k, v, heads):
    """Attention in plain torch, which no host's function is."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    return rearrange((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v, "b h n d -> b n (h d)")


class Adapted:
    """IPAdapter's object: one for a layer, to which further adapters are added."""

    def __init__(self, images):
        self.images = [images]

    def add(self, images):
        self.images.append(images)

    def __call__(self, q, k, v, options):
        assert {"cond_or_uncond", "sigmas", "original_shape", "block", "block_index", "n_heads"} <= options.keys()
        out, places = attend(q, k, v, options["n_heads"]), (options.get("ad_params") or {}).get("sub_idxs")
        for images in self.images:
            rows = images if places is None else images[list(places)]
            rows = rows[:, :, : q.shape[-1]].repeat(len(options["cond_or_uncond"]), 1, 1)
            rows = (
                rows
                * torch.tensor(options["cond_or_uncond"])
                .eq(0)
                .repeat_interleave(len(rows) // len(options["cond_or_uncond"]))[:, None, None]
            )
            out = out + 0.4 * attend(q, rows, rows, options["n_heads"])
        return out


def image_adapter(studio, model, seed=1):
    """Keys of two parts and of three; the dicts are copied by hand and written into the clone's."""
    images, model = torch.randn(studio.frames, 4, 128, generator=torch.Generator().manual_seed(seed)), model.clone()
    inside = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    replace = inside["patches_replace"] = inside.get("patches_replace", {}).copy()
    layers = replace["attn2"] = replace.get("attn2", {}).copy()
    for key in ("input", 1), ("middle", 0, 0), ("output", 3, 0):
        if key in layers:
            layers[key].add(images)
        else:
            layers[key] = Adapted(images)
    return model


def two_image_adapters(studio, model):
    return image_adapter(studio, image_adapter(studio, model), 2)


def perturbed(studio, model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 2.0).result[0]


def smoothed(studio, model):
    """SEG: a third pass, whose queries in the middle are blurred on the layer's grid, which is read off their number."""
    import comfy.model_patcher
    import comfy.samplers

    def blurred(q, k, v, options):
        height, width = options["original_shape"][2:]
        rows = round((q.shape[1] * height / width) ** 0.5)
        grid = rearrange(q, "b (h w) d -> b d h w", h=rows)
        assert list(grid.shape[-2:]) == options["activations_shape"][-2:]
        return attend(rearrange(F.avg_pool2d(grid, 3, 1, 1), "b d h w -> b (h w) d"), k, v, options["n_heads"])

    def guide(args):
        options = comfy.model_patcher.set_model_options_patch_replace(args["model_options"].copy(), blurred, "attn1", "middle", 0)
        (weak,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 2.0 * (args["cond_denoised"] - weak)

    model = model.clone()
    model.set_model_sampler_post_cfg_function(guide)
    return model


def self_guided(studio, model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.7, 2.0).result[0]


def thresholded(studio, model):
    """Dynamic thresholding: guidance of its own, also at CFG 1."""

    def guide(args):
        found = args["uncond"] + 1.5 * args["cond_scale"] * (args["cond"] - args["uncond"])
        return found * args["cond"].std() / found.std()

    model = model.clone()
    model.set_model_sampler_cfg_function(guide, disable_cfg1_optimization=True)
    return model


def perpendicular(studio, model):
    from comfy_extras.nodes_perpneg import PerpNeg

    return PerpNeg.execute(model, studio.prompt(""), 0.8).result[0]


def normalised(studio, model):
    """NAG: in cross-attention, away from what another prompt would give, no further than a limit."""
    with torch.inference_mode():
        other = studio.prompt("blurred")[0][0]
    unet = model.get_model_object("diffusion_model")

    def guide(q, k, v, options):
        layer = unet.middle_block[1].transformer_blocks[0].attn2
        away = attend(q, *(side(other).expand(len(q), -1, -1) for side in (layer.to_k, layer.to_v)), options["n_heads"])
        out = attend(q, k, v, options["n_heads"])
        far = out + 2.0 * (out - away)
        return far * (1.5 * out.norm() / far.norm()).clamp(max=1)

    model = model.clone()
    model.set_model_attn2_replace(guide, "middle", 0)
    return model


def tiles(studio, model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 64, 2, 0, False)[0]


def merged(studio, model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return TomePatchModel.execute(model, 0.4).result[0]


def free_u(studio, model):
    from comfy_extras.nodes_freelunch import FreeU_V2

    return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]


def deep_shrunk(studio, model):
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    return PatchModelAddDownscale.execute(model, 2, 2.0, 0.0, 0.5, True, "bicubic", "bicubic").result[0]


def override(studio, model):
    """A fast attention in the one slot, whatever stood there."""
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda func, q, k, v, heads, *args, **kwargs: attend(
        q, k, v, heads
    )
    return model


def every_layer_taken(studio, model):
    model = model.clone()
    for block in BLOCKS:
        for put in (model.set_model_attn1_replace, model.set_model_attn2_replace):
            put(lambda q, k, v, options: attend(q, k, v, options["n_heads"]), *block)
    return model


def sole_wrapper(studio, model):
    model = model.clone()
    model.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
    return model


def other_dtype(studio, model):
    """Latents pass the U-Net in another precision than they came in."""

    def wrapper(apply, given):
        return apply(given["input"].double(), given["timestep"].double(), **given["c"]).float()

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def tried_again(studio, model):
    """Swallows an exception in the middle of the U-Net, and calls it once more."""
    left = {}

    def stumble(h, skipped, options):
        if options["block"] == ("output", 2) and left.pop("one", None):
            raise RuntimeError("out of memory")
        return h, skipped

    def wrapper(apply, given):
        left["one"] = True
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                return apply(given["input"], given["timestep"], **given["c"])
        raise AssertionError

    model = model.clone()
    model.set_model_patch(stumble, "output_block_patch")
    model.set_model_unet_function_wrapper(wrapper)
    return model


def compiled(studio, model):
    """As core's node does it; the backend runs what was traced."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager")
    return model


def compiled_object(studio, model):
    """As packs do it: the compiled U-Net takes the place of the model's own."""
    model = model.clone()
    model.add_object_patch("diffusion_model", torch.compile(model.get_model_object("diffusion_model"), backend="eager"))
    return model


def middle_patched(studio, model):
    """GLIGEN's place, between self- and cross-attention."""
    model = model.clone()
    model.set_model_patch(lambda x, options: x + 0.05 * x.roll(1, 1), "middle_patch")
    return model


SILENT = (override, every_layer_taken, sole_wrapper, tried_again, thresholded)  # the attention of a first call stays what it is
LOUD = (
    image_adapter, two_image_adapters, perturbed, smoothed, self_guided, perpendicular, normalised, tiles, merged, free_u, deep_shrunk, middle_patched,
)  # fmt: skip
HABITS = (*SILENT, *LOUD, other_dtype)
