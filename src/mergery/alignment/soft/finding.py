"""The soft maps that a recipe's `align` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mergery.alignment.finding import opened
from mergery.alignment.soft.features import Joint, joint_moments
from mergery.alignment.soft.fusing import Fusing
from mergery.alignment.soft.pairing import SoftModels
from mergery.alignment.soft.zipping import grouped, zip_maps
from mergery.architecture.spaces import RESIDUAL
from mergery.checkpoints.statistics import model_mark
from mergery.errors import PlanError
from mergery.graph.view import View
from mergery.kernels.threads import quiet_torch
from mergery.planning.coordinates import anchor_of
from mergery.recipe import Recipe
from mergery.recipe.aligning import KINDS, Align
from mergery.run.events import Notify
from mergery.views.transforms import SoftMap, Transform, Units


def find_transport(recipe: Recipe, name: str, align: Align, notify: Notify) -> Transform:
    """The maps of one model into the coordinates of another by optimal transport. Raises MergeryError."""
    with opened(recipe, (align.to, name)) as (reference, model), quiet_torch(load=False):
        models = SoftModels(reference, model)
        moments = joint_moments(models, align, recipe.folder, notify) if align.data else None
        epsilon = align.soft.sharpness(by_activations=bool(align.data))
        found = Fusing(models, epsilon, align.spaces, align.soft.join, moments, notify).run()
        facts = {**_facts(align, model, reference), "epsilon": epsilon, "shape": dict(models.shape)}
        return replace(found, facts=facts)


def find_zip(recipe: Recipe, names: tuple[str, ...], align: Align, notify: Notify) -> dict[str, Transform]:
    """The maps of two models that are zipped, by name. Raises MergeryError where they are not two, or cannot be."""
    anchor = anchor_of(recipe)
    others = [name for name in names if name != anchor]
    if len(names) != 2 or len(others) != 1:
        why, hint = f"{', '.join(names)} would be", "zip two, and their result with the next"
        raise PlanError("two models are zipped, that of `to` and another", where=align.place, why=why, hint=hint)
    with opened(recipe, (anchor, others[0])) as (reference, model), quiet_torch(load=False):
        models = SoftModels(reference, model)
        if models.wider:
            why = f"{models.wider[0]} has other sizes in {anchor} and {others[0]}"
            raise PlanError(
                "models of other widths are not zipped", where=align.place, why=why, hint="method: transport"
            )
        spaces = zipped_spaces(models, align)
        moments = joint_moments(models, align, recipe.folder, notify)
        maps = [_zipped(moments, name, models.spaces.sizes[name].size, align) for name in spaces]
        found = {}
        for turn, (name, view, other) in enumerate(((anchor, reference, model), (others[0], model, reference))):
            own = {space: both[turn] for space, both in zip(spaces, maps, strict=True)}
            units = {space: each for space, each in own.items() if isinstance(each, Units)}
            soft = {space: each for space, each in own.items() if isinstance(each, SoftMap)}
            found[name] = Transform(units, maps=soft, facts=_facts(align, view, other))
        return found


def zipped_spaces(models: SoftModels, align: Align) -> list[str]:
    """The spaces of which units are merged. Raises PlanError where a partial zip would not be a model."""
    stop, sizes = align.soft.stop, models.spaces.sizes
    inner = [name for name in sizes if name.startswith("hidden.") or name.endswith(".mlp")]
    depth = len(models.layers) or len(inner)
    if stop is not None and stop > depth:
        raise PlanError(
            f"stop is {stop}", where=align.place, why=f"the models have {depth} layers", hint=f"stop: {depth}"
        )
    found = [name for name in inner if stop is None or int(name.split(".")[1]) < stop] if "mlp" in align.spaces else []
    if RESIDUAL in sizes and "residual" in align.spaces and not models.spaces.fixed and models.layers:
        if stop is not None and align.spaces == KINDS:
            return found
        if stop is not None:
            what = "the residual stream is not zipped up to a layer"
            why = "one stream runs through all layers, and what a norm reads of it is no zip of what it would be"
            raise PlanError(what, where=align.place, why=why, hint="spaces: [mlp]")
        found.insert(0, RESIDUAL)
    return found


def _zipped(
    moments: Mapping[str, list[Joint]], name: str, size: int, align: Align
) -> tuple[SoftMap | Units, SoftMap | Units]:
    if name not in moments:
        why = "its activations are the input of no weight that both have"
        raise PlanError(f"{name} cannot be zipped", where=align.place, why=why, hint="spaces without it")
    alike = np.mean([each.whole for each in moments[name]], axis=0)
    return zip_maps(grouped(alike, size, align.soft.budget, align.soft.decay), size)


def _facts(align: Align, model: View, reference: View) -> dict[str, Any]:
    return {
        "model": model_mark(model.donor),
        "to": reference.name,
        "reference": {"source": reference.donor.source, **model_mark(reference.donor)},
        "method": align.method,
        "spaces": list(align.spaces),
    }
