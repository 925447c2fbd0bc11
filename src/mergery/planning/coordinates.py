"""Models in other coordinates in a plan: the transform that a recipe names, once it is known to be of its model and legal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mergery.architecture import read_architecture
from mergery.architecture.spaces import Spaces, read_spaces
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.statistics import model_mark
from mergery.errors import MergeryError, PlanError, Where, listed
from mergery.graph.findings import Findings
from mergery.graph.view import Change, View
from mergery.recipe import Merge, Recipe, Source
from mergery.recipe.soft import ZIP
from mergery.views.transforms import Transform, read_transform, transformed, why_illegal
from mergery.views.transforms.folding import folded, untied, with_gains

ALIGN = "align the model again: mergery align MODEL --to REFERENCE OUT"


def transform_of(model: str) -> str:
    """What a model's transform is called among the checkpoints of a plan."""
    return f"transform of {model}"


def unaligned(recipe: Recipe) -> tuple[str, ...]:
    """The stored models that a recipe aligns before they are merged, and that name no transform yet."""
    align = recipe.align
    if align is None:
        return ()
    merges = [recipe.merge, *(model for model in recipe.models.values() if isinstance(model, Merge))]
    used = dict.fromkeys(name for merge in merges for name in merge.names())
    stored = [name for name in align.models or used if isinstance(recipe.models.get(name), Source)]
    still = () if align.method == ZIP else (anchor_of(recipe),)  # of a zip, each model has a map of its own
    return tuple(
        name for name in stored if name not in still and getattr(recipe.models[name], "transform", None) is None
    )


def in_words(recipe: Recipe, name: str) -> str:
    """What is done to a model that is aligned."""
    align = recipe.align
    assert align is not None
    if align.method != ZIP:
        return f"{name} is aligned to {align.to}"
    return f"{name} is zipped with {', '.join(other for other in unaligned(recipe) if other != name)}"


def anchor_of(recipe: Recipe) -> str:
    """The model in whose coordinates a recipe's models are aligned: the one that it names, or of a mean the first."""
    align = recipe.align
    assert align is not None
    if align.to in recipe.models:
        return align.to
    names = [*(align.models or recipe.merge.names()), *recipe.models]
    return next(name for name in names if isinstance(recipe.models.get(name), Source))


def spaces_of(view: View) -> Spaces:
    """The spaces of a model. Raises PlanError where not all of its tensors are understood."""
    family = view.config.family_of("language")
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in view.nodes.items()]
    known = view.architecture
    if not view.nodes.keys() <= known.names.keys():  # a tied head that stands beside another model's own
        known = read_architecture(infos, view.config)
    found = read_spaces(infos, known, view.config)
    if found is None:
        why = f"what leaves a model of the family {family!r} as it is has not been worked out"
        hint = "known are the families in architecture/symmetries.py, such as llama, qwen2, gemma, gpt2 and mixtral"
        raise PlanError(f"the symmetries of {view.name!r} are not known", why=why, hint=hint)
    if found.unknown:
        reason = next(iter(found.unknown.values()))
        what = f"the place of {listed(list(found.unknown))} of {view.name!r} is not known"
        raise PlanError(what, why=reason, hint="leave it out with drop, if the model does without it")
    return found


def in_coordinates(
    view: View, source: Source, checkpoint: Checkpoint, stored: Checkpoint, findings: Findings
) -> View | None:
    """The model in the coordinates that its source names; None where there is a problem, which is noted."""
    try:
        if source.statistics is not None:
            what = f"the statistics of {view.name!r} are of the model in its own coordinates"
            hint = "write it in the new ones to a folder, and calibrate that"
            raise PlanError(what, why="a transform gives it others", hint=hint)
        if view.donor.smoothed:
            why = f"{view.donor.smoothed} has moved scales between its tensors, which its base takes back"
            raise PlanError(f"{view.name!r} cannot be transformed", why=why, hint="write it by passthrough on its base")
        transform = read_transform(stored)
        spaces = spaces_of(view)
        if transform.rotation is not None:
            view = untied(view, spaces)
            spaces = spaces_of(view)
        mark = transform.facts.get("model")
        if mark is not None and mark != model_mark(checkpoint):
            where = Where(stored.location)
            raise PlanError(f"this transform is of another model than {view.name!r}", where=where, hint=ALIGN)
        if reason := why_illegal(transform, spaces):
            what = f"this transform would change what {view.name!r} computes"
            what = f"these soft maps do not fit {view.name!r}" if transform.maps else what
            raise PlanError(what, where=Where(stored.location), why=reason, hint=ALIGN)
    except MergeryError as error:
        findings.problems.append(error.at(source.place))
        return None
    if transform.maps:
        return _under_maps(view, transform, spaces, findings)
    changed = transform.changed()
    words = f"taken in other coordinates of {len(changed)} of its spaces" if changed else "it is aligned already"
    if "left" in transform.facts and changed:
        first, last = transform.facts["left"]
        left = f"{last / first:.1%}" if first else "nothing"
        words = f"{words}, those of {transform.facts['to']}, from which {left} of the squared difference is left"
    if len(losses := transform.facts.get("loss", [])) == 2 and changed:
        words = (
            f"{words}; in the middle the loss on held-out texts is {losses[1]:.4g}, of weights alone {losses[0]:.4g}"
        )
    findings.changes.append(Change(view.name, words))
    if transform.rotation is None:
        return transformed(view, transform, spaces)
    try:
        return with_gains(transformed(folded(view, spaces), transform, spaces), spaces, transform.gains)
    except MergeryError as error:
        findings.problems.append(error.at(source.place))
        return None


def _under_maps(view: View, transform: Transform, spaces: Spaces, findings: Findings) -> View:
    """The model under soft maps, with the sizes that it has then."""
    facts = transform.facts
    count = sum(soft.spread for soft in transform.maps.values()) / len(transform.maps)
    how = f"in {len(transform.maps)} of its spaces a unit is made of {count:.1f} of its own"
    words = f"taken into the coordinates of {facts.get('to')} by optimal transport: {how}"
    if facts.get("method") == ZIP:
        words = f"zipped with {facts.get('to')}, to be averaged with it: {how}"
    loss = "what it computes: it is there to be merged, and trained further"
    findings.changes.append(Change(view.name, words, loss))
    shape: dict[str, Any] = dict(facts.get("shape", {}))
    section = {
        key: value for key, value in {**view.config.language, **shape}.items() if value is not None or key not in shape
    }
    made = transformed(view, transform, spaces)
    config = view.config.with_language(section) if shape else view.config
    infos = [TensorInfo(name, node.shape, node.dtype) for name, node in made.nodes.items()]
    return replace(made, config=config, architecture=read_architecture(infos, config)) if shape else made
