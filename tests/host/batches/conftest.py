"""The host with the demo checkpoint, and an ordinary pair of prompts."""

import pytest
import torch

from tests.host.batches.small_clip import CAUSAL, FRAMES, SIGMA


def loaded(comfy, checkpoint, **options):
    """The host's parts that the tests use, with the demo checkpoint loaded."""
    import comfy.cldm.cldm
    import comfy.context_windows
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops
    import comfy.sample
    import comfy.samplers

    import blade.attention.temporal
    import blade.host.attention
    import blade.host.frames
    import nodes
    from demo.model_pack.architecture import UNET_CONFIG

    class Host:
        config = UNET_CONFIG
        core, core_nodes, attention, frames = comfy, nodes, blade.host.attention, blade.host.frames
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, **options)
        latent = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))

        @classmethod
        def prompt(cls, text):
            with torch.inference_mode():
                return nodes.CLIPTextEncode().encode(cls.clip, text)[0]

        @classmethod
        def temporal(cls, variant="first+previous", size=0, model=None, **more):
            kinds, anchors = CAUSAL[variant] if variant in CAUSAL else ((variant,), 0)
            keys = blade.attention.temporal.KeyFrames(kinds, anchors)
            return blade.host.attention.with_temporal_attention(model or cls.model, keys, size, **more)

        @classmethod
        @torch.inference_mode()
        def inside(cls, model, conds, body, frames=FRAMES, sigma=SIGMA):
            """What body(guider, x, sigmas, extra_args) gives where a sampler runs. conds: positive, negative, cfg."""

            def sampler(denoiser, x, sigmas, extra_args, **_):
                extra = {k: v for k, v in extra_args.items() if k != "denoise_mask"}
                return body(denoiser.inner_model, x, sigma * torch.ones(len(x)), extra)

            noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2))[:frames]
            kind = comfy.samplers.KSAMPLER(sampler)
            positive, negative, cfg = conds
            sigmas = torch.tensor([sigma, 0.0])
            return comfy.sample.sample_custom(
                model, noise, cfg, kind, sigmas, positive, negative, cls.latent[:frames], disable_pbar=True, seed=0
            )

        @classmethod
        def once(cls, model, conds, frames=FRAMES, sigma=SIGMA):
            """The denoised clip of a single model call."""
            return cls.inside(model, conds, lambda guider, x, sigmas, extra: guider(x, sigmas, **extra), frames, sigma)

        @classmethod
        def stock(cls, conds, model=None):
            """A clip from core's own KSampler."""
            positive, negative, cfg = conds
            with torch.inference_mode():
                return comfy.sample.sample(
                    model or cls.model, cls.latent.flip(0), 2, cfg, "euler", "normal", positive, negative, cls.latent, disable_pbar=True, seed=3
                )  # fmt: skip

    return Host


@pytest.fixture(scope="module")
def host(comfy, checkpoint, one_thread):
    return loaded(comfy, checkpoint)


@pytest.fixture(scope="module")
def in_double(comfy, checkpoint, one_thread):
    """With the U-Net in float64: batches of another size round otherwise, in fp32 by as much as 1e-5 on some CPUs."""
    return loaded(comfy, checkpoint, model_options={"dtype": torch.float64})


@pytest.fixture(scope="module")
def plain(host):
    return host.prompt("a blue circle on grass"), host.prompt("red"), 4.0
