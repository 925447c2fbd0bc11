"""A merge's settings, resolved for one tensor: the levels of the recipe in turn, then the method's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mergery.errors import MergeryError, PlanError, RecipeError
from mergery.graph.nodes import Node
from mergery.graph.ranks import ranks_of
from mergery.graph.walking import merged_by
from mergery.method import Method, Setting
from mergery.recipe import Merge
from mergery.recipe.values import UNSET, Target, Value


def resolve_settings(
    merge: Merge,
    method: Method,
    merged: tuple[str, ...],
    levels: tuple[Mapping[str, Value], ...],
    target: Target,
    problems: list[MergeryError],
) -> dict[str, Any]:
    """All settings of a method at one tensor: per-model numbers as float64 (k,), the rest as plain values."""
    result: dict[str, Any] = {}
    for setting in method.settings.values():
        values = [level[setting.name] for level in levels if setting.name in level]
        names = merged if setting.per_model else (None,)
        each = [_value_at(merge, method, setting, values, target, name, problems) for name in names]
        result[setting.name] = setting.received(each, merged)
    if not problems:
        try:
            method.settle(result, {name for level in levels for name in level})
        except RecipeError as error:
            problems.append(error.at(merge.place))
    return result


def _value_at(
    merge: Merge,
    method: Method,
    setting: Setting,
    values: list[Value],
    target: Target,
    model: str | None,
    problems: list[MergeryError],
) -> Any:
    for value in values:
        answer = value.at(target, model)
        if answer is not UNSET:
            return setting.check(answer)
    if not setting.required:
        return setting.default
    where = merge.places.get(setting.name, merge.place)
    start = f"{method.name} has no {setting.name!r} for "
    if not any(problem.where == where and problem.what.startswith(start) for problem in problems):
        what = f"{start}some tensors, such as {target.name!r}" + (f" of {model!r}" if model else "")
        hint = f"end the list with {{value: {setting.example()}}}; {setting.name} is {setting.type_in_words()}"
        problems.append(PlanError(what, where=where, hint=hint))
    return 0


def check_model_wide(
    method: Method, merge: Merge, nodes: Mapping[str, Node], number: int, problems: list[MergeryError]
) -> None:
    """A rank over the whole model needs one rank for the whole model."""
    made = merged_by(number, nodes.values()) if method.orders else []
    for name, ask in method.orders:
        asking = [node for node in made if ask.spans_model(node.settings)]
        total = sum(node.elements for node in asking)
        distinct = {id(node.settings): node for node in asking}.values()
        try:
            ranks = [ranks_of(node, [(name, ask)], total, {}).tolist() for node in distinct]
        except KeyError:  # it depends on another statistic
            continue
        if any(rank != ranks[0] for rank in ranks):
            word = ask.rank if isinstance(ask.rank, str) else differing([node.settings for node in distinct])
            what = f"{word} changes from tensor to tensor, but {method.name} ranks over the whole model"
            hint = "set scope: tensor, or give one value for each model"
            problems.append(PlanError(what, where=merge.places.get(word, merge.place), hint=hint))
            return


def differing(resolved: list[Mapping[str, Any]]) -> str:
    """The names of settings that are not the same everywhere."""
    first = resolved[0]
    return ", ".join(name for name in first if any(not np.array_equal(each[name], first[name]) for each in resolved))
