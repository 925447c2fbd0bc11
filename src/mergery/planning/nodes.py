"""The nodes of output tensors, with the settings that each gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mergery.architecture import ParsedName
from mergery.architecture.fused import transposed
from mergery.checkpoints.config import Config
from mergery.dtypes import BY_TORCH, F32, DType
from mergery.graph.findings import Findings
from mergery.graph.fused import FusedGroup, from_parts, fused_groups, take_part
from mergery.graph.nodes import Matrices, Merged, Node, read_matrices
from mergery.method import Method
from mergery.method.roles import BASE
from mergery.planning.settings import differing, resolve_settings
from mergery.planning.special_cases import BUFFER, treat
from mergery.planning.treatment import Levels, Treatment, Treatments
from mergery.recipe.values import Target, Value

SPLIT = "are fused: each of their parts is merged by itself"
UNKNOWN = "are fused, and config and shape do not say how: each is merged as one tensor"


class Assignment(NamedTuple):
    """How a tensor is merged, whatever its name; `rule` is why it is not as the recipe says."""

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

    `config` is that of the view whose names and shapes the tensors have: it tells what is fused. `nearer` are settings that
    stand before the merge's own.
    """

    treatments: Treatments
    base: str | None
    merged: tuple[str, ...]
    config: Config
    findings: Findings
    nearer: tuple[Mapping[str, Value], ...] = ()
    levels: dict[int, Levels] = field(default_factory=dict)  # by the number of the treatment
    assignments: dict[Any, Assignment] = field(default_factory=dict)  # by all that tells tensors apart but their names

    def node(self, target: Target, inputs: Mapping[str, Node], own: Node) -> Node:
        """The node of one output tensor. `own` is the donor's of that name."""
        copied = inputs[self.base] if self.base else own if own in inputs.values() else inputs[self.merged[0]]
        kind = (*target[1:], copied.shape, copied.dtype.name)
        assignment = self.assignments.get(kind)
        if assignment is not None:  # such as the experts of a layer
            return self.made(assignment, target, inputs)
        treatment = self.treatments.at(target, copied.shape)
        method = treatment.method
        whole = not copied.dtype.floating or not copied.elements
        if whole and method is not None:
            return copied  # integers and flags are copied, from the base where there is one
        if method is not None and "buffer" in target.roles:
            self.findings.treat(BUFFER, target.name)
            return copied
        matrix = method is not None and method.unit == "matrix"
        looks = self.levels_of(treatment).looks if method is not None else set()
        named = matrix or bool(self.treatments.overrides) or "role" in looks  # fused tensors are told by their names
        if named and not whole:
            groups = fused_groups(known_as(target), copied.shape, target.roles, self.config)
            if groups is None and (matrix or "role" in looks or self.treatments.by_role):
                self.findings.treat(UNKNOWN, target.name)
            elif groups and (matrix or self.differ(groups, target, treatment, filtered="role" in looks)):
                self.findings.treat(SPLIT, target.name)
                return self.split(target, inputs, copied, groups)
        found = self.assigned(treatment, target, inputs, copied)
        if isinstance(found, Assignment) and not named and "name" not in looks:
            self.assignments[kind] = found
        return self.made(found, target, inputs)

    def differ(self, groups: Sequence[FusedGroup], target: Target, treatment: Treatment, *, filtered: bool) -> bool:
        """Whether the parts of a fused tensor get different things."""
        at = [(inside(target, group), group.shape) for group in groups]
        if any(self.treatments.at(*each) is not treatment for each in at):
            return True
        if not filtered:
            return False
        first, *others = [self.settings(treatment, each) for each, _ in at]
        return any(differing([first, other]) for other in others)

    def split(self, target: Target, inputs: Mapping[str, Node], copied: Node, groups: Sequence[FusedGroup]) -> Node:
        """A fused tensor: each part gets what its own roles say, and all are put together again."""
        nodes = []
        for group in groups:
            at, name = inside(target, group), group.name(target.name)
            pieces = {each: take_part(name, node, group) for each, node in inputs.items()}
            piece = pieces[next(each for each, node in inputs.items() if node is copied)]
            found = self.assigned(self.treatments.at(at, group.shape), at, pieces, piece, group)
            nodes.append(self.made(found, at, pieces, group))
        return from_parts(target.name, copied.shape, groups, nodes)

    def assigned(
        self,
        treatment: Treatment,
        target: Target,
        inputs: Mapping[str, Node],
        copied: Node,
        group: FusedGroup | None = None,
    ) -> Assignment | Node:
        """What a tensor, or a part of a fused one, gets under a treatment: how it is merged, or the node that it is."""
        name = group.name(target.name) if group is not None else target.name
        if treatment.method is None:
            return self.taken(treatment, name, inputs, copied)
        merge, method = treatment.merge, treatment.method
        settings = self.settings(treatment, target)
        if method.factor is not None and method.factor(settings) == 1.0:
            return inputs[self.merged[0]]
        dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
        based = self.base is not None and method.base != "unused"
        method, settings, rule = treat(method, settings, target, self.config, deltas=based)
        matrices = None
        if method.unit == "matrix":
            matrices = self.matrices(method, target, copied.shape, group)
            if matrices is None:
                self.treatments.vectors.setdefault(treatment.number, []).append(name)
                return copied
        return Assignment(method, settings, based, dtype, treatment.number, matrices, rule)

    def matrices(
        self, method: Method, target: Target, shape: tuple[int, ...], group: FusedGroup | None
    ) -> Matrices | None:
        """How a tensor, or a part of a fused one, is read as matrices; None for a vector.

        A method that packs keeps factors of a matrix as it is stored: those of its transpose are the same.
        """
        flip = group.parts[0].transposed if group else transposed(known_as(target), shape, self.config)
        return read_matrices(shape, conv="conv" in target.roles, transposed=flip and method.packing is None)

    def made(
        self, found: Assignment | Node, target: Target, inputs: Mapping[str, Node], group: FusedGroup | None = None
    ) -> Node:
        """The node of a tensor, or of a part of a fused one."""
        if not isinstance(found, Assignment):
            return found
        method, settings, based, dtype, number, matrices, rule = found
        if rule:
            self.findings.treat(rule, target.name)
        name = target.name if group is None else group.name(target.name)
        models = tuple([inputs[each] for each in self.merged])
        base = inputs[self.base] if based and self.base is not None else None
        known = ()
        if method.statistics:
            own = (self.base, inputs[self.base]) if self.base is not None else None
            known = self.treatments.measurements.of(method, self.merged, models, name, matrices, own)
        return Merged(method, name, self.merged, models, base, settings, dtype, number, matrices, known)

    def taken(self, treatment: Treatment, tensor: str, inputs: Mapping[str, Node], copied: Node) -> Node:
        """The tensor of the model that a part of the recipe names; `base` is the merge's own, where it has one."""
        name = self.base if treatment.take == BASE and self.base else treatment.take
        if name is not None and name in inputs:
            return inputs[name]
        why = "no layer of it stands there"
        hint = "narrow the part with layers, or take from a model of that slice"
        self.findings.fail(f"{tensor!r} cannot be taken from {name!r}", where=treatment.merge.place, why=why, hint=hint)
        return copied

    def settings(self, treatment: Treatment, target: Target) -> dict[str, Any]:
        """A treatment's settings at one tensor. Tensors that no value can tell apart share one dictionary."""
        merge, method, resolved = treatment.merge, treatment.method, self.treatments.resolved
        assert method is not None
        levels, problems = self.levels_of(treatment), self.findings.problems
        if "name" in levels.looks:
            return resolve_settings(merge, method, self.merged, levels.settings, target, problems)
        key: Any = (method.name, levels.key, self.merged)
        if levels.looks:
            key = (*key, target.layer, target.roles, target.depth, target.after, target.part, target.number)
        if key not in resolved:
            resolved[key] = resolve_settings(merge, method, self.merged, levels.settings, target, problems)
        return resolved[key]

    def levels_of(self, treatment: Treatment) -> Levels:
        """Where a treatment's settings are looked up; found once."""
        if treatment.number not in self.levels:
            self.levels[treatment.number] = self.treatments.levels(treatment, self.nearer)
        return self.levels[treatment.number]


def target_of(tensor: str, parsed: ParsedName) -> Target:
    """The target of a tensor that keeps its name."""
    return Target(tensor, parsed.layer, parsed.roles, parsed.height, parsed.after, (), parsed.part, parsed.number)


def known_as(target: Target) -> str:
    """The name under which the config knows a tensor: in a stack, the output's has another layer."""
    return target.model_names[0][1] if target.model_names else target.name


def inside(target: Target, group: FusedGroup) -> Target:
    """Where settings and parts of the recipe are asked for a part of a fused tensor: at its own roles and the whole's."""
    return target._replace(roles=tuple(dict.fromkeys((*group.roles, *target.roles))))
