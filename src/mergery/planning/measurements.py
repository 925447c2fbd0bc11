"""Statistics of data in a plan: for each tensor that a method merges, what its models' statistics say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergery.architecture.spelling import canonical_name
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.lora import read_lora
from mergery.checkpoints.renamed import RenamedCheckpoint
from mergery.checkpoints.statistics import Statistics, model_mark, read_statistics
from mergery.dtypes import F32
from mergery.errors import PlanError, Where, listed
from mergery.graph.findings import Findings
from mergery.graph.gathering import from_ranges
from mergery.graph.nodes import Computed, Gathered, Matrices, Measured, Node, Stored
from mergery.method import Method
from mergery.recipe import Recipe, Source

PROTECTED = "protected text"  # what its statistics are called among the checkpoints of a plan
WORDS = {"gram": "Gram matrices of inputs", "fisher": "Fisher information"}


@dataclass(frozen=True)
class _Model:
    """One model's statistics."""

    label: str
    checkpoint: Checkpoint
    said: Statistics
    names: Mapping[str, str] = field(default_factory=dict)  # of tensors that are calibrated under another name

    def weight(self, node: Stored) -> str:
        """What a weight is called in the statistics."""
        return self.names.get(node.info.name, node.info.name)

    def stored(self, name: str) -> Stored | None:
        """One of the statistics by name."""
        info = self.checkpoint.tensors.get(name)
        return Stored(self.label, self.checkpoint, info) if info is not None else None


@dataclass
class Measurements:
    """The statistics that a recipe names, by model; and what is found wanting while nodes are made."""

    models: Mapping[tuple[str, str], _Model] = field(default_factory=dict)  # by model, and that whose data they are of
    wanting: dict[tuple[str, str, str, str], list[str]] = field(
        default_factory=dict
    )  # tensors, by method, kind and these
    few: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)  # tokens and inputs of tensors, by model
    protect: _Model | None = None  # of the text that the recipe protects

    def of(
        self,
        method: Method,
        models: Sequence[str],
        inputs: Sequence[Node],
        tensor: str,
        matrices: Matrices | None,
        base: tuple[str, Node] | None = None,
    ) -> tuple[Measured, ...]:
        """What a method asks for at a tensor, of its models or of the base; what is missing is noted."""
        found: list[Measured] = []
        for ask in method.statistics:
            nodes: list[Node] = []
            factors: list[float] = []
            for of, at in zip(models, inputs, strict=True):
                model, node, other = (*base, of) if ask.of_base and base is not None else (of, at, "")
                own = self.models.get((model, other)) or self.models.get((model, ""))
                made = None
                if own is not None and ask.aligned:
                    made = _mirrored(own, node, ask.statistic)
                elif own is not None and matrices is not None:
                    made = self._gram(model, own, node, tensor, matrices)
                if own is None or made is None:
                    self.wanting.setdefault((method.name, ask.statistic, model, other), []).append(tensor)
                    continue
                nodes.append(made)
                factors.append(1.0 / max(1, own.said.examples if ask.aligned else own.said.tokens))
            found.append(Measured(ask.kind, tuple(nodes), tuple(factors), ask.aligned))
        return tuple(found) if all(len(each.nodes) == len(models) for each in found) else ()

    def protected(self, tensor: str, node: Node, matrices: Matrices | None) -> tuple[Node | None, int]:
        """The Gram matrices of what a tensor of the protected model is multiplied with at protected tokens, and how many these
        are; None where they have not been measured.
        """
        if self.protect is None or matrices is None:
            return None, 0
        gram = self._gram("", self.protect, node, tensor, matrices)
        self.few.clear()
        origin = _origin(node, 0)
        shared = self.protect.said.inputs.get(self.protect.weight(origin[0])) if origin else None
        pending = any(not file["sha256"] for file in self.protect.said.data)  # they are made before the merge
        return gram, min(shared.tokens) if shared and not pending else 0

    def _gram(self, model: str, own: _Model, node: Node, tensor: str, matrices: Matrices) -> Node | None:
        """The Gram matrices of what a tensor's matrices are multiplied with: (in, in), or one for each matrix of a stack."""
        into = matrices.sides[1]
        size, ranges = matrices.rows * matrices.columns, []
        for number in range(matrices.count):
            first, last = (_origin(node, number * size + step) for step in (0, size - 1))
            if first is None or last is None or own.weight(first[0]) not in own.said.inputs:
                return None
            shared = own.said.inputs[own.weight(first[0])]
            gram = own.stored(f"{shared.of}.gram")
            place, end = (_matrix(*each) for each in (first, last))
            if (
                gram is None
                or gram.shape[-1] != into
                or place != end
                or own.said.inputs.get(own.weight(last[0])) != shared
            ):
                return None
            tokens = shared.tokens[place]
            if tokens < into and "expert" not in first[0].info.name:
                self.few.setdefault(model, {})[tensor] = tokens, into
            ranges.append((gram, place * into * into, into * into))
        shape = (into, into) if matrices.count == 1 else (matrices.count, into, into)
        return from_ranges(f"gram of {tensor}", shape, ranges)

    def tell(self, recipe: Recipe, findings: Findings) -> None:
        """Note what is wanting, each model once; and where there were few data."""
        for (method, kind, model, other), tensors in self.wanting.items():
            source = recipe.models.get(model)
            where = source.place if source is not None else None
            what = f"{method} needs the {WORDS[kind]} of {model!r}"
            what += f" on the data of {other!r}" if other else ""
            if not isinstance(source, Source):
                why = "it is made by a merge of the recipe, which has none"
                findings.fail(what, where=where, why=why, hint="write it to a folder first, and calibrate that")
            elif not {(model, other), (model, "")} & self.models.keys():
                folder = source.path if isinstance(source.path, str) else model
                hint = (
                    "calibration: {data: texts.jsonl} in the recipe, which makes them; or once for many recipes: mergery "
                    f"calibrate {folder} --data texts.jsonl --stats {kind} {model}-stats, and {model}: {{path: {folder}, "
                    f"statistics: {model}-stats}}"
                )
                findings.fail(what, where=where, why="the recipe names no data and no statistics of it", hint=hint)
            else:
                why = f"its statistics have none for {listed(tensors)}, or of another shape"
                hint = "merge these tensors by another method, in 'parts', or calibrate with what is missing"
                findings.fail(what, where=where, why=why, hint=hint)
        for model, seen in self.few.items():
            worst = max(seen, key=lambda name: seen[name][1] / max(1, seen[name][0]))
            tokens, into = seen[worst]
            findings.warnings.append(
                f"the statistics of {model} are of few data: {len(seen)} tensors have seen fewer tokens than they have "
                f"inputs, such as {worst!r} with {tokens} tokens and {into} inputs; shrinkage decides what these do not"
            )
        self.wanting.clear()
        self.few.clear()


def read_measurements(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], findings: Findings) -> Measurements:
    """The statistics that a recipe names, once they are known to be of its models."""
    models: dict[tuple[str, str], _Model] = {}
    for name, source in recipe.models.items():
        for other in source.measured if isinstance(source, Source) else ():
            assert isinstance(source, Source)
            label, model = statistics_of(name, other), checkpoints[name]
            try:
                said = _said(checkpoints[label], model, name)
            except PlanError as error:
                findings.problems.append(error.at(source.place))
                continue
            models[name, other] = _Model(label, checkpoints[label], said, _names(source, model, checkpoints[label]))
    return Measurements(models, protect=_protected(recipe, checkpoints, findings))


def _names(source: Source, model: Checkpoint, statistics: Checkpoint) -> Mapping[str, str]:
    """Names under which a model's tensors were calibrated, where these are others: of tensors that the recipe renames, by
    the new name; of those that an adapter brings whole, by the adapter's.
    """
    if isinstance(model, AdaptedCheckpoint):
        family = model.config.family_of("language")
        known = [name.rpartition(".")[0] for name in statistics.tensors]
        calibrated = {canonical_name(name, family): name for name in known}
        brought = {stored: name for adapter in model.adapters for name, stored in read_lora(adapter).whole.items()}
        return {stored: calibrated.get(canonical_name(name, family), name) for stored, name in brought.items()}
    return model.names if source.rename and isinstance(model, RenamedCheckpoint) else {}


def _protected(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], findings: Findings) -> _Model | None:
    """The statistics of protected text. Noted as a problem where they are of another model, or not there."""
    said = recipe.protect
    source = recipe.models.get(said.model) if said is not None else None
    if said is None or not isinstance(source, Source) or said.model not in checkpoints:
        return None
    if PROTECTED not in checkpoints:
        hint = f"merge with `mergery merge`, or: mergery calibrate {source.path} --data {said.data} OUT"
        hint = f"{hint}, and protect: {{statistics: OUT}}"
        findings.fail("the protected text has not been measured", where=said.place, hint=hint)
        return None
    checkpoint, model = checkpoints[PROTECTED], checkpoints[said.model]
    try:
        return _Model(PROTECTED, checkpoint, _said(checkpoint, model, said.model), _names(source, model, checkpoint))
    except PlanError as error:
        findings.problems.append(error.at(said.place))
        return None


def statistics_of(model: str, other: str = "") -> str:
    """What a model's statistics are called among the checkpoints of a plan; `other` is the model whose data they are of."""
    return f"statistics of {model} on {other}" if other else f"statistics of {model}"


def _said(checkpoint: Checkpoint, model: Checkpoint, name: str) -> Statistics:
    said = read_statistics(checkpoint)
    place = Where(checkpoint.location)
    if said is None:
        hint = "name a folder that `mergery calibrate` wrote"
        raise PlanError(f"these are no statistics of {name!r}", where=place, hint=hint)
    if {key: value for key, value in said.model.items() if key != "name"} != model_mark(model):
        why = f"they are of {said.model.get('name')}, as it was then"
        raise PlanError(
            f"these are statistics of another model than {name!r}", where=place, why=why, hint="calibrate it"
        )
    return said


def _mirrored(own: _Model, node: Node, kind: str) -> Node | None:
    """A statistic of a tensor's shape, gathered as the tensor is; of one with an adapter on it, that of its name."""
    if isinstance(node, Computed) and node.base is not None:
        return _mirrored(own, node.base, kind)
    if isinstance(node, Stored):
        found = own.stored(f"{own.weight(node)}.{kind}")
        return found if found is not None and found.shape == node.shape else None
    if not isinstance(node, Gathered):
        return None
    sources = [_mirrored(own, source, kind) for source in node.sources]
    found = tuple(source for source in sources if source is not None)
    if len(found) < len(sources):
        return None
    return Gathered(f"{kind} of {node.name}", node.shape, F32, found, node.which, node.starts, node.lengths)


def _origin(node: Node, element: int) -> tuple[Stored, int] | None:
    """The stored tensor from which an element comes, an adapter aside, and its place there; None for a zero, or where it is
    computed otherwise.
    """
    if isinstance(node, Computed) and node.base is not None:
        return _origin(node.base, element)
    if isinstance(node, Stored):
        return node, element
    if not isinstance(node, Gathered):
        return None
    ends = np.cumsum(node.lengths)
    at = int(np.searchsorted(ends, element, side="right"))
    if node.which[at] < 0:
        return None
    inside = int(node.starts[at]) + element - int(ends[at] - node.lengths[at])
    return _origin(node.sources[int(node.which[at])], inside)


def _matrix(stored: Stored, element: int) -> int:
    """Which matrix of a stored tensor an element is of; 0 where that is one matrix."""
    shape = stored.shape
    return element // (shape[1] * shape[2]) if len(shape) == 3 else 0
