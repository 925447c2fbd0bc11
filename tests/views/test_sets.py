"""Names and sets of tensors that a recipe lets differ: `rename`, `tensors: union` and `tensors: intersection`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.errors import MergeryError
from tests.conftest import make_llama, tensors_of

UP = "model.layers.0.mlp.up_proj.weight"


def changed(source: Path, folder: Path, rename=str, **more: torch.Tensor) -> Path:
    """A model with other names for its tensors (None leaves one out), and with more tensors."""
    folder.mkdir()
    tensors = {rename(name): value for name, value in load_file(source / "model.safetensors").items()}
    tensors.pop(None, None)
    tensors |= {name.replace("__", "."): value for name, value in more.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for seed, name in enumerate(("base", "a", "b")):
        make_llama(tmp_path / name, seed)
        made[name] = tmp_path / name
    return made


def merge(models, out: Path, merge=None, **rest):
    plan = api.merge({"models": models, "merge": merge or {"method": "linear"}, **rest}, out).plan
    return tensors_of(out), plan


def refused(models, **rest) -> str:
    with pytest.raises(MergeryError) as caught:
        api.plan({"models": models, "merge": {"method": "linear"}, **rest})
    return str(caught.value)


def odd(name: str) -> str:
    """The names of nobody."""
    name = name.replace("lm_head", "out").replace("self_attn", "attn")
    return name.replace("model.", "net.", 1)


RULES = {"net.*.attn.*": "model.*.self_attn.*", "net.*": "model.*", "out.*": "lm_head.*"}


def test_a_renamed_model_is_merged_under_the_new_names(models, tmp_path):
    plain, _ = merge({"a": models["a"], "b": models["b"]}, tmp_path / "plain")
    b = {"path": str(changed(models["b"], tmp_path / "odd", odd)), "rename": RULES}
    out, plan = merge({"a": models["a"], "b": b}, tmp_path / "out")
    assert out.keys() == plain.keys()
    assert all(torch.equal(out[name], plain[name]) for name in plain)
    assert any(
        warning.startswith(f"b: {len(plain)} tensors are renamed by the recipe (such as ") for warning in plan.warnings
    )
    first, _ = merge({"b": b, "a": models["a"]}, tmp_path / "first", {"method": "linear", "weight": {"b": 1, "a": 0}})
    assert all(torch.equal(first[name], value) for name, value in tensors_of(models["b"]).items())
    other = {"a": models["a"], "b": {**b, "rename": {**RULES, "out.*": "head.*"}}}
    with_other = api.plan({"models": other, "merge": {"method": "linear"}, "tensors": "intersection"})
    assert with_other.digest != plan.digest, "names are part of what determines the bytes"


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"transformer.*": "model.*"}, "rename: 'transformer.*' fits no tensor"),
        ({"model.*": "x.*", "model.norm.weight": "y"}, "all that it fits, fit a rule before it"),
        ({"model.layers.*.mlp.*_proj.weight": "*.*"}, None),
        ({"*.layers.0.*": "*.layers.1.*"}, "two tensors would be called 'model.layers.1."),
        ({"model.*.*": "x.*"}, "have not as many *"),
        ({"model.*": 3}, "rename gives 'model.*' the name 3"),
        ({}, "rename must be a mapping"),
        (["model"], "rename must be a mapping"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules, text, models):
    given = {"a": models["a"], "b": {"path": str(models["b"]), "rename": rules}}
    if text is None:  # it fits, and then the names do not
        assert "'b' lacks" in refused(given)
    else:
        assert text in refused(given)


def test_a_hint_says_what_to_rename(models, tmp_path):
    b = changed(models["b"], tmp_path / "net", lambda name: name.replace("model.", "net.llm."))
    said = refused({"a": models["a"], "b": b})
    assert "rename: {'net.llm.*': 'model.*'}" in said
    out, _ = merge({"a": models["a"], "b": {"path": str(b), "rename": {"net.llm.*": "model.*"}}}, tmp_path / "out")
    assert out.keys() == tensors_of(models["a"]).keys()


EXTRA = "model.extra.weight"


@pytest.fixture
def uneven(models, tmp_path) -> dict[str, Path]:
    """`a` lacks a tensor, and `b` has one more."""
    return {
        "base": models["base"],
        "a": changed(models["a"], tmp_path / "less", lambda name: None if name == UP else name),
        "b": changed(models["b"], tmp_path / "more", model__extra__weight=torch.full((3,), 2.0)),
    }


BY = {"method": "task_arithmetic", "base": "base", "weight": 0.5}


def test_sets_that_differ_are_refused_without_a_word(uneven):
    said = refused(uneven)
    assert f"'a' lacks '{UP}'" in said
    assert "tensors: intersection" in said
    assert f"'b' has '{EXTRA}', which 'base' lacks" in said


def test_the_intersection_leaves_out_what_not_all_have(uneven, tmp_path):
    out, plan = merge(uneven, tmp_path / "out", BY, tensors="intersection")
    whole = tensors_of(uneven["base"])
    assert out.keys() == whole.keys() - {UP}
    reasons = {UP: "a lacks it, and tensors: intersection", EXTRA: "base lacks it, and tensors: intersection"}
    assert plan.dropped == reasons
    lock = json.loads((tmp_path / "out" / "mergery.lock.json").read_text())
    assert lock["dropped"] == reasons
    assert lock["recipe"]["tensors"] == "intersection"


@pytest.mark.parametrize("donor", ["base", "a", "b"])
def test_the_union_copies_from_the_base_or_the_first_that_has_it(donor, uneven, tmp_path):
    out, plan = merge(uneven, tmp_path / "out", BY, tensors="union", output={"config": donor})
    assert out.keys() == tensors_of(uneven["b"]).keys()
    assert torch.equal(out[UP], tensors_of(uneven["base"])[UP])
    assert torch.equal(out[EXTRA], torch.full((3,), 2.0))
    text = "\n".join(plan.warnings)
    assert f"1 tensors that a lacks are copied from base (such as '{UP}'), for tensors: union" in text
    assert f"1 tensors that base lacks are copied from b (such as '{EXTRA}'), for tensors: union" in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"copied from base (such as '{UP}')" in card
    name = "model.layers.1.mlp.up_proj.weight"
    base, a, b = (tensors_of(folder)[name] for folder in uneven.values())
    assert torch.allclose(out[name], base + 0.5 * (a - base) + 0.5 * (b - base), atol=1e-6)


def test_another_word_is_an_error(models):
    said = refused({"a": models["a"], "b": models["b"]}, tensors="unite")
    assert "tensors is 'unite'" in said
    assert "union" in said


def test_the_schema_knows_both():
    import jsonschema

    from mergery.recipe.schema import recipe_schema

    validator = jsonschema.Draft202012Validator(recipe_schema())
    recipe = {
        "models": {"a": "x", "b": {"path": "y", "rename": {"net.*": "model.*"}}},
        "merge": {"method": "linear"},
        "tensors": "union",
    }
    assert validator.is_valid(recipe)
    assert not validator.is_valid(recipe | {"tensors": "all"})
    recipe["models"]["b"]["rename"] = {"net.*": 1}
    assert not validator.is_valid(recipe)


def test_a_model_with_an_adapter_is_not_renamed(models, tmp_path):
    """Its adapter knows it by its own names, and must not be passed over."""
    folder = tmp_path / "lora"
    folder.mkdir()
    width = tensors_of(models["b"])["model.layers.0.self_attn.q_proj.weight"].shape
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{stem}.lora_A.weight": torch.ones(2, width[1]), f"{stem}.lora_B.weight": torch.ones(width[0], 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    b = {"path": f"{models['b']}+{folder}", "rename": {"lm_head.*": "out.*"}}
    text = refused({"a": models["a"], "b": b})
    assert "a model with an adapter cannot be renamed" in text
    assert "merge the adapter in by a recipe of its own" in text
