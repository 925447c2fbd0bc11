"""Scripts are run in one way, `python -m benchmarks.NAME` from the root of a clone, and say so before they measure anything."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
NEIGHBOURS = {path.stem for path in (ROOT / "benchmarks").iterdir() if path.is_dir() or path.suffix == ".py"}


def module(path: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """The first part of all names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


SCRIPTS = [module(path) for path in FILES if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_run(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {name.removesuffix('.__main__')} ")


def test_scripts_import_their_neighbours_from_the_package():
    assert {module(path): found for path in FILES if (found := NEIGHBOURS & set(imported(path)))} == {}
    assert [module(path) for path in FILES if re.search(r"\bsys\.path\b", path.read_text(encoding="utf-8"))] == []


def test_every_command_that_is_told_is_a_script():
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        ROOT / "Makefile",
    ]
    told: dict[str, set[str]] = {}
    for path in (*pages, *FILES, *(ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(python|\$\(RUN\)) benchmarks/", text), f"{path} runs a script by its path"
        for name in re.findall(r"(?:python|\$\(RUN\)) -m (benchmarks(?:\.[a-z_]+)+)", text):
            told.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    known = {name.removesuffix(".__main__") for name in SCRIPTS}
    assert {name: places for name, places in told.items() if name not in known} == {}
    assert len(told) > 20
