"""What the command line says of the commonest mistakes, to the letter."""

from __future__ import annotations

import pytest

from tests.golden import measure
from tests.golden.mistakes import MISTAKES


@pytest.mark.parametrize("name", MISTAKES)
def test_message(name):
    found = measure.message(MISTAKES[name])
    assert found["code"] == 2
    assert found == measure.expected("messages")[name]


@pytest.mark.parametrize("name", MISTAKES)
def test_every_problem_comes_with_something_to_try(name):
    says = measure.expected("messages")[name]["says"]
    problems = sum(line.startswith("mergery: ") for line in says)
    assert sum(line.startswith("  try: ") for line in says) == problems
    assert problems == 1 or name == "several at once"


def test_no_result_is_left_over():
    assert measure.expected("messages").keys() == MISTAKES.keys()
