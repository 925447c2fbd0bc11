"""Whether task vectors are larger than what rounding to codes did: measured on a sample of matrices, before a merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mergery.dtypes import F32
from mergery.engine import Shared, Workspace, evaluator
from mergery.graph.nodes import Merged, Node
from mergery.graph.walking import leaves, merges_below
from mergery.planning.plan import Plan

MATRICES = 8  # that are looked at, from first to last
SAMPLE = 1 << 15  # numbers of each
NEAR = 1.5  # how many times the rounding's length a task vector is, to be told apart from it


def near_rounding(plan: Plan) -> Iterator[str]:
    """A warning for each model whose task vector is hardly longer than the rounding in it, or in its base."""
    if not any(checkpoint.lost for checkpoint in plan.checkpoints.values()):
        return
    said: set[str] = set()
    for nodes in merges_below([step.node for step in plan.steps]).values():
        matrices = [node for node in nodes if node.base is not None and len(node.shape) == 2]
        if not matrices:
            continue
        sample = [matrices[at] for at in sorted({round(each) for each in np.linspace(0, len(matrices) - 1, MATRICES)})]
        for number, model in enumerate(sample[0].models):
            rounding = _rounding(plan, sample[0], number)
            if not rounding or model in said:
                continue
            found = _share(sample, number)
            if found is not None and found < NEAR * rounding:
                said.add(model)
                yield (
                    f"the task vector of {model} is {found:.1%} of the base's length in {len(sample)} matrices, and rounding "
                    f"to codes alone makes about {rounding:.1%}: what is merged is mostly rounding; merge models in 16 bits"
                )


def _rounding(plan: Plan, node: Merged, number: int) -> float:
    """What rounding makes of a task vector's length, as a share of the base's."""
    both: list[Node | None] = [node.base, node.inputs[number]]
    models = [{leaf.model for leaf in leaves(each)} for each in both if each is not None]
    lost = [
        max((plan.checkpoints[name].lost for name in names if name in plan.checkpoints), default=0.0)
        for names in models
    ]
    return float(np.linalg.norm(lost)) if models[0] != models[1] else 0.0


def _share(sample: Sequence[Merged], number: int) -> float | None:
    """The length of a model's difference from the base over the base's, in the beginnings of some matrices."""
    different = whole = 0.0
    for node in sample:
        if node.base is None or number >= len(node.inputs):
            continue
        base, own = (_begin(each).astype(np.float64) for each in (node.base, node.inputs[number]))
        different += float(np.square(own - base).sum())
        whole += float(np.square(base).sum())
    return (different / whole) ** 0.5 if whole else None


def _begin(node: Node) -> np.ndarray:
    """The first numbers of a tensor, float32."""
    making = evaluator(node, Shared(), Workspace())
    size = min(node.elements, max(making.grain, SAMPLE // making.grain * making.grain))
    values = np.empty(size, np.float32)
    making.prepare()
    making.compute(0, size, values.view(np.uint8), F32)
    return values
