import numpy as np
import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.methods.regmean import regmean

from .merging import equals, normal, suite


@suite(regmean, fixed_point={}, close=2e-5)
def test_conformance(check):
    check()


@suite(regmean, fixed_point={}, settings={"off_diagonal": 0.2})
def test_conformance_with_shrinkage(check):
    check()


def merge(models, grams, **settings):
    as_tensors = [[torch.tensor(x, dtype=torch.float32) for x in each] for each in (models, grams)]
    return mergery.merge_tensors(regmean, as_tensors[0], statistics={"gram": as_tensors[1]}, **settings)


def test_by_hand():
    # one input: (1 * 2 + 4 * 8) / (2 + 8); with weights 4 and 1, (1 * 8 + 4 * 8) / 16
    assert equals(merge([[[1.0]], [[4.0]]], [[[2.0]], [[8.0]]]), [[3.4]])
    assert equals(merge([[[1.0]], [[4.0]]], [[[2.0]], [[8.0]]], weight=[4, 1]), [[2.5]])
    # without the diagonal's neighbours each column is an average by its own entry
    grams = [[[1.0, 5.0], [5.0, 3.0]], [[3.0, -2.0], [-2.0, 1.0]]]
    assert equals(merge([[[0.0, 0.0]], [[4.0, 4.0]]], grams, off_diagonal=0.0), [[3.0, 1.0]])


def test_it_answers_as_each_model_does_where_inputs_do_not_meet():
    """Two models whose inputs are of two spaces without a common direction."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    inputs = [rng.standard_normal((20, 3)) @ basis[:3], rng.standard_normal((20, 3)) @ basis[3:]]
    models = [rng.standard_normal((4, 6)) for _ in range(2)]
    out = merge(models, [x.T @ x / 20 for x in inputs], off_diagonal=1.0).double().numpy()
    for own, x in zip(models, inputs, strict=True):
        assert np.allclose(x @ out.T, x @ own.T, atol=1e-5)


def test_equal_inputs_are_the_average():
    models, x = [normal(4, 6, seed=seed).numpy() for seed in (1, 2)], normal(50, 6, seed=3).numpy()
    gram = x.T @ x
    assert equals(merge(models, [gram, gram]), (models[0] + models[1]) / 2, 1e-6)


def test_the_number_of_tokens_does_not_matter_to_all_at_once():
    models, xs = [normal(4, 6, seed=seed).numpy() for seed in (1, 2)], [normal(30, 6, seed=s).numpy() for s in (3, 4)]
    grams = [x.T @ x for x in xs]
    assert equals(merge(models, [7.0 * gram for gram in grams]), merge(models, grams), 1e-6)


def test_what_no_data_say_is_averaged():
    """Fewer tokens than inputs: across what the tokens span each is itself, elsewhere the average stays."""
    models = [normal(3, 5, seed=seed).double().numpy() for seed in (1, 2)]
    x = np.array([[1.0, 0, 0, 0, 0]])
    out = merge(models, [x.T @ x, 0.0 * x.T @ x], off_diagonal=1.0).double().numpy()
    mean = (models[0] + models[1]) / 2
    assert np.allclose(out[:, 1:], mean[:, 1:], atol=1e-6)
    assert np.allclose(out[:, 0], models[0][:, 0], atol=1e-6)
    nothing = merge(models, [0.0 * x.T @ x] * 2)
    assert equals(nothing, mean, 1e-6)


def test_statistics_are_wanted_of_each_model():
    models = [torch.ones(2, 3), torch.ones(2, 3)]
    with pytest.raises(RecipeError, match="needs statistics: gram"):
        regmean(models)
    with pytest.raises(RecipeError, match=r"it must be \(3, 3\)"):
        regmean(models, statistics={"gram": [torch.ones(2, 2)] * 2})
