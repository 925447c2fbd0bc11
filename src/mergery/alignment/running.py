"""One model aligned to another and written, with the transform beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergery.alignment.demand import aligned_recipe, files_of, plan_aligning
from mergery.checkpoints import open_checkpoint
from mergery.errors import RecipeError
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.reading import load_recipe
from mergery.recipe.soft import TRANSPORT, ZIP
from mergery.report.files import side_files
from mergery.run.events import Notify
from mergery.run.merging import Result, merge_to_folder
from mergery.run.output import check_beforehand, place_of
from mergery.run.workers import Options
from mergery.views.transforms import read_transform

BESIDE = "transform"  # the folder in the output that has the transform


def align_recipe(
    model: Any,
    to: Any,
    *,
    method: str = "weights",
    spaces: Sequence[str] = (),
    data: str | Path | None = None,
    samples: int | None = None,
    length: int | None = None,
    steps: int | None = None,
    rate: float | None = None,
    epsilon: float | None = None,
    join: str | None = None,
    dtype: str | None = None,
    check: bool = False,
) -> Recipe:
    """The recipe that takes one model in the coordinates of another. Raises RecipeError, also where the output could not pass
    a `check` that it computes the same.
    """
    if method == ZIP:
        hint = "align: {to: MODEL, method: zip, data: texts.jsonl} in a recipe"
        raise RecipeError("a zip is of two models, and gives each a map of its own", hint=hint)
    if method == TRANSPORT and check:
        hint = "leave out --check, and evaluate what it is merged into"
        raise RecipeError("transport changes what a model computes, so that nothing can be checked", hint=hint)
    said = {"spaces": list(spaces) or None, "data": None if data is None else str(data), "samples": samples}
    said |= {"length": length, "steps": steps, "rate": rate, "epsilon": epsilon, "join": join}
    align = {"to": "reference", "method": method, **{key: value for key, value in said.items() if value is not None}}
    merge = {"method": "passthrough", "models": ["model"]}
    models = {"model": _source(model), "reference": _source(to)}
    output = {"output": {"dtype": dtype}} if dtype else {}
    return load_recipe({"models": models, "merge": merge, "align": align, **output})


def _source(model: Any) -> Any:
    return str(model) if isinstance(model, Path) else model


def plan_of(recipe: Recipe) -> Plan:
    """What aligning would write: as it will be once the transform is there, which `Plan.before` tells."""
    known, plan = plan_aligning(recipe)
    return make_plan(known) if plan is None else plan


def align(
    recipe: Recipe, out: Path, options: Options, notify: Notify, *, replace: bool = False, restart: bool = False
) -> Result:
    """Find the transform, unless it is kept from an earlier run, and write the model in its new coordinates."""
    _, still = plan_aligning(recipe)
    if still is not None:
        check_beforehand(still, place_of(out), replace=replace)
        still.close()
    known = aligned_recipe(recipe, notify)
    source = known.models["model"]
    assert isinstance(source, Source)
    with open_checkpoint(source.transform) as stored:
        transform = read_transform(stored)
    beside: Mapping[str, bytes] = {f"{BESIDE}/{name}": content for name, content in files_of(transform).items()}
    plan = make_plan(known)
    try:
        return merge_to_folder(
            plan, out, lambda plan: {**side_files(plan), **beside}, options, notify, replace=replace, restart=restart
        )
    finally:
        plan.close()
