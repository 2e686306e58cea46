"""Faults at every stage of an edit: what each ends in, and whether the server is afterwards what a fresh one is."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.graph import FaultHost, Ran, cores_graph, graph, prepare, take_files
from benchmarks.report import Kept
from runner.host import HostError

CANCEL, EXCEPTION, MEMORY, NAN, DISK, KILLED = "cancel", "exception", "out of memory", "NaN", "disk full", "killed"
REFUSED = "refused by us"  # from inside a model's run: another pack answers in the model's place, which batches of frames do not allow
STAGES = {  # by the door's hook at which it happens
    "prompts.encode": "Prompt",
    "encoding.encode": "Encode Video",
    "inversion.unet": "DDIM Invert, in the second batch of frames",
    "inversion.cross-attention": "recording, inside the U-Net",
    "inversion.self-attention": "temporal attention, inside the U-Net",
    "inversion.guidance": "another pack's guidance, while inverting",
    "checking.unet": "Reconstruction Check",
    "sampling.unet": "Blended Sampler",
    "sampling.cross-attention": "masks that draw themselves, inside the U-Net",
    "sampling.self-attention": "structure, inside the U-Net",
    "sampling.guidance": "another pack's guidance, while sampling",
    "selecting.unet": "SamplerCustomAdvanced with our sampler",
    "selecting.cross-attention": "the same, inside the U-Net",
    "compositing.encode": "Latent Composite, VAE encoding",
    "compositing.decode": "Latent Composite, VAE decoding",
    "decoding.decode": "Decode Video, between two frames",
    "storage.passing": "the trajectory's mapped file",
    "trajectory.passing": "Save Trajectory",
    "film.passing": "Save Video",
}
TENSOR_FAULTS = (CANCEL, EXCEPTION, MEMORY, NAN)
REFUSALS = tuple(place for place in STAGES if place.endswith(".unet"))
IN_A_PROCESS_OF_ITS_OWN = {  # the disk is full to the whole server; a killed one must be started again
    DISK: ("storage.passing", "trajectory.passing", "decoding.decode", "film.passing"),
    KILLED: ("encoding.encode", "inversion.unet", "sampling.unet", "decoding.decode", "film.passing"),
}
# Of the state: what is right as soon as a run has ended, and what once the same things are cached
AT_ONCE = ("temp", "open", "threads", "hooks", "host", "torch", "options", "injected", "leaks")
AFTERWARDS = (*AT_ONCE, "objects", "tensors")


@dataclass(frozen=True)
class Fresh:
    """What a fresh server makes of the prompt, and what it holds then."""

    digests: dict[str, str]
    files: list[str]  # what each holds
    state: dict
    calls: dict[str, int]  # of each hook
    seconds: float
    cores: dict[str, str]  # digests of core's own prompt

    @classmethod
    def of(cls, host: FaultHost) -> Fresh:
        host.arm()
        ran = host.edit(graph(-1))
        if ran.outcome.error:
            raise HostError(f"the prompt fails without any fault: {ran.outcome.error}")
        cores = host.edit(cores_graph(-1))
        begin = time.monotonic()
        again = host.edit(graph(-2))  # what a first run makes once (a thread, a cache, the loaded model) is there
        seconds = time.monotonic() - begin
        return cls(ran.digests, sorted(ran.files.values()), again.state, ran.state["calls"], seconds, cores.digests)

    def unlike(self, ran: Ran, kinds: tuple[str, ...]) -> list[str]:
        """What is not as in the fresh server."""
        found = [f"{kind}: {differing(self.state[kind], ran.state[kind])}" for kind in kinds if ran.state[kind] != self.state[kind]]
        return found + [f"file {name}: {held}" for name, held in ran.files.items() if held not in self.files]

    def missed(self, ran: Ran, core: bool = False) -> list[str]:
        """What a prompt that must succeed did not give to the bit. core: it was core's own."""
        if ran.outcome.error:
            return [f"the next prompt fails: {ran.outcome.error}"]
        return [f"{name} differs" for name, held in (self.cores if core else self.digests).items() if ran.digests.get(name) != held]


def differing(wanted: object, found: object) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = [key for key in sorted({*wanted, *found}) if wanted.get(key) != found.get(key)]
        return ", ".join(f"{key} {wanted.get(key)} -> {found.get(key)}"[:300] for key in keys)
    return f"{wanted} -> {found}"[:300]


def run_cells(comfy: Path, base: Path, kept: Kept, faults: Collection[str]) -> list[dict]:
    """These faults at every stage. Each row: stage, fault, end (the sentence that the artist gets, or "finished"), dirt (what was not as in a fresh
    server, empty if all was). kept: rows of other faults, or of an earlier run that was cut off."""
    base = prepare(base)
    with FaultHost(comfy, base, log=base / "cells.log", cpu=True) as host:
        fresh = Fresh.of(host)
        nonces = iter(range(1, 10_000))
        for place in STAGES:
            kinds = (CANCEL,) if place.endswith(".passing") else TENSOR_FAULTS
            for kind in (*kinds, REFUSED) if place in REFUSALS else kinds:
                if kind in faults and f"{place}/{kind}" not in kept.rows:
                    keep(kept, place, kind, *in_one_server(host, fresh, place, kind, nonces))
    for kind, places in IN_A_PROCESS_OF_ITS_OWN.items():
        if kind not in faults or (kind == DISK and sys.platform != "linux"):
            continue  # elsewhere no limit of a process makes writing fail
        for place in places:
            if f"{place}/{kind}" not in kept.rows:
                keep(kept, place, kind, *in_servers_of_their_own(comfy, base, fresh, place, kind))
    return list(kept.rows.values())


def keep(kept: Kept, place: str, kind: str, end: str, dirt: list[str]) -> None:
    print(f"{kind:14} {STAGES[place]:50} {'clean' if not dirt else dirt}  {end[:150]!r}", flush=True)
    kept.rows[f"{place}/{kind}"] = {"stage": STAGES[place], "fault": kind, "end": end, "dirt": dirt}
    kept.write()


def in_one_server(host: FaultHost, fresh: Fresh, place: str, kind: str, nonces: Iterator[int]) -> tuple[str, list[str]]:
    """A fault, and the prompt after it: the same again, as an artist presses Run again, with what was made before the fault in ComfyUI's cache;
    all anew where the fault did not end the run, since its results are cached then. After a refusal of ours one of core's own comes first."""
    nonce = next(nonces)
    host.arm(place, kind, fresh.calls[place] // 2)
    ran = host.edit(graph(nonce))
    dirt = [] if ran.state["fired"] else ["the fault did not happen"]
    dirt += fresh.unlike(ran, AT_ONCE) if ran.outcome.error else []
    host.arm()
    if kind == REFUSED:
        cores = host.edit(cores_graph(nonce))
        dirt += fresh.missed(cores, core=True) + fresh.unlike(cores, AT_ONCE)
    after = host.edit(graph(nonce if ran.outcome.error else next(nonces)))
    return ran.outcome.error or "finished", [*dirt, *fresh.missed(after), *fresh.unlike(after, AFTERWARDS)]


def in_servers_of_their_own(comfy: Path, base: Path, fresh: Fresh, place: str, kind: str) -> tuple[str, list[str]]:
    """A fault that the whole server has part in. The old files of the same names, which an earlier run wrote, must stay whole."""
    with FaultHost(comfy, base, log=base / "own.log", cpu=True) as host:
        host.arm(place, kind, fresh.calls[place] // 2)
        try:
            ran = host.edit(graph(1))
        except HostError:
            if kind != KILLED:
                raise
            left = take_files(base)
            dirt = [f"file {name}: {held}" for name, held in left.items() if held not in fresh.files and not name_of_a_part(name)]
            end = "the server was killed"
        else:
            end = ran.outcome.error or "finished"
            dirt = [f"file {name}: {held}" for name, held in ran.files.items() if held not in fresh.files]
            dirt += [] if ran.state["fired"] and ran.outcome.error else ["the fault did not happen"]
            dirt += [f"{what}: {ran.state[what]}" for what in ("temp", "open") if ran.state[what] != fresh.state[what]]
            host.arm()
            dirt += fresh.missed(host.edit(graph(1)))
    if kind == KILLED:
        with FaultHost(comfy, base, log=base / "own.log", cpu=True) as host:
            after = host.edit(graph(1))
            dirt += fresh.missed(after) + [f"temp: {after.state['temp']}"] * (after.state["temp"] != fresh.state["temp"])
    return end, dirt


def name_of_a_part(name: str) -> bool:
    """Whether a killed process had not yet given a file its own name (video/whole.py); the server shows no such file."""
    return any(part.startswith(".blade_") for part in Path(name).parts)


def run_cancellations(comfy: Path, base: Path, count: int, seed: int = 0) -> dict:
    """The page's cancel button at random moments, until so many edits were stopped by it; some have ended by then. After each the
    same prompt is run again; every fifth time all of it anew."""
    base, stops, late, dirty = prepare(base), 0, 0, list[str]()
    draw = random.Random(seed)
    with FaultHost(comfy, base, log=base / "cancellations.log", cpu=True) as host:
        fresh = Fresh.of(host)
        length = fresh.seconds
        while stops < count and late <= 2 * count:  # where a cancellation stopped nothing, this would never end
            nonce = stops + late + 1
            moment = draw.uniform(0, length)
            button = threading.Timer(moment, host.interrupt)
            button.start()
            begin = time.monotonic()
            ran = host.edit(graph(nonce))
            button.cancel()
            button.join()
            stopped = ran.outcome.error is not None
            if not stopped:
                length = time.monotonic() - begin  # a machine that had other work during the first edit is faster now
            dirt = fresh.unlike(ran, AT_ONCE) if stopped else fresh.missed(ran)
            after = host.edit(graph(nonce if nonce % 5 else -nonce))
            dirt += fresh.missed(after) + fresh.unlike(after, AFTERWARDS)
            stops, late = stops + stopped, late + (not stopped)
            dirty += [f"{moment:.2f} s: {what}" for what in dirt]
            print(f"cancelled at {moment:5.2f} s: {ran.outcome.error or 'finished':12} {'clean' if not dirt else dirt}", flush=True)
    return {"stopped": stops, "late": late, "dirt": dirty}
