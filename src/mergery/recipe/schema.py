"""The JSON schema of recipes, made from the methods' own signatures."""

from __future__ import annotations

from typing import Any

from mergery.architecture.facts import ALLOWABLE
from mergery.architecture.sections import PARTS
from mergery.dtypes import OUTPUT_DTYPES
from mergery.method import Method, Setting, methods
from mergery.method.roles import BASE
from mergery.recipe.recipe import CONVERSIONS, GROWTHS
from mergery.recipe.values import ROLES
from mergery.recipe.vocabulary import LARGEST_MULTIPLE, MOST_NEIGHBOURS, PADDING, UNKNOWN

_COUNT = {"type": "integer", "minimum": 1}
_RANGE = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\d+\s*(-\s*\d+\s*)?$"}]}


def recipe_schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mergery recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["models", "merge"],
        "properties": {
            "models": {
                "description": "A name for each source: a path, a hub id, or a merge of others.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "oneOf": [
                        {"type": "string", "minLength": 1},
                        {
                            "type": "object",
                            "required": ["path"],
                            "additionalProperties": False,
                            "properties": {
                                "path": {"type": "string"},
                                "revision": {"type": "string"},
                                "task": {"type": "string", "description": "Of packed models, which one."},
                                "convert": {
                                    "description": "The shape in which the model is taken.",
                                    "type": "object",
                                    "minProperties": 1,
                                    "additionalProperties": False,
                                    "properties": dict.fromkeys(CONVERSIONS, _COUNT),
                                },
                            },
                        },
                        {"$ref": "#/$defs/merge"},
                    ]
                },
            },
            "merge": {"$ref": "#/$defs/merge"},
            "output": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "dtype": {"enum": list(OUTPUT_DTYPES)},
                    "shard_size": {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string"}], "default": "5GB"},
                    "config": {"type": "string", "description": "The model whose config and names the output takes."},
                    "tokenizer": {
                        "type": "string",
                        "description": "The output's vocabulary: base, union or a model's.",
                    },
                    "chat_template": {"type": "string", "description": "auto, a model, a named template, or Jinja."},
                },
            },
            "vocabulary": _vocabulary(),
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "drop": {"type": "array", "items": {"type": "string"}},
            "allow": {
                "description": "Facts of the configs in which the models may differ on purpose.",
                "type": "array",
                "items": {"enum": list(ALLOWABLE)},
            },
        },
        "$defs": {
            **_parts(),
            "merge": {
                "type": "object",
                "oneOf": [_method(method) for method in methods().values()],
            },
            "where": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "layers": {"oneOf": [_RANGE, {"type": "array", "items": _RANGE}]},
                    "role": {"oneOf": [{"enum": list(ROLES)}, {"type": "array", "items": {"enum": list(ROLES)}}]},
                    "part": {"oneOf": [{"enum": list(PARTS)}, {"type": "array", "items": {"enum": list(PARTS)}}]},
                    "name": {"type": "string", "description": "A pattern over the whole tensor name."},
                },
            },
        },
    }


def _vocabulary() -> dict[str, Any]:
    """The section `vocabulary`."""
    force = {"type": "boolean", "default": False}

    def row(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "required": list(properties),
            "additionalProperties": False,
            "properties": {**properties, "force": force},
        }

    name = {"type": "string"}
    token = {"type": "string", "minLength": 1}
    rows = [
        {"const": "zero"},
        row(zero={"const": True}),
        row(**{"from": name}),
        row(like=token, of=name),
        row(id={"type": "integer", "minimum": 0}, of=name),
    ]
    new = {
        "type": "object",
        "required": ["token"],
        "additionalProperties": False,
        "properties": {"token": token, "special": {"type": "boolean", "default": True}},
    }
    count = {"type": "integer", "minimum": 1, "maximum": MOST_NEIGHBOURS, "default": 64}
    omp = {"type": "object", "required": ["omp"], "additionalProperties": False, "properties": {"omp": count}}
    return {
        "description": "The output's tokens and the rows that they get.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "from": {"type": "string", "default": "base", "description": "base, union, or a model's name."},
            "base": {"type": "string", "description": "The model whose rows fill what others lack."},
            "tokens": {"type": "object", "additionalProperties": {"oneOf": rows}},
            "add": {"type": "array", "items": {"oneOf": [token, new]}},
            "pad_to_multiple_of": {"type": "integer", "minimum": 1, "maximum": LARGEST_MULTIPLE},
            "padding": {"enum": list(PADDING), "default": "keep"},
            "unknown": {"oneOf": [{"enum": list(UNKNOWN)}, omp], "default": "mean"},
        },
    }


def _method(method: Method) -> dict[str, Any]:
    settings = {setting.name: _setting(setting) for setting in method.settings.values()}
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    slice_ = {
        "type": "object",
        "required": ["models"],
        "additionalProperties": False,
        "properties": {
            "models": {"type": "object", "additionalProperties": _RANGE, "minProperties": 1},
            "base": {"type": "string"},
            **settings,
        },
    }
    return {
        "title": method.name,
        "description": method.summary,
        "additionalProperties": False,
        "anyOf": [{"required": ["method"]}, *([{"required": ["stack"]}] if method.name == "passthrough" else [])],
        "properties": {
            "method": {"const": method.name},
            "base": {"type": "string"},
            "models": names,
            "stack": {"oneOf": [{"type": "array", "items": slice_, "minItems": 1}, *_growths()]},
            "dtype": {"enum": list(OUTPUT_DTYPES)},
            **({"preset": {"enum": list(method.presets)}} if method.presets else {}),
            **({"rest": _rest()} if method.roles is not None else {}),
            "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1},
            **settings,
        },
    }


def _rest() -> dict[str, Any]:
    return {
        "description": "What the tensors get on which the method does not work.",
        "oneOf": [{"enum": [BASE, *methods()]}, {"$ref": "#/$defs/treatment"}],
    }


def _treatment(method: Method, *, where: bool) -> dict[str, Any]:
    """A method with its settings, for the rest or for a part."""
    settings = {setting.name: _setting(setting) for setting in method.settings.values()}
    place = {"where": {"$ref": "#/$defs/where"}} if where else {}
    return {
        "title": method.name,
        "type": "object",
        "additionalProperties": False,
        "required": ["method", *place],
        "properties": {**place, "method": {"const": method.name}, **settings},
    }


def _take(*, where: bool) -> dict[str, Any]:
    """One model's own tensors, for the rest or for a part."""
    place = {"where": {"$ref": "#/$defs/where"}} if where else {}
    take = {"type": "string", "description": "A model of the merge, or its base, whose tensor is taken."}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*place, "take"],
        "properties": {**place, "take": take},
    }


def _parts() -> dict[str, Any]:
    """What the items of `parts` are, and the mappings under `rest`."""
    known = methods().values()
    return {
        "part": {"oneOf": [_take(where=True), *(_treatment(method, where=True) for method in known)]},
        "treatment": {"oneOf": [_take(where=False), *(_treatment(method, where=False) for method in known)]},
    }


def _growths() -> list[dict[str, Any]]:
    return [
        {
            "type": "object",
            "required": [rule, number],
            "additionalProperties": False,
            "properties": {rule: {"type": "string"}, number: _COUNT},
        }
        for rule, number in GROWTHS.items()
    ]


def _setting(setting: Setting) -> dict[str, Any]:
    scalar = _scalar(setting)
    gradient = {"type": "array", "items": scalar, "minItems": 1}
    spread = {
        "type": "object",
        "required": ["gradient"],
        "additionalProperties": False,
        "properties": {"gradient": gradient, "outside": {"enum": ["ends", "first"]}},
    }
    plain = [scalar, gradient, spread]
    case = {
        "type": "object",
        "required": ["value"],
        "additionalProperties": False,
        "properties": {"where": {"$ref": "#/$defs/where"}, "value": {"anyOf": plain}},
    }
    forms: list[dict[str, Any]] = [*plain, case, {"type": "array", "items": case, "minItems": 1}]
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
        "fraction": {"type": "number", "minimum": 0, "maximum": 1},
        "choice": {"enum": list(setting.choices)},
        "task": {"type": "string", "description": "The name of one of the merged models."},
    }
    scalar = kinds[setting.kind]
    return {"anyOf": [scalar, {"type": "null"}]} if setting.optional else scalar
