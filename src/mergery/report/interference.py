"""How task vectors meet: measures of a base and its fine-tunes that say, before any merge, how much they interfere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mergery.errors import PlanError
from mergery.graph.nodes import Merged, Node
from mergery.graph.walking import merges_below
from mergery.planning.plan import Plan, make_plan

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 1024  # rows and columns that are looked at of a larger matrix, evenly spread
MATRICES = 32  # that are looked at, evenly spread over the model
LARGEST = 0.2  # of the entries of a task vector: those whose signs count


@dataclass(frozen=True)
class Interference:
    """Means over the matrices of a model, and over pairs of task vectors where two meet.

    A task vector D is a fine-tune's matrix minus the base's; H is its leading singular triplet. Overlaps are cosines of
    matrices: D^T D, the inputs that D reads, and D D^T, the outputs that it writes. All lie in [0, 1] but for the cosines,
    in [-1, 1], and the dispersion, which is 1 or more.
    """

    models: int
    matrices: int
    cosine: float
    """Of D and D: 1 where two learned the same, 0 where nothing is shared or all cancels."""
    conflict: float
    """Of the entries that are among the largest fifth of two, the share with different signs: a half by chance."""
    inputs: float
    """Overlap of the inputs that they read."""
    outputs: float
    """Overlap of the outputs that they write."""
    heads: float
    """Cosine of H and H."""
    tails: float
    """Cosine of D - H and D - H."""
    rank: float
    """Effective rank of D, the exponential of the entropy of its squared singular values, over its smaller side."""
    dispersion: float
    """Length of the longest task vector over that of the shortest."""
    size: float
    """Length of D over that of the base's matrix."""

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


WORDS = {
    "cosine": "cosine of two task vectors",
    "conflict": "entries large in both with different signs",
    "inputs": "overlap of the inputs that they read",
    "outputs": "overlap of the outputs that they write",
    "heads": "cosine of their leading directions",
    "tails": "cosine of the rest",
    "rank": "effective rank, of the smaller side",
    "dispersion": "longest over shortest",
    "size": "length, of the base's",
}


def interference(base: Any, models: Sequence[Any], *, most: int = MATRICES) -> Interference:
    """How the task vectors of fine-tunes meet, from at most `most` of their matrices (attention, MLPs and the like).

    Models are whatever a recipe may name: folders, hub ids, `model+adapter`. Raises PlanError where they do not fit together
    or have no matrices in common.
    """
    if len(models) < 2:
        raise PlanError(
            "interference is between two fine-tunes or more", hint="mergery inspect base math code --interference"
        )
    names = {f"model {number}": model for number, model in enumerate(models, start=1)}
    plan = make_plan(
        {"models": {"base": base, **names}, "merge": {"method": "iso_c", "base": "base", "models": list(names)}}
    )
    try:
        return measure(plan, most)
    finally:
        plan.close()


def measure(plan: Plan, most: int) -> Interference:
    """The same of a planned merge by a method on matrices."""
    import torch

    nodes = [node for node in matrices(plan) if node.base is not None]
    if not nodes:
        raise PlanError(
            "these models have no matrices that a task vector could be measured on",
            hint="mergery inspect MODEL shows which of its tensors are linear layers",
        )
    step = max(1.0, len(nodes) / most)
    chosen = [nodes[int(step * place)] for place in range(min(most, len(nodes)))]
    found: list[dict[str, float]] = []
    squares = torch.zeros(len(nodes[0].models), dtype=torch.float64)
    with torch.inference_mode():
        for node in chosen:
            origin, deltas = task_vectors(node)
            lengths = torch.stack([delta.norm() for delta in deltas]).double()
            squares += lengths.square()
            if bool((lengths > 0.0).all()):
                found.append({**meeting(deltas), "size": float(lengths.mean() / origin.norm().clamp(min=1e-30))})
    if not found:
        raise PlanError(
            "there is nothing to measure: a model is the base in every matrix that was looked at",
            hint="compare fine-tunes of this base, trained with these matrices",
        )
    means = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    lengths = squares.sqrt()
    return Interference(
        len(squares), len(found), **means, dispersion=float(lengths.max() / lengths.min().clamp(min=1e-30))
    )


def matrices(plan: Plan) -> Iterator[Merged]:
    """The merges of a plan that are merges of matrices, in the model's order."""
    for nodes in merges_below(step.node for step in plan.steps).values():
        yield from (node for node in nodes if node.matrices is not None and min(node.matrices.sides) > 1)


def task_vectors(node: Merged) -> tuple[Tensor, list[Tensor]]:
    """The base's matrix, and each model's minus it: float32, the first of a stack, no side longer than `SIDE`."""
    assert node.base is not None
    origin = _cropped(node, node.base)
    return origin, [_cropped(node, each) - origin for each in node.inputs]


def _cropped(node: Merged, row: Node) -> Tensor:
    import torch

    from mergery.engine import Shared, Workspace, evaluator
    from mergery.engine.computing import reading

    assert node.matrices is not None
    rows, columns = node.matrices.rows, node.matrices.columns
    making = evaluator(row, Shared(), Workspace())
    making.prepare()
    whole = torch.from_numpy(reading(making)(0, rows * columns)).view(rows, columns)
    across, down = (torch.arange(min(side, SIDE)) * side // min(side, SIDE) for side in (columns, rows))
    matrix = whole[down][:, across]
    return matrix.T if node.matrices.transposed else matrix


def meeting(deltas: Sequence[Tensor]) -> dict[str, float]:
    """How the task vectors (out, in) of one matrix meet; none of them is zero."""
    import torch

    unit = [delta / delta.norm() for delta in deltas]
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in unit]
    heads = [(u[:, 0], vh[0]) for u, _, vh in parts]
    tails = [delta - s[0] * torch.outer(u[:, 0], vh[0]) for delta, (u, s, vh) in zip(unit, parts, strict=True)]
    read = [(vh.T, s.square()) for _, s, vh in parts]
    written = [(u, s.square()) for u, s, _ in parts]
    pairs = list(itertools.combinations(range(len(unit)), 2))

    def mean(values: Iterator[Any]) -> float:
        found = [float(value) for value in values]
        return sum(found) / len(found)

    shares = [s.square() / s.square().sum() for _, s, _ in parts]
    entropies = [-(share * share.clamp(min=1e-30).log()).sum() for share in shares]
    return {
        "cosine": mean((unit[i] * unit[j]).sum() for i, j in pairs),
        "conflict": mean(conflict(unit[i], unit[j]) for i, j in pairs),
        "inputs": mean(overlap(read[i], read[j]) for i, j in pairs),
        "outputs": mean(overlap(written[i], written[j]) for i, j in pairs),
        "heads": mean((heads[i][0] @ heads[j][0]) * (heads[i][1] @ heads[j][1]) for i, j in pairs),
        "tails": mean(
            (tails[i] * tails[j]).sum() / (tails[i].norm() * tails[j].norm()).clamp(min=1e-30) for i, j in pairs
        ),
        "rank": mean(entropy.exp() / min(unit[0].shape) for entropy in entropies),
    }


def overlap(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """The cosine of two matrices Q diag(e) Q^T, each as its orthonormal columns Q and its e."""
    (q, e), (p, f) = one, other
    return ((q.T @ p).square() * e[:, None] * f).sum() / (e.norm() * f.norm())


def conflict(one: Tensor, other: Tensor) -> Tensor:
    """The share of entries with different signs, of those that are among the largest of both; a half where there are none."""
    import torch

    large = torch.ones_like(one, dtype=torch.bool)
    for delta in (one, other):
        size = delta.abs()
        large &= size > size.flatten().kthvalue(max(1, int((1.0 - LARGEST) * size.numel()))).values
    count = large.sum()
    return ((one * other < 0.0) & large).sum() / count if count else torch.tensor(0.5)
