"""Whether the nodes of a plan are what they say they are: for tests of planning, and of views and formats that come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mergery.dtypes import F32
from mergery.graph.nodes import Computed, Gathered, LowRank, Merged, Node, Stored
from mergery.planning.plan import Plan


def plan_faults(plan: Plan) -> list[str]:
    """What is wrong with a plan: with its nodes, or with where their bytes lie; empty where nothing is."""
    found = faults({step.name: step.node for step in plan.steps})
    ends = [len(shard.header) for shard in plan.layout.shards]
    for step in plan.steps:
        info, shard, offset = step.slot
        if info.shape != step.node.shape:
            found.append(f"{info.name}: {list(step.node.shape)} is written as {list(info.shape)}")
        if offset != ends[shard]:
            found.append(f"{info.name}: it begins at {offset}, and what stands before it ends at {ends[shard]}")
        ends[shard] = offset + info.nbytes
    for end, shard in zip(ends, plan.layout.shards, strict=True):
        if end != shard.size:
            found.append(f"{shard.name}: its tensors end at {end}, and it has {shard.size} bytes")
    return found


def faults(nodes: Mapping[str, Node]) -> list[str]:
    """What is wrong with nodes and all that stands below them, one line each, with the name of the tensor.

    Shapes and dtypes agree; every element is made once, of elements that there are; settings are the method's; nothing is
    made of itself. Nodes that several tensors share are looked at once.
    """
    found: list[str] = []
    seen: set[int] = set()
    above: set[int] = set()

    def visit(name: str, node: Node) -> None:
        if id(node) in above:
            found.append(f"{name}: it is made of itself")
        if id(node) in seen:
            return
        seen.add(id(node))
        found.extend(f"{name}: {fault}" for fault in _CHECKS[type(node)](node))
        if not isinstance(node, Stored):
            above.add(id(node))
            for row in node.rows:
                visit(name, row)
            above.discard(id(node))

    for name, node in nodes.items():
        visit(name, node)
    return found


def _stored(node: Stored) -> Iterator[str]:
    info = node.checkpoint.tensors.get(node.info.name)
    if info is not node.info and info != node.info:
        yield f"{node.model} has no {node.info.name} of {node.info.dtype} {list(node.shape)}"


def _merged(node: Merged) -> Iterator[str]:
    method, count = node.method, len(node.inputs)
    for row in node.aligned:
        if isinstance(row, Merged) and row.merge > node.merge:
            yield f"merge {node.merge} of what merge {row.merge} makes"
        if row.shape != node.shape:
            yield f"{method.name} of {list(node.shape)} and {list(row.shape)}"
        if not row.dtype.mergeable:
            yield f"{method.name} of {row.dtype}"
    if [each.kind for each in node.statistics] != [ask.kind for ask in method.statistics]:
        yield f"{method.name} with statistics {', '.join(each.kind for each in node.statistics)}"
    for each in node.statistics:
        if not len(each.nodes) == len(each.factors) == count:
            yield f"{method.name} with {each.kind} of {len(each.nodes)} models"
        if not each.aligned and node.matrices is not None:
            size = node.matrices.count * node.matrices.sides[1] ** 2
            if any(math.prod(row.shape) != size for row in each.nodes):
                yield f"{method.name} with {each.kind} of {', '.join(str(list(row.shape)) for row in each.nodes)}"
    if not count or len(node.models) != count:
        yield f"{method.name} of {count} tensors of {len(node.models)} models"
    if method.base == ("unused" if node.base else "required"):
        yield f"{method.name} {'takes no base' if node.base else 'needs a base'}"
    if not node.dtype.floating:
        yield f"{method.name} gives {node.dtype}"
    if node.settings.keys() != method.settings.keys():
        yield f"{method.name} with {', '.join(node.settings)}"
    for name, value in node.settings.items():
        many = isinstance(value, (list, np.ndarray))
        if name in method.settings and (many != method.settings[name].per_model or (many and len(value) != count)):
            yield f"{method.name} with {name} of {value} for {count} models"
    each = node.matrices
    if (each is None) == (method.unit == "matrix") or (
        each and each.count * each.rows * each.columns != math.prod(node.shape)
    ):
        yield f"{method.name} reads {list(node.shape)} as {each}"


def _gathered(node: Gathered) -> Iterator[str]:
    which, starts, lengths = node.which, node.starts, node.lengths
    if not len(which) == len(starts) == len(lengths) or any(
        each.dtype != np.int64 for each in (which, starts, lengths)
    ):
        yield "its ranges are no int64 of one length"
        return
    if int(lengths.sum()) != math.prod(node.shape):
        yield f"its ranges have {int(lengths.sum())} elements, and its shape {math.prod(node.shape)}"
    if (lengths < 0).any() or (starts < 0).any() or (which < -1).any() or (which >= len(node.sources)).any():
        yield "its ranges begin or end nowhere"
        return
    sizes = np.array([source.elements for source in node.sources] + [0], dtype=np.int64)[which]
    outside = np.flatnonzero((which >= 0) & (starts + lengths > sizes))
    if len(outside):
        last = outside[0]
        yield f"elements to {starts[last] + lengths[last]} of a source of {sizes[last]}"
    dtypes = {source.dtype for source in node.sources}
    if dtypes and node.dtype not in (F32, *dtypes):
        yield f"{node.dtype} of {', '.join(map(str, dtypes))}"


def _computed(node: Computed) -> Iterator[str]:
    if node.dtype is not F32 and node.move is None:
        yield f"{node.what} is computed in {node.dtype}"
    if node.memory < 0 or node.per_element < 0:
        yield f"{node.what} holds {min(node.memory, node.per_element)} bytes"
    if bool(node.low_rank) != (node.base is not None):
        yield f"{node.what} has factors without a base, or a base without factors"
    if node.base is not None and (node.base.shape != node.shape or node.base not in node.sources):
        yield f"{node.what} has a base of {list(node.base.shape)} that is not among its sources"
    for each in node.low_rank:
        yield from _low_rank(node, each)


def _low_rank(node: Computed, each: LowRank) -> Iterator[str]:
    left, right, experts = each.left.shape, each.right.shape, each.experts
    outputs = left[0] if experts is None or experts.rows is None else experts.rows[1] - experts.rows[0]
    stack = (experts.of,) if experts is not None and experts.number is None else ()
    wanted = (*node.shape[:-2], node.shape[-1], node.shape[-2]) if each.transposed else node.shape
    if left[1] != right[0] or (*stack, outputs, right[1]) != wanted:
        yield f"{node.what} has factors {list(left)} and {list(right)}, and is {list(node.shape)}"
    if any(factor not in node.sources for factor in (each.left, each.right, each.alpha) if factor is not None):
        yield f"{node.what} has factors that are not among its sources"


_CHECKS = {Stored: _stored, Merged: _merged, Gathered: _gathered, Computed: _computed}
