"""The edit that faults are tried on, from file to file through every node that works, and a server that runs it and tells what is left."""

from __future__ import annotations

import copy
import hashlib
import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from demo.base import prepare_base
from demo.clips import read_mp4, write_mp4
from runner.graphs import with_defaults
from runner.host import ComfyHost, Outcome, install_pack

HERE = Path(__file__).parent
EDIT = DEVELOPMENT_COLOUR_EDITS[0]  # its words stand in prompts.json
FRAMES = 3
CLIP = "faults.mp4"
PROMPTS = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))


def graph(nonce: int, name: str = "edit") -> dict[str, dict]:
    """A prompt of prompts.json: the edit; or "core", with nothing of ours in it, which samples with the same checkpoint.

    nonce: with another number all but the checkpoint and the doors of MODEL, VAE and CLIP is done anew."""
    made = copy.deepcopy(PROMPTS[name])
    for part in made.values():
        part["inputs"] |= {"nonce": nonce} if "nonce" in part["inputs"] else {}
    return made


@dataclass
class Ran:
    """A prompt's end. digests: of every result that was reached, by node. files: what those that it wrote hold, or what is wrong with them."""

    outcome: Outcome
    state: dict
    digests: dict[str, str]
    files: dict[str, str]


class FaultHost(ComfyHost):
    """A server on the CPU with the pack, the demo checkpoint, a clip and the doors. Its log lies in its folder, under this name."""

    def __init__(self, comfy: Path, base: Path, log: str = "host.log"):
        super().__init__(comfy, base, log=base / log, cpu=True)

    def __enter__(self) -> FaultHost:
        super().__enter__()
        self.types = self.object_info()
        return self

    def post(self, path: str, **told: object) -> None:
        request = urllib.request.Request(self.address + path, json.dumps(told).encode(), {"Content-Type": "application/json"})
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120).close()

    def arm(self, place: str = "", kind: str = "", at: int = 0) -> None:
        """place: a hook's name; kind: what happens; at: at which of its calls, from 0. Nothing: no fault."""
        self.post("/faults/arm", place=place, kind=kind, at=at)
        self.before = self.warnings()

    def warnings(self) -> int:
        """How often ComfyUI has said that it takes a model for leaked."""
        return self.log.read_text(encoding="utf-8", errors="replace").count("memory leak")

    def edit(self, prompt: dict) -> Ran:
        """Runs a prompt, takes its files away, and says what there was."""
        outcome = self.run(with_defaults(prompt, self.types))
        digests = {name: told["sha256"][0] for name, told in outcome.outputs.items() if "sha256" in told}
        state = self._get("/faults/state")
        state["leaks"].append(self.warnings() - self.before)
        return Ran(outcome, state, digests, take_files(self.base))


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
        if path.suffix == ".safetensors":
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
    install_pack(HERE / "pack", base / "custom_nodes" / "blade_faults")
    write_mp4(base / "input" / CLIP, EDIT.clip.render(FRAMES))
    return base
