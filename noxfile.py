"""The commands of the README. All of them share one environment in .cache/, made on first use (a few minutes).

nox -s demo            edits the demo clip in a real ComfyUI; results in out/demo/
nox -s tests           all tests but the slow ones, and whether they reach every error; plain `nox` runs this
nox -s slow            the slow ones
nox -s release         what must hold when a version is published: translations are up to date
nox -s browser         ComfyUI's page in Chromium: templates, a run, help; screenshots in out/browser/
nox -s lint            ruff and mypy
nox -s ui              ComfyUI's page with the pack, the demo checkpoint, clips and workflows, until Ctrl-C
nox -s train           trains the demo checkpoint anew
nox -s figures         measures the demo checkpoint
nox -s bench_quality   edits against exact ground truth; tables and pictures in out/bench/ (just under two hours)
nox -s bench_speed     time and memory, as ratios; tables and a picture in out/bench/ (75 minutes)
nox -s faults          faults at every stage, cancellations, a soak, fuzzing; a table in out/faults/ (about an hour)
nox -s bench_footage   your checkpoint on your clips: -- --checkpoint FILE --clips FOLDER, or --video FILE with two prompts

What follows `--` goes to the program that the session runs. COMFYUI_PATH names a ComfyUI to use instead of the pinned
download; what it requires is installed into an environment in .cache/, never into its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from demo.comfy_source import find_comfy  # noqa: E402

CACHE = ROOT / ".cache"
PINS = ROOT / "demo" / "environment"
SELENIUM = "selenium==4.51.0"  # what no other session needs
FAST = "not slow and not release"
ROOMS = ("nodes", "video", "inversion", "attention", "blending", "host", "metrics")

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"


class Environment:
    """The interpreter with everything installed, and the ComfyUI that it was installed for."""

    def __init__(self, session: nox.Session):
        self.session = session
        own = os.environ.get("COMFYUI_PATH")
        folder = CACHE / ("environment-own" if own else "environment")
        self.python = str(folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python")
        stamp = folder / "installed.txt"
        try:
            wanted = [sys.version, str(ROOT), *(path.read_text(encoding="utf-8") for path in sorted(PINS.glob("*.txt")))]
            if own:
                wanted.append((find_comfy(CACHE) / "requirements.txt").read_text(encoding="utf-8"))
            digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
            fresh = not stamp.exists() or stamp.read_text() != digest
            if fresh:
                session.log(f"Making {folder.relative_to(ROOT)}, once; this takes a few minutes")
                session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(folder))
            self.comfy = find_comfy(CACHE, self.python)
        except (ValueError, subprocess.CalledProcessError) as error:
            session.error(str(error).rstrip("."))
        if fresh:
            self.install(pinned=not own)
            stamp.write_text(digest)

    def install(self, pinned: bool) -> None:
        """torch first and then held: else one of the others replaces it by another, and torchvision's own wish for a torch is not heard."""
        torch, torchvision = re.findall(r"^torch.*", (PINS / "torch.txt").read_text(encoding="utf-8"), re.MULTILINE)
        lines = (self.comfy / "requirements.txt").read_text(encoding="utf-8").splitlines()
        rest = CACHE / "comfyui-requirements.txt"
        others = [line for line in lines if not re.match(r"(torch|torchvision|torchaudio)(?![\w-])", line)]
        rest.write_text("\n".join(others), encoding="utf-8")
        self.add(torch)
        self.add("--no-deps", torchvision)
        # The versions that were tried belong to the pinned ComfyUI; another one may want others.
        constraints = ("torch.txt", "constraints.txt") if pinned else ("torch.txt",)
        held = [part for name in constraints for part in ("--constraint", str(PINS / name))]
        self.add(*held, "--requirement", str(rest), "--requirement", str(PINS / "packages.txt"))

    def add(self, *arguments: str) -> None:
        """pip install"""
        self.session.run(self.python, "-m", "pip", "install", "--disable-pip-version-check", *arguments)

    def run(self, *command: str, **variables: str) -> None:
        """Runs `python -m command` in the repository's root. A server that it started gets time to stop on Ctrl-C."""
        self.session.run(self.python, "-m", *command, env={"COMFYUI_PATH": str(self.comfy), **variables}, interrupt_timeout=20)


@nox.session
def demo(session: nox.Session) -> None:
    environment = Environment(session)
    environment.run("demo.run", "--comfy", str(environment.comfy), "--out", "out/demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """In two processes, file by file, unless pytest is told what to run."""
    environment, data = Environment(session), CACHE / "coverage"
    if session.posargs:
        environment.run("pytest", "-m", FAST, *session.posargs)
        return
    spread = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
    watched = ("--cov-report=", *(f"--cov={room}" for room in ROOMS))
    environment.run("pytest", "-m", FAST, *spread, *watched, COVERAGE_FILE=str(data))
    if sys.platform == "linux":  # some refusals are provoked on Linux only
        environment.run("demo.errors", "--untested", str(data))


@nox.session
def slow(session: nox.Session) -> None:
    Environment(session).run("pytest", "-m", "slow", *session.posargs, OMP_NUM_THREADS=str(os.cpu_count()))


@nox.session
def release(session: nox.Session) -> None:
    Environment(session).run("pytest", "-m", "release", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    environment = Environment(session)
    environment.add(SELENIUM)
    environment.run("pytest", "tests/browser", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    environment = Environment(session)
    environment.run("ruff", "check", *session.posargs)
    environment.run("ruff", "format", "--check")
    # The rooms import each other relatively, so mypy must see them inside a package, whatever name this folder has.
    view = CACHE / "mypy"
    view.mkdir(exist_ok=True)
    link = "import sys; from demo.host import REPOSITORY, Path, install_pack; install_pack(REPOSITORY, Path(sys.argv[1]))"
    session.run(environment.python, "-c", link, str(view / "blade"))
    packages = [f"blade.{room}" for room in ROOMS] + ["demo", "benchmarks"]
    environment.run("mypy", *(part for package in packages for part in ("--package", package)), MYPYPATH=f"{view}{os.pathsep}{ROOT}")


@nox.session
def ui(session: nox.Session) -> None:
    environment = Environment(session)
    environment.run("demo.ui", "--comfy", str(environment.comfy), *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    Environment(session).run("demo.train", "all", *session.posargs)


@nox.session
def figures(session: nox.Session) -> None:
    Environment(session).run("demo.figures", *session.posargs)


@nox.session
def bench_quality(session: nox.Session) -> None:
    Environment(session).run("benchmarks.quality", *session.posargs)


@nox.session
def bench_speed(session: nox.Session) -> None:
    Environment(session).run("benchmarks.speed", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    Environment(session).run("benchmarks.faults", *session.posargs)


@nox.session
def bench_footage(session: nox.Session) -> None:
    Environment(session).run("benchmarks.footage", *session.posargs)
