"""What docs/mergekit.md says of methods and differences is what the code does and what was run."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mergery.recipe.mergekit.methods import RULES

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "mergekit.md").read_text()
RESULTS = (ROOT / "tests" / "parity" / "RESULTS.md").read_text()
UNSEEN = {"int8_mask", "eps"}  # parameters that change nothing, named below the table


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    lines = text.split(f"## {heading}\n", 1)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def test_the_table_of_methods() -> None:
    parameters: dict[str, set[str]] = {}
    always: dict[str, dict[str, object]] = {}
    methods: list[str] = []
    for method, given, _, fixed in rows(GUIDE, "Settings by method"):
        methods = words(method) or methods
        for name in methods:
            parameters.setdefault(name, set()).update(words(given))
            always.setdefault(name, {}).update(*(yaml.safe_load(word) for word in words(fixed)))
    assert parameters == {name: {p.name for p in rule.parameters} - UNSEEN for name, rule in RULES.items()}
    assert always == {name: dict(rule.settings) for name, rule in RULES.items()}
    assert all(f"`{name}`" in GUIDE for name in UNSEEN)


def test_every_difference_was_run() -> None:
    told = [row[0] for row in rows(GUIDE, "Where the results differ")]
    assert told == [row[0] for row in rows(RESULTS, "Where mergekit is wrong or silent")]
