"""Merging from Python: state dicts, modules, plain tensors."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import mergery
from mergery.errors import MergeryError, RecipeError
from mergery.method import methods
from tests.conftest import tensors_of


def test_state_dicts_and_modules_merge_in_memory(llamas):
    a = AutoModelForCausalLM.from_pretrained(llamas / "a")
    b = tensors_of(llamas / "b")
    merged = mergery.merge({"models": {"a": a, "b": b}, "merge": {"method": "linear", "models": ["a", "b"]}})
    assert isinstance(merged, dict)
    own = a.state_dict()
    assert merged.keys() == own.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (own[name] + b[name]) / 2, rtol=1e-6, atol=1e-7)
    a.load_state_dict(merged)


def test_memory_and_folder_give_the_same(recipe, tmp_path):
    path = recipe("models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\nmerge: {method: ties, base: base}\n")
    state = mergery.merge(path)
    assert isinstance(state, dict)
    mergery.merge(path, tmp_path / "out")
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(tensor, state[name])


def test_methods_are_called_on_plain_tensors():
    base = torch.zeros(4)
    a, b = torch.tensor([3.0, 1.0, 0.0, -1.0]), torch.tensor([1.0, -2.0, 0.0, -3.0])
    out = mergery.methods.ties([a, b], base=base, density=1.0)
    assert out.tolist() == [2.0, -2.0, 0.0, -2.0]
    assert mergery.methods.linear([a, b], weight=[3.0, 1.0]).tolist() == [2.5, 0.25, 0.0, -1.5]


def test_inputs_are_never_changed():
    a, b = torch.randn(64, 8), torch.randn(64, 8)
    before = a.clone(), b.clone()
    for name in ("linear", "slerp"):
        mergery.methods.__getattr__(name)([a, b], **({"t": 0.3} if name == "slerp" else {}))
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_is_kept(dtype):
    out = mergery.methods.linear([torch.randn(5).to(dtype), torch.randn(5).to(dtype)])
    assert out.dtype == dtype


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mergery.methods.ties([torch.zeros(2)]), "ties needs a base"),
        (lambda: mergery.methods.ties([torch.zeros(2)], base=torch.zeros(3)), "differ in shape"),
        (lambda: mergery.methods.ties([torch.zeros(2)], base=torch.zeros(2), densty=1), "did you mean 'density'"),
        (lambda: mergery.methods.ties([torch.zeros(2)], base=torch.zeros(2), density=7), "must lie in"),
        (lambda: mergery.methods.linear([torch.zeros(2)], weight=[1, 2]), "2 values for 1 models"),
        (lambda: mergery.methods.slerp([torch.zeros(2)], t=0.5), "slerp"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(RecipeError, match=says):
        call()


def test_a_method_that_does_not_exist():
    with pytest.raises(AttributeError, match="no merging method"):
        mergery.methods.tise  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute"):
        mergery.marge  # noqa: B018
    assert "merge" in dir(mergery)


def test_every_method_says_what_it_is():
    for method in methods().values():
        assert method.summary.endswith("."), method.name
        assert len(method.about.splitlines()) > 2, method.name
        assert all(setting.doc for setting in method.settings.values()), method.name


def test_recipes_from_mappings_are_checked_too():
    with pytest.raises(MergeryError, match="unknown method"):
        mergery.plan({"models": {"a": {"x": torch.zeros(1)}}, "merge": {"method": "lineal"}})


def test_nan_behind_the_sixty_second_model_is_not_blamed_on_another():
    many = [torch.ones(4) for _ in range(70)]
    many[64] = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    for method in (mergery.methods.linear, mergery.methods.karcher):
        with pytest.raises(MergeryError, match="one of the models 60, 61, 62, 63, 64, 65, 66, 67, 68, 69 holds NaN"):
            mergery.merge_tensors(method, many)
    many[64], many[7] = many[7], many[64]
    with pytest.raises(MergeryError, match="model '7' holds NaN"):
        mergery.merge_tensors(mergery.methods.linear, many)
