"""ReasonAny: what a domain's text rests on most, beside what reasoning rests on least."""

from __future__ import annotations

from typing import Annotated

from mergery.method import Deltas, Fisher, Fraction, Tensor, method


@method(paper="2601.05560", unit="tensor", models=(2, 2), symmetric=False)
def reasonany(
    deltas: Deltas,
    information: Annotated[list[Tensor], Fisher()],
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
    most = first >= _limit(first, domain, largest=True)
    least = second <= _limit(second, reasoning, largest=False)
    zero = torch.zeros_like(deltas[0])
    return deltas[0].where(most & ~least, zero) + deltas[1].where(least & ~most, zero)


def _limit(scores: Tensor, share: float, *, largest: bool) -> float:
    """The score of the last of a share of numbers, which begin at the largest or at the smallest; beyond all for none."""
    count = min(scores.numel(), int(share * scores.numel() + 0.5))
    if not count:
        return float("inf") if largest else float("-inf")
    flat = scores.reshape(-1)
    return float(flat.kthvalue(scores.numel() - count + 1 if largest else count).values)
