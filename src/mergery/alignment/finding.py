"""The transform that brings one model of a recipe into the coordinates of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mergery.alignment.matching.centre import match_to_centre
from mergery.alignment.matching.pairs import Models, values_of
from mergery.alignment.matching.weights import WeightMatching
from mergery.alignment.soft.pairing import SoftModels
from mergery.architecture.norms import shift_of
from mergery.checkpoints.statistics import model_mark
from mergery.errors import PlanError, raise_all
from mergery.graph.findings import Findings
from mergery.graph.view import View
from mergery.kernels.threads import quiet_torch
from mergery.planning.coordinates import anchor_of, spaces_of
from mergery.planning.models import stored_views
from mergery.planning.opening import open_all
from mergery.recipe import Merge, Recipe
from mergery.recipe.aligning import ROTATION, Align
from mergery.recipe.soft import SOFT
from mergery.run.events import Notify
from mergery.views.respelling import respelled
from mergery.views.transforms import Transform
from mergery.views.transforms.folding import check_gains, folded, untied

if TYPE_CHECKING:
    from mergery.alignment.matching.activations import ActivationMatching
    from mergery.alignment.matching.learning.descent import LearnedMatching


def find_transform(recipe: Recipe, name: str, align: Align, notify: Notify) -> Transform:
    """Align one model of a recipe, as `align` says. Raises MergeryError where the models do not match."""
    with opened(recipe, (align.to, name)) as (reference, model), quiet_torch(load=False):
        models, gains = Models(reference, model), {}
        if ROTATION in align.spaces:
            models, gains = without_gains(models)
        matching: WeightMatching | ActivationMatching | LearnedMatching
        matching, learnt = WeightMatching(models, align.spaces, notify=notify), None
        if align.method == "activations":
            from mergery.alignment.matching.activations import ActivationMatching, measured

            moments = measured(models, align, recipe.folder, notify)
            matching = ActivationMatching(models, moments, align.spaces, notify)
        elif align.learnt is not None:
            from mergery.alignment.matching.learning.running import learning

            matching = learnt = learning(models, align, recipe.folder, notify)
        found = matching.run()
        facts = {
            "model": model_mark(model.donor),
            "to": align.to,
            "reference": {"source": reference.donor.source, **model_mark(reference.donor)},
            "method": align.method,
            "spaces": list(align.spaces),
            "left": [matching.history[0], matching.history[-1]],
            **(learnt.facts if learnt else {}),
        }
        return replace(found, facts=facts, gains=gains if found.rotation is not None else {})


def check_matching(recipe: Recipe, names: Sequence[str]) -> None:
    """Raise MergeryError where models of a recipe cannot be matched as its `align` says, from headers alone."""
    align = recipe.align
    assert align is not None
    for name in names:
        if (anchor := anchor_of(recipe)) == name:  # of a zip each model gets a map
            continue
        with opened(recipe, (anchor, name)) as (reference, model):
            (SoftModels if align.method in SOFT else Models)(reference, model)


def without_gains(models: Models) -> tuple[Models, dict[str, np.ndarray]]:
    """Both models with norms without gains, and the gains of the reference. Raises PlanError where they see a rotation."""
    if not models.spaces.before:
        what = f"the residual stream of {models.model.name!r} cannot be rotated"
        raise PlanError(what, why=models.spaces.seen, hint="spaces: [residual]")
    views = []
    for view in (models.reference, models.model):
        own = untied(view, models.spaces)
        views.append(folded(own, spaces_of(own)))
    places = {piece.tensor: piece for piece in models.spaces.pieces if piece.role == "norm"}
    norms = sorted(set(models.spaces.before.values()))
    for view in (models.reference, models.model):
        for name in norms:
            if shift_of(name) in view.nodes:
                check_gains(view.name, name, values_of(places[name], view), models.spaces.offset)
    return Models(*views), {name: values_of(places[name], models.reference) for name in norms}


def find_centre(recipe: Recipe, names: Sequence[str], align: Align, notify: Notify) -> dict[str, Transform]:
    """Align several models to their common centre; the recipe's anchor stays. Raises MergeryError where they do not match."""
    anchor = anchor_of(recipe)
    with opened(recipe, (*names, anchor)) as views, quiet_torch(load=False):
        by_name = dict(zip((*names, anchor), views, strict=True))
        found, left = match_to_centre(by_name, anchor, align.spaces, notify=notify)
        facts = {"to": f"the mean of {', '.join(by_name)}", "method": align.method, "spaces": list(align.spaces)}
        marks = {name: model_mark(view.donor) for name, view in by_name.items()}
        return {
            name: replace(each, facts={"model": marks[name], **facts, "left": list(left[name])})
            for name, each in found.items()
        }


@contextmanager
def opened(recipe: Recipe, names: Sequence[str]) -> Iterator[tuple[View, ...]]:
    """Models under the names that the last of them has for its tensors. Raises MergeryError."""
    models = {each: recipe.models[each] for each in names}
    own = Recipe(models, Merge("linear", tuple(models)), drop=recipe.drop, allow=recipe.allow, folder=recipe.folder)
    checkpoints = open_all(own)
    try:
        for checkpoint in checkpoints.values():
            checkpoint.prepare()
        findings = Findings()
        views = stored_views(own, checkpoints, findings)
        raise_all(findings.problems)
        yield tuple(respelled(views[names[-1]], views[name], findings) for name in names)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
