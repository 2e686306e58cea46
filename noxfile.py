"""The commands of the README. All of them share one environment in .cache/, made on first use (a few minutes); demo and ui need less of it.

nox -s demo            edits the demo clip in a real ComfyUI; results in out/demo/
nox -s tests           all tests but the slow ones, and whether they reach every error; plain `nox` runs this
nox -s slow            the slow ones
nox -s release         what must hold when a version is published: translations are up to date
nox -s browser         ComfyUI's page in Chromium: templates, a run, help; screenshots in out/browser/
nox -s hosts           host tests and the page on other ComfyUI; a table in docs/hosts.md: -- FOLDER ... [--page VERSION]
nox -s lint            ruff and mypy
nox -s ui              ComfyUI's page with the pack, the demo checkpoint, clips and workflows, until Ctrl-C
nox -s train           trains the demo checkpoint anew
nox -s figures         measures the demo checkpoint
nox -s bench_quality   edits against exact ground truth; tables and pictures in out/bench/ (just under two hours)
nox -s bench_speed     time and memory, as ratios; tables and a picture in out/bench/ (75 minutes)
nox -s faults          faults at every stage, cancellations, a soak, fuzzing; a table in out/faults/ (about an hour)
nox -s bench_footage   your checkpoint on your clips: -- --checkpoint FILE --clips FOLDER, or --video FILE with two prompts

What follows `--` goes to the program that the session runs. COMFYUI_PATH names a ComfyUI to use instead of the pinned
download; what it requires is installed into an environment of its own in .cache/, never into the one that it runs in.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from runner.fetch import find_comfy  # noqa: E402

CACHE = ROOT / ".cache"
PINS = ROOT / "runner" / "environment"
FAST = "not slow and not release"
ROOMS = ("nodes", "video", "inversion", "attention", "blending", "host", "metrics")

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"


def pins(name: str) -> str:
    return (PINS / f"{name}.txt").read_text(encoding="utf-8")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Environment:
    """The interpreter with everything installed, and the ComfyUI that it was installed for. One of the user's own has its own environment.

    extra: the lists of runner/environment/ that are wanted besides what the demo needs, by name."""

    def __init__(self, session: nox.Session, *extra: str):
        self.session = session
        try:
            # The user's own is known before anything is installed; the pinned one is downloaded with what is.
            own = find_comfy(CACHE) if os.environ.get("COMFYUI_PATH") else None
            self.folder = CACHE / (f"environment-{digest(str(own))[:8]}" if own else "environment")
            self.python = str(self.folder / "Scripts" / "python.exe" if os.name == "nt" else self.folder / "bin" / "python")
            lists = {name: pins(name) for name in ("packages", *extra)}
            base = [sys.version, str(ROOT), *(pins(name) for name in ("comfyui", "constraints", "packages", "torch"))]
            base += [(own / "requirements.txt").read_text(encoding="utf-8")] if own else []
            lists["packages"] = "\n".join(base)
            if fresh := not self.has("packages", lists["packages"]):
                session.log(f"Making {self.folder.relative_to(ROOT)}, once; this takes a few minutes")
                session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(self.folder))
            self.comfy = own or find_comfy(CACHE, self.python)
        except (ValueError, subprocess.CalledProcessError) as error:
            session.error(str(error).rstrip("."))
        if fresh:
            self.install_torch()
        if not all(self.has(name, text) for name, text in lists.items()):
            self.install(*lists, pinned=not own)
            for name, text in lists.items():
                self.stamp(name).write_text(digest(text))

    def stamp(self, list_name: str) -> Path:
        return self.folder / f"installed-{list_name}.txt"

    def has(self, list_name: str, text: str) -> bool:
        """Whether that list was installed, and in this version."""
        stamp = self.stamp(list_name)
        return stamp.exists() and stamp.read_text() == digest(text)

    def install_torch(self) -> None:
        """torch first, then what ComfyUI wants of torchvision and torchaudio, whose own wish for a torch is not heard."""
        torch, *companions = re.findall(r"^torch.*", pins("torch"), re.MULTILINE)
        names, others = set(), []
        for line in (self.comfy / "requirements.txt").read_text(encoding="utf-8").splitlines():
            if found := re.match(r"(torch|torchvision|torchaudio)(?![\w-])", line):
                names.add(found[1])
            else:
                others.append(line)
        (self.folder / "comfyui.txt").write_text("\n".join(others), encoding="utf-8")
        self.add(torch)
        self.add("--no-deps", *(pin for pin in companions if pin.partition("==")[0] in names))

    def install(self, *names: str, pinned: bool) -> None:
        """What ComfyUI requires and these lists, in one go, lest one part takes from another what it needs. torch is held."""
        # The versions that were tried belong to the pinned ComfyUI; another one may want others.
        held = [
            part for name in (("torch", "constraints") if pinned else ("torch",)) for part in ("--constraint", str(PINS / f"{name}.txt"))
        ]
        lists = [self.folder / "comfyui.txt", *(PINS / f"{name}.txt" for name in names)]
        self.add(*held, *(part for path in lists for part in ("--requirement", str(path))))

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
    environment, data = Environment(session, "checks"), CACHE / "coverage"
    if session.posargs:
        environment.run("pytest", "-m", FAST, *session.posargs)
        return
    spread = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
    watched = ("--cov-report=", *(f"--cov={room}" for room in ROOMS))
    environment.run("pytest", "-m", FAST, *spread, *watched, COVERAGE_FILE=str(data))
    if sys.platform == "linux":  # some refusals are provoked on Linux only
        environment.run("tools.errors", "--untested", str(data))


@nox.session
def slow(session: nox.Session) -> None:
    Environment(session, "checks").run("pytest", "-m", "slow", *session.posargs, OMP_NUM_THREADS=str(os.cpu_count()))


@nox.session
def release(session: nox.Session) -> None:
    Environment(session, "checks").run("pytest", "-m", "release", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    environment = Environment(session, "checks", "browser")
    environment.run("pytest", "tests/browser", *session.posargs)


@nox.session
def hosts(session: nox.Session) -> None:
    parser = argparse.ArgumentParser(prog="nox -s hosts --")
    parser.add_argument("folders", nargs="*", help="folders of ComfyUI (default: COMFYUI_PATH, or the pinned download)")
    parser.add_argument("--page", metavar="VERSION", help="that page instead of the one that each of them asks for")
    options = parser.parse_args(session.posargs)
    for folder in options.folders or [os.environ.get("COMFYUI_PATH", "")]:
        os.environ["COMFYUI_PATH"] = folder
        environment = Environment(session, "checks", "browser")
        page = CACHE / f"page-{options.page}"
        if options.page and not page.exists():
            environment.add("--no-deps", "--target", str(page), f"comfyui-frontend-package=={options.page}")
        environment.run("tools.hosts", *(["--page", str(page)] if options.page else []))


@nox.session
def lint(session: nox.Session) -> None:
    environment = Environment(session, "checks")
    environment.run("ruff", "check", *session.posargs)
    environment.run("ruff", "format", "--check")
    # The rooms import each other relatively, so mypy must see them inside a package, whatever name this folder has.
    view = CACHE / "mypy"
    view.mkdir(exist_ok=True)
    link = "import sys; from runner.host import REPOSITORY, Path, install_pack; install_pack(REPOSITORY, Path(sys.argv[1]))"
    session.run(environment.python, "-c", link, str(view / "blade"))
    packages = [f"blade.{room}" for room in ROOMS] + ["runner", "demo", "tools", "benchmarks"]
    environment.run("mypy", *(part for package in packages for part in ("--package", package)), MYPYPATH=f"{view}{os.pathsep}{ROOT}")


@nox.session
def ui(session: nox.Session) -> None:
    environment = Environment(session)
    environment.run("demo.ui", "--comfy", str(environment.comfy), *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    Environment(session, "checks").run("demo.train", "all", *session.posargs)


@nox.session
def figures(session: nox.Session) -> None:
    Environment(session, "checks").run("demo.figures", *session.posargs)


@nox.session
def bench_quality(session: nox.Session) -> None:
    Environment(session, "checks").run("benchmarks.quality", *session.posargs)


@nox.session
def bench_speed(session: nox.Session) -> None:
    Environment(session, "checks").run("benchmarks.speed", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    Environment(session, "checks").run("benchmarks.faults", *session.posargs)


@nox.session
def bench_footage(session: nox.Session) -> None:
    Environment(session, "checks").run("benchmarks.footage", *session.posargs)
