"""Faults at every stage of an edit: what each ends in, and whether the server is afterwards what a fresh one is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.graph import PROMPTS, FaultHost, Ran, graph, prepare, take_files
from benchmarks.report import Kept, merge
from runner.host import HostError

CANCEL, EXCEPTION, MEMORY, NAN, DISK, KILLED = "cancel", "exception", "out of memory", "NaN", "disk full", "killed"
REFUSED = "refused by us"  # from inside a model's run: another pack answers in the model's place, which batches of frames do not allow
STAGES: dict[str, str] = PROMPTS["stages"]  # by the door's hook at which it happens
TENSOR_FAULTS = (CANCEL, EXCEPTION, MEMORY, NAN)
REFUSALS = tuple(place for place in STAGES if place.endswith(".unet"))
IN_A_PROCESS_OF_ITS_OWN = {  # the disk is full to the whole server; a killed one must be started again
    DISK: ("storage.passing", "trajectory.passing", "decoding.decode", "film.passing"),
    KILLED: ("encoding.encode", "inversion.unet", "sampling.unet", "decoding.decode", "film.passing"),
}
CELLS = [  # stage and fault; only on Linux does a limit of a process make writing fail
    *((place, kind) for place in STAGES for kind in ((CANCEL,) if place.endswith(".passing") else TENSOR_FAULTS)),
    *((place, REFUSED) for place in REFUSALS),
    *((place, kind) for kind, places in IN_A_PROCESS_OF_ITS_OWN.items() for place in places if kind != DISK or sys.platform == "linux"),
]
# Of the state: what is right as soon as a run has ended, and what once the same things are cached
AT_ONCE = ("temp", "open", "threads", "hooks", "host", "torch", "options", "injected", "leaks")
AFTERWARDS = (*AT_ONCE, "objects", "tensors")
NOT_FIRED = "the fault did not happen"


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
        cores = host.edit(graph(-1, "core"))
        again = host.edit(graph(-2))  # what a first run makes once (a thread, a cache, the loaded model) is there
        seconds = sum(again.outcome.seconds.values())
        return cls(ran.digests, sorted(ran.files.values()), again.state, ran.state["calls"], seconds, cores.digests)

    def unlike(self, ran: Ran, kinds: tuple[str, ...]) -> list[str]:
        """What is not as in the fresh server."""
        found = [f"{kind}: {differing(self.state[kind], ran.state[kind])}" for kind in kinds if ran.state[kind] != self.state[kind]]
        return found + self.spoiled(ran.files)

    def spoiled(self, files: dict[str, str]) -> list[str]:
        return [f"file {name}: {held}" for name, held in files.items() if held not in self.files]

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


def run_cells(faults: tuple[str, ...], least: int, comfy: Path, out: Path, quick: bool) -> bool:
    """These faults at every stage, at least so many cells: the keys `table`, `cells` and `dirty_cells` of table.json, with the rows of other faults
    and of an earlier run that was cut off. Each row: stage, fault, end (the sentence that the artist gets, or "finished"), dirt (what was not as in a
    fresh server, empty if all was)."""
    base, own_base, kept, nonces = prepare(out / "base_cells"), prepare(out / "base_own"), Kept(out / "cells.json"), iter(range(1, 10_000))
    with FaultHost(comfy, base, "cells.log") as host:
        fresh = Fresh.of(host)
        for place, kind in CELLS:
            if kind not in faults or f"{place}/{kind}" in kept.rows:
                continue
            if kind in IN_A_PROCESS_OF_ITS_OWN:
                end, dirt = in_a_server_of_its_own(FaultHost(comfy, own_base, "own.log"), fresh, place, kind)
            else:
                end, dirt = in_one_server(host, fresh, place, kind, nonces)
            print(f"{kind:14} {STAGES[place]:50} {dirt or 'clean'}  {end[:150]!r}", flush=True)
            kept.rows[f"{place}/{kind}"] = {"stage": STAGES[place], "fault": kind, "end": end, "dirt": dirt}
            kept.write()
    rows = list(kept.rows.values())
    merge(out / "table.json", {"cells": len(rows), "dirty_cells": sum(bool(row["dirt"]) for row in rows), "table": rows})
    own = [row["dirt"] for row in rows if row["fault"] in faults]
    return not any(own) and len(own) >= least


def in_one_server(host: FaultHost, fresh: Fresh, place: str, kind: str, nonces: Iterator[int]) -> tuple[str, list[str]]:
    """A fault, and the prompt after it: the same again, as an artist presses Run again, with what was made before the fault in ComfyUI's cache;
    all anew where the fault did not end the run, since its results are cached then. After a refusal of ours one of core's own comes first."""
    nonce = next(nonces)
    host.arm(place, kind, fresh.calls[place] // 2)
    ran = host.edit(graph(nonce))
    dirt = [] if ran.state["fired"] else [NOT_FIRED]
    dirt += fresh.unlike(ran, AT_ONCE) if ran.outcome.error else []
    host.arm()
    if kind == REFUSED:
        cores = host.edit(graph(nonce, "core"))
        dirt += fresh.missed(cores, core=True) + fresh.unlike(cores, AT_ONCE)
    after = host.edit(graph(nonce if ran.outcome.error else next(nonces)))
    return ran.outcome.error or "finished", [*dirt, *fresh.missed(after), *fresh.unlike(after, AFTERWARDS)]


def in_a_server_of_its_own(server: FaultHost, fresh: Fresh, place: str, kind: str) -> tuple[str, list[str]]:
    """A fault that the whole server has part in, and the prompt after it; a server that was killed is started again. What it had finished writing
    must be whole."""
    with server as host:
        host.arm(place, kind, fresh.calls[place] // 2)
        try:
            ran = host.edit(graph(1))
            end, dirt = ran.outcome.error or "finished", fresh.unlike(ran, ("temp", "open"))
            dirt += [] if ran.state["fired"] and ran.outcome.error else [NOT_FIRED]
        except HostError:
            if kind != KILLED:
                raise
            host.stop()
            whole = {name: held for name, held in take_files(host.base).items() if not name_of_a_part(name)}
            end, dirt = "the server was killed", fresh.spoiled(whole)
            host.__enter__()
        host.arm()
        after = host.edit(graph(1))
    return end, [*dirt, *fresh.missed(after), *fresh.unlike(after, ("temp",))]


def name_of_a_part(name: str) -> bool:
    """Whether a killed process had not yet given a file its own name (video/whole.py); the server shows no such file."""
    return any(part.startswith(".blade_") for part in Path(name).parts)
