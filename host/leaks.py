"""What an error would leave behind in ComfyUI, whose frame keeps the error's traceback, and so all that its frames hold, in a circle."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_after_errors() -> Iterator[None]:
    """Around what runs a model, or as its decorator: after an error Python looks for circles as soon as the prompt has ended.

    ComfyUI's cache then still holds the MODELs of the prompt's nodes. Were they found later, when only the circle holds them, a MODEL and the one it was
    made of would be collected at once: core could not hand the loaded network on from one to the other, and would warn of a leak from then on."""
    try:
        yield
    except Exception:
        try:
            asyncio.get_running_loop().call_soon(gc.collect)  # the prompt's own loop, which it keeps busy until its end
        except RuntimeError:
            pass  # no server runs this
        raise
