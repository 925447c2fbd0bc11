"""Methods by name: Mergery's own, those of a process, and those of other packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mergery.errors import RecipeError
from mergery.method import Models, Tensor, find, method, methods, register, registry
from mergery.methods.linear import linear

FIRST = """
from mergery.method import Models, Tensor, method, methods, register
@method()
def mine(models: Models) -> Tensor:
    "The first."
    return models[0]
register(mine)
assert {"mine", "linear", "ties"} <= set(methods()), list(methods())
"""


@method()
def mine(models: Models) -> Tensor:
    """The first model."""
    return models[0]


class Entry:
    """An entry point of an installed package."""

    name, value = "theirs", "theirs.methods:theirs"

    def __init__(self, offered: object) -> None:
        self.load = lambda: offered


@pytest.fixture
def installed(monkeypatch):
    """Has packages offer methods, as if they were installed."""

    def install(*offered: object) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(each) for each in offered])
        registry._found.cache_clear()

    yield install
    monkeypatch.undo()
    registry._found.cache_clear()


def test_a_method_may_be_added_before_others_are_looked_for():
    subprocess.run([sys.executable, "-c", FIRST], check=True)


def test_a_method_that_was_added_is_found(monkeypatch):
    monkeypatch.setattr(registry, "_added", {})
    assert register(mine) is mine is find("Mine")
    assert len(methods()) == 1 + len(registry._found())


def test_no_method_takes_anothers_name(monkeypatch):
    monkeypatch.setattr(registry, "_added", {})
    with pytest.raises(RecipeError, match="there is a method 'linear' already"):
        register(linear)


def test_packages_offer_methods(installed):
    installed(mine)
    assert methods()["mine"] is mine


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        (len, "theirs.methods:theirs, which a package offers as 'theirs', is no method"),
        (linear, "called 'linear' like another"),
    ],
)
def test_what_a_package_may_not_offer(installed, offered, message):
    installed(offered)
    with pytest.raises(RecipeError, match=message):
        methods()
