"""LED-Merging: of each task what matters to its model and to the base alike, and to no other task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.errors import RecipeError
from mergery.method import Base, Deltas, Fisher, FisherOfBase, Fraction, Largest, PerModel, Tensor, each, method


def check(settings: Mapping[str, Any]) -> None:
    """Refuse a scale below zero."""
    if settings["scale"] < 0.0:
        raise RecipeError(f"scale is {settings['scale']:g}", why="it must not be negative", hint="scale: 0.9")


def of_models(deltas: Deltas, base: Tensor, information: list[Tensor]) -> list[Tensor]:
    """How much each model's text rests on each of its numbers."""
    return [(base + delta).abs() * known.sqrt() for delta, known in zip(deltas, information, strict=True)]


def of_base(base: Tensor, before: list[Tensor]) -> list[Tensor]:
    """How much each model's text rests on each of the base's numbers, in the base."""
    return [base.abs() * known.sqrt() for known in before]


@method(paper="2502.16770", check=check)
def led(
    deltas: Deltas,
    base: Annotated[Tensor, Base()],
    information: Annotated[list[Tensor], Fisher()],
    before: Annotated[list[Tensor], FisherOfBase()],
    least: Annotated[list[float], Largest("share", of=of_models)],
    least_before: Annotated[list[float], Largest("share", of=of_base)],
    *,
    share: PerModel[Fraction] = each(0.4),
    scale: float = 0.9,
) -> Tensor:
    """Locate, elect, disjoin: add those numbers of a task vector that its own task alone rests on, before and after training.

        s_i = |x_i| sqrt(F_i),  t_i = |base| sqrt(G_i)
        e_i = 1 where s_i and t_i are both among their `share` largest, else 0        (elect)
        m_i = 1 where e_i = 1 and e_j = 0 for all other j, else 0                     (disjoin)
        out = base + scale * sum_i m_i (x_i - base)

    F_i is the Fisher information of model i on its own data, G_i that of the base on the same. Shares are of each tensor.
    Numbers with as much as the last of a share are in it too.

    Settings:
        share: share of a tensor's numbers that are located for each model, in [0, 1]. The authors take .1 for safety, .4 for
            mathematics and .5 for code with Llama 3.
        scale: how much of what is left is added; .9 in the paper.

    Source: Ma et al. 2025, LED-Merging (arXiv 2502.16770). They score by the mean magnitude of a number times its gradient
    (SNIP), on the data's own answers; here it is the root of the mean square, on labels that `calibration` names: `labels:
    empirical` are the data's.

    Use it where a merge may not lose what one of its models must do, such as refusing: tasks that want the same numbers leave
    them as they are in the base.
    """
    import torch

    zero = torch.zeros_like(base)
    after = [own >= cut for own, cut in zip(of_models(deltas, base, information), least, strict=True)]
    elected = [own & (score >= cut) for own, score, cut in zip(after, of_base(base, before), least_before, strict=True)]
    claims = torch.stack(elected).sum(0)
    merged = zero
    for delta, own in zip(deltas, elected, strict=True):
        merged = merged + delta.where(own & (claims == 1), zero)
    return scale * merged
