"""The merge whose weights are learnt: what each model adds to each tensor at weight 1, as recipes that the planner knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mergery.errors import PlanError, RecipeError
from mergery.graph.nodes import Merged, Node, Stored
from mergery.method import Method, find, methods
from mergery.method.setting import SCALE, WEIGHT
from mergery.planning.opening import open_all
from mergery.planning.plan import Plan, plan_recipe
from mergery.recipe import Merge, Override, Recipe
from mergery.recipe.reading import load_recipe
from mergery.recipe.values import ByModel, Constant, Filtered, Value

NORMALIZE = "normalize"
ENDS = {SCALE: 1.0, NORMALIZE: False}
"""Settings that a weight of its own for each model makes needless."""


@dataclass(frozen=True)
class Host:
    """A recipe's merge with weights of its own, planned once for each model at weight 1, and once for none."""

    recipe: Recipe
    plan: Plan  # as the recipe says it
    nothing: Plan  # all weights zero
    units: tuple[Plan, ...]  # one model's weight 1, and the others' zero
    begin: Mapping[
        str, np.ndarray
    ]  # the recipe's own weights (k,) of each tensor that has some, with its scale in them
    averages: bool  # whether the method averages

    @property
    def models(self) -> tuple[str, ...]:
        return self.recipe.merge.models


@contextlib.contextmanager
def open_host(source: Any) -> Iterator[Host]:
    """Open a recipe whose weights can be learnt. Raises MergeryError where its method has none."""
    recipe = load_recipe(source)
    method = check(recipe)
    checkpoints = open_all(recipe)
    try:
        for checkpoint in checkpoints.values():
            checkpoint.prepare()
        plan = plan_recipe(recipe, checkpoints, ())
        if plan.adapter is not None:
            hint = "leave out output: adapter, and put it into the recipe that is learnt"
            raise PlanError("this recipe makes an adapter, which cannot be run", hint=hint)
        models = recipe.merge.models
        rows = [dict.fromkeys(models, 0.0)] + [{each: float(each == own) for each in models} for own in models]
        plans = [
            plan_recipe(weighted(recipe, {n: Constant(v) for n, v in row.items()}), checkpoints, ()) for row in rows
        ]
        yield Host(recipe, plan, plans[0], tuple(plans[1:]), _begin(plan, method), method.name == "linear")
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()


def check(recipe: Recipe) -> Method:
    """The method of a recipe's merge, once it is known that its weights can be learnt. Raises RecipeError."""
    merge = recipe.merge
    method = find(merge.method)
    if method.additive is None:
        able = sorted(name for name, each in methods().items() if each.additive is not None)
        what = f"the weights of {method.name} cannot be learnt"
        why = (
            "its result is no sum of what each model adds at its weight" if WEIGHT in method.settings else "it has none"
        )
        raise RecipeError(
            what, where=merge.place, why=why, hint=f"method: task_arithmetic, or one of {', '.join(able)}"
        )
    if merge.stack or merge.growth:
        hint = "learn the weights of a merge of whole models, and stack its result"
        raise RecipeError("the weights of a stack cannot be learnt", where=merge.place, hint=hint)
    for name, wanted in method.additive.items():
        value = merge.settings.get(name, Constant(method.settings[name].default))
        if value != Constant(wanted):
            what, hint = f"the weights of {method.name} are learnt with {name}: {wanted}", f"{name}: {wanted}"
            raise RecipeError(what, where=merge.places.get(name, merge.place), why="it is a sum then", hint=hint)
    return method


def weighted(recipe: Recipe, weights: Mapping[str, Constant | Filtered]) -> Recipe:
    """The recipe with a weight for each model, which is all that counts: no scale, and no division by their sum.

    Parts of the recipe with a method of their own keep the weights that they had.
    """
    merge = recipe.merge
    method = find(merge.method)
    ends = {name: Constant(value) for name, value in ENDS.items() if name in method.settings}
    settings: dict[str, Value] = {**merge.settings, **ends, WEIGHT: ByModel(tuple(weights.items()))}
    parts = tuple(_kept(each, merge) for each in merge.overrides)
    return replace(recipe, merge=replace(merge, settings=settings, overrides=parts))


def _kept(part: Override, merge: Merge) -> Override:
    """A part of a recipe with the weight that it would take from the merge."""
    own = find(part.method).settings if part.method else {}
    if WEIGHT not in own or WEIGHT in part.settings:
        return part
    inherited = merge.settings.get(WEIGHT, Constant(own[WEIGHT].default))
    return replace(part, settings={**part.settings, WEIGHT: inherited})


def _begin(plan: Plan, method: Method) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, node in plan.view.nodes.items():
        merged = _merged(node, method)
        if merged is None:
            continue
        settings = merged.settings
        weight = np.asarray(settings[WEIGHT], np.float64) * float(settings.get(SCALE, 1.0))
        found[name] = weight / settings[WEIGHT].sum() if settings.get(NORMALIZE) else weight
    return found


def _merged(node: Node, method: Method) -> Merged | None:
    """The merge by a method of which a tensor, or the first of its parts, is made."""
    if isinstance(node, Merged):
        return node if node.method.name == method.name else None
    rows = () if isinstance(node, Stored) else node.rows
    return next((found for row in rows if (found := _merged(row, method)) is not None), None)
