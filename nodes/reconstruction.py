"""Reconstruction Check: samples a trajectory straight back and shows how much of the clip returns."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..host.frames import in_frame_batches
from ..host.job import Job
from ..host.sampling import latent_out, run_sampler, solver_function
from ..host.vae import check_room, check_vae, decode_chunks, fitting_chunk
from ..host.words import words_of
from ..inversion.ddim import check_finite
from ..inversion.trajectory import Trajectory
from ..metrics.background import psnr_outside
from ..metrics.reconstruction import drift, latent_psnr, plot
from .checks import check_model, check_prompts, check_whole_way
from .common import CATEGORY, TrajectorySocket, checked, naming

TITLE = "Reconstruction Check (BLADE)"
FAITHFUL, USABLE = 45.0, 30.0  # dB of latents; see advice


class ReconstructionCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_ReconstructionCheck",
            display_name=TITLE,
            category=CATEGORY,
            description="Samples the trajectory straight back to the clip, with nothing edited and nothing blended. What does not come back now "
            "cannot keep its shape in an edit. Says whether the inversion is good enough, and what to turn if it is not.",
            inputs=[
                io.Model.Input("model", tooltip="The model that inverted the clip, patched in the same way."),
                io.Conditioning.Input(
                    "source", tooltip="The prompt that inverted the clip: the null prompt, if one was connected, else the source prompt."
                ),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert (BLADE) or Load Trajectory (BLADE)."),
                io.Vae.Input("vae", optional=True, tooltip="Measures the decoded frames too, against the clip as this VAE decodes it."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The clip as it came back, for VAE Decode."),
                io.Image.Output(display_name="plot", tooltip="PSNR of each frame, and where the way back leaves the trajectory."),
                io.String.Output(display_name="report", tooltip="The figures in words, one line for each frame."),
                io.Float.Output(display_name="psnr_db", tooltip="Mean PSNR of the latents; the peak is the range of the frame's latent."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked()
    def execute(cls, model, source, trajectory: Trajectory, vae=None) -> io.NodeOutput:
        warning = check_model(TITLE, model, trajectory)
        if vae is not None:
            with naming(TITLE, "vae"):
                check_vae(vae)
                check_room(vae, "decode", (1, *trajectory.latents.shape[2:]))
        check_prompts(TITLE, model, trajectory.frames, source=source)
        sigmas = trajectory.sigmas.flip(0)
        check_whole_way(TITLE, model, sigmas[:-1], tuple(trajectory.latents.shape[1:]), source=source)
        job = Job(model, trajectory.latents.shape[1:], trajectory.steps, warning=join(warning, prompt_warning(source, trajectory)))
        with naming(TITLE, "trajectory"):
            job.check()
        drifts: list[float] = []
        back = torch.empty(0)

        def function(model, x, sigmas, extra_args, callback, disable):
            nonlocal back

            def compare(state: dict) -> None:
                sigma = float(sigmas[state["i"]])
                with naming(TITLE, "model"):
                    check_finite(state["denoised"], sigma, state["i"] + 1, trajectory.steps)
                drifts.append(drift(trajectory.at(sigma), state["x"].float().cpu(), sigma))
                callback(state)

            x = solver_function("euler")(model, trajectory.at(sigmas[0]).to(x, copy=True), sigmas, extra_args, compare, disable)
            back = x.float().cpu()
            return x

        watch = job.watch(cls.hidden.unique_id if cls.hidden else None)
        with naming(TITLE, "model"):
            samples = run_sampler(
                watch.on(in_frame_batches(model)), function, sigmas, source, source, 1.0, latent_out(model, trajectory.clip)
            )
        drifts.append(drift(trajectory.clip, back, 0.0))
        series = {"latents": latent_psnr(trajectory.clip, back).numpy()}
        if vae is not None:
            with naming(TITLE, "vae"):
                series["decoded"] = decoded_psnr(vae, latent_out(model, trajectory.clip), samples)
        advised = advice(float(series["latents"].mean()), trajectory)
        origin = trajectory.origin
        title = f"{trajectory.frames} frames, {trajectory.steps} steps ({origin.schedule}), {origin.told}"
        picture = plot(series, sigmas.numpy(), np.array(drifts), title)
        image = torch.from_numpy(picture).float()[None] / 255
        watch.done(f"{series['latents'].mean():.1f} dB. {advised}")
        return io.NodeOutput(
            {"samples": samples},
            image,
            report(series, join(job.warning, advised)),
            float(series["latents"].mean()),
            ui=ui.PreviewImage(image, cls=cls),
        )


def join(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def prompt_warning(source, trajectory: Trajectory) -> str:
    words, made_with = words_of(source), trajectory.origin.prompt
    if words is None or made_with is None or words.text == made_with:
        return ""
    return f"Warning: the clip was inverted with the prompt {made_with!r}, and is sampled back with {words.text!r}."


def advice(mean: float, trajectory: Trajectory) -> str:
    """What to turn. The limits are ours: at 45 dB and more the decoded frames differ from the VAE's own by less than one sees, below 30
    dB positions and outlines move."""
    if mean >= FAITHFUL:
        return "The clip comes back: the inversion is good for any edit."
    refine = trajectory.origin.refine
    better = f"set refine to {refine + 2}, or use more steps" if refine else "set method of DDIM Invert to refined"
    if mean >= USABLE:
        return f"Most of the clip comes back; for edits that must keep fine structure, {better}."
    return f"Much of the clip is lost on the way: {better}. If it stays so, connect a null_prompt to DDIM Invert."


def decoded_psnr(vae, clip: torch.Tensor, samples: torch.Tensor) -> np.ndarray:
    """PSNR of each decoded frame against the clip as the VAE decodes it. [frames]"""
    chunk = fitting_chunk(vae, "decode", (1, *samples.shape[1:]))
    pairs = zip(decode_chunks(vae, clip, chunk), decode_chunks(vae, samples, chunk), strict=True)
    return np.concatenate([psnr_outside(one, other, np.zeros(one.shape[:3])) for one, other in pairs])


def report(series: dict[str, np.ndarray], sentence: str) -> str:
    """Markdown, as core's Preview Any shows it."""
    lines = [sentence, ""]
    for label, values in series.items():
        lines += [f"{label}: mean {values.mean():.2f} dB, worst {values.min():.2f} dB in frame {int(values.argmin())}", ""]
    lines += ["| frame | " + " | ".join(f"{label}, dB" for label in series) + " |", "|---" * (1 + len(series)) + "|"]
    lines += [
        f"| {frame} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for frame, row in enumerate(zip(*series.values(), strict=True))
    ]
    return "\n".join(lines) + "\n"
