"""A part of a view: what `--only` names."""

from __future__ import annotations

from dataclasses import replace

from mergery.errors import RecipeError
from mergery.graph.view import View
from mergery.planning.nodes import target_of
from mergery.recipe.values import PARTS, ROLES, Condition, parse_condition


def restrict(view: View, only: tuple[str, ...]) -> View:
    """The part of a view that any of the words names. Raises RecipeError for a word that names nothing."""
    conditions = {word: only_condition(word) for word in only}
    targets = {name: target_of(name, parsed) for name, parsed in view.architecture.names.items()}
    for word, condition in conditions.items():
        if not any(condition.holds(target) for name, target in targets.items() if name in view.nodes):
            depth = view.architecture.depth
            raise RecipeError(f"--only {word} names no tensor", hint=f"the model has layers 0-{depth - 1}")
    kept = {
        name: node
        for name, node in view.nodes.items()
        if any(condition.holds(targets[name]) for condition in conditions.values())
    }
    return replace(view, nodes=kept)


def only_condition(word: str) -> Condition:
    """What `layers.0-1`, `attention.q` or `*.mlp.*` select."""
    if word.startswith("layers."):
        return parse_condition({"layers": word.removeprefix("layers.")})
    return parse_condition({"role": word} if word in ROLES else {"part": word} if word in PARTS else {"name": word})
