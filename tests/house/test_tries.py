"""Every refusal says what to try."""

from __future__ import annotations

import ast
from pathlib import Path

import mergery

ROOT = Path(mergery.__file__).parent
ROOMS = (
    "api", "architecture", "calibration", "checkpoints", "cli", "engine", "evaluation", "graph", "kernels", "method", "methods",
    "planning", "recipe", "report", "run", "views",
)  # fmt: skip
ERRORS = ("MergeryError", "RecipeError", "PlanError", "CheckpointError", "DataError", "TaskError", "UsageError")


def refusals(path: Path) -> list[tuple[int, bool]]:
    """The line of every error that a file makes, or notes, and whether it comes with something to try."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        named = isinstance(node.func, ast.Name) and node.func.id in ERRORS
        noted = (
            isinstance(node.func, ast.Attribute) and node.func.attr == "fail" and ast.unparse(node.func.value) != "self"
        )
        if named or noted:
            found.append((node.lineno, any(keyword.arg == "hint" for keyword in node.keywords)))
    return found


def test_every_refusal_has_something_to_try():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    found = {f"{path.relative_to(ROOT)}:{line}": tries for path in files for line, tries in refusals(path)}
    assert len(found) > 200
    assert [place for place, tries in found.items() if not tries] == []


def unsaid(path: Path) -> list[int]:
    """Lines where a class's own `fail` is called without something to try, and has nothing that it says then."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name == "fail":
            names = [each.arg for each in function.args.args]
            defaults = dict(zip(names[::-1], function.args.defaults[::-1], strict=False))
            keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            defaults |= {each.arg: default for each, default in keywords if default is not None}
            if "hint" in defaults and ast.unparse(defaults["hint"]) in ("''", "None"):
                silent.append(names.index("hint") - 1 if "hint" in names else 99)  # its place in a call
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.fail"]
    named = [node for node in calls if any(keyword.arg == "hint" for keyword in node.keywords)]
    return [node.lineno for node in calls if silent and node not in named and len(node.args) <= min(silent)]


def test_every_refusal_of_a_reader_has_something_to_try():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert [(str(path.relative_to(ROOT)), lines) for path in files if (lines := unsaid(path))] == []


def test_what_a_reader_without_a_try_looks_like(tmp_path):
    path = tmp_path / "x.py"
    text = "class R:\n    def fail(self, what, why='', hint=''): ...\n    def f(self):\n        self.fail('a', 'b')\n"
    path.write_text(f"{text}        self.fail('a', 'b', 'c')\n        self.fail('a', hint='c')\n")
    assert unsaid(path) == [4]


def test_what_a_refusal_without_a_try_looks_like(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f(reader):\n    reader.fail('no', ())\n    raise RecipeError('no', hint='yes')\n")
    assert refusals(path) == [(2, False), (3, True)]
