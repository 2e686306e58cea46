"""A clip, its trajectory and its edits on the demo checkpoint, in the test's own process."""

from functools import cached_property

import torch

from demo.scenes import Thing
from tests.clips import render_clip

CFG = 7.5
BOX = (32, 96, 40, 104)  # top, bottom, left, right: around the clip's thing, in whole cells
EDITED = 0.05  # a mean difference of latents, whose deviation is about 1, that tells an edit from rounding
SOURCE, TARGET = "a red circle on grass", "a blue circle on grass"


def progress_seen(monkeypatch) -> list[tuple[int, int]]:
    """Fills with what progress bars tell, (value, total) each. Since 2026 ComfyUI passes on a part of it only, by the clock: here all."""
    import comfy.utils

    seen = list[tuple[int, int]]()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: seen.append((value, total)))
    for name in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(comfy.utils, name, 0, raising=False)
    return seen


class Studio:
    """A checkpoint, a clip of a red circle on grass, and what an artist does with both. Everything runs as the host runs it: in inference mode.

    steps: of the trajectory, unless told otherwise."""

    def __init__(self, comfy, checkpoint, frames=3, steps=4, **options):
        self.comfy, self.frames, self.steps = comfy, frames, steps
        self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), **options)
        pictures, truth = render_clip(900_100, [Thing("red", "circle", 0.4, 0.45, 0.24)], "grass", frames, (0.03, 0.02))
        self.truth = torch.from_numpy(truth)
        with torch.inference_mode():
            self.latent = self.vae.encode(torch.from_numpy(pictures).float() / 255)

    @torch.inference_mode()
    def prompt(self, text, clip=None):
        from blade.nodes.prompt import Prompt

        return Prompt.execute(clip or self.clip, text).result[0]

    @torch.inference_mode()
    def invert(self, model=None, source=None, latent=None, steps=None, **inputs):
        from blade.nodes.invert import DDIMInvert

        latent = self.latent if latent is None else latent
        source = source or self.prompt(SOURCE)
        return DDIMInvert.execute(model or self.model, source, {"samples": latent}, steps or self.steps, **inputs).result[0]

    @cached_property
    def trajectory(self):
        return self.invert()

    @torch.inference_mode()
    def sample(self, trajectory=None, model=None, target=None, negative=None, solver="euler", cfg=CFG, steps=None, start=1.0, **inputs):
        """The all-in-one node's outputs."""
        from blade.nodes.sampler import BlendedSampler

        words = {"source_words": "", "target_words": ""} | inputs
        return BlendedSampler.execute(
            model or self.model, target or self.prompt(TARGET), negative or self.prompt(""), trajectory or self.trajectory,
            steps or self.steps, cfg, solver, start, **words,
        ).result  # fmt: skip

    def latents(self, **inputs):
        """The all-in-one node's sampled latents."""
        return self.sample(**inputs)[0]["samples"]

    def edits(self, target=None, previous=(), **inputs):
        from blade.nodes.edit import EditNode

        words = {"source_words": "", "target_words": ""} | inputs
        return EditNode.execute(target or self.prompt(TARGET), previous=previous, **words).result[0]

    @torch.inference_mode()
    def select(self, edits, trajectory=None, model=None, solver="euler", steps=None, start=1.0, **inputs):
        """sampler, positive, sigmas, latent_image"""
        from blade.nodes.sampler_select import BlendedSamplerSelect

        return BlendedSamplerSelect.execute(
            model or self.model, trajectory or self.trajectory, edits, steps or self.steps, solver, start, **inputs
        ).result

    @torch.inference_mode()
    def advanced(self, guider, sampler, sigmas, latent):
        """Core's SamplerCustomAdvanced: its two outputs' latents."""
        from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

        return [out["samples"] for out in SamplerCustomAdvanced.execute(Noise_RandomNoise(5), guider, sampler, sigmas, latent).result]

    def guided(self, positive, negative=None, cfg=CFG, model=None):
        """Core's CFG Guider."""
        from comfy_extras.nodes_custom_sampler import CFGGuider

        return CFGGuider.execute(model or self.model, positive, negative or self.prompt(""), cfg).result[0]

    @torch.inference_mode()
    def stock(self, trajectory=None, model=None, target=None, negative=None, solver="euler", sigmas=None, cfg=CFG, guider=None):
        """What core's own solver samples from the trajectory's latent at the first sigma, with nothing of ours around it."""
        from comfy.samplers import KSAMPLER, sampler_object

        trajectory = trajectory or self.trajectory
        sigmas = trajectory.sampling_sigmas(trajectory.steps) if sigmas is None else sigmas
        own = sampler_object(solver).sampler_function

        def from_the_trajectory(denoiser, x, sigmas, **more):
            return own(denoiser, trajectory.at(sigmas[0]).to(x), sigmas.clone(), **more)

        guider = guider or self.guided(target or self.prompt(TARGET), negative, cfg, model)
        return guider.sample(
            torch.zeros_like(trajectory.clip),
            self.clips_own(trajectory, model),
            KSAMPLER(from_the_trajectory),
            sigmas,
            disable_pbar=True,
            seed=0,
        )

    def clips_own(self, trajectory=None, model=None):
        """The clip as every edit must leave it outside its mask."""
        return (model or self.model).model.process_latent_out((trajectory or self.trajectory).clip)

    def pixels(self, top, bottom, left, right):
        """A mask of one frame, in pixels, of whole cells where the sides are multiples of 8. [1, 128, 128]"""
        mask = torch.zeros(1, *(8 * side for side in self.latent.shape[-2:]))
        mask[:, top:bottom, left:right] = 1
        return mask


def in_cells(mask):
    """Which latent cells a pixel mask of whole cells covers. [frames, 1, h, w] of bool"""
    return mask[:, None, ::8, ::8] > 0.5


def counting(model):
    """A clone of a MODEL, and the list that grows with each of its calls."""
    counted, rows = model.clone(), []
    counted.set_model_unet_function_wrapper(lambda apply, given: rows.append(1) or apply(given["input"], given["timestep"], **given["c"]))
    return counted, rows


def temporal(model, batch_frames=0, *kinds):
    """A clone of a MODEL whose self-attention sees frames of these kinds, in batches of so many frames."""
    from blade.nodes.temporal import TemporalAttention

    chosen = [kind in kinds for kind in ("self", "first", "previous", "next", "middle", "all")]
    return TemporalAttention.execute(model, *chosen, 0, 1.0, "all", 0.0, 1.0, batch_frames).result[0]


def changed(studio, latents, trajectory=None):
    """The cells that are not the clip's to the bit: the mask. [frames, h, w] of bool"""
    return (latents != studio.clips_own(trajectory)).any(1)
