"""The JSON schema of recipes, made from the methods' own signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.architecture.facts import ALLOWABLE
from mergery.architecture.sections import PARTS
from mergery.checkpoints.adapted import ROUNDINGS
from mergery.dtypes import OUTPUT_DTYPES
from mergery.method import Method, Setting, methods
from mergery.method.roles import BASE
from mergery.method.setting import LIMITS
from mergery.recipe.adapters import EMBEDDINGS, SPACES
from mergery.recipe.recipe import GROWTHS, TENSORS
from mergery.recipe.source import CONVERSIONS
from mergery.recipe.values import ROLES
from mergery.recipe.vocabulary import LARGEST_MULTIPLE, MOST_NEIGHBOURS, PADDING, UNKNOWN

_COUNT = {"type": "integer", "minimum": 1}
_NAME = {"type": "string"}
_RANGE = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\d+\s*(-\s*\d+\s*)?$"}]}
_WHERE = {"where": {"$ref": "#/$defs/where"}}


def recipe_schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mergery recipe",
        **_mapping(
            {
                "models": {
                    "description": "A name for each source: a path, a hub id, or a merge of others.",
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "oneOf": [{"type": "string", "minLength": 1}, _source(), {"$ref": "#/$defs/merge"}]
                    },
                },
                "merge": {"$ref": "#/$defs/merge"},
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
            },
            "models",
            "merge",
        ),
        "$defs": {
            "part": {"oneOf": [_take(_WHERE), *(_treatment(method, _WHERE) for method in methods().values())]},
            "treatment": {"oneOf": [_take({}), *(_treatment(method, {}) for method in methods().values())]},
            "merge": {"type": "object", "oneOf": [_merge(method) for method in methods().values()]},
            "where": _mapping(
                {
                    "layers": _one_or_more(_RANGE),
                    "role": _one_or_more({"enum": list(ROLES)}),
                    "part": _one_or_more({"enum": list(PARTS)}),
                    "name": {**_NAME, "description": "A pattern over the whole tensor name."},
                }
            ),
        },
    }


def _mapping(properties: Mapping[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    """A mapping of these keys and no others."""
    needed = {"required": list(required)} if required else {}
    return {**more, "type": "object", "additionalProperties": False, **needed, "properties": dict(properties)}


def _list(item: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, **more}


def _one_or_more(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"oneOf": [item, _list(item)]}


def _source() -> dict[str, Any]:
    """A model with more to say than its path."""
    convert = _mapping(
        dict.fromkeys(CONVERSIONS, _COUNT), description="The shape in which the model is taken.", minProperties=1
    )
    task = {**_NAME, "description": "Of packed models, which one."}
    rename = {
        "description": "Patterns of names of tensors, and new names: each * is what it stood for.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "string", "minLength": 1},
    }
    adapters = {**_one_or_more(_NAME), "description": "Adapters on the model: folders, files or hub ids."}
    rounding = {"enum": list(ROUNDINGS), "default": ROUNDINGS[0], "description": "Of a model with adapters."}
    more = {"rename": rename, "adapters": adapters, "rounding": rounding}
    keys = {"path": _NAME, "revision": _NAME, "task": task, "convert": convert, **more}
    return {**_mapping(keys), "anyOf": [{"required": ["path"]}, {"required": ["adapters"]}]}


def _output() -> dict[str, Any]:
    """The section `output`."""
    return _mapping(
        {
            "dtype": {"enum": list(OUTPUT_DTYPES)},
            "shard_size": {"oneOf": [_COUNT, _NAME], "default": "5GB"},
            "config": {**_NAME, "description": "The model whose config and names the output takes."},
            "tokenizer": {**_NAME, "description": "The output's vocabulary: base, union or a model's."},
            "chat_template": {**_NAME, "description": "auto, a model, a named template, or Jinja."},
            "adapter": {"oneOf": [{"const": True}, _adapter_output()]},
        }
    )


def _adapter_output() -> dict[str, Any]:
    """An adapter as output."""
    return _mapping(
        {
            "rank": {**_COUNT, "description": "Of each module; without it, as many as nothing is lost with."},
            "ranks": {"type": "object", "additionalProperties": _COUNT, "description": "Of single modules, by name."},
            "space": {"enum": list(SPACES), "description": "Where adapters are merged."},
            "calibrate": {"enum": ["pico"], "description": "Damp what all adapters crowd into."},
            "embeddings": {"enum": list(EMBEDDINGS), "default": EMBEDDINGS[0]},
            "base": {**_NAME, "description": "The model that the adapter is for, where the merge names none."},
        }
    )


def _vocabulary() -> dict[str, Any]:
    """The section `vocabulary`."""

    def row(**properties: Any) -> dict[str, Any]:
        return _mapping({**properties, "force": {"type": "boolean", "default": False}}, *properties)

    token = {"type": "string", "minLength": 1}
    rows = [
        {"const": "zero"},
        row(zero={"const": True}),
        row(**{"from": _NAME}),
        row(like=token, of=_NAME),
        row(id={"type": "integer", "minimum": 0}, of=_NAME),
    ]
    new = _mapping({"token": token, "special": {"type": "boolean", "default": True}}, "token")
    omp = _mapping({"omp": {**_COUNT, "maximum": MOST_NEIGHBOURS, "default": 64}}, "omp")
    return _mapping(
        {
            "from": {**_NAME, "default": "base", "description": "base, union, or a model's name."},
            "base": {**_NAME, "description": "The model whose rows fill what others lack."},
            "tokens": {"type": "object", "additionalProperties": {"oneOf": rows}},
            "add": _list({"oneOf": [token, new]}),
            "pad_to_multiple_of": {**_COUNT, "maximum": LARGEST_MULTIPLE},
            "padding": {"enum": list(PADDING), "default": "keep"},
            "unknown": {"oneOf": [{"enum": list(UNKNOWN)}, omp], "default": "mean"},
        },
        description="The output's tokens and the rows that they get.",
    )


def _merge(method: Method) -> dict[str, Any]:
    """A merge by one method."""
    settings = {setting.name: _setting(setting) for setting in method.settings.values()}
    ranges = {"type": "object", "additionalProperties": _RANGE, "minProperties": 1}
    slice_ = _mapping({"models": ranges, "base": _NAME, **settings}, "models")
    growths = [_mapping({rule: _NAME, number: _COUNT}, rule, number) for rule, number in GROWTHS.items()]
    rest = {
        "description": "What the tensors get on which the method does not work.",
        "oneOf": [{"enum": [BASE, *methods()]}, {"$ref": "#/$defs/treatment"}],
    }
    return {
        "title": method.name,
        "description": method.summary,
        "additionalProperties": False,
        "anyOf": [{"required": ["method"]}, *([{"required": ["stack"]}] if method.name == "passthrough" else [])],
        "properties": {
            "method": {"const": method.name},
            "base": _NAME,
            "models": _list(_NAME, minItems=1),
            "stack": {"oneOf": [_list(slice_, minItems=1), *growths]},
            "dtype": {"enum": list(OUTPUT_DTYPES)},
            **({"preset": {"enum": list(method.presets)}} if method.presets else {}),
            **({"rest": rest} if method.roles is not None else {}),
            "parts": _list({"$ref": "#/$defs/part"}, minItems=1),
            **settings,
        },
    }


def _treatment(method: Method, where: Mapping[str, Any]) -> dict[str, Any]:
    """A method with its settings, for the rest or for a part."""
    settings = {setting.name: _setting(setting) for setting in method.settings.values()}
    return _mapping({**where, "method": {"const": method.name}, **settings}, "method", *where, title=method.name)


def _take(where: Mapping[str, Any]) -> dict[str, Any]:
    """One model's own tensors, for the rest or for a part."""
    take = {**_NAME, "description": "A model of the merge, or its base, whose tensor is taken."}
    return _mapping({**where, "take": take}, *where, "take")


def _setting(setting: Setting) -> dict[str, Any]:
    scalar = _scalar(setting)
    gradient = _list(scalar, minItems=1)
    spread = _mapping({"gradient": gradient, "outside": {"enum": ["ends", "first"]}}, "gradient")
    plain = [scalar, gradient, spread]
    case = _mapping({**_WHERE, "value": {"anyOf": plain}}, "value")
    forms: list[dict[str, Any]] = [*plain, case, _list(case, minItems=1)]
    if setting.per_model:
        forms.append({"type": "object", "additionalProperties": {"anyOf": list(forms)}})
    result: dict[str, Any] = {"description": setting.doc, "anyOf": forms}
    if not setting.required:
        result["default"] = setting.default
    return result


def _scalar(setting: Setting) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "bool": {"type": "boolean"},
        "int": {"type": "integer"},
        "float": {"type": "number"},
        **{kind: {"type": "number", "minimum": low, "maximum": high} for kind, (low, high) in LIMITS.items()},
        "choice": {"enum": list(setting.choices)},
        "task": {"type": "string", "description": "The name of one of the merged models."},
    }
    scalar = kinds[setting.kind]
    return {"anyOf": [scalar, {"type": "null"}]} if setting.optional else scalar
