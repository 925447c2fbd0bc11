"""The data that weights are learnt from: a file for all models, or one for each, with that model's own heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergery.calibration.counting import limit_of
from mergery.calibration.data import read_texts
from mergery.calibration.learning.answers import Kind, count
from mergery.calibration.learning.host import Host
from mergery.calibration.learning.model import heads
from mergery.calibration.learning.objectives import Source
from mergery.calibration.learning.options import LearnOptions
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import stored_view
from mergery.errors import CheckpointError, RecipeError, Where, did_you_mean
from mergery.evaluation.loading import tokenizer_of

FOR_EACH = "--data MODEL=FILE, once for each model"


def read_sources(
    host: Host,
    model: StreamedModel,
    data: Mapping[str, str | Path] | str | Path,
    folder: Path,
    options: LearnOptions,
    tokenizer: Any,
    task: str,
) -> list[Source]:
    """All files in tokens, once they are known to serve. Raises MergeryError."""
    import torch

    files = data if isinstance(data, Mapping) else {"": data}
    check(host, model, files, options, task)
    words = tokenizer_of(tokenizer, folder)
    rows = model.module.get_input_embeddings().weight.shape[0]
    found: list[Source] = []
    for name, path in files.items():
        own: dict[str, Any] = {}
        config = model.config.to_dict()
        if name and task == "labels":
            expert = StreamedModel(stored_view(host.plan.checkpoints[name]))
            own = {each: torch.nn.Parameter(expert.read(each), requires_grad=False) for each in heads(expert)}
            config = expert.config.to_dict()
        texts = read_texts(
            Path(path).expanduser(), words, longest=min(options.longest, limit_of(model.config)),
            limit=options.limit, pair=task == "pairs", config=config,
        )  # fmt: skip
        where = Where(texts.file)
        kept = texts.rows
        if options.objective != "nsc":
            kind: Kind = task  # type: ignore[assignment]
            kept = tuple(row for row in texts.rows if count(row, kind))
            if not kept:
                hint = "give longer texts, or prompts with answers"
                raise RecipeError("its texts are of one token each: none is foretold", where=where, hint=hint)
            if options.objective == "labels" and task == "labels" and any(row.label is None for row in kept):
                hint = 'write {"text": "...", "label": 1}, one a line, or learn by --objective entropy'
                raise RecipeError("the data has no labels", where=where, hint=hint)
        largest = max(max(row.tokens) for row in kept)
        if largest >= rows:
            why = f"a text has the token {largest}, and the model has {rows} rows"
            raise CheckpointError("the tokenizer is not the model's", where=where, why=why, hint="--tokenizer FOLDER")
        found.append(Source(name, kept, own))
    return found


def check(host: Host, model: StreamedModel, files: Mapping[str, str | Path], options: LearnOptions, task: str) -> None:
    """Raise MergeryError where the files, the model and the objective do not go together."""
    where, objective = Where(model.view.donor.location), options.objective
    if not files:
        raise RecipeError("there is no data to learn from", hint="--data FILE")
    for name in files:
        if name and name not in host.models:
            what, hint = f"the recipe merges no model called {name!r}", did_you_mean(name, host.models)
            raise RecipeError(what, where=host.recipe.merge.place, hint=hint)
    if not task and objective != "nsc":
        what = f"a {type(model.module).__name__} gives no answers that could be looked at"
        hint = "--objective nsc, or a merge of language models or classifiers"
        raise CheckpointError(what, where=where, hint=hint)
    missing = [name for name in host.models if name not in files]
    if objective in ("distill", "nsc") and missing:
        why = (
            "each model answers to texts of its own" if objective == "distill" else "each model reads texts of its own"
        )
        raise RecipeError(f"{objective} needs data of {missing[0]!r}", why=why, hint=FOR_EACH)
    apart = [name for name in files if name and name not in host.plan.checkpoints]
    if apart and (objective == "distill" or task == "labels"):
        what, hint = f"{apart[0]!r} is made by a merge of the recipe", "write it to a folder first"
        raise RecipeError(what, where=host.recipe.merge.place, hint=hint)
