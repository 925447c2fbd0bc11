"""The node of one output tensor, with the settings that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.checkpoints.base import TensorInfo
from weft.dtypes import BY_TORCH, F32, DType
from weft.method import Method
from weft.method.scope import BASE
from weft.planning.graph import Leaf, Node, Weave
from weft.planning.settings import differing, resolve_settings
from weft.planning.views.care import copies, treat
from weft.planning.views.fusing import SPLIT, Seam, matrices_of, seams, sew_again
from weft.planning.views.treatment import Treatment, treatments_of
from weft.recipe import Merge
from weft.recipe.values import Spot, Value, conditions

if TYPE_CHECKING:
    from weft.planning.views import Builder


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
    known = treatments_of(builder, merge, number)
    treatment = known.at(spot, copied.shape)
    whole = not copied.dtype.floating or not copied.elements
    if whole and treatment.method is not None:
        return copied  # integers and flags are copied, from the base where there is one
    if treatment.method is not None and copies(builder, spot):
        return copied
    matrix = treatment.method is not None and treatment.method.unit == "matrix"
    filtered = treatment.method is not None and "role" in filters(builder, known.levels(treatment, levels))
    found = seams(copied, spot) if not whole and (matrix or known.parts or filtered) else ()

    def differ() -> bool:
        """Whether the parts of a fused tensor get different things."""
        at = [(seam.spot(spot), seam.shape) for seam in found]
        if any(known.at(*each) is not treatment for each in at):
            return True
        if not filtered or treatment.method is None:
            return False
        nearest = known.levels(treatment, levels)
        own = [settings_at(builder, treatment.merge, treatment.method, merged, nearest, each) for each, _ in at]
        return any(differing([own[0], other]) for other in own[1:])

    if found and (matrix or differ()):
        builder.treated.setdefault(SPLIT, []).append(spot.name)
        return split(builder, merge, base, merged, levels, spot, inputs, copied, number, found)
    if treatment.method is None:
        return taken(builder, treatment, base, inputs, spot.name, copied)
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
        pieces = {each: seam.take(node, seam.name(spot.name)) for each, node in inputs.items()}
        piece = pieces[next(each for each, node in inputs.items() if node is copied)]
        treatment = own.at(at, seam.shape)
        if treatment.method is None:
            nodes.append(taken(builder, treatment, base, pieces, seam.name(spot.name), piece))
        else:
            nodes.append(treated(builder, treatment, base, merged, levels, at, pieces, piece, number, seam))
    return sew_again(spot.name, copied.shape, found, nodes)


def taken(
    builder: Builder, treatment: Treatment, base: str | None, inputs: Mapping[str, Node], tensor: str, copied: Node
) -> Node:
    """The tensor of the model that a part of the recipe names; `base` is the merge's own, where it has one."""
    name = base if treatment.take == BASE and base else treatment.take
    if name is not None and name in inputs:
        return inputs[name]
    why = "no layer of it stands there"
    builder.fail(f"{tensor!r} cannot be taken from {name!r}", where=treatment.merge.place, why=why)
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
    known = treatments_of(builder, merge, number)
    levels = known.levels(treatment, levels)
    settings = settings_at(builder, merge, method, merged, levels, spot)
    if method.name == "passthrough" and settings["scale"] == 1.0:
        return inputs[merged[0]]
    dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
    uses_base = base is not None and method.base != "unused"
    method, settings = treat(builder, method, settings, spot, copied, deltas=uses_base)
    name = seam.name(spot.name) if seam is not None else spot.name
    matrices = matrices_of(method, copied, spot, seam) if method.unit == "matrix" else None
    if method.unit == "matrix" and matrices is None:
        known.vectors.setdefault(treatment.number, []).append(name)
        return copied
    return Weave(
        method,
        name,
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
    if "name" in filters(builder, levels):
        return resolve_settings(merge, method, merged, levels, spot, builder.problems)
    key = (method.name, places, merged, spot.layer, spot.roles, spot.depth, spot.after, spot.part, spot.number)
    if key not in builder.resolved:
        builder.resolved[key] = resolve_settings(merge, method, merged, levels, spot, builder.problems)
    return builder.resolved[key]


def filters(builder: Builder, levels: tuple[Mapping[str, Value], ...]) -> frozenset[str]:
    """What the filters in settings look at: `name`, `role`, or both."""
    places = tuple(map(id, levels))
    if places not in builder.filters:
        every = [each for level in levels for value in level.values() for each in conditions(value)]
        looks = {"name": any(each.name is not None for each in every), "role": any(each.roles for each in every)}
        builder.filters[places] = frozenset(word for word, there in looks.items() if there)
    return builder.filters[places]


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
