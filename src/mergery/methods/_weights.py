"""When weights can be divided by their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import RecipeError

TINY = 1e-12  # of the sum of magnitudes


def vanishes(weight: Any) -> bool:
    """Whether weights cancel, up to rounding: their sum then divides nothing."""
    return bool(abs(weight.sum()) <= TINY * abs(weight).sum())


def check_sum(settings: Mapping[str, Any]) -> None:
    """Refuse weights that are to be normalized and sum to zero."""
    if settings["normalize"] and vanishes(settings["weight"]):
        raise RecipeError(
            "the weights sum to zero",
            why="with normalize: true they are divided by their sum",
            hint="change a weight, or set normalize: false",
        )


def check_positive(settings: Mapping[str, Any]) -> None:
    """Refuse weights that have no mean direction: their sum must be positive."""
    weight = settings["weight"]
    if vanishes(weight) or weight.sum() < 0.0:
        raise RecipeError(
            "the weights do not sum to a positive number",
            why="a mean on the sphere divides by their sum",
            hint="weights above zero, such as weight: 1",
        )
