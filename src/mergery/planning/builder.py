"""From a recipe's names to views: which tensors there are, and which node makes each.

All that can be wrong between models is found here, from headers and configs: missing and extra tensors, shapes, layer
counts, families, quantised files. Problems are collected, so that the user sees all of them at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergery.architecture import Architecture, read_architecture
from mergery.checkpoints.base import Checkpoint
from mergery.errors import MergeryError, PlanError, Where
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import Change, View
from mergery.planning.compatibility import check_families, check_quantised
from mergery.planning.side_by_side import parallel
from mergery.planning.stack import stacked
from mergery.planning.treatment import Treatments, check_overrides, numbers
from mergery.recipe import Merge, Recipe, Source
from mergery.views.convert import converted
from mergery.views.vocabulary.aligning import Alignment
from mergery.views.vocabulary.comparing import Tokenizers


@dataclass
class Builder:
    """Builds the views of one recipe over opened checkpoints."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    problems: list[MergeryError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    treated: dict[str, list[str]] = field(default_factory=dict)  # tensors that a rule treats apart, by the rule
    changes: list[Change] = field(default_factory=list)
    views: dict[str, View | None] = field(default_factory=dict)
    merges: int = 0
    architectures: list[tuple[Checkpoint, Architecture]] = field(default_factory=list)
    treatments: dict[int, Treatments] = field(default_factory=dict)
    resolved: dict[Any, dict[str, Any]] = field(default_factory=dict)  # settings, by all that values are asked for
    sources: dict[str, View | None] = field(default_factory=dict)  # models as they are stored
    tokenizers: Tokenizers = field(default_factory=Tokenizers)
    alignment: Alignment | None = None  # of the models' rows to the output's vocabulary

    def fail(self, what: str, *, where: Where | None = None, why: str = "", hint: str = "") -> None:
        self.problems.append(PlanError(what, where=where, why=why, hint=hint))

    def view(self, name: str) -> View | None:
        """The view of a named model; None where it has problems."""
        if name not in self.views:
            model = self.recipe.models[name]
            self.views[name] = self.aligned(name) if isinstance(model, Source) else self.merge(name, model)
        return self.views[name]

    def aligned(self, name: str) -> View | None:
        """A stored model, with its rows in the order of the output's vocabulary; None where it has problems."""
        if self.alignment is None:
            return self.stored(name)
        try:
            return self.alignment.view(name)
        except PlanError as error:
            self.fail(error.what, where=self.recipe.merge.place, why=error.why, hint=error.hint)
            return None

    def stored(self, name: str) -> View | None:
        """A model as it is stored."""
        if name not in self.sources:
            model = self.recipe.models[name]
            assert isinstance(model, Source)
            self.sources[name] = self.source(name, model)
        return self.sources[name]

    def source(self, name: str, source: Source) -> View | None:
        checkpoint = self.checkpoints[name]
        config = checkpoint.config
        check_quantised(self, name, checkpoint, source)
        nodes: dict[str, Node] = {each: Stored(name, checkpoint, info) for each, info in checkpoint.tensors.items()}
        dropped: dict[str, str] = {}
        for pattern in self.recipe.drop:
            for each in [each for each in nodes if fnmatch.fnmatchcase(each, pattern)]:
                dropped[each] = f"the recipe drops {pattern!r}"
                del nodes[each]
        architecture = self.architecture(checkpoint)
        if not nodes:
            self.fail(f"the model {name!r} has no tensors", where=source.place)
        view = View(name, nodes, architecture, config, checkpoint, dropped)
        return converted(self, view, source) if source.convert and nodes else view

    def architecture(self, checkpoint: Checkpoint) -> Architecture:
        """What the names say; fine-tunes of one model have the same, which is read once."""
        for other, known in self.architectures:
            if other.config == checkpoint.config and other.tensors == checkpoint.tensors:
                return known
        architecture = read_architecture(checkpoint.tensors.values(), checkpoint.config)
        self.architectures.append((checkpoint, architecture))
        return architecture

    def merge(self, name: str, merge: Merge) -> View | None:
        """The view of a merge: the recipe's own, or a stage."""
        names = dict.fromkeys((*merge.names(), self.recipe.donor)) if merge is self.recipe.merge else merge.names()
        views = {each: self.view(each) for each in names}
        if any(view is None for view in views.values()):
            return None
        ready = {each: view for each, view in views.items() if view is not None}
        number, self.merges = self.merges, self.merges + numbers(merge)
        check_families(self, ready, merge)
        before = len(self.problems)
        build = stacked if merge.stack or merge.growth else parallel
        view = build(self, name, merge, ready, number)
        if view is not None:
            check_overrides(self, merge, number, view)
        return view if len(self.problems) == before else None
