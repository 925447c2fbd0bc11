"""The node of one output tensor, with the settings that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.checkpoints.base import TensorInfo
from weft.dtypes import BY_TORCH, F32, DType
from weft.graph import Leaf, Node, Weave
from weft.method import Method
from weft.recipe import Merge
from weft.scope import BASE
from weft.settings import resolve_settings
from weft.values import Spot, Value, by_name
from weft.views.care import copies, treat
from weft.views.fusing import SPLIT, Seam, matrices_of, seams, sew_again
from weft.views.treatment import Treatment, treatments_of

if TYPE_CHECKING:
    from weft.views import Builder


def weave(
    builder: Builder,
    merge: Merge,
    method: Method,
    base: str | None,
    merged: tuple[str, ...],
    levels: tuple[Mapping[str, Value], ...],
    spot: Spot,
    inputs: Mapping[str, Node],
    own: Node,
    number: int,
) -> Node:
    """The node of one output tensor."""
    copied = inputs[base] if base else own if own in inputs.values() else inputs[merged[0]]
    if not copied.dtype.floating or not copied.elements:
        return copied  # integers and flags are copied, from the base where there is one
    if copies(builder, spot):
        return copied
    treatment = treatments_of(builder, merge, number).at(spot, copied.shape)
    if treatment.method is None:
        return taken(builder, treatment, base, inputs, spot, copied)
    if treatment.method.unit == "matrix":
        found = seams(copied, spot)
        if found:
            builder.treated.setdefault(SPLIT, []).append(spot.name)
            return split(builder, merge, base, merged, levels, spot, inputs, copied, number, found)
    return treated(builder, treatment, base, merged, levels, spot, inputs, copied, number)


def split(
    builder: Builder,
    merge: Merge,
    base: str | None,
    merged: tuple[str, ...],
    levels: tuple[Mapping[str, Value], ...],
    spot: Spot,
    inputs: Mapping[str, Node],
    copied: Node,
    number: int,
    found: tuple[Seam, ...],
) -> Node:
    """A fused tensor: each part gets what its own roles say, and all are sewn again."""
    own = treatments_of(builder, merge, number)
    nodes = []
    for seam in found:
        at = seam.spot(spot)
        pieces = {each: seam.take(node, at.name) for each, node in inputs.items()}
        piece = pieces[next(each for each, node in inputs.items() if node is copied)]
        treatment = own.at(at, seam.shape)
        if treatment.method is None:
            nodes.append(taken(builder, treatment, base, pieces, at, piece))
        else:
            nodes.append(treated(builder, treatment, base, merged, levels, at, pieces, piece, number, seam))
    return sew_again(spot.name, copied.shape, found, nodes)


def taken(
    builder: Builder, treatment: Treatment, base: str | None, inputs: Mapping[str, Node], spot: Spot, copied: Node
) -> Node:
    """The tensor of the model that a part of the recipe names."""
    name = base if treatment.take == BASE and BASE not in inputs else treatment.take
    if name is not None and name in inputs:
        return inputs[name]
    builder.fail(
        f"{spot.name!r} cannot be taken from {name!r}", where=treatment.merge.place, why="it has no such layer"
    )
    return copied


def treated(
    builder: Builder,
    treatment: Treatment,
    base: str | None,
    merged: tuple[str, ...],
    levels: tuple[Mapping[str, Value], ...],
    spot: Spot,
    inputs: Mapping[str, Node],
    copied: Node,
    number: int,
    seam: Seam | None = None,
) -> Node:
    """A tensor under a method, or a part of a fused one."""
    merge, method = treatment.merge, treatment.method
    assert method is not None
    levels = treatments_of(builder, merge, number).levels(treatment, levels)
    settings = settings_at(builder, merge, method, merged, levels, spot)
    if method.name == "passthrough" and settings["scale"] == 1.0:
        return inputs[merged[0]]
    dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
    uses_base = base is not None and method.base != "unused"
    method, settings = treat(builder, method, settings, spot, copied, deltas=uses_base)
    matrices = matrices_of(method, copied, spot, seam) if method.unit == "matrix" else None
    if method.unit == "matrix" and matrices is None:
        why = f"it is a vector of {list(copied.shape)}"
        builder.fail(f"{method.name} cannot merge {spot.name!r}", where=merge.place, why=why, hint="method: linear")
        return copied
    return Weave(
        method,
        spot.name,
        merged,
        tuple([inputs[each] for each in merged]),
        inputs[base] if uses_base and base else None,
        settings,
        dtype,
        treatment.number,
        matrices,
    )


def settings_at(
    builder: Builder,
    merge: Merge,
    method: Method,
    merged: tuple[str, ...],
    levels: tuple[Mapping[str, Value], ...],
    spot: Spot,
) -> dict[str, Any]:
    """The settings at one tensor. Tensors that no value can tell apart share one dictionary."""
    places = tuple(map(id, levels))
    if places not in builder.named:
        builder.named[places] = any(by_name(value) for level in levels for value in level.values())
    if builder.named[places]:
        return resolve_settings(merge, method, merged, levels, spot, builder.problems)
    key = (method.name, places, merged, spot.layer, spot.roles, spot.depth, spot.after, spot.part, spot.number)
    if key not in builder.resolved:
        builder.resolved[key] = resolve_settings(merge, method, merged, levels, spot, builder.problems)
    return builder.resolved[key]


def output_dtype(node: Node, donor: Mapping[str, TensorInfo], name: str, wanted: DType | None) -> DType:
    """The dtype in which a tensor is written: the recipe's, or the donor's own."""
    if isinstance(node, Leaf) and not node.dtype.floating:
        return node.dtype
    if wanted is not None:
        return wanted
    if name in donor and donor[name].dtype.floating:
        return donor[name].dtype
    leaf = node
    while not isinstance(leaf, Leaf) and leaf.rows:
        leaf = leaf.rows[-1]
    return leaf.dtype
