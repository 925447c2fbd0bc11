"""The comparison with other tools names what exists."""

from __future__ import annotations

import re
from pathlib import Path

from mergery.method import methods
from mergery.recipe.mergekit.methods import RULES

PAGE = (Path(__file__).parents[2] / "docs/completeness.md").read_text()


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a title, by row."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_method_that_is_named_exists():
    for title in ("mergekit", "FusionBench", "sd-mecha"):
        for _, here, note in rows(title):
            assert here == "—" or here == "every method" or set(re.findall(r"`(\w+)`", here)) <= set(methods()), here
            assert here != "—" or note, "what is missing has a reason"


def test_every_method_of_mergekit_is_in_the_table():
    assert {name for there, *_ in rows("mergekit") for name in re.findall(r"`(\w+)`", there)} == set(RULES)
