"""Plan a merge, run it, keep models together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from mergery.errors import PlanError
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe
from mergery.recipe.building import stated_recipe
from mergery.recipe.reading import load_recipe
from mergery.report.files import side_files
from mergery.report.notebook import listening
from mergery.run.events import Notify, Packed
from mergery.run.merging import Result, merge_to_folder, merge_to_memory
from mergery.run.workers import Options

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mergery.method import Method


RecipeLike = Recipe | str | Path | Mapping[str, Any]
"""A YAML file or text, a mapping, or a recipe that has been read."""
Models = Mapping[str, Any] | Sequence[Any]
"""Sources by name, or in a list: folders, hub ids, state dicts or modules."""


def plan(
    recipe: RecipeLike | None = None,
    *,
    only: Sequence[str] = (),
    models: Models | None = None,
    method: str | Method | None = None,
    base: Any = None,
    output: Mapping[str, Any] | None = None,
    seed: int | None = None,
    drop: Sequence[str] | None = None,
    allow: Sequence[str] | None = None,
    **settings: Any,
) -> Plan:
    """Plan a merge from headers and configs alone; no weights are read.

    `recipe` is a path to a YAML file (Mergery's or mergekit's), YAML text, a mapping, or a `Recipe`. Models may also be state
    dicts or `torch.nn.Module`s. Without a recipe, `models`, `method` and the rest say the same: see `merge`. `only`
    restricts the output to parts of the model, to try a recipe: `layers.0-1`, a role, or a pattern over whole tensor names.
    Raises MergeryError with all that is wrong.
    """
    sections = {"output": output, "seed": seed, "drop": drop, "allow": allow}
    return planned_from(stated_recipe(recipe, models, method, base, settings, sections), only)


def planned_from(source: RecipeLike, only: Sequence[str] = ()) -> Plan:
    """The plan of a recipe; of one with `calibration` or `protect`, together with what has to be measured before."""
    recipe = load_recipe(source)
    if recipe.align is not None:
        from mergery.alignment.demand import plan_aligning

        recipe, waiting = plan_aligning(recipe, only)
        if waiting is not None:
            return waiting
    if recipe.calibration is None and (recipe.protect is None or recipe.protect.statistics):
        return make_plan(recipe, only=only)
    from mergery.calibration.demand import plan_demanding

    return plan_demanding(recipe, only)


@overload
def merge(
    recipe: RecipeLike | Plan | None = None,
    *,
    out: str | Path,
    models: Models | None = None,
    method: str | Method | None = None,
    base: Any = None,
    output: Mapping[str, Any] | None = None,
    seed: int | None = None,
    drop: Sequence[str] | None = None,
    allow: Sequence[str] | None = None,
    options: Options = ...,
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
    ray: str | None = None,
    **settings: Any,
) -> Result: ...
@overload
def merge(
    recipe: RecipeLike | Plan,
    out: str | Path,
    *,
    options: Options = ...,
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
    ray: str | None = None,
) -> Result: ...
@overload
def merge(
    recipe: RecipeLike | Plan | None = None,
    out: None = None,
    *,
    as_model: Literal[True],
    models: Models | None = None,
    method: str | Method | None = None,
    base: Any = None,
    output: Mapping[str, Any] | None = None,
    seed: int | None = None,
    drop: Sequence[str] | None = None,
    allow: Sequence[str] | None = None,
    options: Options = ...,
    on_event: Notify | None = None,
    **settings: Any,
) -> PreTrainedModel: ...
@overload
def merge(
    recipe: RecipeLike | Plan | None = None,
    out: None = None,
    *,
    as_model: Literal[False] = False,
    models: Models | None = None,
    method: str | Method | None = None,
    base: Any = None,
    output: Mapping[str, Any] | None = None,
    seed: int | None = None,
    drop: Sequence[str] | None = None,
    allow: Sequence[str] | None = None,
    options: Options = ...,
    on_event: Notify | None = None,
    **settings: Any,
) -> dict[str, Tensor]: ...
def merge(
    recipe: RecipeLike | Plan | None = None,
    out: str | Path | None = None,
    *,
    as_model: bool = False,
    models: Models | None = None,
    method: str | Method | None = None,
    base: Any = None,
    output: Mapping[str, Any] | None = None,
    seed: int | None = None,
    drop: Sequence[str] | None = None,
    allow: Sequence[str] | None = None,
    options: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
    ray: str | None = None,
    **settings: Any,
) -> Result | dict[str, Tensor] | PreTrainedModel:
    """Merge models. With `out`, write a model folder and return a `Result`; without, return the merged state dict, or with
    `as_model` a transformers model.

    recipe:   a YAML file or text, a mapping, a `Recipe` or a `Plan`. Without one:
    models:   sources by name, or in a list: folders, hub ids, state dicts or modules;
    method:   by name;
    base:     the name of one of the models, or another source;
    settings: of the method, as keywords; a list gives each model its own value. `output`, `seed`, `drop` and `allow` are as in
              a recipe.
    options:  `Options(device="cuda")` computes on GPUs.
    on_event: called with each event; None shows a bar in a notebook, and nothing elsewhere.
    replace:  exchange the model that stands in `out` for the new one at the very end; anything else is never touched.
    restart:  throw away what an interrupted run has left, which is taken up otherwise.
    ray:      the address of a Ray cluster that does the work: `auto` for the one that is running, `local` for processes of
              this machine.

    Raises MergeryError.
    """
    if out is None and ray is not None:
        raise PlanError("a cluster cannot write to memory", hint="name an output folder that all machines see")
    if out is not None and as_model:
        hint = "leave out `out`, or load the folder: AutoModelForCausalLM.from_pretrained(out)"
        raise PlanError("as_model is for a merge that stays in memory", hint=hint)
    sections = {"output": output, "seed": seed, "drop": drop, "allow": allow}
    if isinstance(recipe, Plan) and not (models or method or settings or any(sections.values())):
        planned = recipe
    else:
        planned = planned_from(stated_recipe(recipe, models, method, base, settings, sections))
    try:
        with listening(on_event) as notify, ExitStack() as stack:
            if planned.before and planned.recipe.align is not None:
                from mergery.alignment.demand import aligned_recipe

                recipe = aligned_recipe(planned.recipe, notify)
                planned.close()
                planned = planned_from(recipe, planned.only)
            if planned.before:
                from mergery.calibration.before import all_done

                planned = stack.enter_context(all_done(planned, out, options.threads, notify, replace=replace, ray=ray))
            if out is None:
                state = merge_to_memory(planned, options, notify)
                if not as_model:
                    return state
                from mergery.evaluation.loading import model_of

                return model_of(state, side_files(planned), planned.dtype.torch)
            return merge_to_folder(
                planned, Path(out), side_files, options, notify, replace=replace, restart=restart, ray=ray
            )
    finally:
        planned.close()


def explain(plan: Plan, options: Options = Options()) -> dict[str, Any]:
    """All that `mergery plan` prints of a plan, ready for JSON: what each tensor gets, bytes, memory, time, warnings."""
    from mergery.report.explain import explain

    return explain(plan, options)


def pack(
    recipe: RecipeLike,
    out: str | Path,
    *,
    options: Options = Options(),
    on_event: Notify | None = None,
) -> Packed:
    """Keep all models that a recipe's serving method serves, by task, in the folder `out`.

    The folder refers to the base, which must stay where it is. `{path: out, task: name}` is then a model of a recipe.
    Raises MergeryError.
    """
    from mergery.run.packing import pack

    with listening(on_event) as notify:
        return pack(recipe, Path(out), options, notify)
