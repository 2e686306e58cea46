"""What a job takes: memory, refused before the work starts if it is not there, and time, told as soon as the first frames have passed."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Mapping

import comfy.model_management
import comfy.utils
import psutil

from .families import family_of
from .frames import hindered
from .layers import WATCH

KEY_FRAMES = 60  # frames that are read before the first that is wanted, as most cameras write clips that can be sought in
TOLD_EVERY = 0.1  # seconds: a server that passes on each of a thousand frames a second has time for nothing else
# HTML, 13.2.5.6 "Tag open state"; CommonMark, 6.3 "Links" and 4.7 "Link reference definitions"; the page's own [[text|address]]
MARKUP = re.compile(r"<(?=[A-Za-z/!?])|\](?=[(:])|\[(?=\[)")
COPIES = 14  # of the clip's latents that core, the solver and blending hold at once


def give_back() -> None:
    """What earlier nodes are done with goes back to the system, for the stage of a long clip that begins: a sampler's copies of the latents, which
    its patched model and its callbacks hold in a circle until Python looks for such, and what glibc keeps in its heap when they are freed."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library, which does not keep them
            pass


def free_memory() -> int:
    """Bytes of the system's memory."""
    return psutil.virtual_memory().available


class Job:
    """A clip on its way through a model.

    samples_shape: [frames, channels, h, w]. calls: how often the model sees the whole clip. kept: bytes that stay afterwards (a trajectory);
    in_memory: whether these are in memory or in a mapped file. warning: what the artist should know, told with the rest."""

    def __init__(self, model, samples_shape: tuple[int, ...], calls: int, kept: int = 0, in_memory: bool = True, warning: str = ""):
        self.model, self.shape, self.calls, self.warning = model, samples_shape, calls, warning
        self.kept, self.in_memory = kept, in_memory
        self.working = COPIES * math.prod(samples_shape) * 4

    def check(self) -> None:
        """Raises ValueError, with what would fit, where memory does not hold the latents or the device not one frame."""
        give_back()
        family, frames = family_of(self.model), self.shape[0]
        height, width = family.grid.pixels(self.shape)
        free, needed = free_memory(), self.working + self.kept * self.in_memory
        if needed > free:
            most = int(frames * free / needed)
            if self.in_memory and self.working < free:
                raise ValueError(
                    f"the trajectory of {frames} frames takes {gib(needed)} of memory, and {gib(free)} are free. "
                    f"Set storage to 'mapped file', or use at most {most} frames or fewer steps."
                )
            raise ValueError(
                f"the latents of {frames} frames take {gib(needed)} of memory, and {gib(free)} are free. Use at most {most} frames."
            )
        device = comfy.model_management.get_torch_device()
        frame, room = self.model.model.memory_required(family.least(self.shape)), comfy.model_management.get_total_memory(device)
        if frame > room:
            side = int(max(width, height) * math.sqrt(room / frame)) // 64 * 64
            raise ValueError(
                f"one frame of {width}x{height} pixels takes {gib(frame)} on {device}, which has {gib(room)}. Use frames of at most {side} pixels a side."
            )

    def sentence(self) -> str:
        place = "memory" if self.in_memory else "a mapped file"
        kept = f", a trajectory of {mib(self.kept)} in {place}" if self.kept else ""
        told = f"{self.shape[0]} frames, {self.calls} model calls each{kept}, {mib(self.working)} beside the model"
        return f"{self.warning}\n{told}" if self.warning else told

    def watch(self, node_id: str | None) -> Watch:
        """Tells the artist what is coming, and follows it."""
        return Watch(self, node_id)


class Watch:
    """Progress of a job by frames, finer than the sampler's steps, and the time that is left."""

    def __init__(self, job: Job, node_id: str | None):
        self.job, self.node_id = job, node_id
        self.whole, self.passed = job.calls * job.shape[0], 0
        self.bar = comfy.utils.ProgressBar(self.whole)
        self.effects: dict[str, bool] = {}
        self.begin = self.told = time.monotonic()
        self.say(self.job.sentence())

    def __deepcopy__(self, memo: dict) -> Watch:
        return self  # the host copies a MODEL's options whenever it clones one

    def __call__(self, frames: int, effects: Mapping[str, bool]) -> None:
        """So many frames have passed the model once more. effects: of ours that were wanted, whether they had their layers."""
        for name, had in effects.items():
            self.effects[name] = had or self.effects.get(name, False)
        self.passed = min(self.passed + frames, self.whole)
        self.bar.update_absolute(self.passed, self.whole)
        now = time.monotonic()
        first = self.passed == frames
        if self.passed == self.whole:
            self.done()
        elif first or now - self.told > 5:
            self.told = now
            left = (now - self.begin) * (self.whole / self.passed - 1)
            self.say(f"{self.job.sentence()}; about {duration(left)} to go", log=first and left > 30)

    def done(self, found: str = "") -> None:
        """The work is at its end, perhaps with fewer calls than it might have taken. found: what came out, in a few words."""
        self.passed = self.whole
        for name, had in self.effects.items():
            if not had:
                self.warn(f"{name} had no effect")
        self.bar.update_absolute(self.whole, self.whole)
        told = f"{self.job.sentence()}; took {duration(time.monotonic() - self.begin)}"
        self.say(f"{told}; {found}" if found else told, log=False)

    def warn(self, lacking: str, why: str = "") -> None:
        """Tells, once, what has not happened, and why: without a reason, for another pack's patch."""
        sentence = f"Warning: {lacking}, since {why}." if why else hindered(lacking)
        if sentence not in self.job.warning:
            self.job.warning = f"{self.job.warning}\n{sentence}".strip()
            logging.warning("BLADE: %s", sentence)

    def say(self, sentence: str, log: bool = True) -> None:
        if log:
            logging.info("BLADE: %s", sentence)
        show_in_node(sentence, self.node_id)

    def on(self, model):
        """A clone of a MODEL, the job's own or made of it, that reports to this watch."""
        model = model.clone()
        # Where a run fails, ComfyUI's traceback holds this clone in a circle. With others between it and the job's MODEL, all would be collected at
        # once; core could not hand the loaded network back to a MODEL that lives on, and would warn of a leak from then on.
        model.parent = self.job.model
        model.model_options.setdefault("transformer_options", {})[WATCH] = self
        return model


def check_cancelled() -> None:
    """Ends the work where the artist has cancelled it. For a room to call often."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def frame_ticks(whole: int) -> Callable[[], None]:
    """A function for a room to call after each of so many frames: moves the progress bar, and ends the work where the artist cancels."""
    bar = comfy.utils.ProgressBar(whole)

    def tick() -> None:
        check_cancelled()
        bar.update(1)

    return tick


def reading_ticks(wanted: int, before: int) -> Callable[[], None]:
    """A function for a room to call for each frame that it reads of a clip: moves the progress bar, and ends the work where the artist cancels.

    wanted: about how many frames are read (0: nobody knows). before: how many lie before them, of which few are read where the file can be sought in."""
    bar, passed, told = comfy.utils.ProgressBar(1), 0, -math.inf
    whole, most = max(1, wanted + min(before, KEY_FRAMES)), wanted + before if wanted else math.inf

    def tick() -> None:
        nonlocal passed, whole, told
        check_cancelled()
        passed += 1
        if whole < passed <= most:
            whole = int(min(2 * whole, most))
        if (now := time.monotonic()) - told > TOLD_EVERY:
            told = now
            bar.update_absolute(min(passed, whole), whole)

    return tick


def show_in_node(sentence: str, node_id: str | None) -> None:
    """Puts text into a node on the page; does nothing where no server runs.

    What comes out of a file may stand in it. Pages up to 1.32.9 at least take it for HTML, later ones for Markdown or for plain text, depending on how they
    draw nodes, so that no escape would read well in all: a space keeps what begins a tag, or a link or picture of Markdown, from being one."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(MARKUP.sub(r"\g<0> ", sentence), node_id)


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
