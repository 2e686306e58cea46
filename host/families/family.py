"""What has to be known of a kind of model."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from ...inversion.coordinates import Coordinates
from ...inversion.grid import Grid
from ..layers import Handler, Size


class Family(ABC):
    """grid: what the latents' cells cover. frame_axis: along which axis of the host's latent frames lie; 0: each is a row of its own, which may pass the
    model apart from the others; else [1, channels, frames, h, w], one row a cond. ends, blocks: the weights by which a checkpoint is known again (fingerprint)."""

    grid = Grid()
    frame_axis = 0
    ends: tuple[str, ...] = ()
    blocks: re.Pattern = re.compile("(?!)")

    @abstractmethod
    def is_of(self, network) -> bool:
        """Whether a diffusion model is of this kind."""

    @abstractmethod
    def coordinates(self, model) -> Coordinates:
        """What a MODEL of this kind predicts. Raises ValueError for one that cannot be inverted."""

    @abstractmethod
    def context_width(self, model) -> int | None:
        """How wide the embeddings are that a MODEL reads; None where it does not say."""

    @abstractmethod
    def attention_wrapper(
        self,
        network,
        *,
        self_attention: Handler | None = None,
        cross_attention: Handler | None = None,
        self_where: Callable[[Size], bool] | None = None,
    ) -> Callable:
        """A DIFFUSION_MODEL wrapper that sends all self- or cross-attention layers of a network through a handler, around whatever other packs have put
        there, in each call anew.

        self_where: in which sizes of feature maps self-attention does; by default in all. Elsewhere a layer stays as it is: one that is handled holds its
        keys and values until the block ends, which a clip's peak of memory would show."""

    @abstractmethod
    def watched(self, options: dict, ran: set[int]) -> dict:
        """transformer_options with which the network notes in `ran` what of it has run."""

    @abstractmethod
    def ran_whole(self, network, ran: set[int]) -> bool:
        """Whether that is all of it."""

    def frames_of(self, latent: Tensor) -> int:
        """How many frames a latent of the host has."""
        return latent.shape[self.frame_axis]

    def least(self, shape: tuple[int, ...]) -> list[int]:
        """The least that can pass the model at once of latents [frames, channels, h, w], as the host has it."""
        return [1, *shape[1:]] if self.frame_axis == 0 else [1, shape[1], shape[0], *shape[2:]]

    def frames_first(self, latent: Tensor) -> Tensor:
        """The host's latent as [frames, channels, h, w]."""
        return latent if self.frame_axis == 0 else latent[0].movedim(self.frame_axis - 1, 0)

    def model_first(self, latent: Tensor) -> Tensor:
        """[frames, channels, h, w] as the host has it."""
        return latent if self.frame_axis == 0 else latent.movedim(0, self.frame_axis - 1)[None]
