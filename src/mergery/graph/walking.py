"""What stands below nodes, and which nodes are alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored

Found = TypeVar("Found")


def looked_up(names: Collection[str], table: Mapping[str, Found]) -> Iterable[Found | None]:
    """What a table holds under each name, in the order of the names: looked up only where that is not the table's own."""
    return table.values() if list(names) == list(table) else map(table.get, names)


def leaves(node: Node) -> list[Stored]:
    """All stored tensors at or below a node."""
    if isinstance(node, Stored):
        return [node]
    found: list[Stored] = []
    for row in node.rows:  # there may be half a million
        if isinstance(row, Stored):
            found.append(row)
        else:
            found += leaves(row)
    return found


def is_computed(node: Node) -> bool:
    """Whether any arithmetic is done to make a node."""
    return isinstance(node, (Merged, Computed)) or (isinstance(node, Gathered) and any(map(is_computed, node.sources)))


def kind_key(node: Node) -> tuple[Any, ...]:
    """Equal for nodes that are described in the same words and cost the same to make: there may be 100,000 of them, of few
    kinds."""
    if isinstance(node, Stored):
        return node.model, node.info.shape, node.info.dtype.name
    if isinstance(node, Merged):
        base = None if node.base is None else kind_key(node.base)
        rows = [row.info.dtype.name if isinstance(row, Stored) else kind_key(row) for row in node.inputs]
        key = (id(node.settings), node.merge, node.models, node.matrices, node.shape, base, *rows)
        return (
            (*key, *((each.kind, *map(kind_key, each.nodes)) for each in node.statistics)) if node.statistics else key
        )
    rows = [kind_key(row) for row in node.rows]
    if isinstance(node, Gathered):
        return "gathered", node.shape, len(node.lengths), *rows
    return node.what, node.shape, node.memory, node.torch, *rows


def leaf_columns(alike: Sequence[Node]) -> Iterator[Sequence[Stored]]:
    """The stored tensors below nodes of one kind, place by place: each column is of one shape and dtype."""
    if isinstance(alike[0], Stored):
        yield cast("Sequence[Stored]", alike)
    else:
        for column in zip(*[node.rows for node in alike if not isinstance(node, Stored)], strict=True):
            yield from leaf_columns(column)


def merged_by(merge: int, nodes: Iterable[Node]) -> list[Merged]:
    """What a merge with a number made, at or below the nodes that it gave; below that are merges before it."""
    found: dict[int, Merged] = {}
    for node in nodes:
        if isinstance(node, Merged) and node.merge == merge:
            found[id(node)] = node
        elif not isinstance(node, Stored):
            found.update((id(node), node) for node in merged_by(merge, node.rows))
    return list(found.values())


def computed_below(node: Node) -> Iterator[Computed]:
    """All computed tensors at or below a node."""
    if isinstance(node, Computed):
        yield node
    if not isinstance(node, Stored):
        for row in node.rows:
            if not isinstance(row, Stored):
                yield from computed_below(row)


def merges_below(nodes: Iterable[Node]) -> dict[int, list[Merged]]:
    """All merged tensors at or below some nodes, by the merge that made them; inner merges first."""
    found: dict[int, dict[int, Merged]] = {}

    def visit(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if not isinstance(node, Stored):
                visit(node.rows)
            if isinstance(node, Merged):
                found.setdefault(node.merge, {})[id(node)] = node

    visit(nodes)
    return {merge: list(found[merge].values()) for merge in sorted(found)}
