"""Stages of a recipe: merges that are models of others. They must not go in circles, nor multiply the work without end."""

from __future__ import annotations

from collections.abc import Mapping

from mergery.errors import MergeryError, RecipeError
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import Merge, Output, Vocabulary
from mergery.recipe.source import Source

MOST_STAGES = 64  # one on top of the other
MOST_READS = 4096  # of stored models, counted once for each way that leads to one


def check_references(
    reader: RecipeReader,
    models: Mapping[str, Source | Merge],
    merge: Merge | None,
    output: Output,
    vocabulary: Vocabulary | None,
    more: tuple[str, ...] = (),
) -> None:
    """Stages must not go in circles, and each named model must be used; `more` are used elsewhere."""

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            why, hint = " -> ".join((*trail, name)), "name another model in one of them"
            reader.fail(f"the stage {name!r} needs itself", ("models", name), why=why, hint=hint)
            return
        if len(trail) > MOST_STAGES:
            raise _too_deep(models[trail[0]])
        model = None if name in used else models.get(name)
        used.add(name)
        if isinstance(model, Merge):
            for inner in model.names():
                visit(inner, (*trail, name))

    used: set[str] = set()
    if merge is None or reader.errors:
        return
    others = [
        *more,
        output.config,
        output.tokenizer,
        output.chat_template,
        *(vocabulary.models() if vocabulary else ()),
    ]
    others += [output.adapter.base] if output.adapter else []
    for name in (*merge.names(), *(name for name in others if name in models)):
        visit(name, ())
    for token, row in vocabulary.tokens.items() if vocabulary else ():
        found = models.get(row.model or "")
        if isinstance(found, Merge):
            what, why = (
                f"the row of {token!r} is that of the merge {row.model!r}",
                "only stored models give single rows",
            )
            inner = ", ".join(found.names())
            reader.fail(what, ("vocabulary", "tokens", token), why=why, hint=f"name one of its models: {inner}")
    if not reader.errors:
        reader.errors += too_many_stages(models, merge)
    for name in models:
        if name not in used:
            reader.fail(f"the model {name!r} is not used", ("models", name), key=True, hint="add it to merge.models")


def too_many_stages(models: Mapping[str, Source | Merge], merge: Merge) -> list[MergeryError]:
    """The error, if any, of stages whose work would multiply: each is made again for every stage that takes it."""
    reads: dict[str, int] = {}

    def count(name: str, depth: int) -> int:
        if depth > MOST_STAGES:
            raise _too_deep(models[name])
        model = models.get(name)
        if name not in reads:
            reads[name] = sum(count(inner, depth + 1) for inner in model.names()) if isinstance(model, Merge) else 1
        return reads[name]

    total = sum(count(name, 0) for name in merge.names())
    if total <= MOST_READS:
        return []
    why = f"each stage is made again for every stage that takes it: models would be read {total:,} times"
    return [RecipeError("too many stages", where=merge.place, why=why, hint="merge some of them into a folder first")]


def _too_deep(model: Source | Merge) -> RecipeError:
    hint = "merge some of them into a folder first"
    return RecipeError("stages are nested too deeply", where=model.place, why=f"over {MOST_STAGES} levels", hint=hint)
