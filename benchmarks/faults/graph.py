"""The edit that faults are tried on, from file to file through every node that works, and a server that runs it and tells what is left."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from demo.clips import read_mp4, write_mp4
from runner.graphs import with_defaults
from runner.host import CHECKPOINT_NAME, REPOSITORY, ComfyHost, Outcome, install_pack, prepare_base

EDIT = DEVELOPMENT_COLOUR_EDITS[0]
FRAMES, STEPS = 3, 2
CLIP = "faults.mp4"
TRAJECTORY = ".safetensors"
Node = dict[str, Any]


def node(kind: str, **inputs: object) -> Node:
    return {"class_type": kind, "inputs": inputs}


def graph(nonce: int) -> dict[str, Node]:
    """The prompt. nonce: with another number all but the checkpoint and the doors of MODEL, VAE and CLIP is done anew."""

    def text(words: str) -> list:
        made[f"text of {words}"] = node("FaultDoor", value=words, name="text", nonce=nonce)
        return [f"text of {words}", 0]

    made: dict[str, Node] = {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT_NAME),
        "start": node("FaultDoor", value=0, name="start", nonce=nonce),
        "clip": node("FaultClip", clip=["checkpoint", 1], name="prompts"),
        "vae to encode": node("FaultVae", vae=["checkpoint", 2], name="encoding"),
        "vae to decode": node("FaultVae", vae=["checkpoint", 2], name="decoding"),
        "vae to composite": node("FaultVae", vae=["checkpoint", 2], name="compositing"),
        "temporal": node(
            "BLADE_TemporalAttention", model=["checkpoint", 0], self_frame=True, first_frame=True, previous_frame=True, batch_frames=2
        ),
        "latent": node("BLADE_EncodeVideo", vae=["vae to encode", 0], video=CLIP, start_frame=["start", 0], frame_count=FRAMES),
        "frames": node("BLADE_LoadVideo", video=CLIP, start_frame=["start", 0], frame_count=FRAMES),
        "to invert": node("FaultDoor", value=["latent", 0], name="storage"),
        "path": node(
            "BLADE_DDIMInvert", model=["inversion", 0], source=["source", 0], latent=["to invert", 0], steps=STEPS, storage="mapped file"
        ),
        "path to save": node("FaultDoor", value=["path", 0], name="trajectory"),
        "saved path": node("BLADE_SaveTrajectory", trajectory=["path to save", 0], filename_prefix="faults/path"),
        "mask": node("BLADE_CrossAttentionMask", trajectory=["path", 0], words=EDIT.source_words),
        "edited": node(
            "BLADE_BlendedSampler", model=["sampling", 0], target=["target", 0], negative=["negative", 0], trajectory=["path", 0],
            steps=STEPS, source_words=EDIT.source_words, target_words=EDIT.target_words, structure=0.5, confine=0.3, renoise=0.3,
            source=["source", 0],
        ),
        "edits": node("BLADE_Edit", target=["target", 0], mask=["mask", 0]),
        "selected": node("BLADE_BlendedSamplerSelect", model=["selecting", 0], trajectory=["path", 0], edits=["edits", 0], steps=STEPS),
        "guider": node("BLADE_CFGSchedule", model=["selecting", 0], positive=["selected", 1], negative=["negative", 0], cfg_end=5.0),
        "noise": node("DisableNoise"),
        "second edit": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["selected", 0], sigmas=["selected", 2],
            latent_image=["selected", 3],
        ),
        "check": node("BLADE_ReconstructionCheck", model=["checking", 0], source=["source", 0], trajectory=["path", 0]),
        "composite": node(
            "BLADE_LatentComposite", latent=["second edit", 0], vae=["vae to composite", 0], source=["frames", 0], mask=["mask", 0], rounds=2
        ),
        "written": node(
            "BLADE_DecodeVideo", latent=["edited", 0], vae=["vae to decode", 0], fps=["latent", 1], filename_prefix="faults/edited",
            format="mkv (FFV1, lossless)", chunk_frames=1,
        ),
        "decoded": node("VAEDecode", samples=["composite", 0], vae=["checkpoint", 2]),
        "pasted": node("BLADE_PixelComposite", source=["frames", 0], edited=["decoded", 0], mask=["edited", 1]),
        "film": node("FaultDoor", value=["pasted", 0], name="film"),
        "saved film": node(
            "BLADE_SaveVideo", frames=["film", 0], fps=["frames", 1], filename_prefix="faults/pasted", format="mkv (FFV1, lossless)"
        ),
    }  # fmt: skip
    for name in ("inversion", "sampling", "selecting", "checking"):
        made[name] = node("FaultModel", model=["temporal", 0], name=name)
    for name, words in (("source", EDIT.clip.source_prompt), ("target", EDIT.target_prompt), ("negative", "")):
        made[name] = node("BLADE_Prompt", clip=["clip", 0], text=text(words))
    for name in ("latent", "mask", "edited", "second edit", "check", "composite", "pasted"):
        made[f"digest of {name}"] = node("FaultDigest", value=[name, 0])
    return made


def cores_graph(nonce: int) -> dict[str, Node]:
    """A prompt with nothing of ours in it, which samples with the same checkpoint."""
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT_NAME),
        "words": node("CLIPTextEncode", clip=["checkpoint", 1], text=EDIT.clip.source_prompt),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=FRAMES),
        "anew": node("FaultDoor", value=["empty", 0], name="core", nonce=nonce),
        "sampled": node(
            "KSampler", model=["checkpoint", 0], positive=["words", 0], negative=["words", 0], latent_image=["anew", 0], steps=STEPS, seed=1
        ),
        "digest of core": node("FaultDigest", value=["sampled", 0]),
    }  # fmt: skip


@dataclass
class Ran:
    """A prompt's end. digests: of every result that was reached, by node. files: what those that it wrote hold, or what is wrong with them."""

    outcome: Outcome
    state: dict
    digests: dict[str, str]
    files: dict[str, str]


class FaultHost(ComfyHost):
    """A server with the pack, the demo checkpoint, a clip and the doors."""

    def __enter__(self) -> FaultHost:
        super().__enter__()
        self.types = self.object_info()
        return self

    def ask(self, path: str, **told: object) -> dict:
        request = urllib.request.Request(
            self.address + path, json.dumps(told).encode() if told else None, {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def arm(self, place: str = "", kind: str = "", at: int = 0) -> None:
        self.ask("/faults/arm", place=place, kind=kind, at=at)

    def interrupt(self) -> None:
        """The page's button."""
        self.ask("/interrupt", nothing=None)

    def edit(self, prompt: dict, on_event: Callable[[dict], None] | None = None) -> Ran:
        """Runs a prompt, takes its files away, and says what there was."""
        outcome = self.run(with_defaults(prompt, self.types), on_event=on_event)
        digests = {name: told["sha256"][0] for name, told in outcome.outputs.items() if "sha256" in told}
        return Ran(outcome, self.ask("/faults/state"), digests, take_files(self.base))


def take_files(base: Path) -> dict[str, str]:
    """The output folder's files by name, each read whole; then they are deleted."""
    found = {path: content(path) for path in sorted((base / "output").rglob("*")) if path.is_file()}
    for path in found:
        path.unlink()
    return {path.relative_to(base / "output").as_posix(): held for path, held in found.items()}


def content(path: Path) -> str:
    """A digest of what a film or a trajectory's file holds; safetensors writes its header in an order of its own each time."""
    held = hashlib.sha256()
    try:
        if path.suffix == TRAJECTORY:
            with safe_open(path, "pt") as file:
                held.update(json.dumps(file.metadata(), sort_keys=True).encode())
                for name in sorted(file.keys()):
                    held.update(file.get_tensor(name).numpy().tobytes())
        else:
            held.update(read_mp4(path).tobytes())
    except Exception as error:  # whatever is wrong with it is the finding
        return f"cannot be read ({type(error).__name__}: {error})"
    return held.hexdigest()


def prepare(base: Path) -> Path:
    """The folder of a server for faults."""
    base = prepare_base(base)
    install_pack(REPOSITORY / "benchmarks" / "faults" / "pack", base / "custom_nodes" / "blade_faults")
    write_mp4(base / "input" / CLIP, EDIT.clip.render(FRAMES))
    return base
