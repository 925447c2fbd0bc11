"""Fisher merging: an average in which each number counts as much as its model's text rests on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.errors import RecipeError
from mergery.method import Fisher, Models, PerModel, Tensor, each, method
from mergery.methods.wudi import check_weight


def check(settings: Mapping[str, Any]) -> None:
    """Refuse weights and floors below zero."""
    check_weight(settings)
    if settings["floor"] < 0.0:
        raise RecipeError(f"floor is {settings['floor']:g}", why="it must not be negative", hint="floor: 1e-6")


@method(paper="2111.09832", check=check)
def fisher(
    models: Models,
    information: Annotated[list[Tensor], Fisher()],
    *,
    weight: PerModel[float] = each(1.0),
    floor: float = 1e-6,
) -> Tensor:
    """Average each number, weighed by the Fisher information that its model has of it.

        out = sum_i w_i (F_i + e) x_i / sum_i w_i (F_i + e)

    F_i is the mean over examples of the squared gradient of the log-likelihood, and e the floor. `mergery calibrate --stats
    fisher` measures it, and the recipe names it under `statistics`. Where all is zero, the models are averaged.

    Settings:
        weight: share of each model, not negative.
        floor: what is added to all information, so that numbers of which nothing is known are averaged. Where it is far above
            the information itself, as it may be for large models, everything is.

    Source: Matena and Raffel 2022, Merging models with Fisher-weighted averaging (arXiv 2111.09832), with its floor. Their
    code adds it to one model alone; here it is added to all, as in later ones.

    Use it for fine-tunes of one base with a few hundred examples of each task at hand, where what one model has learnt is
    not to be averaged away by others that never used it.
    """
    import torch

    above, below, mean = (torch.zeros_like(models[0], dtype=torch.float64) for _ in range(3))
    for share, model, own in zip(weight / weight.sum(), models, information, strict=True):
        known = float(share) * (own.double() + floor)
        above += known * model.double()
        below += known
        mean += float(share) * model.double()
    known = below > 0.0
    return (above / below.where(known, 1.0)).where(known, mean).float()
