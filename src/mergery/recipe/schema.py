"""The JSON schema of recipes, made from the methods' own signatures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mergery.architecture.facts import ALLOWABLE
from mergery.architecture.sections import PARTS
from mergery.checkpoints.adapted import ROUNDINGS
from mergery.dtypes import OUTPUT_DTYPES
from mergery.method import Method, Setting, methods
from mergery.method.registry import plain_names
from mergery.method.roles import BASE
from mergery.method.setting import LIMITS
from mergery.recipe.adapters import EMBEDDINGS, SPACES
from mergery.recipe.aligning import align_schema
from mergery.recipe.calibrating import REFINERS, calibration_schema
from mergery.recipe.naming import pattern_of
from mergery.recipe.protecting import protect_schema
from mergery.recipe.recipe import GROWTHS, TENSORS
from mergery.recipe.source import CONVERSIONS
from mergery.recipe.space import OPEN_SCHEMA
from mergery.recipe.values import ROLES
from mergery.recipe.vocabulary import LARGEST_MULTIPLE, MOST_NEIGHBOURS, PADDING, UNKNOWN

_COUNT = {"type": "integer", "minimum": 1}
_NAME = {"type": "string"}
_RANGE = {"type": ["integer", "string"], "minimum": 0, "pattern": r"^\s*\d+\s*(-\s*\d+\s*)?$"}


def recipe_schema() -> dict[str, Any]:
    """JSON schema, of draft 7, which editors know best; later drafts read it the same.

    What is the same stands once, under `$defs`. Where one of several forms is meant, a key or the kind of the value tells which
    (`if`, `then`, `else`), so that a mistake is told against that form alone. Editors complete a method's own name; its other
    names are taken as recipes take them.
    """
    defs: dict[str, Any] = {
        "where": _where(),
        "range": _RANGE,
        "ranges": {"type": "object", "additionalProperties": _ref("range"), "minProperties": 1},
        "names": _list(_NAME, minItems=1),
        "dtype": {"enum": list(OUTPUT_DTYPES)},
        "parts": _list(_ref("part"), minItems=1),
    }
    for method in methods().values():
        _define(method, defs)
    names = list(methods())
    others = [_ref(f"{name}.name") for name in names]
    method = {"description": "The name of a method.", "anyOf": [{"enum": names}, *others]}
    defs["merge"] = {
        "type": "object",
        "properties": {"method": method},
        **_if({"required": ["method"]}, {"allOf": _by_method("merge", names)}, _stack_alone()),
    }
    defs["treatment"] = {
        "type": "object",
        **_if(
            {"required": ["take"]},
            _mapping({"where": _ref("where"), "take": {**_NAME, "description": "The model whose tensor is taken."}}),
            {"required": ["method"], "properties": {"method": method}, "allOf": _by_method("part", names)},
        ),
    }
    defs["part"] = {"required": ["where"], "allOf": [_ref("treatment")]}
    whole = {"not": {"required": ["where"]}, "allOf": [_ref("treatment")]}
    defs["rest"] = _if({"type": "string"}, {"anyOf": [{"enum": [BASE, *names]}, *others]}, whole)
    stage = {"anyOf": [{"required": ["method"]}, {"required": ["stack"]}]}
    model = _if({"type": "string"}, {"minLength": 1}, {"type": "object", **_if(stage, _ref("merge"), _source())})
    path = _if({"type": "string"}, {"minLength": 1}, _source())
    recipe = _mapping(
        {
            "models": {
                "description": "A name for each source: a path, a hub id, or a merge of others. Or a list of paths.",
                **_if(
                    {"type": "array"},
                    _list(path, minItems=1),
                    {"type": "object", "minProperties": 1, "additionalProperties": model},
                ),
            },
            "merge": _ref("merge"),
            "output": _output(),
            "vocabulary": _vocabulary(),
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "drop": _list(_NAME),
            "tensors": {
                "description": "What not all models have: each tensor, copied, or none. Without it, it is refused.",
                "enum": list(TENSORS),
            },
            "allow": {
                "description": "Facts of the configs in which the models may differ on purpose.",
                **_list({"enum": list(ALLOWABLE)}),
            },
            "calibration": calibration_schema(),
            "refine": _refine(),
            "protect": protect_schema(),
            "align": align_schema(),
        },
        "models",
        "merge",
        patternProperties={"^(x-|_|\\.)": {}},
    )
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Mergery recipe", **recipe, "$defs": defs}


def _refine() -> dict[str, Any]:
    forms = []
    for name, refiner in REFINERS.items():
        settings = {
            key: {"type": "number", "minimum": least, "default": usual} | ({} if most is None else {"maximum": most})
            for key, (usual, least, most) in refiner.settings.items()
        }
        then = _mapping({"method": {"const": name}, **settings}, "method", description=refiner.summary)
        forms.append({"if": {"required": ["method"], "properties": {"method": {"const": name}}}, "then": then})
    named = {
        "type": "object",
        "required": ["method"],
        "properties": {"method": {"enum": list(REFINERS)}},
        "allOf": forms,
    }
    return {
        "description": "What is done to the merge with data.",
        **_if({"type": "string"}, {"enum": list(REFINERS)}, named),
    }


def schema_text() -> str:
    """The schema as a file for editors: each definition on a line of its own."""
    schema = recipe_schema()
    defs = ",\n".join(f"{json.dumps(name)}: {json.dumps(said)}" for name, said in schema.pop("$defs").items())
    return f'{json.dumps(schema)[:-1]}, "$defs": {{\n{defs}\n}}}}\n'


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _if(condition: Mapping[str, Any], then: Mapping[str, Any], otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """One form or another, as the condition says."""
    return {"if": dict(condition), "then": dict(then), "else": dict(otherwise)}


def _by_method(kind: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """What is said of a merge, a slice or a part by each method."""
    return [
        {"if": {"required": ["method"], "properties": {"method": _ref(f"{name}.name")}}, "then": _ref(f"{name}.{kind}")}
        for name in names
    ]


def _stack_alone() -> dict[str, Any]:
    """A merge that names no method: layers are copied."""
    return {"required": ["stack"], "allOf": [_ref("passthrough.merge")]}


def _where() -> dict[str, Any]:
    """Which tensors a part or a value is for."""
    return _mapping(
        {
            "layers": _one_or_more(_ref("range")),
            "role": _one_or_more({"enum": list(ROLES)}),
            "part": _one_or_more({"enum": list(PARTS)}),
            "name": {**_NAME, "description": "A pattern over the whole tensor name."},
        }
    )


def _mapping(properties: Mapping[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    """A mapping of these keys and no others."""
    needed = {"required": list(required)} if required else {}
    return {**more, "type": "object", "additionalProperties": False, **needed, "properties": dict(properties)}


def _list(item: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, **more}


def _one_or_more(item: Mapping[str, Any]) -> dict[str, Any]:
    return _if({"type": "array"}, _list(item), item)


def _source() -> dict[str, Any]:
    """A model with more to say than its path."""
    convert = _mapping(
        dict.fromkeys(CONVERSIONS, _COUNT), description="The shape in which the model is taken.", minProperties=1
    )
    task = {**_NAME, "description": "Of packed models, which one."}
    rename = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "minLength": 1}}
    rename["description"] = "Patterns of names of tensors, and new names: each * is what it stood for."
    folders = [_NAME, {"type": "object", "minProperties": 1, "additionalProperties": _NAME}]
    statistics = {
        "description": "The folder of its statistics on data; of a base, one for each model.",
        "anyOf": folders,
    }
    adapters = {**_one_or_more(_NAME), "description": "Adapters on the model: folders, files or hub ids."}
    rounding = {"enum": list(ROUNDINGS), "default": ROUNDINGS[0], "description": "Of a model with adapters."}
    transform = {**_NAME, "description": "The coordinates in which it is taken: a folder that `mergery align` keeps."}
    keys = {"path": _NAME, "revision": _NAME, "task": task, "convert": convert, "rename": rename}
    keys |= {"adapters": adapters, "rounding": rounding, "statistics": statistics, "transform": transform}
    return {**_mapping(keys), "anyOf": [{"required": ["path"]}, {"required": ["adapters"]}]}


def _output() -> dict[str, Any]:
    """The section `output`."""
    return _mapping(
        {
            "dtype": _ref("dtype"),
            "shard_size": {"type": ["integer", "string"], "minimum": 1, "default": "5GB"},
            "config": {**_NAME, "description": "The model whose config and names the output takes."},
            "tokenizer": {**_NAME, "description": "The output's vocabulary: base, union or a model's."},
            "chat_template": {**_NAME, "description": "auto, a model, a named template, or Jinja."},
            "adapter": _if({"type": "object"}, _adapter_output(), {"const": True}),
        }
    )


def _adapter_output() -> dict[str, Any]:
    """An adapter as output."""
    return _mapping(
        {
            "rank": {**_COUNT, "description": "Of each module; without it, as many as nothing is lost with."},
            "ranks": {"type": "object", "additionalProperties": _COUNT, "description": "Of single modules, by name."},
            "space": {"enum": list(SPACES), "description": "Where adapters are merged."},
            "calibrate": {
                "enum": ["pico"],
                "description": "Damp what all adapters crowd into; keep their mean length.",
            },
            "embeddings": {"enum": list(EMBEDDINGS), "default": EMBEDDINGS[0]},
            "base": {**_NAME, "description": "The model that the adapter is for, where the merge names none."},
        }
    )


def _vocabulary() -> dict[str, Any]:
    """The section `vocabulary`."""

    def row(**properties: Any) -> dict[str, Any]:
        return _mapping({**properties, "force": {"type": "boolean", "default": False}}, *properties)

    token = {"type": "string", "minLength": 1}
    rows = row(zero={"const": True})
    for kind, keys in (
        ("id", row(id={"type": "integer", "minimum": 0}, of=_NAME)),
        ("like", row(like=token, of=_NAME)),
        ("from", row(**{"from": _NAME})),
    ):
        rows = _if({"required": [kind]}, keys, rows)
    rows = _if({"type": "object"}, rows, {"const": "zero"})
    new = _mapping({"token": token, "special": {"type": "boolean", "default": True}}, "token")
    omp = _mapping({"omp": {**_COUNT, "maximum": MOST_NEIGHBOURS, "default": 64}}, "omp")
    return _mapping(
        {
            "from": {**_NAME, "default": "base", "description": "base, union, or a model's name."},
            "base": {**_NAME, "description": "The model whose rows fill what others lack."},
            "tokens": {"type": "object", "additionalProperties": rows},
            "add": _list(_if({"type": "object"}, new, token)),
            "pad_to_multiple_of": {**_COUNT, "maximum": LARGEST_MULTIPLE},
            "padding": {"enum": list(PADDING), "default": "keep"},
            "unknown": {"default": "mean", **_if({"type": "object"}, omp, {"enum": list(UNKNOWN)})},
        },
        description="The output's tokens and the rows that they get.",
    )


def _define(method: Method, defs: dict[str, Any]) -> None:
    """Add what a method takes: in a merge, in a slice of a stack, and for a part or the rest."""
    settings = {setting.name: _setting(method, setting, defs) for setting in method.settings.values()}
    slices = _list(_ref(f"{method.name}.slice"), minItems=1)
    name = _ref(f"{method.name}.name")
    defs[f"{method.name}.name"] = {"type": "string", "pattern": pattern_of(plain_names(method.name))}
    defs[f"{method.name}.slice"] = _mapping({"models": _ref("ranges"), "base": _NAME, **settings}, "models")
    defs[f"{method.name}.part"] = _mapping({"where": _ref("where"), "method": name, **settings})
    defs[f"{method.name}.merge"] = _mapping(
        {
            "method": name,
            "base": _NAME,
            "models": _ref("names"),
            "stack": _if({"type": "object"}, _growth(), slices) if method.name == "passthrough" else slices,
            "dtype": _ref("dtype"),
            **({"preset": {"enum": list(method.presets)}} if method.presets else {}),
            **({"rest": _ref("rest")} if method.roles is not None else {}),
            "parts": _ref("parts"),
            **settings,
        },
        title=method.name,
        description=method.summary,
    )


def _growth() -> dict[str, Any]:
    """A stack by rule."""
    first, second = (_mapping({rule: _NAME, number: _COUNT}, rule, number) for rule, number in GROWTHS.items())
    return _if({"required": [next(iter(GROWTHS))]}, first, second)


def _setting(method: Method, setting: Setting, defs: dict[str, Any]) -> dict[str, Any]:
    """A reference to what is said of a setting: methods that say the same share it."""
    said: dict[str, Any] = {"description": setting.doc, **_value(setting, defs)}
    if not setting.required:
        said["default"] = setting.default
    same = next((name for name, known in defs.items() if known == said), f"{method.name}.{setting.name}")
    defs[same] = said
    return _ref(same)


def _value(setting: Setting, defs: dict[str, Any]) -> dict[str, Any]:
    """The forms of a value: a scalar, a gradient, filtered, or by model."""
    scalar, kind = _scalar(setting), _kind(setting)
    case, points, spread = (_ref(f"{kind}.{form}") for form in ("case", "points", "gradient"))
    listed = _if({"type": "array"}, _ref(f"{kind}.list"), scalar)
    if f"{kind}.one" not in defs:
        defs[f"{kind}.points"] = _list(scalar, minItems=1)
        defs[f"{kind}.gradient"] = _mapping({"gradient": points, "outside": {"enum": ["ends", "first"]}}, "gradient")
        defs |= OPEN_SCHEMA
        defs[f"{kind}.plain"] = _if({"type": "object"}, _open(spread), _if({"type": "array"}, points, scalar))
        defs[f"{kind}.case"] = _mapping({"where": _ref("where"), "value": _ref(f"{kind}.plain")}, "value")
        defs[f"{kind}.list"] = _if({"contains": {"type": "object"}}, _list(case), points)
        defs[f"{kind}.one"] = _if({"type": "object"}, _open(_if({"required": ["value"]}, case, spread)), listed)
    if setting.per_model and f"{kind}.each" not in defs:
        named = _if({"required": ["value"]}, case, {"additionalProperties": _ref(f"{kind}.one")})
        defs[f"{kind}.each"] = _if({"type": "object"}, _open(_if({"required": ["gradient"]}, spread, named)), listed)
    return {"allOf": [_ref(f"{kind}.{'each' if setting.per_model else 'one'}")]}


def _open(otherwise: dict[str, Any]) -> dict[str, Any]:
    """A value that is still to be found, or another."""
    return _if({"required": ["search"]}, _ref("search"), _if({"required": ["choose"]}, _ref("choose"), otherwise))


def _kind(setting: Setting) -> str:
    """A name for all settings with the same values."""
    kind = "-".join(setting.choices) if setting.kind == "choice" else setting.kind
    return f"{kind}-or-null" if setting.optional else kind


def _scalar(setting: Setting) -> dict[str, Any]:
    null = ["null"] if setting.optional else []
    if setting.kind == "choice":
        return {"enum": [*setting.choices, *([None] if null else [])]}
    types = {"bool": "boolean", "int": "integer", "task": "string"}
    kind = types.get(setting.kind, "number")
    limits = dict(zip(("minimum", "maximum"), LIMITS.get(setting.kind, ()), strict=False))
    words = {"pattern": f"^({'|'.join(setting.choices)})$"} if setting.choices else {}
    more = [*(["string"] if words else []), *null]
    return {"type": [kind, *more] if more else kind, **limits, **words}
