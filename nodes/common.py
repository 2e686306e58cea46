"""What several nodes share: the category, the trajectory's socket type, and errors that name the node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from comfy_api.latest import io

CATEGORY = "BLADE"
CELL = 8  # pixels a side that one latent cell covers, in every VAE of the SD family
TrajectorySocket = io.Custom("BLADE_TRAJECTORY")


@contextmanager
def naming(node: str, input_name: str = "") -> Iterator[None]:
    """Errors of the rooms say what is wrong; this adds where: the node's title, and the input's name."""
    try:
        yield
    except ValueError as error:
        where = f"{node}, input {input_name}" if input_name else node
        raise ValueError(f"{where}: {error}") from error
