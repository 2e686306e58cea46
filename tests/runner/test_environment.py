"""The lists of packages in runner/environment/, and who asks for them."""

import re
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("packages", "checks", "browser", "torch", "constraints")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # those that the README names


def asked(name: str, python: str = "3.11") -> list[Requirement]:
    """What a list asks for under that Python."""
    lines = (ROOT / "runner" / "environment" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [
        one for one in found if one.marker is None or one.marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_pinned_can_be_had_for_every_python(python):
    """As far as the packages that are installed here tell: those of another version are left out."""
    seen = 0
    for one in (one for name in LISTS for one in asked(name, python) if one.specifier):
        try:
            if version(one.name) in one.specifier and (wanted := metadata(one.name)["Requires-Python"]):
                assert f"{python}.99" in SpecifierSet(wanted), f"{one} is not for Python {python}"
                seen += 1
        except PackageNotFoundError:
            pass
    assert seen


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["checks", "packages", "torch"])
def test_every_python_gets_each_package_once(name, python):
    names = [one.name for one in asked(name, python)]
    assert len(names) == len(set(names)) and set(names) == {one.name for one in asked(name)}


def test_the_demo_needs_no_package_of_the_checks():
    assert not {one.name for one in asked("packages")} & {one.name for one in asked("checks")}
    sessions = dict(
        re.findall(
            r"^def (\w+)\(session: nox.Session\).*?Environment\(session(.*?)\)", (ROOT / "noxfile.py").read_text("utf-8"), re.M | re.S
        )
    )
    assert {name for name, lists in sessions.items() if not lists} == {"demo", "ui"}
