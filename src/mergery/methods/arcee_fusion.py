"""Arcee Fusion: take over the outlying changes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from mergery.kernels import ROW_LANES
from mergery.method import Base, Largest, Models, Tensor, method
from mergery.method.compiled import compiled
from mergery.methods._exponential import LARGEST, NEAR, bend, exp, log


@compiled("mergery.methods.compiled.divergence:importance", each=False)
def importance(models: Models, base: Tensor) -> Tensor:
    """|x - base| times the divergence of its row: float32 (rows, n), not negative."""
    (model,) = models
    return (model - base).abs() * divergence(model, base).float()


def divergence(model: Tensor, base: Tensor) -> Tensor:
    """KL(softmax(model row) || softmax(base row)) for each row: float64 (rows, 1).

    Its terms p log(p/q) - p + q are not negative, and lose nothing where the rows nearly agree; so float32 is enough for them.
    An error in the logarithm of a sum enters by its square.
    """
    top_x, top_y = model.amax(-1, keepdim=True), base.amax(-1, keepdim=True)
    p, q = exp(model - top_x), exp(base - top_y)
    whole_p, whole_q = row_sums(p), row_sums(q)
    gap = (top_x.double() - top_y.double()) + log(whole_p / whole_q)
    ratio = ((model - base) - gap.clamp(-LARGEST, LARGEST).float()).clamp(-LARGEST, LARGEST)
    p, q = p * (1.0 / whole_p).float(), q * (1.0 / whole_q).float()
    return row_sums((p * bend(ratio)).where(ratio.abs() <= NEAR, p * (ratio - 1.0) + q))


def row_sums(values: Tensor) -> Tensor:
    """Sums of rows, float64 (rows, 1): in lanes, of which one half is then added to the other until one is left."""
    lanes = values.double().new_zeros((values.shape[0], ROW_LANES))
    for part in values.split(ROW_LANES, dim=-1):
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes


def below(quarter: int) -> Callable[[int, Mapping[str, Any]], int]:
    """The rank, from the largest, of the last entry at or below a quartile."""
    return lambda n, settings: n - quarter * (n - 1) // 4


def bound(q1: float, median: float, q3: float) -> float:
    """The least importance that stands out."""
    return median + 1.5 * (q3 - q1)


@method(paper="arcee-fusion", unit="row", models=(1, 1), symmetric=False)
@compiled("mergery.methods.compiled.divergence:arcee_fusion")
def arcee_fusion(
    models: Models,
    base: Annotated[Tensor, Base()],
    q1: Annotated[float, Largest(below(1), importance)],
    median: Annotated[float, Largest(below(2), importance)],
    q3: Annotated[float, Largest(below(3), importance)],
) -> Tensor:
    """Take from another model the parameters whose change stands out, and leave the base elsewhere.

        importance = |x - base| * KL(softmax(x row) || softmax(base row))
        out = x where importance >= median + 1.5 (q3 - q1), else base

    A row holds the weights of one output neuron; a vector is one row. The quartiles are those of all entries
    of the tensor, exact: the last entry at or below each. It has no settings.

    Source: the method of this name in mergekit 0.1 (Arcee AI 2025). There, quartiles of tensors of more than
    a million entries come from a random sample, so that the output differs from run to run.

    Use it to add a fine-tune's large changes to another model without its small ones. If the changes in a tensor
    are normally distributed, about one entry in twenty passes.
    """
    (model,) = models
    return model.where(importance(models, base) >= bound(q1, median, q3), base)
