"""The schema takes every recipe that is written anywhere, and tells a mistake once, where it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mergery.method import catalogue, find, methods
from mergery.method.registry import plain_names
from mergery.recipe.reading import load_recipe
from mergery.recipe.schema import recipe_schema, schema_text
from tests.golden import recipes as golden

DOCS = Path(__file__).resolve().parents[2] / "docs"
LARGEST = 300_000  # bytes that an editor loads for every recipe
SCHEMA = recipe_schema()
DRAFTS = (jsonschema.Draft7Validator(SCHEMA), jsonschema.Draft202012Validator(SCHEMA))  # it means the same in both


def documented() -> dict[str, Any]:
    """The whole recipes in the docs."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        for number, text in enumerate(
            re.findall(r"^```yaml.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        ):
            data = yaml.safe_load(text)
            if isinstance(data, dict) and {"models", "merge"} <= data.keys():
                found[f"{page.name} {number}"] = data
    return found


DOCUMENTED = documented()


def test_it_is_small_and_sound():
    text = schema_text()
    assert len(text.encode()) < LARGEST
    assert json.loads(text) == json.loads(json.dumps(SCHEMA))
    for validator in DRAFTS:
        validator.check_schema(SCHEMA)


def test_every_reference_leads_somewhere():
    assert set(re.findall(r'"#/\$defs/([^"]*)"', schema_text())) == SCHEMA["$defs"].keys()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_recipe_is_valid(name):
    for validator in DRAFTS:
        validator.validate(DOCUMENTED[name])


def test_the_docs_have_recipes():
    assert len(DOCUMENTED) > 20


@pytest.mark.parametrize("name", methods())
def test_every_method(name):
    data = yaml.safe_load(catalogue.example(methods()[name]))
    printed = json.loads(json.dumps(load_recipe(data).plain()))
    for validator in DRAFTS:
        validator.validate(data)
        validator.validate(printed)
        assert mistakes(validator, {**data, "merge": {**data["merge"], "densty": 1}}) == ["merge: densty"]
        assert mistakes(validator, {**data, "merge": {**data["merge"], "parts": []}}) == ["merge.parts"]


GOLDEN = {**golden.EXACT, **golden.CLOSE, **golden.PACKED}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_recipe(name, tmp_path):
    (tmp_path / GOLDEN[name].kind).mkdir()
    data = yaml.safe_load(GOLDEN[name].write(tmp_path, "recipe").read_text())
    for validator in DRAFTS:
        validator.validate(data)


def mistakes(validator: Any, data: Any) -> list[str]:
    """Where the schema finds a mistake, and the key or value that it is."""
    found = []
    for error in validator.iter_errors(data):
        named = re.search(r"'([^']*)' (?:was unexpected|does not match any)", error.message)
        found.append(".".join(map(str, error.absolute_path)) + (f": {named[1]}" if named else ""))
    return found


@pytest.mark.parametrize("name", ["TIES", "ties-merging", "Model Soup", "TA", "Task Arithmetic", "tsv-m", "iso_C"])
def test_other_names_of_methods(name):
    data = {"models": {"base": "b", "x": "x", "y": "y"}, "merge": {"method": name}}
    data["merge"] |= {"base": "base"} if find(name).base != "unused" else {}
    assert load_recipe(data).merge.method == find(name).name
    for validator in DRAFTS:
        assert mistakes(validator, data) == []
        assert mistakes(validator, {**data, "merge": {**data["merge"], "densty": 1}}) == ["merge: densty"]


def test_no_two_methods_share_a_name():
    names = [plain for name in methods() for plain in plain_names(name)]
    assert len(names) == len(set(names))


HEAD = "models: {base: ./base, a: ./a, b: ./b}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("merge: {method: tise, densty: 1}", ["merge.method"]),  # and nothing of what follows from it
        ("merge: {method: ties, base: base, density: 80}", ["merge.density"]),
        ("merge: {method: ties, base: base, density: {a: 80}}", ["merge.density.a"]),
        ("merge: {method: ties, base: base, density: [0.1, 80, 0.2]}", ["merge.density.1"]),
        ("merge: {method: ties, base: base, density: {gradient: [0.1, x]}}", ["merge.density.gradient.1"]),
        (
            "merge: {method: ties, base: base, density: [{where: {role: mlps}, value: 1}]}",
            ["merge.density.0.where.role"],
        ),
        ("merge: {method: ties, base: base, density: [{value: 2}]}", ["merge.density.0.value"]),
        ("merge: {method: slerp, t: {a: 0.5}}", ["merge.t: a", "merge.t"]),  # not one for each model
        ("merge: {method: slerp, t: null}", []),
        ("merge: {method: slerp, t: 50}", ["merge.t"]),
        ("merge: {method: linear, parts: [{where: {role: norm}, method: ties, x: 1}]}", ["merge.parts.0: x"]),
        ("merge: {method: linear, parts: [{method: ties}]}", ["merge.parts.0"]),
        ("merge: {method: tsv_merge, base: base, rest: {where: {}, take: a}}", ["merge.rest"]),
        ("merge: {method: linear, stack: [{models: {a: 3-}}]}", ["merge.stack.0.models.a"]),
        ("merge: {method: linear}\nsead: 1", [": sead"]),
        ("merge: {method: linear}\noutput: {dtype: bf16}", ["output.dtype"]),
        ("merge: {method: linear}\nvocabulary: {tokens: {x: {like: y}}}", ["vocabulary.tokens.x"]),
        ("merge: {method: linear}\nx-mine: [1]\n_: {a: 1}", []),
    ],
)
def test_a_mistake_is_told_once_where_it_is(text, found):
    for validator in DRAFTS:
        assert mistakes(validator, yaml.safe_load(HEAD + text)) == found


@pytest.mark.parametrize(
    ("models", "found"),
    [
        ("[./a, {path: org/b, revision: v1}]", []),
        ("{a: {method: linear, models: [b], x: 1}, b: ./b}", ["models.a: x"]),
        ("{a: {pth: ./a}}", ["models.a: pth", "models.a"]),
        ("{a: ''}", ["models.a"]),
        ("[]", ["models"]),
        ("{}", ["models"]),
    ],
)
def test_models(models, found):
    for validator in DRAFTS:
        assert mistakes(validator, yaml.safe_load(f"models: {models}\nmerge: {{method: linear}}\n")) == found
