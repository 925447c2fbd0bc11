"""KnOTS: merge in coordinates of a basis that all task vectors share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.method import Deltas, Fraction, MergedDelta, PerModel, Preset, Random, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route, in_frame
from mergery.methods._routes import EIGEN, WIDE, decomposing
from mergery.methods._thinning import combine
from mergery.methods._weights import check_sum

DRAW = 3e3  # operations in whose time a number is drawn


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    side, other = (into, out) if settings["across"] == "output" else (out, into)
    space = max(decomposing(side, k * other), WIDE * (3 * k + 10) * out * into)
    side = min(side, k * other)
    work = EIGEN * side**3 + 4.0 * k * side * side * other
    words = "1 basis of all columns by eigenvectors of the smaller Gram matrix"
    return Route(words, work, space)


def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route:
    sides = (rank, into) if settings["across"] == "input" else (out, rank)
    coins = k * out * into * draws(settings)
    cores = routing(k, *sides, settings)
    work, space = cores.operations + DRAW * coins, cores.workspace + WIDE * coins * (k + 10) // (2 * k)
    return in_frame(k, out, into, rank, Route(cores.words, work, space))


def draws(settings: Mapping[str, Any]) -> bool:
    return settings["host"] == "dare_ties"


def thinned(vector: Tensor, coins: Tensor, density: float) -> Tensor:
    """Each entry with the probability `density`, divided by it."""
    rows = coins[..., : vector.shape[-2], :].double()
    return vector * (rows < density) / density if density > 0.0 else vector * 0.0


@method(
    paper="2410.19735",
    unit="matrix",
    check=check_sum,
    roles=LINEAR,
    presets={"paper": Preset({"host": "ties", "density": 0.2, "scale": 0.6})},
    routing=routing,
    factored=factored,
)
def knots(
    deltas: Deltas,
    random: Annotated[Any, Random(when=draws)],
    *,
    host: Literal["linear", "ties", "dare_ties"] = "ties",
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.2),
    across: Literal["input", "output"] = "input",
    normalize: bool = True,
    scale: float = 1.0,
) -> MergedDelta:
    """Express all task vectors in one basis, merge their coordinates there, and map the result back.

        [x_1 - base .. x_k - base] = U S [V_1^T .. V_k^T]  (side by side);   Z_i = S V_i^T = U^T (x_i - base)
        out = base + scale * U f(Z_1 .. Z_k)

    f is the host: `linear` sums w_i Z_i, which is task arithmetic (or its mean); `ties` keeps the largest entries of
    each Z_i, elects signs and sums those that agree; `dare_ties` drops entries at random, divides by what is kept,
    and goes on as ties does. Directions with singular values below 1e-6 of the largest are left out, and so are such
    entries of a Z_i where signs are elected.

    Settings:
        host: what merges the coordinates.
        weight: factor of each task's coordinates.
        density: fraction that is kept of each Z_i; `linear` keeps all.
        across: lay the task vectors side by side (`input`), so that they share a basis of outputs, or one below the
            other (`output`), so that they share one of inputs.
        normalize: divide by the weights of those that agree, or of all with `linear`.
        scale: factor of the merged task vector; the paper tunes it on validation data between 0.4 and 0.7.

    Source: Stoica et al. 2025, Model merging with SVD to tie the knots (arXiv 2410.19735). There ties ranks over the
    coordinates of all layers at once, here within each matrix, and keeps floor(density n) + 1 of them, here
    floor(density n); and the bound on singular values is absolute there.
    The preset `paper` is that of ViT-B/32 with adapters of rank 16.

    Use it for fine-tunes by adapters of low rank, whose entries say little until they are in one basis.
    """
    import torch

    from mergery.kernels.spectral import cleared, framed, largest, rank, svd

    flip = across == "output"
    if flip:
        deltas = [transpose(delta) for delta in deltas]
    cores, frame = framed(deltas, one_sided=True)
    basis, s, _ = svd(torch.cat([core.double() for core in cores], dim=-1))
    inside = [basis.mT @ core.double() for core in cores]
    if host != "linear":
        inside = [cleared(z) for z in inside]
    if host == "dare_ties":
        coins = [random.uniform(model) for model in range(len(inside))]
        coins = [each_.mT for each_ in coins] if flip else coins
        inside = [thinned(z, u, float(p)) for z, u, p in zip(inside, coins, density, strict=True)]
    elif host == "ties":
        entries = rank(s) * inside[0].shape[-1]
        inside = [largest(z, float(p), entries) for z, p in zip(inside, density, strict=True)]
    merged = combine(inside, weight, elect=host != "linear", normalize=normalize) * scale
    result = frame.lift(basis, merged)
    return transpose(result) if flip else result


def transpose(matrix: Any) -> Any:
    """A matrix or factored matrix the other way round."""
    from mergery.kernels.spectral import Factored

    return Factored(matrix.right.mT, matrix.left.mT) if isinstance(matrix, Factored) else matrix.mT
