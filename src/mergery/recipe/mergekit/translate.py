"""From checked mergekit documents to a recipe: names for models, stages for documents, slices for slices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mergery.errors import MergeryError, RecipeError, Where, raise_all
from mergery.recipe.changes import Changes
from mergery.recipe.document import Document, KeyPath
from mergery.recipe.mergekit.names import name_models
from mergery.recipe.mergekit.parameters import Level
from mergery.recipe.mergekit.reader import DOCUMENT, MergekitReader
from mergery.recipe.mergekit.references import Reference
from mergery.recipe.mergekit.settings import Settings
from mergery.recipe.mergekit.statement import Input, MergeStatement, OutputSlice
from mergery.recipe.mergekit.tokens import Tokens, template_word
from mergery.recipe.mergekit.wording import in_mergekits_words
from mergery.recipe.reader import wanted_models
from mergery.recipe.recipe import Merge, Output, Recipe, Slice, Vocabulary
from mergery.recipe.source import Source


def translate(documents: list[Document], folder: Path, changes: Changes = Changes()) -> Recipe:
    """The recipe of the documents of one mergekit file, with changes made."""
    documents = changed(documents, changes)
    problems: list[MergeryError] = []
    notes: list[str] = []
    statements: list[MergeStatement] = []
    for document in documents:
        if document.data is None:
            continue  # such as behind a last ---
        reader = MergekitReader(document, lambda text: locate(text, folder) is not None)
        statement = reader.read()
        problems += reader.errors
        notes += reader.notes
        statements += [statement] if statement else []
    problems += _check_names(statements)
    raise_all(problems)
    translator = _Translator(statements, folder)
    models, merge, output, vocabulary = translator.translate()
    notes += translator.notes
    return Recipe(
        models,
        merge,
        output,
        translator.final.seed,
        folder=folder,
        file=documents[0].file,
        notes=tuple(dict.fromkeys(notes)),
        vocabulary=vocabulary,
        say=in_mergekits_words,
    )


def changed(documents: list[Document], changes: Changes) -> list[Document]:
    """The documents with values in their places: of the one that is merged last, or of another that a path begins with."""
    data = [document.data if isinstance(document.data, dict) else {} for document in documents]
    last = next((place for place, each in enumerate(data) if each and not each.get("name")), len(data) - 1)
    values: dict[tuple[int, str], list[str]] = {}
    for said in changes.values:
        names = [(place, f"{each['name']}.") for place, each in enumerate(data) if place != last and each.get("name")]
        place, name = next(((place, name) for place, name in names if said.startswith(name)), (last, ""))
        values.setdefault((place, name), []).append(said.removeprefix(name))
    result = list(documents)
    for (place, name), own in values.items():
        result[place] = Changes(own).of_data(result[place], DOCUMENT, "parameters", whose=name)
    return result


def locate(path: str, folder: Path) -> str | None:
    """The path as it leads there from the recipe's folder; None where nothing is there."""
    if not path:
        return None
    if os.path.exists(folder / path):  # noqa: PTH110 - Path.exists fails on names that no file can have
        return path
    return str(Path(path).absolute()) if os.path.exists(path) else None  # noqa: PTH110


def _check_names(statements: list[MergeStatement]) -> list[MergeryError]:
    errors: list[MergeryError] = []
    seen: set[str | None] = set()
    for statement in statements:
        if statement.name in seen:
            what = f"the name {statement.name!r} stands twice" if statement.name else "two documents have no name"
            where = statement.document.where(("name",) if statement.name else ())
            errors.append(RecipeError(what, where=where, hint="name: a word for each merge but the last"))
        seen.add(statement.name)
    return errors


class _Translator:
    """Turns the last document, and those that it needs, into one recipe."""

    def __init__(self, statements: list[MergeStatement], folder: Path) -> None:
        self.folder = folder
        self.errors: list[MergeryError] = []
        self.notes: list[str] = []
        self.final = next((statement for statement in statements if statement.name is None), statements[-1])
        self.stages = {
            statement.name: statement for statement in statements if statement.name and statement is not self.final
        }
        self.names: dict[Reference, str] = {}

    def translate(self) -> tuple[dict[str, Source | Merge], Merge, Output, Vocabulary | None]:
        order = self.order()
        raise_all(self.errors)
        tokens, teller = self.tokens(self.final)
        for name, statement in self.stages.items():
            if statement not in order and statement is not teller:
                self.notes.append(f"the document {name!r} is left out: the last merge does not need it")
        sources: dict[Reference, Where] = {}
        for statement in order:
            for reference in statement.references():
                if reference.path not in self.stages:
                    sources.setdefault(reference, statement.places[reference])
                elif reference.adapter:
                    what = f"the adapter {reference.adapter!r} stands on the merge {reference.path!r}"
                    hint = "write that merge to a folder first"
                    self.errors.append(RecipeError(what, where=statement.places[reference], hint=hint))
        for reference, place in (tokens.references() if tokens else {}).items():
            if reference.path in self.stages:
                inner = ", ".join(each.path for each in self.stages[reference.path].references())
                what = f"the row of a token is that of the merge {reference.path!r}"
                why = "only stored models give single rows"
                self.errors.append(RecipeError(what, where=place, why=why, hint=f"name one of its models: {inner}"))
            else:
                sources.setdefault(reference, place)
        self.names = name_models(sources, taken=self.stages)
        models: dict[str, Source | Merge] = {}
        for reference, place in sources.items():
            path = locate(reference.path, self.folder) or reference.path
            source = Source(path, reference.revision, place)
            if reference.adapter:
                adapter = locate(reference.adapter, self.folder) or reference.adapter
                source = replace(source, adapters=(adapter,), rounding="peft")
            models[self.names[reference]] = source
        for statement in order[:-1]:
            assert statement.name is not None
            models[statement.name] = self.merge(statement)
        merge = self.merge(self.final)
        raise_all(self.errors)
        vocabulary = None
        if tokens:
            own = self.name(teller.base) if teller.base else None
            vocabulary = tokens.vocabulary(self.name, own, merge.names(), merge.base)
        return models, merge, self.output(merge, models), vocabulary

    def name(self, reference: Reference) -> str:
        return reference.path if reference.path in self.stages else self.names[reference]

    def order(self) -> list[MergeStatement]:
        """The documents that the last one needs, each behind those that it needs itself."""
        done: list[MergeStatement] = []
        named = {**self.stages, **({self.final.name: self.final} if self.final.name else {})}

        def visit(statement: MergeStatement, trail: tuple[MergeStatement, ...]) -> None:
            if statement in trail:
                self.errors.append(self.circle((*trail, statement)))
            elif statement not in done:
                for reference in statement.references():
                    if reference.path in named:
                        visit(named[reference.path], (*trail, statement))
                done.append(statement)

        visit(self.final, ())
        return done

    # --- output ---------------------------------------------------------------------------------------------

    def output(self, merge: Merge, models: Mapping[str, Source | Merge]) -> Output:
        """The donor of the config is named where it is not the one that a recipe takes anyway."""
        base = self.final.base and self.name(self.final.base)
        config = base if base and merge.base is None and merge.names()[0] != base else None
        return Output(self.final.dtype, config=config, chat_template=template_word(self.final.template, models))

    def tokens(self, statement: MergeStatement, trail: tuple[str, ...] = ()) -> tuple[Tokens | None, MergeStatement]:
        """What is said of a document's tokens, and the document that says it.

        That is the document itself, unless it takes the tokenizer of a stage: then what it says is added to that stage's
        words, or, where the stage has none, is said of the stored model from which the stage has its tokenizer.
        """
        own = statement.tokens
        named = own.source if own and own.source != "base" else statement.donor if not own or statement.base else "base"
        stage = self.stages.get(named.path) if isinstance(named, Reference) else None
        if stage is None or stage.name in trail or stage.name is None:
            return own, statement
        told, teller = self.tokens(stage, (*trail, stage.name))
        if own is None:
            return told, teller
        return (told.extended(own), teller) if told else (replace(own, source=self.stored(stage)), statement)

    def stored(self, statement: MergeStatement, trail: tuple[MergeStatement, ...] = ()) -> Reference:
        """The stored model from which a document has its config and tokenizer, where it says nothing of them."""
        stage = self.stages.get(statement.donor.path)
        if stage is None:
            return statement.donor
        if stage in trail:
            raise self.circle((*trail, stage))
        return self.stored(stage, (*trail, stage))

    @staticmethod
    def circle(trail: tuple[MergeStatement, ...]) -> RecipeError:
        """The error of merges that need each other; the last one is met again."""
        again = trail[-1]
        names = " -> ".join(str(each.name) for each in trail[trail.index(again) :])
        where = again.document.where(("name",))
        return RecipeError(f"the merge {again.name!r} needs itself", where=where, why=names, hint="name another model")

    # --- merges ---------------------------------------------------------------------------------------------

    def merge(self, statement: MergeStatement) -> Merge:
        """One document as a merge of the recipe."""

        def fail(what: str, path: KeyPath, *, why: str = "", hint: str = "") -> None:
            where = statement.document.where(path or ("merge_method",))
            self.errors.append(RecipeError(what, where=where, why=why, hint=hint))

        settings = Settings(statement, lambda item: self.name(item.model), fail, self.notes.append)
        place, places = statement.document.where(), settings.places()
        dtype = statement.dtype if statement is not self.final else None
        if statement.inputs:
            piece = OutputSlice(statement.inputs, None, Level({}), ())
            base, merged = self.members(statement, piece, settings)
            models = tuple(self.name(item.model) for item in merged)
            return Merge(statement.method.name, models, base, settings.of_one(piece, merged), (), dtype, place, places)
        slices: list[Slice] = []
        for piece in statement.slices:
            base, merged = self.members(statement, piece, settings)
            order = piece.inputs if statement.rule.takes_base else merged
            ranges = tuple((self.name(item.model), (item.layers[0], item.layers[1] - 1)) for item in order)
            own = settings.of_slice(piece, merged)
            slices.append(Slice(ranges, base, own, statement.document.where(piece.path)))
        donor = statement.base and self.name(statement.base)
        if donor and not statement.rule.takes_base and any(donor in dict(piece.models) for piece in slices):
            donor = None  # merged like the others, and so no base in the sense of a recipe
        merge = Merge(statement.method.name, (), donor, settings.of_stack(), tuple(slices), dtype, place, places)
        if statement is not self.final and statement.base and merge.names()[0] != self.name(statement.base):
            self.notes.append(f"the stage {statement.name!r} takes its config from {merge.names()[0]!r}")
        return merge

    def members(
        self, statement: MergeStatement, piece: OutputSlice, settings: Settings
    ) -> tuple[str | None, tuple[Input, ...]]:
        """The base, where the method has one, and the models that are merged."""
        rule, word, sliced = statement.rule, statement.word, bool(piece.path)
        base = piece.base or statement.base
        if base is None and rule.base in ("required", "first"):
            settings.fail(f"{word} needs a base_model", piece.path, hint="base_model: <one of the models>")
            return None, piece.inputs
        own = next((item for item in piece.inputs if item.model == base), None)
        others = tuple(item for item in piece.inputs if item is not own)
        if base and own is None and sliced and rule.base != "input":
            hint = (
                f"- {{model: {base.path}, layer_range: {list(piece.inputs[0].layers)}}}" if piece.inputs else "add it"
            )
            settings.fail(f"the slice gives no layers of its base {base.path!r}", piece.path, hint=hint)
            return None, others
        if base and own is None and not sliced:
            own = Input(base, Level({}), ("base_model",))
            if rule.base == "input" and others:
                self.notes.append(f"{word} merges base_model like any other model, as mergekit does")
        if rule.takes_base:
            merged = others
            ignored = [parameter.name for parameter in rule.parameters if own and own.level.get(parameter.name)]
            if ignored:
                self.notes.append(f"{' and '.join(ignored)} of base_model changes nothing: {word} merges the others")
        elif sliced and rule.base == "input":
            merged = piece.inputs
        else:
            merged = (own, *others) if own else others
        self.count(statement, merged, piece, settings)
        return self.name(base) if base and rule.takes_base else None, merged

    def count(
        self, statement: MergeStatement, merged: tuple[Input, ...], piece: OutputSlice, settings: Settings
    ) -> None:
        wanted = wanted_models(statement.rule.models or statement.method.models, len(merged))
        if not wanted:
            return
        what = f"{statement.word} merges {wanted}"
        if statement.rule.takes_base:
            what += " besides base_model"
        elif statement.base:
            what += ", base_model included"
        here = ", ".join(item.model.path for item in merged) or "none"
        least, most = statement.rule.models or statement.method.models
        hint = "add an entry" if len(merged) < least else f"keep {most}, or merge the others in a document of their own"
        settings.fail(what, piece.path, why=f"here: {here}", hint=hint)
