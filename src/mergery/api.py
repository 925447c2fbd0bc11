"""The verbs. The command line and a notebook are thin shells over these."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from mergery.errors import PlanError
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe
from mergery.recipe.building import stated_recipe
from mergery.report.files import side_files
from mergery.report.notebook import in_notebook, listening
from mergery.run.events import Notify, Packed, Pushed
from mergery.run.merging import Result, merge_to_folder, merge_to_memory
from mergery.run.workers import Options

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mergery import evaluation
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
    return make_plan(stated_recipe(recipe, models, method, base, settings, sections), only=only)


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
        planned = make_plan(stated_recipe(recipe, models, method, base, settings, sections))
    try:
        with listening(on_event) as notify:
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


def export_gguf(
    model: RecipeLike | Plan,
    out: str | Path,
    *,
    type: str = "f16",
    pre: str | None = None,
    options: Options = Options(),
    on_event: Notify | None = None,
    replace: bool = False,
    restart: bool = False,
) -> tuple[Result, tuple[str, ...]]:
    """Write a model, or what a recipe merges, as the GGUF file `out`, with its tokenizer and chat template.

    `model` is a folder, a file or a hub id, or a recipe; a recipe's merge is written directly, in one rounding. `type` is that
    of matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, tq2_0, tq1_0, or what llama.cpp's package makes where it is
    installed, such as q4_k_m. `pre` is llama.cpp's word for how the tokenizer cuts text, where that is not found. Returns what
    was done, and notes for the user. Raises MergeryError, also for a family that llama.cpp computes otherwise.
    """
    from mergery.run.exporting import export_gguf

    planned = model if isinstance(model, Plan) else make_plan(_as_recipe(model))
    try:
        with listening(on_event) as notify:
            return export_gguf(
                planned, Path(out), side_files, type, options, notify, cutting=pre, replace=replace, restart=restart
            )
    finally:
        planned.close()


def _as_recipe(model: Any) -> Any:
    """A recipe as it is; for a model, the recipe that copies it."""
    text = str(model) if isinstance(model, (str, Path)) else ""
    if not text or text.endswith((".yaml", ".yml")) or "\n" in text:
        return model
    return {"models": {"model": text}, "merge": {"method": "passthrough", "models": ["model"]}}


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


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    replace: bool = False,
    message: str = "A model merged with Mergery",
    on_event: Notify | None = None,
) -> Pushed:
    """Put a model folder with its card on the Hugging Face hub, as one commit of the model `repo`, `org/name`.

    It is made where there is none; one that holds weights is refused, unless `replace` says that the commit shall hold this
    model instead. Folders that were merged are looked at first: fragments and unfinished ones are refused. In the lock,
    folders of this machine are named by their last names alone. The token is that of `hf auth login` or HF_TOKEN.
    Raises MergeryError.
    """
    from mergery.run.pushing import push

    with listening(on_event) as notify:
        bars = in_notebook() or (on_event is None and sys.stderr.isatty())
        return push(
            Path(folder).expanduser(), repo, notify, private=private, replace=replace, message=message, bars=bars
        )


def verify(folder: str | Path, *, sample: int = 0, on_event: Notify | None = None) -> list[str]:
    """Check a merged folder against its lock; with `sample`, make that many tensors again and compare their bytes.

    Returns what is wrong, one line each; an empty list is a sound folder. Raises MergeryError where it cannot be checked.
    """
    from mergery.run.verifying import verify

    with listening(on_event) as notify:
        return verify(Path(folder), sample, notify)


def inspect(path: Any, others: Sequence[Any] = (), *, memory: bool = False) -> dict[str, Any]:
    """Facts of a checkpoint, ready for JSON. `path` and `others` are folders, files, hub ids or objects in memory.

    With others, `merging` says for each whether it can be merged with the first, and why not. With `memory`, what the model
    takes when it runs: weights by format, cache by length of context, machines that hold both. No weights are read.
    Raises CheckpointError where one cannot be opened.
    """
    from mergery.report.inspection import inspect

    return inspect(path, others, needs=memory)


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

    model:     a model folder, a PEFT adapter's folder, a recipe (merged in memory, never written), a transformers module or
               a `Subject`.
    tasks:     task files (see `mergery.evaluation.reading`) or `Task`s.
    tokenizer: of a module; elsewhere instead of the model's own.
    base:      the folder of an adapter's base, where the adapter does not name it.
    results:   a folder in which results are kept: what has been asked before is not computed again, and a run that was
               killed goes on. None keeps nothing.
    harness:   tasks of lm-eval to run on the same model, by name or as YAML files; `include` is a folder of more of these.

    All files are read and checked before a model is loaded. Raises MergeryError.
    """
    from mergery.evaluation import EvaluationOptions, open_subject, running

    options = options or EvaluationOptions()
    listed = running.read_tasks(tasks, options, harness, include)
    subject = open_subject(model, tokenizer=tokenizer, base=base, name=name)
    with listening(on_event) as notify:
        return running.answer_all(subject, listed, options, results, notify)


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
