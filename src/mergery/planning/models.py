"""The models of a recipe as views, in three steps: as they are stored; with their rows in the output's order; merged.

All that can be wrong between models is found on this way, from headers and configs: missing and extra tensors, shapes, layer
counts, families, adapters, quantised files. Problems are noted, so that the user sees all of them at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mergery.architecture import Architecture, read_architecture
from mergery.checkpoints.adapted import AdaptedCheckpoint, without_adapters
from mergery.checkpoints.base import Checkpoint
from mergery.errors import PlanError
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.planning.compatibility import check_families
from mergery.planning.coordinates import in_coordinates, transform_of
from mergery.planning.inputs import check_quantised, refuse_adapters
from mergery.planning.measurements import Measurements
from mergery.planning.side_by_side import side_by_side
from mergery.planning.stack import stacked
from mergery.planning.treatment import numbers, treatments_of
from mergery.recipe import Merge, Recipe, Source
from mergery.views.adapters import adapted_view
from mergery.views.bare import Bare, bare_views, is_bare
from mergery.views.beside import placed
from mergery.views.convert import converted
from mergery.views.heads import settled, truly_tied
from mergery.views.smoothing import unsmoothed
from mergery.views.vocabulary.comparing import Tokenizers
from mergery.views.vocabulary.unifying import OutputVocabulary, merged_sources, vocabulary_sources


def stored_views(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], findings: Findings) -> dict[str, View]:
    """The models whose tensors the output may take, as they are stored, in the shapes that the recipe asks for.

    Those with problems are missing.
    """
    known: list[tuple[Checkpoint, Architecture]] = []
    plain: list[Checkpoint] = []
    views: dict[str, View] = {}
    wanted = recipe.wanted_vocabulary
    sources: dict[str, tuple[Source, Checkpoint]] = {}
    for name in dict.fromkeys((*_merged(recipe), *(vocabulary_sources(recipe, wanted) if wanted else ()))):
        source = recipe.models[name]
        assert isinstance(source, Source)
        sources[name] = source, checkpoints[name]
    bare = {name: Bare(own, source.place) for name, (source, own) in sources.items() if is_bare(own)}
    if bare:
        views |= bare_views(bare, findings)
        sources = {name: each for name, each in sources.items() if name not in bare}
    adapters = refuse_adapters(sources, findings)
    for name, (source, checkpoint) in sources.items():
        if name in adapters or not check_quantised(name, checkpoint, source.place, plain, findings):
            continue
        before = len(findings.problems)
        findings.warnings += [f"{name}: {remark}" for remark in checkpoint.remarks]
        view: View | None = _stored(name, checkpoint, _architecture(checkpoint, known), recipe.drop)
        if not view.nodes:
            findings.fail(f"the model {name!r} has no tensors", where=source.place, hint="check its files, and 'drop'")
        else:
            view = truly_tied(view, findings)
            if isinstance(checkpoint, AdaptedCheckpoint):
                view = adapted_view(view, checkpoint, source.place, recipe.allow, findings)
            if view is not None and source.transform is not None:
                view = in_coordinates(view, source, checkpoint, checkpoints[transform_of(name)], findings)
            if view is not None and source.convert:
                view = converted(view, source, recipe.output.dtype, findings)
        if view is not None and len(findings.problems) == before:
            views[name] = view
    return _comparable(recipe, views, findings)


def _comparable(recipe: Recipe, views: dict[str, View], findings: Findings) -> dict[str, View]:
    """The views, smoothed ones in the numbers of their base. A model alone may stay as it is: it computes the same."""
    smoothed = {name: view.donor.smoothed for name, view in views.items() if view.donor.smoothed}
    if not smoothed or len(views) == 1:
        return views
    merges = [recipe.merge, *(model for model in recipe.models.values() if isinstance(model, Merge))]
    base = next((each.base for each in merges if each.base in views and each.base not in smoothed), None)
    found: dict[str, View] = {}
    for name, view in views.items():
        place = recipe.models[name].place
        if name not in smoothed:
            found[name] = view
        elif base is None:
            why = (
                f"{smoothed[name]} moves scales from its matrices into the norms and matrices before them, so that no number "
                "is comparable with another model's"
            )
            hint = "name the 16-bit model that both come from as base of the merge, and the scales are taken back"
            findings.fail(
                f"the model {name!r} is quantised by {smoothed[name]}, and there is no base",
                where=place,
                why=why,
                hint=hint,
            )
        elif getattr(recipe.models[name], "statistics", None) is not None:
            what = f"the statistics of {name!r} are of a model with {smoothed[name]}'s scales in it"
            why = "they are taken back before it is merged, and inputs are then others"
            hint = "write it by task_arithmetic on its base, scale 1, to a folder, and calibrate that"
            findings.fail(what, where=place, why=why, hint=hint)
        elif (undone := unsmoothed(view, views[base], place, findings)) is not None:
            found[name] = undone
    return found


def _merged(recipe: Recipe) -> tuple[str, ...]:
    """The stored models that are merged, or give the output its names."""
    adapter = recipe.output.adapter
    below = (adapter.base,) if adapter is not None and adapter.base else ()
    kept = (recipe.protect.model,) if recipe.protect is not None and recipe.protect.model in recipe.models else ()
    return merged_sources(recipe, tuple(dict.fromkeys((*recipe.merge.names(), recipe.donor, *below, *kept))))


def _stored(name: str, checkpoint: Checkpoint, architecture: Architecture, drop: Iterable[str]) -> View:
    stored = without_adapters(checkpoint)
    nodes: dict[str, Node] = {each: Stored(name, stored, info) for each, info in stored.tensors.items()}
    dropped: dict[str, str] = {}
    for pattern in drop:
        for each in [each for each in nodes if fnmatch.fnmatchcase(each, pattern)]:
            dropped[each] = f"the recipe drops {pattern!r}"
            del nodes[each]
    return View(name, nodes, architecture, checkpoint.config, checkpoint, dropped)


def _architecture(checkpoint: Checkpoint, known: list[tuple[Checkpoint, Architecture]]) -> Architecture:
    """What the names say; fine-tunes of one model have the same, which is read once."""
    for other, architecture in known:
        if other.config == checkpoint.config and other.tensors == checkpoint.tensors:
            return architecture
    architecture = read_architecture(checkpoint.tensors.values(), checkpoint.config)
    known.append((checkpoint, architecture))
    return architecture


def unified_views(
    recipe: Recipe, views: Mapping[str, View], vocabulary: OutputVocabulary | None, findings: Findings
) -> Mapping[str, View]:
    """The merged models with their rows in the order of the output's vocabulary; those with problems are missing."""
    if vocabulary is None:
        return views
    unified: dict[str, View] = {}
    for name in _merged(recipe):
        try:
            unified[name] = vocabulary.view(name)
        except PlanError as error:
            findings.problems.append(error.at(recipe.merge.place))
    return unified


def merged_view(
    recipe: Recipe,
    views: Mapping[str, View],
    measurements: Measurements,
    tokenizers: Tokenizers,
    findings: Findings,
) -> View | None:
    """The output; None where there are problems. `views` are those of the stored models."""
    view = _Merges(recipe, views, measurements, tokenizers, findings).merge("merge", recipe.merge)
    return None if findings.problems else view


@dataclass(frozen=True)
class _Merges:
    """The views of a recipe's merges: its own, and its stages."""

    recipe: Recipe
    views: Mapping[str, View]
    measurements: Measurements
    tokenizers: Tokenizers
    findings: Findings
    stages: dict[str, View | None] = field(default_factory=dict)

    def view(self, name: str) -> View | None:
        model = self.recipe.models[name]
        if isinstance(model, Source):
            return self.views[name]
        if name not in self.stages:
            self.stages[name] = self.merge(name, model)
        return self.stages[name]

    def merge(self, name: str, merge: Merge) -> View | None:
        findings, own = self.findings, merge is self.recipe.merge
        names = dict.fromkeys((*merge.names(), self.recipe.donor)) if own else merge.names()
        found = {each: self.view(each) for each in names}
        views = {each: view for each, view in found.items() if view is not None}
        if len(views) < len(found):
            return None
        treatments = treatments_of(merge, findings.numbers(numbers(merge)), self.measurements)
        donor = views[self.recipe.donor if own else merge.names()[0]]
        views = {each: placed(donor, view, findings) for each, view in views.items()}
        before = len(findings.problems)
        if not check_families(views, merge, self.recipe.allow, findings):
            return None
        if merge.stack or merge.growth:
            view = stacked(name, donor, views, treatments, findings)
        else:
            view = side_by_side(name, donor, views, treatments, self.recipe.tensors, self.tokenizers, findings)
        self.measurements.tell(self.recipe, findings)
        if view is not None:
            view = settled(view, findings)
            treatments.check(view.nodes, findings)
        return view if len(findings.problems) == before else None
