"""OrthoMerge: average the rotations that fine-tuning made of the base's weights, then what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mergery.method import Base, Deltas, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import WIDE, decomposition
from mergery.methods.tsv_merge import combine, shares


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    work = k * (3 * decomposition(into, into) + 4.0 * out * into * into) + 5.0 * (k + 1) * into**3
    words = "1 rotation of the inputs for each model, by 3 decompositions"
    return Route(words, work, WIDE * ((k + 11) * into * into + (2 * k + 3) * out * into))


def rotation(base: Tensor, target: Tensor) -> Tensor:
    """The orthogonal R (in, in) with the least |base R - target|; where neither has anything to say, the least turn."""
    import torch

    from mergery.kernels.spectral import polar, svd

    u, _, vh = svd(base.mT @ target)
    unit = torch.eye(base.shape[-1], dtype=base.dtype, device=base.device)
    before, after = unit - u @ u.mT, unit - vh.mT @ vh
    return u @ vh + polar(before @ after, of=1.0)


def skew(turn: Tensor) -> Tensor:
    """Cayley's (R + I)^-1 (R - I); half turns, which it does not reach, are left out."""
    import torch

    unit = torch.eye(turn.shape[-1], dtype=turn.dtype, device=turn.device)
    values, vectors = torch.linalg.eigh(2.0 * unit + turn + turn.mT)
    kept = values > 1e-12 * values[..., -1:]
    inverse = (vectors * (kept / values.where(kept, 1.0)).unsqueeze(-2)) @ vectors.mT
    result = inverse @ (turn - turn.mT)
    return 0.5 * (result - result.mT)


def turned(generator: Tensor) -> Tensor:
    """Cayley's (I - A)^-1 (I + A), orthogonal for a skew A."""
    import torch

    unit = torch.eye(generator.shape[-1], dtype=generator.dtype, device=generator.device)
    return torch.linalg.solve(unit - generator, unit + generator)


def averaged(generators: Sequence[Tensor], weight: Any) -> Tensor:
    """The direction of the weighted sum, with the weighted mean of the norms: an average that does not shrink."""
    from mergery.kernels.spectral import norm, total

    whole = total(generators, weight)
    sizes = sum(abs(float(factor)) * norm(each_) for factor, each_ in zip(weight, generators, strict=True))
    size, share = norm(whole), sum(abs(float(factor)) for factor in weight)
    return whole * (sizes / (share or 1.0) / size.where(size > 0.0, 1.0))


def conflicting(deltas: Sequence[Tensor]) -> list[Tensor]:
    """The rows of each task vector that point away from the mean; zero elsewhere."""
    mean = sum(delta.double() for delta in deltas) / len(deltas)
    return [delta.double() * ((delta.double() * mean).sum(-1, keepdim=True) < 0.0) for delta in deltas]


@method(
    paper="2602.05943",
    unit="matrix",
    roles=LINEAR,
    presets={"paper": Preset({"scale": 0.2}, roles=MATRICES)},
    routing=routing,
    weighs="factors",
)
def orthomerge(
    deltas: Deltas,
    base: Annotated[Tensor, Base()],
    *,
    weight: PerModel[float] = each(1.0),
    rows: Literal["conflicting", "all"] = "conflicting",
    residual: Literal["sum", "tsv"] = "sum",
    scale: float | None = None,
) -> Tensor:
    """Average the rotations of the base's weights that fine-tuning made, and add what rotations do not explain.

        R_i the orthogonal matrix with the least |base R_i - t_i|,  t_i the base with model i's conflicting rows
        A_i = (R_i + I)^-1 (R_i - I);   A = (mean_i |A_i|) sum_i A_i / |sum_i A_i|;   R = (I - A)^-1 (I + A)
        out = base R + scale * sum_i w_i (x_i - base R_i)

    Rows conflict where a task vector's row points away from the mean of all. A is skew, so that its average is a
    rotation again; the norm is corrected because rotations about different axes cancel. Reflections and half turns
    have no A: there R_i is the identity, and the residual takes them.

    Settings:
        weight: factor of each model's rotation and residual.
        rows: rotate onto the conflicting rows of each model, or onto all of them.
        residual: how what is left is merged: by the sum, or as `tsv_merge` does.
        scale: factor of the residual. Without one, 1 / k, which is Mergery's choice; 0.2 for five models in the authors'
            code.

    Source: Yang, Shi and Liu 2026, OrthoMerge (arXiv 2602.05943), from the description of its code. There directions
    that the base does not reach turn arbitrarily, here as little as possible. The preset `paper` also turns
    embeddings and head. Everything else is averaged.

    Use it for fine-tunes of one base whose task vectors oppose each other. It needs the base's own weights, and so
    costs the same for adapters as for full fine-tunes.
    """
    import torch

    from mergery.kernels.spectral import dense, total

    full = dense(deltas)
    if full[0].ndim > 2:
        stack = [[delta[i] for delta in full] for i in range(len(full[0]))]
        own = {"weight": weight, "rows": rows, "residual": residual, "scale": scale}
        return torch.stack([orthomerge.function(each_, base[i], **own) for i, each_ in enumerate(stack)])
    origin = base.double()
    unit = torch.eye(origin.shape[-1], dtype=torch.float64, device=origin.device)
    aims = conflicting(full) if rows == "conflicting" else [delta.double() for delta in full]
    generators = [skew(rotation(origin, origin + aim)) if bool(aim.any()) else 0.0 * unit for aim in aims]
    whole = turned(averaged(generators, weight))
    left = [delta.double() - (origin @ turned(own) - origin) for delta, own in zip(full, generators, strict=True)]
    share = 1.0 / len(full) if scale is None else scale
    exact = [0.0] * len(left)
    merged = combine(left, shares(left, min(origin.shape)), weight, exact) if residual == "tsv" else total(left, weight)
    return (origin @ whole - origin) + merged * share
