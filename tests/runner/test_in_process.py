"""ComfyUI beside a torch that torchaudio was not built for. Stand-ins act as it does when it is imported.

torchvision needs no stand-in: wherever it does not fit, no host test would run."""

import sys

import pytest

from runner.in_process import mend_companions

NAMES = ("torchvision", "torchaudio")
EXTENSION = """
from .utils import _load_lib, check_cuda
compiled = _load_lib("_torchaudio")
if compiled:
    check_cuda()
"""
UTILS = """
def _load_lib(name):
    {}

def check_cuda():
    {}
"""
OTHER_CUDA = "raise RuntimeError('compiled with different CUDA major versions')"


def ours(name: str) -> bool:
    return name.partition(".")[0] in NAMES


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package's files in the way of the installed one."""
    held = {name: sys.modules.pop(name) for name in list(sys.modules) if ours(name)}
    monkeypatch.syspath_prepend(tmp_path)

    def write(package, **files):
        for name, text in files.items():
            path = tmp_path / package / name.replace("__", "/").replace("init", "__init__")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text, encoding="utf-8")

    write("torchvision", init="")
    yield write
    for name in [name for name in sys.modules if ours(name)]:
        del sys.modules[name]
    sys.modules.update(held)


@pytest.mark.parametrize("loading, checking", [("raise OSError('Could not load this library')", "pass"), ("return True", OTHER_CUDA)])
def test_torchaudio_is_imported_without_a_compiled_part_that_does_not_load(install, loading, checking):
    install("torchaudio", init="from . import _extension", _extension__init=EXTENSION, _extension__utils=UTILS.format(loading, checking))
    mend_companions()
    assert sys.modules["torchaudio"]._extension.compiled is False


def test_a_torchaudio_that_imports_keeps_its_compiled_part(install):
    install(
        "torchaudio", init="from . import _extension", _extension__init=EXTENSION, _extension__utils=UTILS.format("return True", "pass")
    )
    mend_companions()
    assert sys.modules["torchaudio"]._extension.compiled is True


def test_what_is_not_installed_stays_missing(install):
    for name in NAMES:
        install(name, init="raise ModuleNotFoundError('no such package')")
    mend_companions()
    assert not any(map(ours, sys.modules))
