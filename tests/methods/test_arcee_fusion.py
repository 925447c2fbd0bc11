import numpy as np
import pytest
import torch

from mergery.methods.arcee_fusion import arcee_fusion, divergence, importance

from .merging import equals, merge, normal, suite


@suite(arcee_fusion, scale_free=False)
def test_conformance(check):
    check()


def test_by_hand():
    # one row, so the divergence is a common factor: changes 1, 0, 2, 3, 20 have quartiles 1, 2, 3; 2 + 1.5 * 2 = 5
    assert equals(merge(arcee_fusion, [[1, 0, -2, 3, 20]], [0, 0, 0, 0, 0]), [0, 0, 0, 0, 20])
    # changes 1, 2, 3, 10: the last at or below the quartiles 1.75, 2.5 and 4.75 are 1, 2 and 3; 2 + 1.5 * 2 = 5
    assert equals(merge(arcee_fusion, [[1, 2, 3, 10]], [0, 0, 0, 0]), [0, 0, 0, 10])


def test_divergence_by_hand():
    # softmax of (log 3, 0) is (3/4, 1/4), of (0, 0) is (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)
    model, base = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert float(divergence(model, base)) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))


@pytest.mark.parametrize("size", [1e-10, 1e-5, 1e-2])
def test_divergence_of_close_rows_is_half_the_variance(size):
    base, change = normal(3, 64, seed=1).double(), normal(3, 64, seed=2).double() * size
    q = base.softmax(-1)
    mean = (q * change).sum(-1, keepdim=True)
    variance = (q * (change - mean) ** 2).sum(-1, keepdim=True)
    assert equals(divergence(base + change, base), variance / 2, 1e-4 + 4 * size)


def test_divergence_of_distant_rows_is_finite():
    model, base = torch.tensor([[1e8, -1e8, 0.0]]), torch.tensor([[-1e8, 1e8, 3e38]])
    assert float(divergence(model, base)) == pytest.approx(3e38 - 1e8)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 101, 102, 103, 104])
def test_quartiles_are_those_of_numpy(n):
    base, model = normal(n, seed=n), normal(n, seed=n + 1) ** 3
    size = importance([model[None]], base[None]).double().numpy()
    q1, q2, q3 = np.quantile(size, [0.25, 0.5, 0.75], method="lower")
    expected = np.where(size[0] >= q2 + 1.5 * (q3 - q1), model, base)
    assert equals(merge(arcee_fusion, [model], base), expected)


def test_every_entry_is_model_or_base():
    base, model = normal(50, 40, seed=1), normal(50, 40, seed=2)
    out = merge(arcee_fusion, [model], base)
    taken = out == model
    assert bool((taken | (out == base)).all())
    assert 0.02 < float(taken.double().mean()) < 0.25
