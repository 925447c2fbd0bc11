"""Measure models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe
from mergery.report.notebook import listening
from mergery.run.events import Notify

if TYPE_CHECKING:
    from mergery import evaluation
    from mergery.calibration.learning.options import LearnOptions
    from mergery.calibration.options import CalibrationOptions
    from mergery.checkpoints.statistics import Statistics


def evaluate(
    model: Any,
    tasks: Sequence[str | Path | evaluation.Task] | str | Path | evaluation.Task = (),
    *,
    tokenizer: Any = None,
    base: str | Path | None = None,
    name: str | None = None,
    options: evaluation.EvaluationOptions | None = None,
    results: str | Path | None = None,
    harness: Sequence[str | Path] = (),
    include: str | Path | None = None,
    on_event: Notify | None = None,
) -> evaluation.Evaluation:
    """Score a model on tasks.

    model:     a model folder, a GGUF file, a PEFT adapter's folder, a recipe (merged in memory, never written), a transformers
               module or a `Subject`.
    tasks:     task files (see `mergery.evaluation.reading`) or `Task`s.
    tokenizer: of a module; elsewhere instead of the model's own.
    base:      the folder of an adapter's base, where the adapter does not name it.
    results:   a folder in which results are kept: what has been asked before is not computed again, and a run that was
               killed goes on. None keeps nothing.
    harness:   tasks of lm-eval to run on the same model, by name or as YAML files; `include` is a folder of more of these.

    All files are read and checked before a model is loaded. Raises MergeryError.
    """
    from mergery.evaluation import EvaluationOptions, open_subject, running
    from mergery.evaluation.models import RECIPES

    options = options or EvaluationOptions()
    listed = running.read_tasks(tasks, options, harness, include)
    with listening(on_event) as notify:
        if isinstance(model, (str, Path)) and Path(model).suffix in RECIPES:
            name, model = name or Path(model).stem, load_recipe(model)
        if isinstance(model, (Recipe, Mapping)):
            model = _measured(load_recipe(model), options.threads, notify)
        subject = open_subject(model, tokenizer=tokenizer, base=base, name=name)
        return running.answer_all(subject, listed, options, results, notify)


def _measured(recipe: Recipe, threads: int, notify: Notify) -> Recipe:
    """The recipe, with its models aligned, and with statistics of the data that it brings."""
    if recipe.align is not None:
        from mergery.alignment.demand import aligned_recipe

        recipe = aligned_recipe(recipe, notify)
    if recipe.calibration is None and recipe.protect is None:
        return recipe
    from mergery.calibration.demand import plan_measured

    plan = plan_measured(recipe, threads, notify)
    plan.close()
    return plan.recipe


def calibrate(
    model: Any,
    data: str | Path,
    out: str | Path,
    *,
    options: CalibrationOptions | None = None,
    tokenizer: Any = None,
    add: Sequence[str | Path] = (),
    beside: Any = None,
    on_event: Notify | None = None,
) -> Statistics:
    """Measure a model on data, and write the statistics as a checkpoint, for methods that read them.

    model:     a model folder, a hub id, a GGUF file, or a recipe, which is run as it is merged and never written.
    data:      a task file (.jsonl: texts, or prompts with answers), plain text, `datasets:NAME`, or `synthetic`.
    options:   what is measured, and on how much.
    tokenizer: a tokenizer, or the folder of one, instead of the model's own.
    add:       statistics of the same model on other data, which are added to those of this data.
    beside:    another model of the same architecture, for cross-moments of its inputs with the model's.

    The model runs block by block, with no more of its weights in memory than one block's. Raises MergeryError.
    """
    from mergery.calibration.options import CalibrationOptions
    from mergery.calibration.running import calibrate

    wanted = options or CalibrationOptions()
    with listening(on_event) as notify:
        return calibrate(model, data, out, options=wanted, tokenizer=tokenizer, add=add, beside=beside, on_event=notify)


def compare(
    models: Sequence[evaluation.Evaluation | str | Path],
    *,
    parents: Sequence[str] = (),
    seed: int = 0,
    resamples: int = 10_000,
) -> evaluation.Comparison:
    """Compare models that were evaluated on the same tasks with the same settings.

    models:    evaluations, or results that `evaluate` kept: a file, or the folder of one model.
    parents:   names of those that the others were merged from. Every other model is compared with each of them; without
               parents, every model with the first.
    resamples: of the bootstrap, and sign changes of the permutation test.

    0/1 scores are tested with McNemar's exact test, others with a permutation test of paired differences; p-values are
    corrected by Holm's method for the comparisons on one task. Raises TaskError where the results are of different items.
    """
    from mergery.evaluation.comparison import compare

    return compare(models, parents=parents, seed=seed, resamples=resamples)


def learn(
    recipe: Any,
    data: Mapping[str, str | Path] | str | Path,
    out: str | Path,
    *,
    options: LearnOptions | None = None,
    tokenizer: Any = None,
    on_event: Notify | None = None,
) -> Path:
    """Learn how much of each model goes into a merge, tensor by tensor, and write the recipe with these weights.

    recipe:    a recipe whose method is a sum of what each model adds at its weight, such as `task_arithmetic` or `linear`.
    data:      a task file (.jsonl) or plain text; or one for each model, by its name in the recipe.
    out:       the recipe to write, which `merge` takes as any other. It must not exist.
    options:   what is made small, and how.
    tokenizer: a tokenizer, or the folder of one, instead of the merge's own.

    One merged model and its gradient are in memory; what each model adds stands in files beside `out` as long as it takes.
    A run that was killed goes on where it was, and the same seed gives the same recipe. Raises MergeryError.
    """
    from mergery.calibration.learning.options import LearnOptions
    from mergery.calibration.learning.running import learn

    wanted = options or LearnOptions()
    with listening(on_event) as notify:
        return learn(recipe, data, out, options=wanted, tokenizer=tokenizer, on_event=notify)
