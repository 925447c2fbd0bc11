"""The node of one output tensor, with the settings that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.checkpoints.base import TensorInfo
from weft.dtypes import BY_TORCH, F32, DType
from weft.graph import Leaf, Node, Weave
from weft.method import Method
from weft.recipe import Merge
from weft.settings import resolve_settings
from weft.values import Spot, Value, by_name
from weft.views.care import copies, treat

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
    settings = settings_at(builder, merge, method, merged, (*levels, merge.settings), spot)
    if method.name == "passthrough" and settings["scale"] == 1.0:
        return inputs[merged[0]]
    dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
    uses_base = base is not None and method.base != "unused"
    method, settings = treat(builder, method, settings, spot, copied, deltas=uses_base)
    return Weave(
        method,
        spot.name,
        merged,
        tuple([inputs[each] for each in merged]),
        inputs[base] if uses_base and base else None,
        settings,
        dtype,
        number,
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
    key = (places, merged, spot.layer, spot.roles, spot.depth, spot.after, spot.part, spot.number)
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
