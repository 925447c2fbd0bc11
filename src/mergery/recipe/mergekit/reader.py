"""Reads one mergekit document: every key and value is checked here, against the types of its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mergery.dtypes import OUTPUT_DTYPES
from mergery.errors import RecipeError, Where, did_you_mean
from mergery.method import Method, find
from mergery.recipe.document import Document, KeyPath
from mergery.recipe.mergekit.methods import KNOWN, RULES, Parameter, Rule
from mergery.recipe.mergekit.parameters import Chain, Level, join, read_chain
from mergery.recipe.mergekit.references import ReferenceReader
from mergery.recipe.mergekit.statement import Input, MergeStatement, OutputSlice
from mergery.recipe.mergekit.tokens import read_template, read_tokens

DOCUMENT = (
    "merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "parameters",
    "tokenizer_source", "tokenizer", "chat_template", "name", "random_seed",
)  # fmt: skip
"""The keys of a merge."""


def find_rule(word: Any) -> str:
    """The name of the method that a file means, in any case or by another name; empty where there is none."""
    try:
        return find(word).name if isinstance(word, str) else ""
    except RecipeError:
        return ""


class MergekitReader(ReferenceReader):
    """Reads one document, collecting every problem and everything that its writer may want to know."""

    def __init__(self, document: Document, exists: Callable[[str], bool]) -> None:
        super().__init__(document, exists)
        self.marks: dict[str, Where] = {}
        self.rule: Rule
        self.method: Method
        self.word = ""

    def read(self) -> MergeStatement | None:
        data = self.document.data
        if not isinstance(data, dict) or "merge_method" not in data:
            why, hint = "each document of a mergekit file is a merge", "merge_method: linear"
            self.fail("a document without 'merge_method'", (), why=why, hint=hint)
            return None
        self.only(data, (), DOCUMENT)
        word = data["merge_method"]
        found = find_rule(word)
        if found not in RULES:
            near = did_you_mean(str(word), RULES)
            hint = (
                f"{found} is a method of recipes, not of mergekit files: merge: {{method: {found}}}" if found else near
            )
            what = f"unknown merge_method {word!r}" if word is not None else "no merge_method is named"
            self.fail(what, ("merge_method",), hint=hint)
            return None
        word = self.word = found
        self.rule = RULES[word]
        self.method = find(word)
        statement = MergeStatement(self.document, word, self.rule, self.method, places=self.places, marks=self.marks)
        statement.name = self.text(data.get("name"), ("name",))
        if data.get("base_model") is not None:
            statement.base = self.reference(data["base_model"], ("base_model",))
        common = [self.level(data.get("parameters"), ("parameters",)).chains]
        body: Mapping[str, Any] = data
        path: KeyPath = ()
        given = [key for key in ("models", "slices", "modules") if data.get(key)]
        if len(given) != 1:
            why = "here: " + (" and ".join(given) if given else "none")
            hint = "keep one of them" if given else "models: [{model: ./a}, {model: ./b}]"
            self.fail("a merge has one of 'models', 'slices' and 'modules'", (), why=why, hint=hint)
        elif given == ["modules"]:
            body, path = self.module(data["modules"])
            common.insert(0, self.level(body.get("parameters"), (*path, "parameters")).chains)
        if body.get("models") and len(given) == 1:
            statement.inputs = self.inputs(body["models"], (*path, "models"))
        elif body.get("slices") and len(given) == 1:
            statement.slices = self.slices(body["slices"], (*path, "slices"))
        self.note_lists(data.get("parameters"), len(statement.inputs))
        names = dict.fromkeys(name for level in common for name in level)
        statement.common = {name: join(*(level.get(name, ()) for level in common)) for name in names}
        dtypes = self.dtype(data, "out_dtype"), self.dtype(data, "dtype")
        statement.dtype = dtypes[0] or dtypes[1]
        statement.tokens = read_tokens(self, data)
        statement.template = read_template(self, data.get("chat_template"))
        statement.seed = self.seed(data.get("random_seed"))
        return statement

    # --- models ---------------------------------------------------------------------------------------------

    def inputs(self, data: Any, path: KeyPath, *, ranges: bool = False) -> tuple[Input, ...]:
        if not isinstance(data, list):
            self.fail(f"{path[-1]} must be a list", path, hint="- model: ./a")
            return ()
        known = ("model", "layer_range", "parameters") if ranges else ("model", "parameters")
        result: list[Input] = []
        for index, item in enumerate(data):
            at = (*path, index)
            if not isinstance(item, dict) or "model" not in item:
                self.fail("an entry names its model", at, hint=f"- model: {item if isinstance(item, str) else './a'}")
                continue
            self.only(item, at, known)
            model = self.reference(item["model"], (*at, "model"))
            level = self.level(item.get("parameters"), (*at, "parameters"), source=True)
            layers = self.layers(item.get("layer_range"), (*at, "layer_range")) if ranges else (0, 0)
            if model is None or layers is None:
                continue
            if any(other.model == model for other in result):
                self.fail(f"{model.path!r} stands twice", (*at, "model"), hint="give it twice the weight instead")
                continue
            result.append(Input(model, level, at, layers))
        return tuple(result)

    def layers(self, data: Any, path: KeyPath) -> tuple[int, int] | None:
        whole = isinstance(data, list) and len(data) == 2 and all(type(item) is int for item in data)
        if not whole:
            self.fail("a source of a slice gives its layers", path, hint="layer_range: [0, 16]")
            return None
        low, high = data
        if not 0 <= low < high:
            why = "it counts from zero and ends before its second number"
            hint = f"layer_range: {sorted(data)}" if low != high and min(data) >= 0 else "layer_range: [0, 16]"
            self.fail(f"the layer_range {data} holds no layer", path, why=why, hint=hint)
            return None
        return (low, high)

    def slices(self, data: Any, path: KeyPath) -> tuple[OutputSlice, ...]:
        if not isinstance(data, list):
            self.fail("slices must be a list", path, hint="- sources: […]")
            return ()
        result: list[OutputSlice] = []
        for index, item in enumerate(data):
            at = (*path, index)
            if not isinstance(item, dict) or not item.get("sources"):
                self.fail("a slice has sources", at, hint="- sources: [{model: ./a, layer_range: [0, 16]}]")
                continue
            self.only(item, at, ("sources", "base_model", "residual_weight", "parameters"))
            if item.get("residual_weight") is not None:
                self.note("residual_weight changes nothing, here as in mergekit", (*at, "residual_weight"))
            base = None
            if item.get("base_model") is not None:
                base = self.reference(item["base_model"], (*at, "base_model"))
            inputs = self.inputs(item["sources"], (*at, "sources"), ranges=True)
            lengths = sorted({source.layers[1] - source.layers[0] for source in inputs})
            if len(lengths) > 1:
                why, hint = f"{lengths} layers", f"give {lengths[0]} layers of each"
                self.fail("the sources of a slice differ in length", at, why=why, hint=hint)
            level = self.level(item.get("parameters"), (*at, "parameters"))
            result.append(OutputSlice(inputs, base, level, at))
        return tuple(result)

    def module(self, data: Any) -> tuple[Mapping[str, Any], KeyPath]:
        if not isinstance(data, dict) or len(data) != 1:
            several = isinstance(data, dict)
            self.fail(
                "several modules cannot be merged in different ways yet" if several else "modules must be a mapping",
                ("modules",),
                why=f"here: {', '.join(data)}" if several else "",
                hint="use 'models:' to merge the whole model in one way, with filters where parts differ",
            )
            return {}, ("modules",)
        ((name, body),) = data.items()
        path = ("modules", name)
        if not isinstance(body, dict):
            self.fail(f"the module {name!r} must be a mapping", path, hint="slices: […] or models: […]")
            return {}, path
        self.only(body, path, ("slices", "models", "parameters"))
        if bool(body.get("slices")) == bool(body.get("models")):
            self.fail(f"the module {name!r} has one of 'models' and 'slices'", path, hint="keep one of them")
        return body, path

    # --- parameters -----------------------------------------------------------------------------------------

    def level(self, data: Any, path: KeyPath, *, source: bool = False) -> Level:
        """The parameters of one place: those of the method as chains, of other methods as notes, others as errors."""
        if data is None:
            return Level({})
        if not isinstance(data, dict):
            self.fail("parameters must be a mapping", path, hint="parameters: {weight: 0.5}")
            return Level({})
        chains: dict[str, Chain] = {}
        for name, item in data.items():
            at = (*path, name)
            parameter = self.rule.find(name)
            if parameter is None and name in KNOWN:
                self.note(f"{name} changes nothing: {self.word} has no such parameter", at)
            elif parameter is None:
                known = [own.name for own in self.rule.parameters]
                hint = did_you_mean(str(name), known) or f"{self.word} has no parameters"
                self.fail(f"unknown parameter {name!r}", at, key=True, hint=hint)
            elif source and not parameter.each:
                self.note(f"{name} of one model changes nothing: it belongs to the whole merge or a slice", at)
            else:
                chains[name] = self.chain(item, at, parameter)
                self.marks.setdefault(name, self.document.where(at))
        return Level(chains)

    def note_lists(self, data: Any, models: int) -> None:
        """A list for all models that could be meant as one value for each."""
        for name, item in data.items() if isinstance(data, dict) else ():
            parameter = self.rule.find(name)
            if parameter and parameter.each and isinstance(item, list) and len(item) == models > 1:
                text = (
                    f"{name} is a gradient over the layers; one value for each model stands in that model's parameters"
                )
                self.note(text, ("parameters", name))

    def chain(self, data: Any, path: KeyPath, parameter: Parameter) -> Chain:
        setting = self.method.settings.get(parameter.setting) if parameter.setting else parameter.own
        return read_chain(data, path, parameter, setting, self.fail)

    # --- output ---------------------------------------------------------------------------------------------

    def dtype(self, data: Mapping[str, Any], key: str) -> str | None:
        word = data.get(key)
        if word is None:
            return None
        name = str(word).removeprefix("torch.")
        if name not in OUTPUT_DTYPES:
            self.fail(f"{key} is {word!r}", (key,), hint=did_you_mean(name, OUTPUT_DTYPES))
            return None
        return name

    def seed(self, data: Any) -> int:
        if data is None:
            return 0
        if type(data) is not int or not 0 <= data < 2**63:
            self.fail(
                f"random_seed is {data!r}",
                ("random_seed",),
                why="it must be a whole number, zero or more",
                hint="random_seed: 0",
            )
            return 0
        self.note(
            "random_seed becomes the recipe's seed; mergekit takes it from the command line only",
            ("random_seed",),
        )
        return data
