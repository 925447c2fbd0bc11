"""From a recipe's names to views: which tensors there are, and which node makes each.

All that can be wrong between models is found here, from headers and configs: missing and extra tensors, shapes, layer
counts, families, quantised files. Problems are collected, so that the user sees all of them at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.architecture import Architecture, read_architecture, restack_config, text_config
from weft.checkpoints.base import Checkpoint, TensorInfo
from weft.dtypes import BY_TORCH, F32, DType
from weft.errors import PlanError, WeftError, Where, did_you_mean
from weft.graph import Leaf, Node, View, Weave
from weft.method import Method, find
from weft.recipe import Merge, Recipe, Slice, Source
from weft.settings import check_model_wide, resolve_settings
from weft.values import Spot, Value, by_name

SHOWN = 5  # names listed in a message before "and N more"


@dataclass
class Builder:
    """Builds the views of one recipe over opened checkpoints."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    problems: list[WeftError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    views: dict[str, View | None] = field(default_factory=dict)
    merges: int = 0
    architectures: list[tuple[Checkpoint, Architecture]] = field(default_factory=list)
    resolved: dict[Any, dict[str, Any]] = field(default_factory=dict)  # settings, by all that values are asked for

    def fail(self, what: str, *, where: Where | None = None, why: str = "", hint: str = "") -> None:
        self.problems.append(PlanError(what, where=where, why=why, hint=hint))

    def view(self, name: str) -> View | None:
        """The view of a named model; None where it has problems."""
        if name not in self.views:
            model = self.recipe.models[name]
            self.views[name] = self.source(name, model) if isinstance(model, Source) else self.merge(name, model)
        return self.views[name]

    def source(self, name: str, source: Source) -> View:
        checkpoint = self.checkpoints[name]
        config = checkpoint.config
        self.quantised(name, checkpoint, source)
        dropped: dict[str, str] = {}
        nodes: dict[str, Node] = {}
        dropping = self.recipe.drop
        for info in checkpoint.tensors.values():
            pattern = dropping and next((item for item in dropping if fnmatch.fnmatchcase(info.name, item)), None)
            if pattern:
                dropped[info.name] = f"the recipe drops {pattern!r}"
            else:
                nodes[info.name] = Leaf(name, checkpoint, info)
        architecture = self.architecture(checkpoint)
        if not nodes:
            self.fail(f"the model {name!r} has no tensors", where=source.place)
        return View(name, nodes, architecture, config, checkpoint, dropped)

    def architecture(self, checkpoint: Checkpoint) -> Architecture:
        """What the names say; fine-tunes of one model have the same, which is read once."""
        for other, known in self.architectures:
            if other.config == checkpoint.config and other.tensors == checkpoint.tensors:
                return known
        architecture = read_architecture(checkpoint.tensors.values(), checkpoint.config)
        self.architectures.append((checkpoint, architecture))
        return architecture

    def quantised(self, name: str, checkpoint: Checkpoint, source: Source) -> None:
        config = checkpoint.config or {}
        scheme = text_config(config).get("quantization_config") or config.get("quantization_config")
        odd = next((i for i in checkpoint.tensors.values() if i.dtype.floating and not i.dtype.mergeable), None)
        if scheme or odd:
            method = scheme.get("quant_method", "quantised") if isinstance(scheme, dict) else str(odd and odd.dtype)
            self.fail(
                f"the model {name!r} is quantised ({method})",
                where=source.place,
                why=f"tensor {odd.name!r} is {odd.dtype}" if odd else "config.json has a quantization_config",
                hint="use its bfloat16, float16 or float32 version; quantised files cannot be merged yet",
            )

    # --- merges -------------------------------------------------------------------------------------------------------

    def merge(self, name: str, merge: Merge) -> View | None:
        """The view of a merge: the recipe's own, or a stage."""
        names = dict.fromkeys((*merge.names(), self.recipe.donor)) if merge is self.recipe.merge else merge.names()
        views = {each: self.view(each) for each in names}
        if any(view is None for view in views.values()):
            return None
        ready = {each: view for each, view in views.items() if view is not None}
        number, self.merges = self.merges, self.merges + 1
        self.families(ready, merge)
        before = len(self.problems)
        build = self.stacked if merge.stack else self.parallel
        view = build(name, merge, ready, number)
        return view if len(self.problems) == before else None

    def families(self, views: Mapping[str, View], merge: Merge) -> None:
        kinds = {name: view.architecture.family for name, view in views.items() if view.architecture.family}
        if len(set(kinds.values())) > 1:
            self.fail(
                "the models are of different families",
                where=merge.place,
                why=", ".join(f"{name} is {family}" for name, family in kinds.items()),
                hint="merge models that were trained from one base",
            )
            return
        configs = {name: view.config for name, view in views.items() if view.config}
        first, *others = configs.items() if configs else ([("", {})])
        for name, config in others:
            for key, mine, theirs in config_differences(first[1] or {}, config):
                self.warnings.append(
                    f"{key} differs: {first[0]} has {mine}, {name} has {theirs}; the output takes its donor's"
                )

    def parallel(self, name: str, merge: Merge, views: Mapping[str, View], number: int) -> View | None:
        method = find(merge.method)
        donor = views[self.recipe.donor] if merge is self.recipe.merge else views[merge.base or merge.models[0]]
        aligned = {each: self.align(donor, view, merge) for each, view in views.items()}
        if any(names is None for names in aligned.values()):
            return None
        nodes: dict[str, Node] = {}
        architecture = donor.architecture
        available = {each: views[each].nodes for each in merge.names()}
        for tensor, own in donor.nodes.items():
            part = architecture.parts[tensor]
            depth = None
            if part.layer is not None:
                depth = part.layer / (architecture.depth - 1) if architecture.depth > 1 else 1.0
            spot = Spot(tensor, part.layer, part.roles, depth, part.after)
            inputs = {each: view[tensor] for each, view in available.items()}
            nodes[tensor] = self.weave(merge, method, merge.base, merge.models, (), spot, inputs, own, number)
        check_model_wide(method, merge, nodes, number, self.problems)
        dropped = {k: v for view in views.values() for k, v in {**view.dropped, **(aligned[view.name] or {})}.items()}
        return View(name, nodes, architecture, donor.config, donor.donor, dropped)

    def align(self, donor: View, view: View, merge: Merge) -> dict[str, str] | None:
        """Check that a view has the donor's names and shapes. Returns what is dropped, or None with problems noted."""
        missing = [tensor for tensor in donor.nodes if tensor not in view.nodes]
        extra = [tensor for tensor in view.nodes if tensor not in donor.nodes]
        dropped: dict[str, str] = {}
        if extra == ["lm_head.weight"] and _tied(view.config) and _tied(donor.config):
            dropped["lm_head.weight"] = f"{view.name} ties its head to its embeddings, and {donor.name} stores it once"
            extra = []
        place = merge.place
        if view.architecture.depth != donor.architecture.depth and (missing or extra):
            self.fail(
                f"{view.name!r} has {view.architecture.depth} layers and {donor.name!r} has {donor.architecture.depth}",
                where=place,
                hint="give layer ranges in a 'stack' to combine models of different depth",
            )
            return None
        if missing:
            self.fail(
                f"{view.name!r} lacks {_list(missing)}",
                where=place,
                why=f"{donor.name!r} has it",
                hint=_near(missing, extra),
            )
        if extra:
            self.fail(
                f"{view.name!r} has {_list(extra)}, which {donor.name!r} lacks",
                where=place,
                why="no tensor is lost silently",
                hint=f"name it under 'drop' to leave it out: drop: [{extra[0]!r}]" if not missing else "",
            )
        if missing or extra:
            return None
        wrong = [t for t, node in donor.nodes.items() if view.nodes[t].shape != node.shape]
        for tensor in wrong[:SHOWN]:
            self.shape_problem(tensor, donor, view, place)
        if len(wrong) > SHOWN:
            self.fail(f"and {len(wrong) - SHOWN} more tensors of {view.name!r} differ in shape", where=place)
        return None if wrong else dropped

    def shape_problem(self, tensor: str, donor: View, view: View, place: Where | None) -> None:
        mine, theirs = donor.nodes[tensor].shape, view.nodes[tensor].shape
        roles = donor.architecture.parts[tensor].roles if tensor in donor.architecture.parts else ()
        vocabulary = ("embed" in roles or "head" in roles) and mine[1:] == theirs[1:]
        self.fail(
            f"{tensor!r} is {list(mine)} in {donor.name!r} and {list(theirs)} in {view.name!r}",
            where=place,
            why="the vocabularies differ in size" if vocabulary else "tensors are merged element by element",
            hint="resize the embeddings to one vocabulary first" if vocabulary else "merge models of one architecture",
        )

    # --- stacks -------------------------------------------------------------------------------------------------------

    def stacked(self, name: str, merge: Merge, views: Mapping[str, View], number: int) -> View | None:
        method = find(merge.method)
        donor = views[self.recipe.donor] if merge is self.recipe.merge else views[merge.names()[0]]
        if donor.architecture.stack is None:
            self.fail(f"{donor.name!r} has no numbered layers to stack", where=merge.place)
            return None
        for part in merge.stack:
            for each, (low, high) in part.models:
                depth = views[each].architecture.depth
                if high >= depth:
                    self.fail(
                        f"layers {low}-{high} of {each!r} do not exist",
                        where=part.place,
                        why=f"it has {depth} layers, 0-{depth - 1}",
                    )
        if self.problems:
            return None
        nodes: dict[str, Node] = {}
        self.outside(merge, method, views, donor, number, nodes, after=False)
        sources: list[int] = []
        for part in merge.stack:
            self.layers(merge, method, part, views, donor, number, nodes, len(sources))
            kept = next((low for each, (low, _) in part.models if each == donor.name), part.models[0][1][0])
            sources += range(kept, kept + part.depth)
        self.outside(merge, method, views, donor, number, nodes, after=True)
        if self.problems:
            return None
        infos = [TensorInfo(tensor, node.shape, node.dtype) for tensor, node in nodes.items()]
        config = donor.config
        if config is not None:
            config, warnings = restack_config(config, sources, donor.architecture.depth)
            self.warnings += warnings
        check_model_wide(method, merge, nodes, number, self.problems)
        dropped = self.unused_layers(merge, views)
        return View(name, nodes, read_architecture(infos, config), config, donor.donor, dropped)

    def outside(
        self,
        merge: Merge,
        method: Method,
        views: Mapping[str, View],
        donor: View,
        number: int,
        nodes: dict[str, Node],
        *,
        after: bool,
    ) -> None:
        """Tensors before the stack are made as the first slice says, those behind it as the last says."""
        part = merge.stack[-1 if after else 0]
        used = [each for each, _ in part.models]
        for tensor, own in donor.nodes.items():
            parsed = donor.architecture.parts[tensor]
            if parsed.layer is not None or parsed.after != after:
                continue
            lacking = [each for each in used if tensor not in views[each].nodes]
            if lacking:
                self.fail(f"{lacking[0]!r} lacks {tensor!r}", where=part.place, why=f"{donor.name!r} has it")
                continue
            spot = Spot(tensor, None, parsed.roles, None, parsed.after)
            self.slice_node(merge, method, part, views, dict.fromkeys(used, tensor), spot, own, number, nodes)

    def layers(
        self,
        merge: Merge,
        method: Method,
        part: Slice,
        views: Mapping[str, View],
        donor: View,
        number: int,
        nodes: dict[str, Node],
        first: int,
    ) -> None:
        shapes = {each: _by_layer(views[each].architecture) for each, _ in part.models}
        lead, (low, _) = part.models[0]
        for step in range(part.depth):
            templates = {each: shapes[each].get(start + step, {}) for each, (start, _) in part.models}
            for each, names in templates.items():
                gap = [rest for rest in templates[lead] if rest not in names]
                gap += [rest for rest in names if rest not in templates[lead]]
                if gap:
                    this = f"layer {dict(part.models)[each][0] + step} of {each!r}"
                    that = f"layer {low + step} of {lead!r}"
                    self.fail(
                        f"{this} and {that} differ in {_list(gap)}",
                        where=part.place,
                        why="the layers of a slice must have the same tensors",
                    )
                    return
            for rest, tensor in templates[lead].items():
                layer = first + step
                output = f"{donor.architecture.stack}.{layer}.{rest}"
                parsed = views[lead].architecture.parts[tensor]
                depth = step / (part.depth - 1) if part.depth > 1 else 1.0
                names = {each: names[rest] for each, names in templates.items()}
                spot = Spot(output, layer, parsed.roles, depth, False, tuple(names.items()))
                own = views[lead].nodes[tensor]
                self.slice_node(merge, method, part, views, names, spot, own, number, nodes)

    def slice_node(
        self,
        merge: Merge,
        method: Method,
        part: Slice,
        views: Mapping[str, View],
        names: Mapping[str, str],
        spot: Spot,
        own: Node,
        number: int,
        nodes: dict[str, Node],
    ) -> None:
        inputs = {each: views[each].nodes[tensor] for each, tensor in names.items()}
        shapes = {each: node.shape for each, node in inputs.items()}
        if len(set(shapes.values())) > 1:
            self.fail(
                f"{spot.name!r} would be made of tensors of different shapes",
                where=part.place,
                why=", ".join(f"{each} {list(shape)}" for each, shape in shapes.items()),
            )
            return
        base = part.base or merge.base
        base = base if base in names else None
        merged = tuple(each for each in names if each != base)
        levels = (part.settings,)
        nodes[spot.name] = self.weave(merge, method, base, merged, levels, spot, inputs, own, number)

    def unused_layers(self, merge: Merge, views: Mapping[str, View]) -> dict[str, str]:
        dropped: dict[str, str] = {}
        for each in merge.names():
            used = {
                layer for part in merge.stack for n, (lo, hi) in part.models if n == each for layer in range(lo, hi + 1)
            }
            left = [layer for layer in range(views[each].architecture.depth) if layer not in used]
            if left:
                dropped[f"{each}: layers {_ranges(left)}"] = "the stack does not use them"
        return dropped

    # --- one tensor ---------------------------------------------------------------------------------------------------

    def weave(
        self,
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
        settings = self.settings(merge, method, merged, (*levels, merge.settings), spot)
        if method.name == "passthrough" and settings["scale"] == 1.0:
            return inputs[merged[0]]
        dtype = BY_TORCH[merge.dtype] if merge.dtype else F32
        uses_base = base is not None and method.base != "unused"
        return Weave(
            method,
            spot.name,
            merged,
            tuple(inputs[each] for each in merged),
            inputs[base] if uses_base and base else None,
            settings,
            dtype,
            number,
        )

    def settings(
        self,
        merge: Merge,
        method: Method,
        merged: tuple[str, ...],
        levels: tuple[Mapping[str, Value], ...],
        spot: Spot,
    ) -> dict[str, Any]:
        """The settings at one tensor. Tensors that no value can tell apart share one dictionary."""
        if any(by_name(value) for level in levels for value in level.values()):
            return resolve_settings(merge, method, merged, levels, spot, self.problems)
        key = (tuple(map(id, levels)), merged, spot.layer, spot.roles, spot.depth, spot.after)
        if key not in self.resolved:
            self.resolved[key] = resolve_settings(merge, method, merged, levels, spot, self.problems)
        return self.resolved[key]


def config_differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Entries of two configs that change what the weights mean, and differ."""
    keys = (
        "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings", "hidden_act", "hidden_activation",
        "rms_norm_eps", "layer_norm_eps", "sliding_window", "num_attention_heads", "num_key_value_heads", "head_dim",
        "tie_word_embeddings", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "embedding_multiplier",
        "residual_multiplier", "attention_multiplier", "logits_scaling",
    )  # fmt: skip
    a, b = text_config(mine), text_config(theirs)
    return [(key, a[key], b[key]) for key in keys if key in a and key in b and a[key] != b[key]]


def _tied(config: Mapping[str, Any] | None) -> bool:
    return bool(config and (config.get("tie_word_embeddings") or text_config(config).get("tie_word_embeddings")))


def _by_layer(architecture: Architecture) -> dict[int, dict[str, str]]:
    """Names by layer and by what stands behind the layer number."""
    result: dict[int, dict[str, str]] = {}
    skip = len(architecture.stack or "") + 1
    for name, part in architecture.parts.items():
        if part.layer is not None:
            result.setdefault(part.layer, {})[name[skip:].split(".", 1)[1]] = name
    return result


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _near(missing: list[str], extra: list[str]) -> str:
    hint = did_you_mean(missing[0], extra) if extra else ""
    return hint if hint.startswith("did you mean") else "check that the files are complete"


def _ranges(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


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
