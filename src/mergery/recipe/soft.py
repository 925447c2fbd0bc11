"""Soft maps in `align`: what `method: transport` and `method: zip` are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader

TRANSPORT, ZIP = "transport", "zip"
SOFT = (TRANSPORT, ZIP)
"""The ways to align that change what a model computes."""
JOINS = ("mean", "only_resid")
BY_WEIGHTS, BY_ACTIVATIONS = 0.06, 0.08
"""The published regularisation of plans, where costs are divided by their largest (arXiv 2310.05719)."""
SPACES = {TRANSPORT: ("residual", "mlp", "heads", "qk", "vo"), ZIP: ("residual", "mlp")}
"""What each can map."""
OF_METHOD = {TRANSPORT: ("epsilon", "join"), ZIP: ("budget", "decay", "stop")}


@dataclass(frozen=True)
class Soft:
    """How soft maps are found.

    epsilon: of transport, the share of the largest cost by which plans are smoothed; 0 is an exact assignment; None the
             published one.
    join:    of transport, by what the residual stream has its plan: the `mean` of the costs at all places that say something of
             it, or the first, the embeddings (`only_resid`).
    budget:  of zip, the share of a model's units that may be merged with others of that same model.
    decay:   of zip, what the similarity of a merged unit to others is multiplied with.
    stop:    of zip, the number of first layers that are zipped; None: all.
    """

    epsilon: float | None = None
    join: str = JOINS[0]
    budget: float = 0.125
    decay: float = 0.3
    stop: int | None = None

    def plain(self) -> dict[str, Any]:
        """What is not as where nothing is said."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in own.items() if value != getattr(_DEFAULT, name)}

    def sharpness(self, *, by_activations: bool) -> float:
        """`epsilon`, or the published one."""
        return self.epsilon if self.epsilon is not None else BY_ACTIVATIONS if by_activations else BY_WEIGHTS


_DEFAULT = Soft()
KEYS = tuple(field.name for field in fields(Soft))


def read_soft(reader: RecipeReader, said: Mapping[str, Any], method: Any, path: KeyPath) -> Soft:
    """The settings of soft maps; those of another method are refused."""
    found = {key: said[key] for key in KEYS if key in said}
    for key in found:
        owner = next(each for each, keys in OF_METHOD.items() if key in keys)
        if method != owner:
            reader.fail(
                f"{key} is of method: {owner}", (*path, key), key=True, hint=f"method: {owner}, or leave it out"
            )
            return _DEFAULT
    for index, each in enumerate(said.get("spaces", ())):
        if method in SOFT and each not in SPACES[method]:
            hint = f"spaces: [{', '.join(SPACES[method])}]"
            reader.fail(f"{method} has no map of {each!r}", (*path, "spaces", index), hint=hint)
            return _DEFAULT
    limits = {"epsilon": (0.0, float("inf")), "budget": (0.0, 1.0), "decay": (0.0, 1.0)}
    for key in limits.keys() & found.keys():
        value, (low, high) = found[key], limits[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            most = "0 or more" if high == float("inf") else f"from {low:g} to {high:g}"
            reader.fail(f"{key} is {value!r}", (*path, key), why=f"it must be a number, {most}", hint=f"{key}: 0.1")
            return _DEFAULT
        found[key] = float(value)
    stop = found.get("stop")
    if stop is not None and (not isinstance(stop, int) or isinstance(stop, bool) or stop < 1):
        why = "it is a number of layers, the first ones"
        reader.fail(f"stop is {stop!r}", (*path, "stop"), why=why, hint="stop: 1")
        return _DEFAULT
    if found.get("join") == "no_resid":
        why = (
            "the plan of each block's output alone would be another one in each layer, and one stream runs through all"
        )
        reader.fail("join cannot be 'no_resid'", (*path, "join"), why=why, hint=f"join: {JOINS[0]}")
        return _DEFAULT
    if found.get("join", JOINS[0]) not in JOINS:
        reader.fail(f"join is {found['join']!r}", (*path, "join"), hint=f"join: {' or '.join(JOINS)}")
        return _DEFAULT
    return Soft(**found)


def soft_schema() -> dict[str, Any]:
    """The settings of soft maps, for editors."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "epsilon": {"type": "number", "minimum": 0, "description": "Of transport: how soft plans are; 0 is exact."},
        "join": {"enum": list(JOINS), "default": _DEFAULT.join},
        "budget": {**share, "default": _DEFAULT.budget, "description": "Of zip: merges within one model."},
        "decay": {**share, "default": _DEFAULT.decay, "description": "Of zip: for similarities of merged units."},
        "stop": {"type": "integer", "minimum": 1, "description": "Of zip: the first layers that are zipped."},
    }
