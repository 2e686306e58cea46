"""Many edits with random settings on one server: memory stays flat, and the same settings give the same bits, however long the server has run."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from benchmarks.clips import DEVELOPMENT_COLOUR_EDITS
from benchmarks.faults.graph import FaultHost, Node, graph, prepare
from runner.host import HostError

MIB = 2**20
SETTINGS = 50  # different ones; each comes up again and again
WARM_UP = 0.25  # share of the edits
EDIT = DEVELOPMENT_COLOUR_EDITS[0]
SOLVERS = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "ipndm_v", "res_multistep", "uni_pc")


def settings(number: int) -> dict[str, Node]:
    """The prompt of one of the random settings, all but the checkpoint done anew whenever another one came before."""
    draw = random.Random(number)
    made = graph(number)
    stretch = {"frame_count": draw.randint(1, 3), "longest_side": draw.choice((96, 128))}
    for name in ("latent", "frames"):
        made[name]["inputs"] |= stretch
    made["temporal"]["inputs"] |= {
        "next_frame": draw.random() < 0.3, "middle_frame": draw.random() < 0.3, "batch_frames": draw.randint(0, 3), "strength": draw.choice((1.0, 0.6)),
    }  # fmt: skip
    made["path"]["inputs"] |= {
        "steps": draw.randint(2, 4), "storage": draw.choice(("memory", "mapped file")), "precision": draw.choice(("fp32", "fp16")),
        "method": draw.choice(("DDIM", "predicted", "refined")),
    }  # fmt: skip
    made["edited"]["inputs"] |= {
        "steps": made["path"]["inputs"]["steps"], "cfg": draw.choice((1.0, 7.5)), "sampler_name": draw.choice(SOLVERS),
        "structure": draw.choice((0.0, 0.5)), "confine": draw.choice((0.0, 0.3)), "renoise": draw.choice((0.0, 0.5)), "seed": draw.randint(0, 9),
        "consensus": draw.choice((0.0, 1.0)), "grow": draw.randint(0, 2), "feather": draw.choice((0.0, 2.0)),
        "blend_until": draw.choice((1.0, 0.8)), "cfg_end": draw.choice((-1.0, 3.0)),
    }  # fmt: skip
    made["selected"]["inputs"] |= {"steps": made["path"]["inputs"]["steps"], "sampler_name": draw.choice(SOLVERS)}
    if draw.random() < 0.7:
        for name in ("saved path", "path to save"):
            del made[name]
    if draw.random() < 0.7:
        for name in ("check", "digest of check", "checking"):
            del made[name]
    if draw.random() < 0.6:
        del made["digest of second edit"]
        for name in ("saved film", "film", "pasted", "digest of pasted", "decoded", "composite", "digest of composite"):
            del made[name]
    return made


def run_soak(comfy: Path, base: Path, edits: int, seed: int = 0) -> dict:
    """Returns the edits, the growth of resident memory in MiB an edit after the warm-up (slope of a straight line), with its standard error, and
    what did not come out as the first time. Raises HostError where an edit fails."""
    base, order = prepare(base), random.Random(seed)
    numbers = [number for _ in range(-(-edits // SETTINGS)) for number in order.sample(range(SETTINGS), SETTINGS)][:edits]
    resident, known, unlike = list[float](), dict[int, dict[str, str]](), list[str]()
    with FaultHost(comfy, base, log=base / "soak.log", cpu=True) as host:
        host.arm()
        for place, number in enumerate(numbers):
            ran = host.edit(settings(number))
            if ran.outcome.error:
                raise HostError(f"soak: edit {place}, settings {number}: {ran.outcome.error}")
            resident.append(ran.state["resident"] / MIB)
            found = {**ran.digests, **ran.files}
            first = known.setdefault(number, found)
            unlike += [f"settings {number}, edit {place}: {name} differs" for name in first if first[name] != found.get(name)]
            print(f"edit {place + 1}: {resident[-1]:.1f} MiB", flush=True)
    steady = np.array(resident[int(WARM_UP * len(resident)) :])
    (slope, _), covariance = np.polyfit(np.arange(len(steady)), steady, 1, cov=True)
    return {
        "edits": len(resident),
        "different_settings": len(known),
        "mib_per_edit": round(float(slope), 4),
        "standard_error": round(float(covariance[0, 0] ** 0.5), 4),
        "resident_mib": [round(size, 1) for size in resident],
        "not_reproduced": unlike,
    }
