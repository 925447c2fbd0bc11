"""The nodes of output tensors, with the settings that each gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from mergery.architecture import ParsedName
from mergery.architecture.fused import transposed
from mergery.checkpoints.base import TensorInfo
from mergery.dtypes import BY_TORCH, F32, DType
from mergery.graph.fused import FusedGroup, from_parts, fused_groups, take_part
from mergery.graph.nodes import Matrices, Merged, Node, Stored, read_matrices
from mergery.graph.walking import leaves
from mergery.method import Method
from mergery.method.roles import BASE
from mergery.planning.settings import differing, resolve_settings
from mergery.planning.special_cases import copies, treat
from mergery.planning.treatment import Levels, Treatment, Treatments, treatments_of
from mergery.recipe import Merge
from mergery.recipe.values import Target, looks_at

if TYPE_CHECKING:
    from mergery.planning.builder import Builder


SPLIT = "are fused: each of their parts is merged by itself"


class Asked(NamedTuple):
    """The levels of settings, nearest first, what tells them from others, and what of a tensor their values look at."""

    levels: Levels
    places: tuple[int, ...]
    looks: set[str]


class Assignment(NamedTuple):
    """How a tensor is woven, whatever its name; `rule` is why it is not as the recipe says."""

    method: Method
    settings: Mapping[str, Any]
    based: bool
    dtype: DType
    number: int
    matrices: Matrices | None
    rule: str


@dataclass(frozen=True, eq=False)
class NodeBuilder:
    """Makes the nodes of one merge, or of one slice of a stack, where the same models are merged with the same settings.

    `number` is that of the merge; `levels` are settings that stand before the merge's own, nearest first.
    """

    builder: Builder
    merge: Merge
    number: int
    base: str | None
    merged: tuple[str, ...]
    levels: Levels = ()
    asking: dict[int, Asked] = field(default_factory=dict)  # by the number of the treatment
    ways: dict[Any, Assignment] = field(default_factory=dict)  # by all that tells tensors apart but their names

    @cached_property
    def treatments(self) -> Treatments:
        return treatments_of(self.builder, self.merge, self.number)

    def node(self, target: Target, inputs: Mapping[str, Node], own: Node) -> Node:
        """The node of one output tensor. `own` is the donor's of that name."""
        copied = inputs[self.base] if self.base else own if own in inputs.values() else inputs[self.merged[0]]
        kind = (*target[1:], copied.shape, copied.dtype.name)
        way = self.ways.get(kind)
        if way is not None:  # such as the experts of a layer
            return self.made(way, target, inputs)
        known = self.treatments
        treatment = known.at(target, copied.shape)
        method = treatment.method
        whole = not copied.dtype.floating or not copied.elements
        if whole and method is not None:
            return copied  # integers and flags are copied, from the base where there is one
        if method is not None and copies(self.builder, target):
            return copied
        matrix = method is not None and method.unit == "matrix"
        looks = self.asked(treatment).looks if method is not None else set()
        named = matrix or bool(known.overrides) or "role" in looks  # fused tensors are told by their names
        found = (
            fused_groups(stored_name(copied, target), copied.shape, target.roles, config_of(copied))
            if named and not whole
            else ()
        )
        if found and (matrix or self.differ(found, target, treatment, filtered="role" in looks)):
            self.builder.treated.setdefault(SPLIT, []).append(target.name)
            return self.split(target, inputs, copied, found)
        way = self.way(treatment, target, inputs, copied)
        if isinstance(way, Assignment) and not named and "name" not in looks:
            self.ways[kind] = way
        return self.made(way, target, inputs)

    def differ(self, found: Sequence[FusedGroup], target: Target, treatment: Treatment, *, filtered: bool) -> bool:
        """Whether the parts of a fused tensor get different things."""
        known = self.treatments
        at = [(inside(target, group), group.shape) for group in found]
        if any(known.at(*each) is not treatment for each in at):
            return True
        if not filtered:
            return False
        first, *others = [self.settings(treatment, each) for each, _ in at]
        return any(differing([first, other]) for other in others)

    def split(self, target: Target, inputs: Mapping[str, Node], copied: Node, found: Sequence[FusedGroup]) -> Node:
        """A fused tensor: each part gets what its own roles say, and all are put together again."""
        nodes = []
        for group in found:
            at, name = inside(target, group), group.name(target.name)
            pieces = {each: take_part(name, node, group) for each, node in inputs.items()}
            piece = pieces[next(each for each, node in inputs.items() if node is copied)]
            way = self.way(self.treatments.at(at, group.shape), at, pieces, piece, group)
            nodes.append(self.made(way, at, pieces, group))
        return from_parts(target.name, copied.shape, found, nodes)

    def way(
        self,
        treatment: Treatment,
        target: Target,
        inputs: Mapping[str, Node],
        copied: Node,
        group: FusedGroup | None = None,
    ) -> Assignment | Node:
        """How a tensor, or a part of a fused one, is woven under one treatment; or the node that it is."""
        name = group.name(target.name) if group is not None else target.name
        if treatment.method is None:
            return self.taken(treatment, name, inputs, copied)
        merge, method = treatment.merge, treatment.method
        settings = self.settings(treatment, target)
        if method.name == "passthrough" and settings["scale"] == 1.0:
            return inputs[self.merged[0]]
        dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
        based = self.base is not None and method.base != "unused"
        method, settings, rule = treat(method, settings, target, copied, deltas=based)
        matrices = None
        if method.unit == "matrix":
            known, config = stored_name(copied, target), config_of(copied)
            flip = group.parts[0].transposed if group else transposed(known, copied.shape, config)
            # factors that are packed are those of the tensor as it is stored
            flip = flip and method.packing is None
            matrices = read_matrices(copied.shape, conv="conv" in target.roles, transposed=flip)
        if method.unit == "matrix" and matrices is None:
            self.treatments.vectors.setdefault(treatment.number, []).append(name)
            return copied
        return Assignment(method, settings, based, dtype, treatment.number, matrices, rule)

    def made(
        self, way: Assignment | Node, target: Target, inputs: Mapping[str, Node], group: FusedGroup | None = None
    ) -> Node:
        """The node of a tensor, or of a part of a fused one, that is woven in some way."""
        if not isinstance(way, Assignment):
            return way
        method, settings, based, dtype, number, matrices, rule = way
        if rule:
            self.builder.treated.setdefault(rule, []).append(target.name)
        name = target.name if group is None else group.name(target.name)
        models = tuple([inputs[each] for each in self.merged])
        base = inputs[self.base] if based and self.base is not None else None
        return Merged(method, name, self.merged, models, base, settings, dtype, number, matrices)

    def taken(self, treatment: Treatment, tensor: str, inputs: Mapping[str, Node], copied: Node) -> Node:
        """The tensor of the model that a part of the recipe names; `base` is the merge's own, where it has one."""
        name = self.base if treatment.take == BASE and self.base else treatment.take
        if name is not None and name in inputs:
            return inputs[name]
        why = "no layer of it stands there"
        self.builder.fail(f"{tensor!r} cannot be taken from {name!r}", where=treatment.merge.place, why=why)
        return copied

    def settings(self, treatment: Treatment, target: Target) -> dict[str, Any]:
        """A treatment's settings at one tensor. Tensors that no value can tell apart share one dictionary."""
        builder, merge, method = self.builder, treatment.merge, treatment.method
        assert method is not None
        asked = self.asked(treatment)
        if "name" in asked.looks:
            return resolve_settings(merge, method, self.merged, asked.levels, target, builder.problems)
        key: Any = (method.name, asked.places, self.merged)
        if asked.looks:
            key = (*key, target.layer, target.roles, target.depth, target.after, target.part, target.number)
        if key not in builder.resolved:
            builder.resolved[key] = resolve_settings(merge, method, self.merged, asked.levels, target, builder.problems)
        return builder.resolved[key]

    def asked(self, treatment: Treatment) -> Asked:
        """The levels of a treatment's settings; found once."""
        if treatment.number not in self.asking:
            levels = self.treatments.levels(treatment, self.levels)
            looks = set().union(*(looks_at(value) for level in levels for value in level.values()))
            self.asking[treatment.number] = Asked(levels, tuple(map(id, levels)), looks)
        return self.asking[treatment.number]


def target_of(tensor: str, parsed: ParsedName) -> Target:
    """The target of a tensor that keeps its name."""
    return Target(tensor, parsed.layer, parsed.roles, parsed.height, parsed.after, (), parsed.part, parsed.number)


def output_dtype(node: Node, donor: TensorInfo | None, wanted: DType | None) -> DType:
    """The dtype in which a tensor is written: the recipe's, or that of the donor's own."""
    if isinstance(node, Stored) and not node.dtype.floating:
        return node.dtype
    if wanted is not None:
        return wanted
    if donor is not None and donor.dtype.floating:
        return donor.dtype
    leaf = node
    while not isinstance(leaf, Stored) and leaf.rows:
        leaf = leaf.rows[-1]
    return leaf.dtype


def inside(target: Target, group: FusedGroup) -> Target:
    """Where settings and parts of the recipe are asked for a part of a fused tensor: at its own roles and the whole's."""
    return target._replace(roles=tuple(dict.fromkeys((*group.roles, *target.roles))))


def stored_name(node: Node, target: Target) -> str:
    """The name under which a tensor's own config knows it: in a stack, the output's has another layer."""
    return node.info.name if isinstance(node, Stored) else target.name


def config_of(node: Node) -> Mapping[str, Any] | None:
    found = leaves(node)
    return found[0].checkpoint.config if found else None
