"""What holds for the repository as a whole."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.package import packed

ROOT = Path(__file__).resolve().parents[1]
WALK = ("video", "inversion", "attention", "blending")  # the order in which data passes the rooms
# Of the folders around the pack, those that each may not import.
BENEATH = {"runner": {"demo", "benchmarks", "tools", "tests"}, "demo": {"benchmarks", "tools", "tests"}, "benchmarks": {"tools", "tests"}}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "latent_preview", "node_helpers", "server"}


def committed() -> list[Path]:
    """The files under version control, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports; those of the pack begin with a dot: `.video.frames` for `from ..video.frames import ...`."""
    found = set()
    room = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = room[: len(room) - node.level + 1] if node.level else ()
            parts = [*here, *(node.module.split(".") if node.module else [])]
            modules = [parts] if node.module else [[*parts, name.name] for name in node.names]
            found |= {"." * bool(node.level) + ".".join(module) for module in modules}
    return found


def pyproject(key: str) -> str:
    """The value of a top-level `key = ...` line, as written. Python 3.10 has no TOML reader."""
    line = re.search(rf"^{key} = (.*)$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert line, f"pyproject.toml has no {key}"
    return line[1]


def test_requirements_are_the_dependencies():
    assert ast.literal_eval(pyproject("dependencies")) == (ROOT / "requirements.txt").read_text().split()


def test_dependencies_leave_torch_and_numpy_to_comfyui():
    assert not re.search(r"torch|numpy", pyproject("dependencies"))


def test_registry_accepts_the_project_name():
    assert re.fullmatch(r'"[a-z][a-z0-9-]*"', pyproject("name")) and "comfyui" not in pyproject("name").lower()


def test_version_is_one_that_the_changelog_tells_of():
    version = ast.literal_eval(pyproject("version"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_package_holds_what_the_pack_needs_and_nothing_else():
    names = {path.relative_to(ROOT).parts[0] for path in packed()}
    documents = {"README.md", "CHANGELOG.md", "ERRORS.md", "LICENSE", "pyproject.toml", "requirements.txt"}
    assert names == {"__init__.py", "nodes", "host", "metrics", *WALK, "web", "workflows", "locales", "docs", *documents}


def test_package_imports_only_what_it_holds():
    modules = {path for path in packed() if path.suffix == ".py"}
    held = {"." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules}
    found = {str(path.relative_to(ROOT)): wrong for path in modules if (wrong := {n for n in imports(path) if n[0] == "."} - held)}
    assert held and not found


def linked(text: str) -> set[str]:
    """The files and folders of the repository that a page's links and pictures lead to."""
    return set(re.findall(r"\]\(([^)#:]+)\)", text))


def test_readme_leads_to_files_that_are_there():
    names = linked((ROOT / "README.md").read_text(encoding="utf-8"))
    assert names and not {name for name in names if not (ROOT / name).exists()}


def test_readme_s_part_for_artists_leads_to_what_the_package_holds():
    """The pictures of the figures stay in the repository; whoever installs the package sees all the others."""
    artists, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("\n# Figures\n")
    files = {path.relative_to(ROOT) for path in packed()}
    held = {place.as_posix() for path in files for place in (path, *path.parents)}
    assert linked(artists) and not linked(artists) - held


def test_floor_is_the_same_everywhere():
    from runner.fetch import FLOOR

    assert pyproject("requires-comfyui") == f'">={".".join(map(str, FLOOR))}"'


def test_no_file_names_a_place_on_somebodys_machine():
    place = re.compile(r"(?<![\w.>}/-])/(?:home|root|Users|work|mnt|tmp)/\w|\b[A-Z]:\\\\?Users")
    found = []
    for path in committed():
        if path.suffix in (".py", ".md", ".txt", ".toml", ".yml", ".json", ".sh", ""):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [f"{path.relative_to(ROOT)}:{number}: {line[:150]}" for number, line in enumerate(lines, 1) if place.search(line)]
    assert not found


def test_no_large_file_but_the_checkpoints():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size / 1e6 for path in committed()}
    assert sizes.pop("demo/blade_demo.safetensors", 0) <= 24
    assert sizes.pop("demo/blade_demo_v.safetensors", 0) <= 10
    assert not {name: size for name, size in sizes.items() if size > 3}


@pytest.mark.parametrize("workflow", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_workflow_has_its_thumbnail_and_form(workflow):
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    assert graph["nodes"] and "links" in graph  # the form that the page opens
    assert workflow.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("room", WALK)
def test_room_imports_none_later_on_the_walk_and_no_comfyui(room):
    barred = {"nodes", "host", *WALK[WALK.index(room) + 1 :]}
    found = {}
    for path in sources(room):
        wrong = {name for name in imports(path) if name.split(".")[0] in COMFYUI or (name[:1] == "." and name.split(".")[1] in barred)}
        if wrong:
            found[str(path.relative_to(ROOT))] = wrong
    assert not found


PRODUCT = (*WALK, "metrics", "host", "nodes")


def needed(path: Path) -> set[Path]:
    """The files of the pack that a file imports, types alone left out."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and not any(node in ast.walk(block) for block in typed):
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [place / name.name for name in node.names] + [place]
            found |= {file for name in names for file in (name.with_suffix(".py"), name / "__init__.py") if file.is_file()}
    return found


def test_no_room_imports_upward():
    """nodes over host and metrics over the rooms on the walk."""
    barred = {"host": {"nodes", "metrics"}, "metrics": {"nodes", "host"}, "nodes": set()}
    found = {
        str(path.relative_to(ROOT)): wrong
        for room in ("host", "metrics", "nodes")
        for path in sources(room)
        if (wrong := {file.relative_to(ROOT).parts[0] for file in needed(path)} & barred[room])
    }
    assert not found


def test_no_files_import_each_other_in_a_circle():
    waiting = {path: needed(path) for path in sources(*PRODUCT)}
    assert sum(map(len, waiting.values())) > 200
    while free := {path for path, wanted in waiting.items() if not wanted & waiting.keys()}:
        waiting = {path: wanted for path, wanted in waiting.items() if path not in free}
    assert not {str(path.relative_to(ROOT)) for path in waiting}


FAMILIES = {"eps", "v", "flow", "unet", "wan"}  # names by which code could ask what kind of model it has
FAMILY_ROOMS = (ROOT / "host" / "families", ROOT / "inversion" / "coordinates.py")


def asks_for_a_family(text: str) -> list[str]:
    """What a source does that only a family's own file may: names core's networks or kinds of sampling, or compares with a family's name or kind."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.startswith(("comfy.ldm", "comfy.model_sampling", "comfy.model_base"))]
        elif isinstance(node, ast.Compare | ast.MatchValue):
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
            found += [ast.unparse(node)] if FAMILIES.intersection(map(str, values)) or {"EPS", "V", "FLOW"}.intersection(names) else []
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "isinstance"
            and re.search("unet|family", ast.unparse(node), re.IGNORECASE)
        ):
            found.append(ast.unparse(node))
    return found


def test_what_distinguishes_families_stands_in_their_files_alone():
    asked = {path: found for path in sources(*PRODUCT) if (found := asks_for_a_family(path.read_text(encoding="utf-8")))}
    own, elsewhere = (
        {path for path in asked if any(room in (path, *path.parents) for room in FAMILY_ROOMS) is where} for where in (True, False)
    )
    assert {path.name for path in own} == {"coordinates.py", "unet.py"}
    assert not {str(path.relative_to(ROOT)): asked[path] for path in elsewhere}


@pytest.mark.parametrize(
    "text",
    [
        "import comfy.ldm.wan.model",
        "from comfy.model_sampling import CONST",
        "x = trajectory.coordinates.prediction == 'flow'",
        "y = kind in ('eps', 'v')",
        "if coordinates == FLOW: pass",
        "isinstance(network, UNetModel)",
        "match name:\n    case 'wan': pass",
    ],
)
def test_what_asks_for_a_family_is_seen(text):
    assert asks_for_a_family(text)


def test_pack_imports_itself_relatively_only():
    """ComfyUI has modules of its own called `nodes`, `server`, `app`, and imports the pack under a name nobody knows."""
    rooms = {"nodes", "host", "metrics", *WALK, "blade", *BENEATH, "tools", "tests"}
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in sources("nodes", "host", "metrics", *WALK)
        if (wrong := {name for name in imports(path) if name.split(".")[0] in rooms})
    }
    assert not found


@pytest.mark.parametrize("folder", BENEATH)
def test_folder_imports_none_that_stands_on_it(folder):
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in sources(folder)
        if (wrong := {name for name in imports(path) if name.split(".")[0] in BENEATH[folder]})
    }
    assert sources(folder) and not found


def test_pack_evaluates_no_text_and_starts_no_process():
    found = []
    for path in sources("nodes", "host", "metrics", *WALK):
        calls = [n.func for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        found += [f"{path.relative_to(ROOT)}:{f.lineno}" for f in calls if isinstance(f, ast.Name) and f.id in ("eval", "exec")]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in imports(path) & {"subprocess", "pip"}]
    assert not found


LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"}  # of files that are programs
RUNS_WHAT_IT_READS = {"torch.load", "torch.jit.load", "numpy.load", "np.load", "cv2.FileStorage", "yaml.load", "yaml.unsafe_load"}


def loads_programs(text: str) -> list[str]:
    """What a source does that would run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in LOADERS]
            if isinstance(node, ast.ImportFrom):
                found += [f"{node.module}.{name.name}" for name in node.names if f"{node.module}.{name.name}" in RUNS_WHAT_IT_READS]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in RUNS_WHAT_IT_READS:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            found.append(node.arg)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("__import__", "compile"):
            found.append(node.func.id)
    return found


def test_pack_runs_nothing_that_a_file_holds():
    shipped = [path for path in packed() if path.suffix == ".py"]
    found = {str(path.relative_to(ROOT)): wrong for path in shipped if (wrong := loads_programs(path.read_text(encoding="utf-8")))}
    assert len(shipped) > 40 and not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import os, dill.source",
        "from pickle import loads",
        "from torch import load",
        "import torch\ntorch.load('a')",
        "read = np.load",
        "f(allow_pickle=True)",
        "__import__('os')",
    ],
)
def test_what_would_run_a_file_is_seen(text):
    assert loads_programs(text)


def test_skipped_host_test_fails_the_run(tmp_path):
    host = tmp_path / "tests" / "host"
    host.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    skip = "import pytest\n\ndef test_one():\n    pytest.skip('no host here')\n"
    (host / "test_inside.py").write_text(skip)
    (host / "test_whole.py").write_text("import pytest\npytest.skip('nothing here', allow_module_level=True)\n")
    (tmp_path / "tests" / "test_elsewhere.py").write_text(skip)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path / "tests")],
        capture_output=True,
        text=True,
    )
    assert "1 failed" in done.stdout or "1 error" in done.stdout, done.stdout
    assert "A host test may not be skipped (Skipped: nothing here)" in done.stdout, done.stdout
    (host / "test_whole.py").unlink()
    done = subprocess.run(done.args, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed, 1 skipped" in done.stdout, done.stdout


def test_the_readme_shows_the_published_tables():
    """Line by line, so that a table that was measured anew cannot stay behind in the README."""
    shown = set((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    tables = {path: path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert tables
    assert [f"{path.name}: {line}" for path, lines in tables.items() for line in lines if line.startswith("|") and line not in shown] == []
