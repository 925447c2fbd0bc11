"""RegMean: least squares on what the models' weights are multiplied with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.method import Fraction, Inputs, Models, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import WIDE
from mergery.methods.wudi import check_weight


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    """One factorisation of a matrix of inputs, and one product for each model."""
    operations = into**3 / 3.0 + 2.0 * (k + 1) * out * into**2
    return Route("a Cholesky factor of the Gram matrices' sum", operations, WIDE * ((k + 4) * out * into + 5 * into**2))


@method(
    paper="2212.09849",
    unit="matrix",
    check=check_weight,
    roles=LINEAR,
    presets={"paper": Preset({"off_diagonal": 0.9})},
    routing=routing,
)
def regmean(
    models: Models,
    inputs: Annotated[list[Tensor], Inputs()],
    *,
    weight: PerModel[float] = each(1.0),
    off_diagonal: Fraction = 0.9,
) -> Tensor:
    """Find the matrix whose outputs are nearest to every model's own, on the inputs that each model has.

        out = m + (sum_i w_i (x_i - m) G_i) (sum_i w_i G_i)^+,   m = sum_i w_i x_i / sum_i w_i

    G_i = X_i^T X_i are the inputs of model i on its own data, divided by its number of tokens, with entries off the diagonal
    times `off_diagonal`. Without calibration data for a model there is no G_i: `mergery calibrate` measures it, and the
    recipe names it under `statistics`. Where the inputs leave nothing to decide, the average m stays.

    Settings:
        weight: weight of each model's data, not negative.
        off_diagonal: factor of entries off the diagonal. Below 1 the sum can be inverted however little data there is; at 1
            singular Gram matrices are cut where float32 does not tell their eigenvalues from zero.

    Source: Jin et al. 2023, Dataless knowledge fusion by merging weights of language models (arXiv 2212.09849), where 0.9
    is usual, and 0.1 for models of an encoder and a decoder. Sums over tokens are made means, as later code does, so that
    more data give a model no more weight. Everything but the matrices of attention and MLPs is averaged.

    Use it for fine-tunes of one base on different tasks, with a few hundred texts of each at hand: it is the plainest
    method that looks at data, and needs no tuning.
    """
    import torch

    wide = [model.double() for model in models]
    mean = torch.zeros_like(wide[0])
    for share, model in zip(weight / weight.sum(), wide, strict=True):
        mean += float(share) * model
    gram, pull = torch.zeros_like(inputs[0], dtype=torch.float64), torch.zeros_like(mean)
    for share, model, own in zip(weight, wide, inputs, strict=True):
        shrunk = own.double() * (float(share) * off_diagonal)
        shrunk.diagonal(dim1=-2, dim2=-1).copy_(own.double().diagonal(dim1=-2, dim2=-1) * float(share))
        gram += shrunk
        pull += (model - mean) @ shrunk
    return (mean + solved(pull, gram)).float()


def solved(pull: Tensor, gram: Tensor) -> Tensor:
    """pull (..., out, in) times the pseudo-inverse of positive Gram matrices (..., in, in), one by one; float64."""
    import torch

    if gram.ndim == 3:
        return torch.stack([solved(*pair) for pair in zip(pull, gram, strict=True)])
    scale = gram.diagonal().clamp(min=0.0).sqrt()
    if not scale.numel() or not bool(scale.any()):
        return torch.zeros_like(pull)
    seen = scale > 0.0  # inputs that no data have are nobody's
    root = scale.where(seen, 1.0)
    correlation = gram / root / root[:, None]
    correlation.diagonal().copy_(torch.ones_like(root))
    factor, info = torch.linalg.cholesky_ex(correlation)
    if int(info) == 0 and float(factor.diagonal().min()) > NEAR_SINGULAR:
        return torch.cholesky_solve((pull / root).mT, factor).mT / root * seen
    values, vectors = torch.linalg.eigh(gram)
    kept = values > len(values) * FLOAT32 * values[-1]
    return (pull @ vectors) / values.where(kept, 1.0) * kept @ vectors.mT


FLOAT32 = 2.0**-23  # spacing of float32 at 1, in which statistics are kept
NEAR_SINGULAR = 1e-3  # the least pivot's root: its square is what float32 tells from zero
