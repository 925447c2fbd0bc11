"""ReasonAny: what a domain's text rests on most, beside what reasoning rests on least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from mergery.method import Deltas, Fisher, Fraction, Largest, Tensor, method


def rank_of_domain(n: int, settings: Mapping[str, Any]) -> int:
    """The rank of the last number of the domain's share, from the largest; 0 for none."""
    return int(settings["domain"] * n + 0.5)


def rank_of_reasoning(n: int, settings: Mapping[str, Any]) -> int:
    """The rank, from the largest as well, of the last number of the share with the least information; 0 for none."""
    count = int(settings["reasoning"] * n + 0.5)
    return n + 1 - count if count else 0


def of_domain(information: list[Tensor]) -> Tensor:
    """The information that the first model's numbers have."""
    return information[0]


def of_reasoning(information: list[Tensor]) -> Tensor:
    """The information that the second model's numbers have."""
    return information[1]


@method(paper="2601.05560", models=(2, 2), symmetric=False)
def reasonany(
    deltas: Deltas,
    information: Annotated[list[Tensor], Fisher()],
    most: Annotated[float, Largest(rank_of_domain, of_domain)],
    least: Annotated[float, Largest(rank_of_reasoning, of_reasoning)],
    *,
    domain: Fraction = 0.05,
    reasoning: Fraction = 0.05,
) -> Tensor:
    """Add the numbers on which a domain's text rests most, and those of a reasoning model on which its text rests least.

        out = base + m_1 * d_1 + m_2 * d_2,   models: [domain, reasoning]

    m_1 has the share `domain` of the first model's numbers with the largest Fisher information on its own text, m_2 the share
    `reasoning` of the second model's with the least on its own; a number that is in both is in neither. Shares are of each
    tensor. Numbers with as much information as the last of a share are in it too.

    Settings:
        domain: share of the first model's numbers that are added.
        reasoning: share of the second model's numbers that are added; 1 adds all that the first does not take.

    Source: the mergers of ReasonAny (arXiv 2601.05560), who find that what a reasoning model has learnt sits where gradients
    are small. They rank mean magnitudes of gradients of some hundred texts; Fisher information ranks mean squares.

    Use it for a model that reasons and one of a domain, of one base, with a hundred texts of each at hand.
    """
    import torch

    first, second = information
    domains = first >= most
    reasons = second <= (least if math.isfinite(least) else -math.inf)  # infinity stands for none
    zero = torch.zeros_like(deltas[0])
    return deltas[0].where(domains & ~reasons, zero) + deltas[1].where(reasons & ~domains, zero)
