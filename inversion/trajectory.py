"""The path of a clip's latents from clean to noise, the background of every later edit."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .coordinates import EPS, Coordinates
from .grid import Grid

MOST_ABOVE = 2  # times the highest level: how far above it a path may be followed


@dataclass(frozen=True)
class Origin:
    """What made a trajectory, as far as it can be known again on another day.

    weights: a sample of the U-Net's weights, fp32 (host.fingerprint). patches: what was patched onto the MODEL, name -> description.
    prompt: the text that the path was inverted with; None where it is not known. schedule: the grid's name. method: "DDIM", "predicted" or
    "refined" (nodes.invert). refine, tolerance: further calls a step at most, and the residual at which they stop. residuals: what was
    left of each step's equation, relative; empty for plain DDIM."""

    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    patches: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    schedule: str = ""
    method: str = "DDIM"
    refine: int = 0
    tolerance: float = 0.0
    residuals: tuple[float, ...] = ()

    @property
    def told(self) -> str:
        """The method in words."""
        return f"{self.method}, refine {self.refine}" if self.refine else self.method


class MappedFile:
    """A file whose pages are a trajectory's tensors, kept open to look at it: where one was cut short, the system ends a process that reads on.
    (Storage's own files cannot be: they have no name on Linux and macOS, and Windows cuts no file that is mapped.)"""

    def __init__(self, file: IO[bytes]):
        self.name, self.descriptor = Path(file.name).name, os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        self.state = self.look()

    def look(self) -> tuple[int, int]:
        """Size in bytes, and time of the last change in ns."""
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns

    def check(self) -> None:
        """Raises ValueError where the file is no longer as it was. One that was deleted, or replaced by another, is."""
        if self.look() != self.state:
            raise ValueError(
                f"the trajectory's file {self.name!r} was changed or cut short after it was loaded, and its levels are read from there. "
                "Queue the graph again, which loads it anew, and leave the file alone meanwhile."
            )


@dataclass(frozen=True)
class Trajectory:
    """A clip's latents at each noise level of its inversion, in model space and in `coordinates`.

    sigmas: [levels] rising from 0. latents: [levels, frames, channels, height/8, width/8] fp32 or fp16, on the CPU or in a mapped file
    (inversion.storage); latents[0] is the clip. record: what a recorder kept on the way, of which only its size is read here (None: nothing
    was recorded). coordinates: of the model that inverted it. exact_clip: level 0 in fp32, where the latents are not. grid: what the latents' cells cover.
    file: that of which all these tensors are pages, if any; `clip`, `at` and `level` raise ValueError where it was changed."""

    sigmas: Tensor
    latents: Tensor
    record: Any = None
    coordinates: Coordinates = EPS
    exact_clip: Tensor | None = None
    origin: Origin = field(default_factory=Origin)
    grid: Grid = field(default_factory=Grid)
    file: MappedFile | None = None

    def check_file(self) -> None:
        """Raises ValueError where the tensors lie in a file that was changed meanwhile. Asked before they are read."""
        if self.file is not None:
            self.file.check()

    @property
    def clip(self) -> Tensor:
        """The clip itself, to the last bit. [frames, channels, h, w] fp32"""
        self.check_file()
        return self.latents[0] if self.exact_clip is None else self.exact_clip

    @property
    def frames(self) -> int:
        """Latent frames."""
        return self.latents.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents, in cells."""
        return self.latents.shape[-2], self.latents.shape[-1]

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the clip's frames."""
        return self.grid.pixels(self.size)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of latents and record, in memory or in files."""
        return self.latents.nbytes + sum(part.nbytes for part in (self.exact_clip, self.record) if part is not None)

    def at(self, sigma: float | Tensor) -> Tensor:
        """The latent at exactly this sigma: stored where the level is stored, else linear in sigma between its neighbours. A little above the
        highest level, where core's own grids begin, the path goes on straight, away from the clip.

        Returns [frames, channels, h, w] fp32 on the CPU. Raises ValueError above twice the highest level that the inversion reached.
        Paper silent on levels between; linear interpolation is ours."""
        self.check_file()  # the sigmas lie there too
        sigma, highest = torch.as_tensor(sigma, dtype=torch.float32, device="cpu"), self.sigmas[-1]
        above = int(torch.searchsorted(self.sigmas, sigma * (1 - 1e-6)))
        if above == len(self.sigmas):
            if sigma > MOST_ABOVE * highest:
                raise ValueError(
                    f"sigma {float(sigma):.4f} lies far above the trajectory's highest level, {float(highest):.4f}. Begin at most at {MOST_ABOVE} times "
                    "that, or invert deeper."
                )
            return torch.lerp(self.clip, self.level(above - 1), float(sigma / highest))
        if above == 0 or torch.isclose(self.sigmas[above], sigma, rtol=1e-6, atol=0):
            return self.level(above)
        low, high = self.sigmas[above - 1], self.sigmas[above]
        return torch.lerp(self.level(above - 1), self.level(above), float((sigma - low) / (high - low)))

    def level(self, index: int) -> Tensor:
        """The latent of a stored level, 0 being the clip. [frames, channels, h, w] fp32"""
        self.check_file()
        return self.clip if index == 0 else self.latents[index].float()

    def sampling_sigmas(self, steps: int, start: float = 1.0) -> Tensor:
        """Sigmas to sample with: `steps` + 1 of the stored levels, evenly spaced by their number, both ends among them. Falling to 0.

        start: how far up to begin, a share of these steps; at least one is left.

        Raises ValueError where there are not so many."""
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps is {steps}, but the trajectory has {self.steps}. Use 1 to {self.steps}, or invert with more steps.")
        whole = self.sigmas[torch.linspace(0, self.steps, steps + 1).round().long()].flip(0)
        return whole[-(max(1, round(steps * start)) + 1) :]
