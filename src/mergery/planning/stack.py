"""Layers of one or several models, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mergery.architecture import Architecture, read_architecture
from mergery.architecture.depth import Origin, restack_config
from mergery.checkpoints.base import TensorInfo
from mergery.errors import PlanError, listed, ranges
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.planning.nodes import NodeBuilder, target_of
from mergery.planning.treatment import Treatments
from mergery.recipe import Merge, Slice
from mergery.recipe.values import Target
from mergery.views.buffers import buffers
from mergery.views.growth import grow
from mergery.views.heads import standing_for, with_heads

LEFT_OUT = "are buffers that not all models of a slice have alike: they are left out, and made anew on loading"


def stacked(
    name: str, donor: View, views: Mapping[str, View], treatments: Treatments, findings: Findings
) -> View | None:
    """The view of a stack, with what stands outside the layers under the donor's names; None where there are problems."""
    merge = treatments.own.merge
    if donor.architecture.stack is None:
        hint = "merge it whole: models: [a, b] in place of 'stack'"
        findings.fail(f"{donor.name!r} has no numbered layers to stack", where=merge.place, hint=hint)
        return None
    if merge.growth:
        grown = views[merge.growth.model]
        merge = replace(merge, stack=grow(merge.growth, grown, stated_depth(grown), findings), growth=None)
    for view in views.values():
        if view.config.get("is_encoder_decoder"):
            findings.fail(
                f"the layers of {view.name!r} cannot be stacked",
                where=merge.place,
                why="it has an encoder and a decoder, and a stack of one would not fit the other",
                hint="merge it whole: models: [a, b] in place of 'stack'",
            )
    for part in merge.stack:
        for each, (low, high) in part.models:
            depth = stated_depth(views[each])
            if high >= depth:
                findings.fail(
                    f"layers {low}-{high} of {each!r} do not exist",
                    where=part.place,
                    why=f"it has {depth} layers, 0-{depth - 1}",
                    hint=f"{each}: {min(low, depth - 1)}-{depth - 1}",
                )
    if findings.problems:
        return None
    donor = with_heads(donor, {each: views[each] for each, _ in merge.stack[-1].models}, None, findings)
    stack = Stack(merge, views, donor, treatments, findings)
    stack.outside(after=False)
    origins: list[Origin] = []
    for part in merge.stack:
        stack.layers(part, len(origins))
        kept, (low, _) = next((model for model in part.models if model[0] == donor.name), part.models[0])
        origins += [_origin(views[kept], donor, low + step) for step in range(part.depth)]
    stack.outside(after=True)
    if findings.problems:
        return None
    nodes = stack.nodes
    infos = [TensorInfo(tensor, node.shape, node.dtype) for tensor, node in nodes.items()]
    config = donor.config
    if config:
        try:
            config, warnings = restack_config(config, origins, stated_depth(donor))
        except PlanError as error:
            findings.problems.append(error.at(merge.place))
            return None
        findings.warnings += warnings
    return View(name, nodes, read_architecture(infos, config), config, donor.donor, unused_layers(merge, views))


def stated_depth(view: View) -> int:
    """How many layers may be stacked: those that the config counts, without any that only predict further tokens."""
    depth = view.architecture.depth
    return min(depth, view.config.depth or depth)


def _origin(view: View, donor: View, layer: int) -> Origin:
    described = view if view.config else donor
    return Origin(described.config.language, layer, stated_depth(described))


@dataclass(frozen=True)
class Stack:
    """The tensors of a stack, as they are made: those before the layers, the layers slice by slice, those behind them."""

    merge: Merge
    views: Mapping[str, View]
    donor: View
    treatments: Treatments
    findings: Findings
    nodes: dict[str, Node] = field(default_factory=dict)

    def outside(self, *, after: bool) -> None:
        """Tensors before the stack are made as the first slice says, those behind it as the last says."""
        part = self.merge.stack[-1 if after else 0]
        used = [each for each, _ in part.models]
        builder = self.builder(part, self.donor)
        for tensor, own in self.donor.nodes.items():
            parsed = self.donor.architecture.names[tensor]
            if parsed.layer is not None or parsed.after != after:
                continue
            names = {each: standing_for(self.views[each], tensor) for each in used}
            lacking = [each for each, name in names.items() if name is None]
            if lacking and buffers([tensor], self.donor.architecture):
                self.nodes[tensor] = own
                continue
            if lacking:
                why = f"{self.donor.name!r} has it"
                hint = f"take config and names from another model: output: {{config: {lacking[0]}}}"
                self.findings.fail(f"{lacking[0]!r} lacks {tensor!r}", where=part.place, why=why, hint=hint)
                continue
            found = {each: name for each, name in names.items() if name is not None}
            self.add(part, builder, found, target_of(tensor, parsed), own)

    def layers(self, part: Slice, first: int) -> None:
        """The layers of a slice, from the output's layer `first` on."""
        views, (lead, (low, _)) = self.views, part.models[0]
        shapes = {each: _by_layer(views[each].architecture) for each, _ in part.models}
        builder = self.builder(part, views[lead])
        for step in range(part.depth):
            templates = {each: shapes[each].get(start + step, {}) for each, (start, _) in part.models}
            self.leave_out_buffers(templates)
            for each, names in templates.items():
                gap = [rest for rest in templates[lead] if rest not in names]
                gap += [rest for rest in names if rest not in templates[lead]]
                if gap:
                    this = f"layer {dict(part.models)[each][0] + step} of {each!r}"
                    that = f"layer {low + step} of {lead!r}"
                    why = "the layers of a slice must have the same tensors"
                    hint = "give each of them a slice of its own, or choose layers of one kind"
                    self.findings.fail(
                        f"{this} and {that} differ in {listed(gap)}", where=part.place, why=why, hint=hint
                    )
                    return
            for rest, tensor in templates[lead].items():
                layer = first + step
                output = f"{self.donor.architecture.stack}.{layer}.{rest}"
                parsed = views[lead].architecture.names[tensor]
                depth = step / (part.depth - 1) if part.depth > 1 else 1.0
                names = {each: names[rest] for each, names in templates.items()}
                target = Target(output, layer, parsed.roles, depth, False, tuple(names.items()), number=layer)
                self.add(part, builder, names, target, views[lead].nodes[tensor])

    def leave_out_buffers(self, templates: Mapping[str, dict[str, str]]) -> None:
        """Leave buffers out that not all models of a slice have in one shape; a model makes them anew when it is loaded."""
        found: dict[str, list[Node]] = {}
        for each, names in templates.items():
            view = self.views[each]
            for tensor in buffers(names.values(), view.architecture):
                rest = next(rest for rest, name in names.items() if name == tensor)
                found.setdefault(rest, []).append(view.nodes[tensor])
        for rest, nodes in found.items():
            if len(nodes) < len(templates) or len({node.shape for node in nodes}) > 1:
                self.findings.treat(LEFT_OUT, next(names[rest] for names in templates.values() if rest in names))
                for names in templates.values():
                    names.pop(rest, None)

    def builder(self, part: Slice, view: View) -> NodeBuilder:
        """What makes the nodes of a slice, whose tensors have the names and shapes of a view."""
        names = [name for name, _ in part.models]
        base = part.base or self.merge.base
        base = base if base in names else None
        merged = tuple(name for name in names if name != base)
        config = view.config or self.donor.config
        return NodeBuilder(self.treatments, base, merged, config, self.findings, (part.settings,))

    def add(self, part: Slice, builder: NodeBuilder, names: Mapping[str, str], target: Target, own: Node) -> None:
        """One tensor of the output, from those of the slice's models under `names`."""
        inputs = {each: self.views[each].nodes[tensor] for each, tensor in names.items()}
        shapes = {each: node.shape for each, node in inputs.items()}
        if len(set(shapes.values())) > 1:
            what = f"{target.name!r} would be made of tensors of different shapes"
            why = ", ".join(f"{each} {list(shape)}" for each, shape in shapes.items())
            self.findings.fail(what, where=part.place, why=why, hint="stack models of one width")
            return
        self.nodes[target.name] = builder.node(target, inputs, own)


def unused_layers(merge: Merge, views: Mapping[str, View]) -> dict[str, str]:
    dropped: dict[str, str] = {}
    for each in merge.names():
        used = {
            layer for part in merge.stack for n, (lo, hi) in part.models if n == each for layer in range(lo, hi + 1)
        }
        left = [layer for layer in range(views[each].architecture.depth) if layer not in used]
        if left:
            dropped[f"{each}: layers {ranges(left)}"] = "the stack does not use them"
    return dropped


def _by_layer(architecture: Architecture) -> dict[int, dict[str, str]]:
    """Names by layer and by what stands behind the layer number."""
    result: dict[int, dict[str, str]] = {}
    skip = len(architecture.stack or "") + 1
    for name, parsed in architecture.names.items():
        if parsed.layer is not None:
            result.setdefault(parsed.layer, {})[name[skip:].split(".", 1)[1]] = name
    return result
