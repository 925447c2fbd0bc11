"""Spectral filter: what of a task vector lies within the base's own leading directions, or what does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.method import Base, Deltas, Fraction, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, 1, held=0.5, what="1 thin SVD of the base")


@method(paper="2607.03065", unit="matrix", models=(1, 1), roles=LINEAR, routing=routing)
def spectral_filter(
    deltas: Deltas,
    base: Annotated[Tensor, Base()],
    *,
    base_subspace: Literal["keep", "remove"] = "keep",
    rank: Fraction = 0.01,
    scale: float = 1.0,
) -> Tensor:
    """Keep of a task vector what lies within the base's leading singular directions, or take that out.

        base = U S V^T;   P = U_r U_r^T (x - base) V_r V_r^T,   r = rank min(out, in), rounded up
        out = base + scale * P  (`keep`),   or base + scale * (x - base - P)  (`remove`)

    Settings:
        base_subspace: for models trained by reinforcement learning, whose task vectors live within the base's own
            directions, keep them; for supervised fine-tunes, whose new knowledge stands beside them, remove them.
        rank: fraction of the base's directions, in [0, 1]; about a hundredth is said to hold what reinforcement learning
            has changed. With 1, a square matrix is kept or removed as a whole.
        scale: factor of what stays.

    Source: `keep` after spectral rewiring (arXiv 2607.03065), `remove` after PACT (arXiv 2606.18627), from descriptions of
    both. They contradict each other on purpose: measure. Everything else is the model's own.

    Use it as a stage, one for each fine-tune, before a merge of the results.
    """
    from mergery.kernels.spectral import dense, svd

    delta = dense(deltas)[0]
    u, _, vh = svd(base, math.ceil(rank * min(base.shape[-2:])))
    within = u @ (u.mT @ delta.double() @ vh.mT) @ vh
    return (within if base_subspace == "keep" else delta.double() - within) * scale
