"""The nodes of output tensors, with the settings that each gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weft.checkpoints.base import TensorInfo
from weft.dtypes import BY_TORCH, F32, DType
from weft.method.scope import BASE
from weft.planning.graph import Leaf, Node, Weave
from weft.planning.settings import differing, resolve_settings
from weft.planning.views.care import copies, treat
from weft.planning.views.fusing import SPLIT, Seam, matrices_of, seams, sew_again
from weft.planning.views.treatment import Levels, Treatment, treatments_of
from weft.recipe import Merge
from weft.recipe.values import Spot, conditions

if TYPE_CHECKING:
    from weft.planning.views import Builder


@dataclass(frozen=True, eq=False)
class Weaver:
    """Makes the nodes of one merge, or of one slice of a stack, where the same models are merged with the same settings.

    `number` is that of the merge; `levels` are settings that stand before the merge's own, nearest first.
    """

    builder: Builder
    merge: Merge
    number: int
    base: str | None
    merged: tuple[str, ...]
    levels: Levels = ()

    def weave(self, spot: Spot, inputs: Mapping[str, Node], own: Node) -> Node:
        """The node of one output tensor. `own` is the donor's of that name."""
        copied = inputs[self.base] if self.base else own if own in inputs.values() else inputs[self.merged[0]]
        known = treatments_of(self.builder, self.merge, self.number)
        treatment = known.at(spot, copied.shape)
        whole = not copied.dtype.floating or not copied.elements
        if whole and treatment.method is not None:
            return copied  # integers and flags are copied, from the base where there is one
        if treatment.method is not None and copies(self.builder, spot):
            return copied
        matrix = treatment.method is not None and treatment.method.unit == "matrix"
        filtered = treatment.method is not None and "role" in self.filters(known.levels(treatment, self.levels))
        found = seams(copied, spot) if not whole and (matrix or known.parts or filtered) else ()
        if found and (matrix or self.differ(found, spot, treatment, filtered=filtered)):
            self.builder.treated.setdefault(SPLIT, []).append(spot.name)
            return self.split(spot, inputs, copied, found)
        return self.one(treatment, spot, inputs, copied)

    def differ(self, found: Sequence[Seam], spot: Spot, treatment: Treatment, *, filtered: bool) -> bool:
        """Whether the parts of a fused tensor get different things."""
        known = treatments_of(self.builder, self.merge, self.number)
        at = [(seam.spot(spot), seam.shape) for seam in found]
        if any(known.at(*each) is not treatment for each in at):
            return True
        if not filtered:
            return False
        first, *others = [self.settings(treatment, each) for each, _ in at]
        return any(differing([first, other]) for other in others)

    def split(self, spot: Spot, inputs: Mapping[str, Node], copied: Node, found: Sequence[Seam]) -> Node:
        """A fused tensor: each part gets what its own roles say, and all are sewn again."""
        known = treatments_of(self.builder, self.merge, self.number)
        nodes = []
        for seam in found:
            at, name = seam.spot(spot), seam.name(spot.name)
            pieces = {each: seam.take(node, name) for each, node in inputs.items()}
            piece = pieces[next(each for each, node in inputs.items() if node is copied)]
            nodes.append(self.one(known.at(at, seam.shape), at, pieces, piece, seam))
        return sew_again(spot.name, copied.shape, found, nodes)

    def one(
        self, treatment: Treatment, spot: Spot, inputs: Mapping[str, Node], copied: Node, seam: Seam | None = None
    ) -> Node:
        """A tensor, or a part of a fused one, under one treatment."""
        name = seam.name(spot.name) if seam is not None else spot.name
        if treatment.method is None:
            return self.taken(treatment, name, inputs, copied)
        builder, merge, method = self.builder, treatment.merge, treatment.method
        settings = self.settings(treatment, spot)
        if method.name == "passthrough" and settings["scale"] == 1.0:
            return inputs[self.merged[0]]
        dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
        base = inputs[self.base] if self.base is not None and method.base != "unused" else None
        method, settings = treat(builder, method, settings, spot, copied, deltas=base is not None)
        matrices = matrices_of(method, copied, spot, seam) if method.unit == "matrix" else None
        if method.unit == "matrix" and matrices is None:
            treatments_of(builder, self.merge, self.number).vectors.setdefault(treatment.number, []).append(name)
            return copied
        models = tuple([inputs[each] for each in self.merged])
        return Weave(method, name, self.merged, models, base, settings, dtype, treatment.number, matrices)

    def taken(self, treatment: Treatment, tensor: str, inputs: Mapping[str, Node], copied: Node) -> Node:
        """The tensor of the model that a part of the recipe names; `base` is the merge's own, where it has one."""
        name = self.base if treatment.take == BASE and self.base else treatment.take
        if name is not None and name in inputs:
            return inputs[name]
        why = "no layer of it stands there"
        self.builder.fail(f"{tensor!r} cannot be taken from {name!r}", where=treatment.merge.place, why=why)
        return copied

    def settings(self, treatment: Treatment, spot: Spot) -> dict[str, Any]:
        """A treatment's settings at one tensor. Tensors that no value can tell apart share one dictionary."""
        builder, merge, method = self.builder, treatment.merge, treatment.method
        assert method is not None
        levels = treatments_of(builder, self.merge, self.number).levels(treatment, self.levels)
        if "name" in self.filters(levels):
            return resolve_settings(merge, method, self.merged, levels, spot, builder.problems)
        places = tuple(map(id, levels))
        key = (method.name, places, self.merged, spot.layer, spot.roles, spot.depth, spot.after, spot.part, spot.number)
        if key not in builder.resolved:
            builder.resolved[key] = resolve_settings(merge, method, self.merged, levels, spot, builder.problems)
        return builder.resolved[key]

    def filters(self, levels: Levels) -> frozenset[str]:
        """What the filters in settings look at: `name`, `role`, or both."""
        places = tuple(map(id, levels))
        known = self.builder.filters
        if places not in known:
            every = [each for level in levels for value in level.values() for each in conditions(value)]
            looks = {"name": any(each.name is not None for each in every), "role": any(each.roles for each in every)}
            known[places] = frozenset(word for word, there in looks.items() if there)
        return known[places]


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
