"""The journal of a search for a path: a line that was torn never happened, one that is damaged is named."""

from __future__ import annotations

import pytest

from mergery.errors import RecipeError
from mergery.exploration.flow.searching import _Journal

ITEMS = {"sums": [1.0, 1.0]}


def test_a_torn_last_line_never_happened(tmp_path):
    file = tmp_path / "paths.jsonl"
    first = _Journal(file, "which path")
    first.add(0.5, False, ITEMS)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"score": 0.2')
    again = _Journal(file, "which path")
    assert (again.get(0), again.get(1), file.read_bytes()) == ((0.5, False, ITEMS), None, whole)


@pytest.mark.parametrize("line", ["{", "[1]", '{"score": 1.0}', "\x00\x00"])
def test_a_damaged_line_is_named(line, tmp_path):
    file = tmp_path / "paths.jsonl"
    _Journal(file, "which path").add(0.5, False, ITEMS)
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(RecipeError, match=r"paths\.jsonl:3: this line of the search is damaged"):
        _Journal(file, "which path")


def test_a_folder_of_another_search_is_refused(tmp_path):
    _Journal(tmp_path / "paths.jsonl", "which path")
    with pytest.raises(RecipeError, match="this folder holds another search"):
        _Journal(tmp_path / "paths.jsonl", "another question")
