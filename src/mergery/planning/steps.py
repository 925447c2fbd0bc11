"""A view as steps: one output tensor each, with its place in the files and the node that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.dtypes import DType
from mergery.errors import PlanError
from mergery.graph.nodes import Merged, Node, Stored
from mergery.graph.view import View
from mergery.graph.walking import kind_key, looked_up
from mergery.planning.layout import Layout, Slot, lay_out


class Step(NamedTuple):
    """One output tensor: where its bytes go and the node that makes them."""

    slot: Slot
    node: Node

    @property
    def name(self) -> str:
        return self.slot.info.name


def steps_of(
    view: View, headers: Mapping[str, TensorInfo], wanted: DType | None, shard_size: int
) -> tuple[Layout, tuple[Step, ...]]:
    """The layout of a view's files, and its tensors in that order.

    `headers` are the donor's, whose dtypes the tensors keep unless another is `wanted`. Raises PlanError.
    """
    original = _original(view, headers)
    infos = [
        TensorInfo(name, node.shape, output_dtype(node, donor, wanted))
        for (name, node), donor in zip(view.nodes.items(), looked_up(view.nodes, original), strict=True)
    ]
    contents = view.donor.contents
    layout = lay_out(infos, shard_size, {"format": "pt"}, stem=contents.stem, modules=contents.modules)
    return layout, tuple([Step(slot, view.nodes[slot.info.name]) for slot in layout.slots])


def _original(view: View, headers: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """The donor's headers by output name: in a stack, any layer's tensor of the same place stands for all."""
    depth = view.architecture.depth
    if view.architecture.stack is None or all(name in headers for name in view.nodes):
        return headers
    result = dict(headers)
    for name in view.nodes:
        parsed = view.architecture.names.get(name)
        if name not in result and parsed is not None and parsed.layer is not None:
            for layer in range(depth):
                other = view.architecture.rename(name, layer)
                if other in headers:
                    result[name] = headers[other]
                    break
    return result


def output_dtype(node: Node, donor: TensorInfo | None, wanted: DType | None) -> DType:
    """The dtype in which a tensor is written: the recipe's, or that of the donor's own."""
    if isinstance(node, Stored) and not node.dtype.floating:
        return node.dtype
    if wanted is not None:
        return wanted
    if donor is not None and donor.dtype.floating:
        return donor.dtype
    below = node
    while not isinstance(below, Stored) and below.rows:
        below = below.inputs[-1] if isinstance(below, Merged) else below.rows[-1]
    return below.dtype


def kinds_of(steps: Sequence[Step]) -> tuple[tuple[Step, ...], ...]:
    """Steps that are described and made alike, together: there may be 100,000 steps, of few kinds."""
    found: dict[Any, list[Step]] = {}
    for step in steps:
        found.setdefault((step.slot.info.dtype.name, *kind_key(step.node)), []).append(step)
    return tuple(map(tuple, found.values()))


def main_dtype(kinds: Sequence[Sequence[Step]]) -> DType:
    """The dtype of most of the output's bytes. Raises PlanError where no tensor holds floating-point numbers."""
    weight: dict[DType, int] = {}
    for first, *others in kinds:
        info = first.slot.info
        if info.dtype.floating:
            weight[info.dtype] = weight.get(info.dtype, 0) + info.nbytes * (1 + len(others))
    if not weight:
        raise PlanError(
            "there is nothing to merge",
            why="no tensor holds floating-point numbers",
            hint="check that the files are the model's",
        )
    return max(weight, key=lambda dtype: weight[dtype])
