"""Methods that are said to be additive: their result is a sum of what no weight changes, so that weights can be learnt."""

import numpy as np
import pytest
import torch

import mergery
from mergery.method.registry import methods

from .merging import normal

ADDITIVE = [each for each in methods().values() if each.additive is not None]


def test_the_usual_ones_are():
    assert {"linear", "task_arithmetic", "ties", "dare_linear", "breadcrumbs"} <= {each.name for each in ADDITIVE}


@pytest.mark.parametrize("each", ADDITIVE, ids=lambda each: each.name)
def test_the_result_is_the_sum_of_what_each_model_adds(each):
    base, *models = (normal(300, seed=seed).reshape(6, 50) for seed in range(4))

    def merge(weight):
        plain = {"scale": 1.0, "normalize": False}
        fixed = {name: value for name, value in plain.items() if name in each.settings}
        given = None if each.base == "unused" else base
        return mergery.merge_tensors(each, models, given, seed=3, weight=weight, **fixed, **each.additive).double()

    origin = merge([0.0, 0.0, 0.0])
    parts = [merge(row) - origin for row in np.eye(3).tolist()]
    weights = [0.7, -0.4, 1.9]
    expected = origin + sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert torch.allclose(merge(weights), expected, atol=1e-5)
