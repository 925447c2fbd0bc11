"""The rules that hold the house together, checked on the text of its files: nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LINES = 350  # of a file that can be read in one sitting
ENTRIES = 25  # under src/mergery: six files, and the rooms
FOLDERS = {
    "benchmarks",
    "demo",
    "docs",
    "fuzz",
    "golden",
    "house",
    "packaging",
    "parity",
}  # of tests, besides the rooms
BY_NAME = {
    "__init__.py",
    "cli/__init__.py",
    "evaluation/__init__.py",
    "kernels/__init__.py",
    "method/compiled.py",
    "method/registry.py",
}
OUTSIDE = {"tests", "demo", "benchmarks"}  # what the package must do without
MADE_UP = "?"  # the name of a module that only a run can tell


def broken(root: Path) -> Iterator[str]:
    """Every rule that the repository at `root` breaks, one line each."""
    package, tests = root / "src" / "mergery", root / "tests"
    floor = floors((root / "docs" / "architecture.md").read_text(encoding="utf-8"))

    rooms = sorted(path.stem for path in package.iterdir() if path.name not in {"__pycache__", "py.typed"})
    yield from (f"{room} has no floor in docs/architecture.md" for room in rooms if room not in floor)
    if len(rooms) > ENTRIES:
        yield f"src/mergery has {len(rooms)} entries, of at most {ENTRIES}"

    imports = {file: sorted(set(imported(file, package))) for file in sorted(package.rglob("*.py"))}
    behind = {file: reached(file, imports) for file in imports}
    for file, targets in imports.items():
        said = f"{file.relative_to(package)} imports"
        for target in targets:
            here, there = room_of(file, package), room_of(target, package)
            if here != there and floor.get(here, 0) >= floor.get(there, 0):
                yield f"{said} {target.relative_to(package)}, which climbs"
            if file in behind[target]:
                yield f"{said} {target.relative_to(package)}, which leads back to it"
        for name in names(file.read_text(encoding="utf-8")):
            if name.split(".")[0] in OUTSIDE:
                yield f"{said} {name}"
            if name == MADE_UP and str(file.relative_to(package)) not in BY_NAME:
                yield f"{said} a module by a name that no reader sees"

    for file in [*imports, *sorted(tests.rglob("*.py"))]:
        if len(file.read_text(encoding="utf-8").splitlines()) > LINES:
            yield f"{file.relative_to(root)} has more than {LINES} lines"
    for file in sorted(tests.rglob("*.py")):
        folder, *rest = file.relative_to(tests).parts
        if folder not in (floor.keys() | FOLDERS if rest else {"__init__.py", "conftest.py"}):
            yield f"{file.relative_to(root)} stands in no room's folder"


def floors(page: str) -> dict[str, int]:
    """Each room's floor, as the page draws them: the highest is 0."""
    drawing = re.search(r"^## One direction$.*?^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    if drawing is None:
        raise ValueError("docs/architecture.md: no drawing of the floors under '## One direction'")
    return {name.strip(): floor for floor, rooms in enumerate(drawing[1].split(">")) for name in rooms.split(",")}


def room_of(file: Path, package: Path) -> str:
    """The entry of the package in which a file lies."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def imported(file: Path, package: Path) -> Iterator[Path]:
    """The package's own files that a file imports. A name that is no module is its package's `__init__.py`'s."""
    for name in names(file.read_text(encoding="utf-8")):
        stem = name.lstrip(".")
        start = file.parents[len(name) - len(stem) - 1] if stem != name else package.parent
        path = start.joinpath(*stem.split("."))
        if not path.is_relative_to(package):
            continue
        while not path.with_suffix(".py").is_file() and not (path / "__init__.py").is_file():
            path = path.parent
        yield path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def names(text: str) -> tuple[str, ...]:
    """The dotted names that a source text imports, wherever in it, down to the single name taken."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (f"{node.module}." if node.module else "")
            found += [stem + alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in {"import_module", "__import__"}:
                found.append(str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else MADE_UP)
    return tuple(found)


def reached(file: Path, imports: dict[Path, list[Path]]) -> set[Path]:
    """The files that a file loads, directly or by way of others."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        new = [target for target in imports[waiting.pop()] if target not in found]
        found.update(new)
        waiting += new
    return found
