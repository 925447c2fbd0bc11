"""From checked mergekit documents to a recipe: names for models, stages for documents, slices for slices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mergery.errors import MergeryError, RecipeError, Where, raise_all
from mergery.recipe import Merge, Output, Recipe, Slice, Source, Vocabulary
from mergery.recipe.document import Document
from mergery.recipe.mergekit.config import Config, Input, Part, Reference
from mergery.recipe.mergekit.names import name_models
from mergery.recipe.mergekit.parameters import Level, Path_
from mergery.recipe.mergekit.reader import Reader
from mergery.recipe.mergekit.settings import Settings
from mergery.recipe.mergekit.tokens import template_word


def translate(documents: list[Document], folder: Path) -> Recipe:
    """The recipe of the documents of one mergekit file."""
    problems: list[MergeryError] = []
    notes: list[str] = []
    configs: list[Config] = []
    for document in documents:
        if document.data is None:
            continue  # such as behind a last ---
        reader = Reader(document, lambda text: locate(text, folder) is not None)
        config = reader.read()
        problems += reader.errors
        notes += reader.notes
        configs += [config] if config else []
    problems += _check_names(configs)
    raise_all(problems)
    translator = _Translator(configs, folder)
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
    )


def locate(path: str, folder: Path) -> str | None:
    """The path as it leads there from the recipe's folder; None where nothing is there."""
    if not path:
        return None
    if os.path.exists(folder / path):  # noqa: PTH110 - Path.exists fails on names that no file can have
        return path
    return str(Path(path).absolute()) if os.path.exists(path) else None  # noqa: PTH110


def _check_names(configs: list[Config]) -> list[MergeryError]:
    errors: list[MergeryError] = []
    seen: set[str | None] = set()
    for config in configs:
        if config.name in seen:
            what = f"the name {config.name!r} stands twice" if config.name else "two documents have no name"
            where = config.document.where(("name",) if config.name else ())
            errors.append(RecipeError(what, where=where, hint="name: a word for each merge but the last"))
        seen.add(config.name)
    return errors


class _Translator:
    """Turns the last document, and those that it needs, into one recipe."""

    def __init__(self, configs: list[Config], folder: Path) -> None:
        self.folder = folder
        self.errors: list[MergeryError] = []
        self.notes: list[str] = []
        self.final = next((config for config in configs if config.name is None), configs[-1])
        self.stages = {config.name: config for config in configs if config.name and config is not self.final}
        self.names: dict[Reference, str] = {}

    def translate(self) -> tuple[dict[str, Source | Merge], Merge, Output, Vocabulary | None]:
        order = self.order()
        raise_all(self.errors)
        for name, config in self.stages.items():
            if config not in order:
                self.notes.append(f"the document {name!r} is left out: the last merge does not need it")
        sources: dict[Reference, Where] = {}
        for config in order:
            for reference in config.references():
                if reference.path not in self.stages:
                    sources.setdefault(reference, config.places[reference])
        teller = self.teller(self.final)
        tokens = teller.tokens if teller else None
        if teller and tokens:
            for reference in tokens.references():
                if reference.path in self.stages:
                    what = f"the tokenizer names the merge {reference.path!r}"
                    self.errors.append(RecipeError(what, where=tokens.place, hint="name one of its models"))
                else:
                    sources.setdefault(reference, teller.places[reference])
        self.names = name_models(sources, taken=self.stages)
        models: dict[str, Source | Merge] = {}
        for reference, place in sources.items():
            path = locate(reference.path, self.folder) or reference.path
            models[self.names[reference]] = Source(path, reference.revision, place)
        for config in order[:-1]:
            assert config.name is not None
            models[config.name] = self.merge(config)
        merge = self.merge(self.final)
        raise_all(self.errors)
        vocabulary = tokens.vocabulary(self.name, teller, merge.names(), merge.base) if tokens and teller else None
        return models, merge, self.output(merge, models), vocabulary

    def name(self, reference: Reference) -> str:
        return reference.path if reference.path in self.stages else self.names[reference]

    def order(self) -> list[Config]:
        """The documents that the last one needs, each behind those that it needs itself."""
        done: list[Config] = []
        named = {**self.stages, **({self.final.name: self.final} if self.final.name else {})}

        def visit(config: Config, trail: tuple[Config, ...]) -> None:
            if config in trail:
                circle = " -> ".join(str(each.name) for each in (*trail[trail.index(config) :], config))
                where = config.document.where(("name",))
                self.errors.append(RecipeError(f"the merge {config.name!r} needs itself", where=where, why=circle))
            elif config not in done:
                for reference in config.references():
                    if reference.path in named:
                        visit(named[reference.path], (*trail, config))
                done.append(config)

        visit(self.final, ())
        return done

    # --- output ---------------------------------------------------------------------------------------------

    def output(self, merge: Merge, models: Mapping[str, Source | Merge]) -> Output:
        """The donor of the config is named where it is not the one that a recipe takes anyway."""
        base = self.final.base and self.name(self.final.base)
        config = base if base and merge.base is None and merge.names()[0] != base else None
        return Output(self.final.dtype, config=config, chat_template=template_word(self.final.template, models))

    def teller(self, config: Config, trail: tuple[Config, ...] = ()) -> Config | None:
        """The document that says which tokenizer the output has: the last one, or a stage that it takes it from."""
        if config in trail:
            return None
        named = config.tokens.source if config.tokens else ""
        stage = self.stages.get(named.path) if isinstance(named, Reference) else None
        if config.tokens:
            return (stage and self.teller(stage, (*trail, config))) or config
        chosen = config.base or next(iter(config.references()))
        stage = self.stages.get(chosen.path)
        return self.teller(stage, (*trail, config)) if stage else None

    # --- merges ---------------------------------------------------------------------------------------------

    def merge(self, config: Config) -> Merge:
        """One document as a merge of the recipe."""

        def fail(what: str, path: Path_, *, why: str = "", hint: str = "") -> None:
            where = config.document.where(path or ("merge_method",))
            self.errors.append(RecipeError(what, where=where, why=why, hint=hint))

        settings = Settings(config, lambda item: self.name(item.model), fail, self.notes.append)
        place, places = config.document.where(), settings.places()
        dtype = config.dtype if config is not self.final else None
        if config.inputs:
            part = Part(config.inputs, None, Level({}), ())
            base, merged = self.roles(config, part, settings)
            models = tuple(self.name(item.model) for item in merged)
            return Merge(config.method.name, models, base, settings.of_one(part, merged), (), dtype, place, places)
        slices: list[Slice] = []
        for part in config.parts:
            base, merged = self.roles(config, part, settings)
            order = part.inputs if config.rule.takes_base else merged
            ranges = tuple((self.name(item.model), (item.layers[0], item.layers[1] - 1)) for item in order)
            own = settings.of_slice(part, merged)
            slices.append(Slice(ranges, base, own, config.document.where(part.path)))
        donor = config.base and self.name(config.base)
        if donor and not config.rule.takes_base and any(donor in dict(part.models) for part in slices):
            donor = None  # merged like the others, and so no base in the sense of a recipe
        merge = Merge(config.method.name, (), donor, settings.of_stack(), tuple(slices), dtype, place, places)
        if config is not self.final and config.base and merge.names()[0] != self.name(config.base):
            self.notes.append(f"the stage {config.name!r} takes its config from {merge.names()[0]!r}")
        return merge

    def roles(self, config: Config, part: Part, settings: Settings) -> tuple[str | None, tuple[Input, ...]]:
        """The base, where the method has one, and the models that are merged."""
        rule, word, sliced = config.rule, config.word, bool(part.path)
        base = part.base or config.base
        if base is None and rule.base in ("required", "first"):
            settings.fail(f"{word} needs a base_model", part.path, hint="base_model: <one of the models>")
            return None, part.inputs
        own = next((item for item in part.inputs if item.model == base), None)
        others = tuple(item for item in part.inputs if item is not own)
        if base and own is None and sliced and rule.base != "input":
            settings.fail(f"the slice gives no layers of its base {base.path!r}", part.path)
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
            merged = part.inputs
        else:
            merged = (own, *others) if own else others
        self.count(config, merged, part, settings)
        return self.name(base) if base and rule.takes_base else None, merged

    def count(self, config: Config, merged: tuple[Input, ...], part: Part, settings: Settings) -> None:
        least, most = config.rule.models or config.method.models
        if least <= len(merged) <= (most or len(merged)):
            return
        wanted = (
            f"exactly {least}" if least == most else f"at least {least}" if len(merged) < least else f"at most {most}"
        )
        what = f"{config.word} merges {wanted} model{'' if wanted.endswith(' 1') else 's'}"
        if config.rule.takes_base:
            what += " besides base_model"
        elif config.base:
            what += ", base_model included"
        here = ", ".join(item.model.path for item in merged) or "none"
        settings.fail(what, part.path, why=f"here: {here}")
