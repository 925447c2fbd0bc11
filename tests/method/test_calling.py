"""Methods as Python shows and calls them: help, signatures, arrays, and what is neither."""

from __future__ import annotations

import inspect
import pydoc

import numpy as np
import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.method import methods


def test_help_describes_the_method_and_not_its_class():
    text = pydoc.render_doc(mergery.methods.ties, renderer=pydoc.plaintext)
    for part in (
        "ties(models: Sequence[Tensor], base: Tensor, *, seed: int = 0,",
        "density: float | Sequence[float] = 0.2,",
        "scope: Literal['tensor', 'model'] = 'model',",
        "Trim each task vector to its largest entries",
        "fraction of each task vector that is kept",
    ):
        assert part in text
    assert "Method resolution order" not in text


@pytest.mark.parametrize("name", methods())
def test_every_method_has_a_signature_with_typed_settings(name):
    method = methods()[name]
    signature = inspect.signature(method)
    settings = list(method.settings.values())
    assert list(signature.parameters) == ["models", "base", "seed", *(setting.name for setting in settings)]
    for setting in settings:
        shown = signature.parameters[setting.name]
        assert shown.default == setting.default
        assert ("Sequence" in shown.annotation) == setting.per_model
        for choice in setting.choices:
            assert repr(choice) in shown.annotation
    assert (signature.parameters["base"].default is inspect.Parameter.empty) == (method.base == "required")
    assert method.__doc__ is not None
    assert method.summary in method.__doc__
    assert len(repr(method)) < 300


def test_a_name_that_is_wrong_has_a_neighbour():
    with pytest.raises(AttributeError, match="did you mean 'ties'"):
        mergery.methods.tise  # noqa: B018
    assert set(dir(mergery.methods)) == set(methods())
    assert {"annotations", "importlib", "Any"}.isdisjoint(dir(mergery))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_arrays_merge_as_tensors_do_and_come_back_as_arrays(dtype):
    generator = np.random.default_rng(3)
    base, a, b = (generator.normal(size=(8, 6)).astype(dtype) for _ in range(3))
    tensors = [torch.from_numpy(each) for each in (a, b)]
    for call in (
        mergery.methods.ties,
        lambda *given, **named: mergery.merge_tensors(mergery.methods.ties, *given, **named),
    ):
        merged = call([a, b], base=base, density=0.5)
        wanted = call(tensors, base=torch.from_numpy(base), density=0.5)
        assert isinstance(merged, np.ndarray)
        assert merged.dtype == dtype
        assert np.array_equal(merged, wanted.numpy())
    strided = np.asfortranarray(a)
    assert np.array_equal(mergery.methods.linear([strided, b]), mergery.methods.linear([a, b]))


def test_a_tensor_is_a_value_of_a_setting():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.equal(mergery.methods.slerp([a, b], t=torch.tensor(0.5)), mergery.methods.slerp([a, b], t=0.5))
    assert torch.equal(mergery.methods.linear([a, b], weight=torch.tensor([3.0, 1.0])), torch.tensor([0.75, 0.25]))


def test_numbers_of_eight_bits_are_merged_as_others_are():
    a, b = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])
    eight = [each.to(torch.float8_e4m3fn) for each in (a, b)]
    made = mergery.methods.linear(eight)
    assert made.dtype == torch.float8_e4m3fn
    assert made.float().tolist() == [1.5, 4.0]
    assert mergery.merge_tensors(mergery.methods.linear, eight).tolist() == [1.5, 4.0]  # decoded to float32


T = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mergery.methods.slerp(T, T, t=0.5), ["takes its models in a list, not a tensor", "slerp([a, b])"]),
        (lambda: mergery.methods.slerp(np.ones(3), t=0.5), ["in a list, not an array"]),
        (lambda: mergery.methods.linear("ab"), ["in a list, not text"]),
        (lambda: mergery.methods.linear(["./a", "./b"]), ["model 0 is a str, not a tensor", "mergery.merge"]),
        (lambda: mergery.methods.linear([T, [1.0, 2.0]]), ["model 1 is a list, not a tensor"]),
        (lambda: mergery.methods.ties([T], base=[1.0]), ["the base is a list, not a tensor"]),
        (lambda: mergery.methods.ties([{"x": T}], base={"x": T}), ["these are state dicts", "mergery.merge(models="]),
        (lambda: mergery.methods.linear({"a": T, "b": T}), ["these are state dicts"]),
        (lambda: mergery.methods.linear([np.array(["x"])]), ["model 0 is an array of <U1"]),
        (lambda: mergery.merge_tensors(mergery.methods.linear, [1.0, 2.0]), ["model 0 is a float, not a tensor"]),
        (lambda: mergery.methods.linear([]), ["linear is given no models"]),
        (lambda: mergery.methods.linear([np.array([1, 2]), np.array([3, 4])]), ["model 0 is of int64", "as float32"]),
        (lambda: mergery.methods.ties([T], base=T > 0), ["the base is of bool"]),
        (lambda: mergery.merge_tensors(mergery.methods.linear, [T, T.int()]), ["model 1 is of int32"]),
        (lambda: mergery.methods.linear([T.to(torch.complex64)]), ["model 0 is of complex64"]),
    ],
)
def test_what_is_no_tensor_is_told(call, says):
    with pytest.raises(RecipeError) as caught:
        call()
    for part in says:
        assert part in str(caught.value)
