"""The house stands: every room has its floor, imports go one way, and a file can be read in one sitting."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.house.rules import LINES, broken

ROOT = Path(__file__).parents[2]


def test_no_rule_is_broken() -> None:
    assert sorted(broken(ROOT)) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the sources, of the page that draws the floors, and of one folder of tests."""
    for folder in ("src/mergery", "tests/house"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "architecture.md", tmp_path / "docs")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("src/mergery/kernels/new.py", "import os, mergery.run.sinks", "imports run/sinks.py, which climbs"),
        ("src/mergery/kernels/new.py", "from mergery import api", "imports api/__init__.py, which climbs"),
        ("src/mergery/kernels/new.py", "from mergery import plan", "imports __init__.py, which climbs"),
        ("src/mergery/kernels/new.py", "from mergery.recipe import Recipe", "imports recipe/__init__.py, which climbs"),
        ("src/mergery/kernels/new.py", "from mergery.recipe import values", "imports recipe/values.py, which climbs"),
        ("src/mergery/kernels/new.py", "from ..recipe.values import read", "imports recipe/values.py, which climbs"),
        ("src/mergery/kernels/new.py", "from .. import api", "imports api/__init__.py, which climbs"),
        (
            "src/mergery/kernels/new.py",
            "def f():\n    from mergery import api",
            "imports api/__init__.py, which climbs",
        ),
        (
            "src/mergery/kernels/new.py",
            "if TYPE_CHECKING:\n    import mergery.api",
            "imports api/__init__.py, which climbs",
        ),
        ("src/mergery/kernels/new.py", "import_module('mergery.api')", "imports api/__init__.py, which climbs"),
        ("src/mergery/kernels/new.py", "import_module(name)", "imports a module by a name that no reader sees"),
        ("src/mergery/kernels/new.py", "from tests.conftest import make", "imports tests.conftest.make"),
        ("src/mergery/views/new.py", "from mergery.engine import reader", "imports engine/reader.py, which climbs"),
        ("src/mergery/cli/new.py", "from mergery import plan, api\nfrom mergery.kernels import device", None),
        ("src/mergery/attic.py", "", "has no floor in docs/architecture.md"),
        ("tests/attic/test_new.py", "", "stands in no room's folder"),
        ("tests/test_new.py", "", "stands in no room's folder"),
        ("tests/kernels/test_new.py", "x = 1\n" * (LINES + 1), "has more than 350 lines"),
    ],
)
def test_what_is_planted_is_found(house: Path, file: str, text: str, said: str | None) -> None:
    before = set(broken(house))
    (house / file).parent.mkdir(exist_ok=True)
    (house / file).write_text(text)
    name = file.removeprefix("src/mergery/") if "attic.py" not in file else "attic"
    assert set(broken(house)) - before == ({f"{name} {said}"} if said else set())


def test_a_circle_is_found(house: Path) -> None:
    before = set(broken(house))
    circle = (("one", "two"), ("two", "three"), ("three", "one"))
    for name, other in circle:
        (house / f"src/mergery/recipe/{name}.py").write_text(f"def f():\n    from mergery.recipe import {other}")
    found = {f"recipe/{name}.py imports recipe/{other}.py, which leads back to it" for name, other in circle}
    assert set(broken(house)) - before == found


def test_too_many_entries_are_found(house: Path) -> None:
    for number in range(10):
        (house / f"src/mergery/attic_{number}.py").touch()
    assert any(" entries, of at most 25" in line for line in broken(house))
