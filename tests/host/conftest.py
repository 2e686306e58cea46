"""The real ComfyUI: as a server, and imported into the test's own process."""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from demo.base import CHECKPOINT_NAME, prepare_base
from runner.fetch import find_comfy
from runner.host import REPOSITORY, ComfyHost
from runner.in_process import import_comfy
from tests.host.helpers import BOX, Studio, in_cells


@pytest.fixture(scope="session")
def comfy_folder() -> Path:
    """COMFYUI_PATH, or the pinned download."""
    return find_comfy()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The demo checkpoint's file."""
    path = REPOSITORY / "demo" / CHECKPOINT_NAME
    assert path.exists(), f"{path} is missing; `nox -s train` makes it"
    return path


@pytest.fixture(scope="session")
def server(comfy_folder, tmp_path_factory):
    """A running server with the pack, in a folder whose name is no Python identifier, and the demo checkpoint and clips."""
    base = prepare_base(tmp_path_factory.mktemp("comfyui"), pack="video-editing-blade")
    with ComfyHost(comfy_folder, base, cpu=True) as host:
        yield host


@pytest.fixture(scope="session")
def comfy(comfy_folder):
    """ComfyUI's `comfy` package in this process, on the CPU, with the demo model's architecture known to it."""
    os.environ["COMFYUI_PATH"] = str(comfy_folder)
    import_comfy()
    import comfy
    import comfy.sd

    import demo.model_pack  # noqa: F401

    # The nodes collect cycles before their work. Looking at all that is imported each time would be a third of what these tests take.
    gc.collect()
    gc.freeze()
    return comfy


@pytest.fixture(scope="module")
def one_thread():
    """Clips this small pass faster on one thread, the more so where the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def studio(comfy, checkpoint, one_thread):
    """What an artist does, on the demo checkpoint."""
    return Studio(comfy, checkpoint)


@pytest.fixture(scope="module")
def box(studio):
    """A mask around the clip's thing. [1, 128, 128]"""
    return studio.pixels(*BOX)


@pytest.fixture(scope="module")
def outside(studio, box):
    """The latents' numbers outside that mask."""
    return ~in_cells(box).expand_as(studio.latent)


# Without a profile's name a few examples, the same on every machine; "faults": as many as BLADE_FUZZ_EXAMPLES says of each test, others on every run.
set_hypothesis_home_dir(REPOSITORY / ".cache" / "hypothesis")
settings.register_profile("few", max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile(
    "faults",
    max_examples=int(os.environ.get("BLADE_FUZZ_EXAMPLES", "500")),
    derandomize=False,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("few")
