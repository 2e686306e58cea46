"""Every sentence with which the pack can end a run, in one place: ERRORS.md, made from the source.

python -m tools.errors                    writes it
python -m tools.errors --untested FILE    says which sentences no test has reached, by a data file of coverage.py, and fails if there are any
"""

from __future__ import annotations

import argparse
import ast
import operator
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runner.host import REPOSITORY

PAGE = REPOSITORY / "ERRORS.md"
ROOMS = {
    "nodes": "Several nodes",  # what is no node's own; the others stand below their node's title
    "video": "Reading and writing clips",
    "inversion": "Noise levels, trajectories and their files",
    "attention": "Words, masks and temporal attention",
    "blending": "Blending and compositing",
    "host": "Models, VAEs, CLIPs and memory",
    "metrics": "Figures of an edit",
}
# Functions whose sentences are said inside "... is damaged: {reason}. ..." or "... cannot be saved: {reason}. ...", so they may lack stop and instruction.
PARTS = {
    "inversion/coordinates.py": {"Coordinates.__post_init__"},
    "inversion/file.py": {"load_trajectory", "map_tensors", "build", "part", "check", "check_form"},
    "attention/record.py": {"CrossAttentionRecord.from_tensors"},
    "attention/words.py": {"PromptWords.from_description"},
}
WORDS = {"error": "reason", "strerror": "reason", "dtype": "type", "title": "node"}  # placeholders that read better under another name
FEWEST_WORDS = 3  # of its own that a sentence has; "input" and its name are two
ARITHMETIC: dict[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
PREFACE = """# What BLADE says when it refuses

Every sentence with which a BLADE node can end a run, and where it comes from. `python -m tools.errors` makes this page from the source,
and a test sees that it is current.

A sentence reaches you behind the node's title and, where one input is to blame, that input's name:

> Blended Sampler (BLADE), input steps: steps is 30, but the trajectory has 20. Use 1 to 20, or invert with more steps.

What stands in {braces} below is filled in at run time, so search this page for words between such values: here *but the trajectory has*.
A line that ends with {reason} goes on with another sentence. The other lines without a full stop at the end tell what is wrong with a
trajectory or its file; they stand inside the sentences *is damaged* and *cannot be saved*, or in the parentheses of another.
"""


@dataclass(frozen=True)
class Sentence:
    """text: with {placeholders} that a person reads. file: from the repository's root. function: with its class. lines: of the statement.
    part: whether it only stands inside another. quotes: whether it ends with another, which it passes on."""

    text: str
    heading: str
    file: str
    function: str
    lines: range
    part: bool
    quotes: bool

    @property
    def fixed(self) -> str:
        """What stands there whatever the values."""
        return re.sub(r"\{[^{}]*\}", "", self.text).strip()

    @property
    def words(self) -> int:
        return len(re.findall(r"[^\W\d]+", self.fixed))


class Source:
    """A file of the pack, and how its expressions read."""

    def __init__(self, path: Path):
        self.path, self.tree = path, ast.parse(path.read_text(encoding="utf-8"))
        self.constants: dict[str, Any] = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    self.assign(target, statement.value)
            elif isinstance(statement, ast.ImportFrom) and statement.level:
                file = path.parents[statement.level - 1].joinpath(*(statement.module or "").split(".")).with_suffix(".py")
                known = source(file).constants if file.is_file() else {}
                self.constants |= {name.asname or name.name: known[name.name] for name in statement.names if name.name in known}

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, of_one in zip(target.elts, value.elts, strict=True):
                self.assign(one, of_one)
        elif isinstance(target, ast.Name) and (known := self.value(value)) is not None:
            self.constants[target.id] = known

    def value(self, node: ast.expr) -> Any:
        """What an expression of constants comes to; None for any other."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.constants.get(node.id)
            case ast.Tuple():
                values = tuple(map(self.value, node.elts))
                return None if None in values else values
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                sides = (self.value(node.left), self.value(node.right))
                return None if None in sides else ARITHMETIC[type(node.op)](*sides)
        return None

    def read(self, node: ast.expr, local: dict[str, ast.expr]) -> str:
        """A message with its placeholders in words. local: what names stand for in its function."""
        match node:
            case ast.JoinedStr():
                text = "".join(self.read(part, {}) for part in node.values)
                text = re.sub(r"\{[^{}]*\}x\{[^{}]*\}", "{width}x{height}", text)
                return re.sub(r"\b(edit|frames?|levels?|step) \{[^{}]*\}", r"\1 {number}", text)
            case ast.FormattedValue():
                return self.read(node.value, {})
            case ast.Name() if node.id in local:
                return self.read(local[node.id], {})
            case ast.IfExp(orelse=ast.Constant(value="")):
                return f"({self.read(node.body, {}).strip()}) "
            case ast.Call(func=ast.Attribute(value=form, attr="format")) if isinstance(self.value(form), str):
                return self.value(form).format(*(self.read(argument, {}) for argument in node.args))
            case ast.Call(func=ast.Attribute(attr="join"), args=[listed]) if self.value(listed) is not None:
                return ", ".join(self.value(listed))
        value = self.value(node)
        return "{" + name_of(node) + "}" if value is None else str(value)

    def sentences(self) -> Iterator[Sentence]:
        """Those it raises, and those with which a node's check of its inputs answers ComfyUI. What passes another on, with no more of its
        own than the name of the input, is none."""
        file = self.path.relative_to(REPOSITORY).as_posix()
        room = file.partition("/")[0]
        heading = self.constants.get("TITLE", ROOMS[room]) if room == "nodes" else ROOMS[room]
        for function, names, statement in statements(self.tree):
            part = ".".join(names) in PARTS.get(file, ())
            checks = function and function.returns and ast.unparse(function.returns) == "bool | str"  # as V3's validate_inputs
            match statement:
                case ast.Raise(exc=ast.Call(func=ast.Name(id="OSError"), args=[message])):
                    part = True  # as the system says it, in the parentheses of the sentence that tells of it
                case ast.Raise(exc=ast.Call(args=[message])) | ast.Raise(exc=ast.expr() as message):
                    pass
                case ast.Return(value=ast.JoinedStr() | ast.Constant(value=str()) as message) if checks:
                    pass
                case _:
                    continue
            parts = list(ast.walk(function or self.tree))
            assigned = [part for part in parts if isinstance(part, ast.Assign)]
            local = {target.id: part.value for part in assigned for target in part.targets if isinstance(target, ast.Name)}
            caught = {part.name for part in parts if isinstance(part, ast.ExceptHandler)}
            match message:
                case ast.JoinedStr(values=[*_, ast.FormattedValue(value=ast.Name(id=last))]) | ast.Name(id=last):
                    quotes = last in caught
                case _:
                    quotes = False
            lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            sentence = Sentence(self.read(message, local), heading, file, ".".join(names), lines, part, quotes)
            if not quotes or sentence.words >= FEWEST_WORDS:
                yield sentence


def statements(
    tree: ast.AST, function: ast.AST | None = None, names: tuple[str, ...] = ()
) -> Iterator[tuple[Any, tuple[str, ...], ast.stmt]]:
    """All statements, each with the function that it stands in and the names of that, the outermost first."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from statements(node, node if isinstance(node, ast.FunctionDef) else function, (*names, node.name))
        else:
            if isinstance(node, ast.stmt):
                yield function, names, node
            yield from statements(node, function, names)


def name_of(node: ast.expr) -> str:
    """What to call the value of an expression."""
    match node:
        case ast.Call(func=ast.Name(id="len")) | ast.Subscript(value=ast.Attribute(attr="shape"), slice=ast.Constant() | ast.UnaryOp()):
            return "number"
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return WORDS.get(key, key)
        case (
            ast.Subscript(value=inner)
            | ast.BinOp(left=inner)
            | ast.GeneratorExp(elt=inner)
            | ast.BoolOp(values=[inner, *_])
            | ast.Call(args=[inner, *_])
            | ast.Attribute(value=inner, attr="__name__")
            | ast.Call(func=ast.Attribute(value=inner, attr="strip"))
            | ast.Call(func=inner)
        ):
            return name_of(inner)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return WORDS.get(name, (name.lower() if name.isupper() else name).strip("_").replace("_", " "))
    return ast.unparse(node)


@cache
def source(path: Path) -> Source:
    return Source(path)


@cache
def sentences() -> tuple[Sentence, ...]:
    """All of the pack's, room by room."""
    paths = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
    return tuple(sentence for path in paths for sentence in source(path).sentences())


def page() -> str:
    """ERRORS.md: the nodes' own sentences by their titles, then those of the rooms, which several nodes say; each group by the alphabet."""
    groups: dict[str, dict[str, list[str]]] = {}
    for sentence in sorted(
        sentences(), key=lambda one: (one.heading in ROOMS.values() and one.heading != ROOMS["nodes"], one.fixed.lower())
    ):
        place = f"{sentence.file}, {sentence.function}"
        places = groups.setdefault(sentence.heading, {}).setdefault(sentence.text, [])
        places += [place] if place not in places else []
    rooms = list(ROOMS.values())
    ordered = [rooms[0], *sorted(groups.keys() - set(rooms)), *rooms[1:]]
    told = [PREFACE]
    for heading in ordered:
        texts = groups.get(heading, {})
        shown = [re.sub(r"([*<`\\])", r"\\\1", text) for text in texts]  # as Markdown that shows the very text
        lines = [f"- {text} `{'`, `'.join(places)}`" for text, places in zip(shown, texts.values(), strict=True)]
        told += [f"\n## {heading}\n", *lines] if lines else []
    return "\n".join([*told, ""])


def untested(data_file: Path) -> list[Sentence]:
    """Those whose statement was never begun while coverage.py looked on."""
    from coverage import CoverageData  # here, since nothing else needs it

    data = CoverageData(str(data_file))
    data.read()
    run = {Path(file).resolve(): set(data.lines(file) or ()) for file in data.measured_files()}
    return [sentence for sentence in sentences() if not run.get(REPOSITORY / sentence.file, set()).intersection(sentence.lines)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--untested", type=Path, metavar="FILE", help="of coverage.py, by a run of the tests")
    arguments = parser.parse_args()
    if arguments.untested is None:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
        print(f"{len(sentences())} sentences in {PAGE.name}")
        return 0
    if not arguments.untested.is_file():
        parser.error(f"there is no file {arguments.untested}: run the tests under coverage first")
    left = untested(arguments.untested)
    for sentence in left:
        print(f"{sentence.file}:{sentence.lines[0]}, {sentence.function}: {sentence.text}", file=sys.stderr)
    print(f"{len(left)} of {len(sentences())} sentences that no test reaches{': write their tests' if left else ''}.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
