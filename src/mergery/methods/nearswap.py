"""Nearswap: take the other model's parameters where they are near."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.errors import RecipeError
from mergery.method import Base, Models, Tensor, method
from mergery.method.compiled import compiled

LARGEST = 10.0  # beyond it, t is not meant as a distance between parameters


def check_t(settings: Mapping[str, Any]) -> None:
    if settings["t"] < 0.0:
        raise RecipeError(f"t is {settings['t']:g}", why="it is a distance, which is not negative", hint="t: 0.0001")
    if settings["t"] > LARGEST:
        why = (
            "it is a distance in the units of the parameters: with this one every parameter would be the other model's"
        )
        raise RecipeError(f"t is {settings['t']:g}", why=why, hint="t: 0.0001")


@method(paper="nearswap", models=(1, 1), symmetric=False, check=check_t)
@compiled("mergery.methods.compiled.changes:nearswap")
def nearswap(models: Models, base: Annotated[Tensor, Base()], *, t: float) -> Tensor:
    """Move each parameter of the base towards another model's, by a distance of at most t.

        out = w x + (1 - w) base,   w = clip(t / |x - base|, 0, 1)

    that is base + sign(x - base) min(|x - base|, t): parameters nearer than t are swapped, others move by t.

    Settings:
        t: a distance in the units of the parameters, not negative. 0 is the base; 0.0001 was used for a 70B
            model. The root mean square of x - base is a scale to compare it with.

    Source: alchemonaut 2024, QuartetAnemoi-70B-t0.0001 (model card).

    Use it to take a little of a second model: no parameter moves by more than t.
    """
    (model,) = models
    gap = model - base
    return model.where(gap.abs() <= t, base + gap.clamp(-t, t))
