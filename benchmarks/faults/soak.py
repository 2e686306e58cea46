"""Long use of one server: edits with random settings, and edits that are cancelled at random."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np

from benchmarks.faults.cells import AFTERWARDS, AT_ONCE, Fresh
from benchmarks.faults.graph import PROMPTS, FaultHost, graph, prepare
from benchmarks.report import merge
from runner.host import HostError

CANCELLATIONS, EDITS = (60, 3), (200, 10)  # in all, and with --quick
GROWTH = 0.1  # MiB an edit
SETTINGS = 50  # different ones, at most
WARM_UP = 0.25  # share of the edits


def settings(number: int) -> dict[str, dict]:
    """The prompt of one of the random settings, all but the checkpoint done anew whenever another one came before. Of prompts.json: `drawn` holds
    by node and input what is drawn from, or how often it is true; `left out` how often nodes are left out together."""
    draw, made = random.Random(number), graph(number)
    inputs = {name: part["inputs"] for name, part in made.items()}
    for name, listed in PROMPTS["drawn"].items():
        inputs[name] |= {key: draw.random() < of if isinstance(of, float) else draw.choice(of) for key, of in listed.items()}
    inputs["frames"] |= {key: inputs["latent"][key] for key in PROMPTS["drawn"]["latent"]}
    for name in ("edited", "selected"):
        inputs[name]["steps"] = inputs["path"]["steps"]
    left_out = {name for often, names in PROMPTS["left out"] if draw.random() < often for name in names}
    return {name: part for name, part in made.items() if name not in left_out}


def run_soak(comfy: Path, out: Path, quick: bool) -> bool:
    """Memory stays flat, and the same settings give the same bits, however long the server has run: the keys `soak.*` of table.json, in which the
    growth is that of resident memory after the warm-up (slope of a straight line), with its standard error. With `quick` it is told, and says
    nothing yet. Raises HostError where an edit fails."""
    base, order, edits = prepare(out / "base_soak"), random.Random(0), EDITS[quick]
    different = min(SETTINGS, edits // 2)  # each comes up twice at least
    numbers = [number for _ in range(-(-edits // different)) for number in order.sample(range(different), different)][:edits]
    resident, known, unlike = list[float](), dict[int, dict[str, str]](), list[str]()
    with FaultHost(comfy, base, "soak.log") as host:
        host.arm()
        for place, number in enumerate(numbers):
            ran = host.edit(settings(number))
            if ran.outcome.error:
                raise HostError(f"soak: edit {place}, settings {number}: {ran.outcome.error}")
            resident.append(ran.state["resident"] / 2**20)
            found = {**ran.digests, **ran.files}
            first = known.setdefault(number, found)
            unlike += [f"settings {number}, edit {place}: {name} differs" for name in first if first[name] != found.get(name)]
            print(f"edit {place + 1}: {resident[-1]:.1f} MiB", flush=True)
    steady = np.array(resident[int(WARM_UP * len(resident)) :])
    (slope, _), covariance = np.polyfit(np.arange(len(steady)), steady, 1, cov=True)
    growth = round(float(slope), 4)
    figures = {
        "edits": len(resident),
        "different_settings": len(known),
        "mib_per_edit": growth,
        "standard_error": round(float(covariance[0, 0] ** 0.5), 4),
        "resident_mib": [round(size, 1) for size in resident],
        "not_reproduced": unlike,
    }
    merge(out / "table.json", {"soak": figures})
    return not unlike and (quick or growth < GROWTH)


def run_cancellations(comfy: Path, out: Path, quick: bool) -> bool:
    """The page's cancel button at random moments, until enough edits were stopped by it; some have ended by then. After each the same prompt is run
    again; every fifth time all of it anew. The keys `random_cancellations`, `late_cancellations` and `dirty_cancellations` of table.json."""
    base, draw, count, stops, late, dirty = prepare(out / "base_cancellations"), random.Random(0), CANCELLATIONS[quick], 0, 0, list[str]()
    with FaultHost(comfy, base, "cancellations.log") as host:
        fresh = Fresh.of(host)
        length = fresh.seconds
        while stops < count and late <= 2 * count:  # where a cancellation stopped nothing, this would never end
            nonce, moment = stops + late + 1, draw.uniform(0, length)
            button = threading.Timer(moment, host.post, ("/interrupt",))  # the page's
            button.start()
            ran = host.edit(graph(nonce))
            button.cancel()
            button.join()
            if ran.outcome.error:
                stops, dirt = stops + 1, fresh.unlike(ran, AT_ONCE)
            else:
                late, dirt = late + 1, fresh.missed(ran)
                length = sum(ran.outcome.seconds.values())  # a machine that had other work during the first edit is faster now
            after = host.edit(graph(nonce if nonce % 5 else -nonce))
            dirt += fresh.missed(after) + fresh.unlike(after, AFTERWARDS)
            dirty += [f"{moment:.2f} s: {what}" for what in dirt]
            print(f"cancelled at {moment:5.2f} s: {ran.outcome.error or 'finished':12} {dirt or 'clean'}", flush=True)
    merge(out / "table.json", {"random_cancellations": stops, "late_cancellations": late, "dirty_cancellations": dirty})
    return not dirty and stops >= count
