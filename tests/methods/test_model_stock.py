import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.model_stock import model_stock

from .merging import equals, merge, normal, suite


@suite(model_stock, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("scope", ["row", "column"])
def test_conformance_by_vector(scope):
    for check in suite(model_stock, settings={"scope": scope, "clamp": False}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    # task vectors (3, 4) and (5, 0): cosine 15 / 25 = 0.6, t = 1.2 / 1.6 = 3/4, mean (4, 2), so 3/4 of it: (3, 1.5)
    assert equals(merge(model_stock, [[4, 5], [6, 1]], [1, 1]), [4, 2.5])


def test_orthogonal_task_vectors_give_the_base():
    assert equals(merge(model_stock, [[4, 1], [1, 7]], [1, 1]), [1, 1])


@settings(max_examples=25)
@given(st.integers(2, 5), st.floats(0.2, 5.0), st.integers(0, 1000))
def test_it_is_the_point_nearest_to_the_centre(n, noise, seed):
    # orthonormal centre and errors: w_i = base + c + noise * e_i
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((12, n + 1)))[0].T
    centre, models = frame[0], frame[0] + noise * frame[1:]
    out = merge(model_stock, list(models), np.zeros(12)).double().numpy()
    mean = models.mean(0)
    t = n / (n + noise**2)
    assert np.allclose(out, t * mean, atol=1e-6)
    assert abs((out - centre) @ mean) < 1e-5


def test_contradicting_task_vectors():
    # cosine -1 + 1/200: t = 2 c / (1 + c) = -398
    x, y = [1.0, 0.0], [-0.995, (1 - 0.995**2) ** 0.5]
    assert equals(merge(model_stock, [x, y], [0, 0]), [0, 0])
    t = 2 * -0.995 / 0.005
    out = merge(model_stock, [x, y], [0, 0], clamp=False)
    assert equals(out, t * np.add(x, y) / 2, 1e-4)
    assert equals(merge(model_stock, [[1, 0], [-1, 0]], [0, 0], clamp=False), [0, 0])


def test_a_zero_task_vector_has_no_part_in_the_agreement():
    # cosines 1, 0, 0: c = 1/3, t = 1 / (1 + 2/3) = 3/5; the mean of (3, 0), (3, 0), (0, 0) is (2, 0)
    assert equals(merge(model_stock, [[3, 0], [3, 0], [0, 0]], [0, 0]), [1.2, 0])


def test_each_row_has_its_own_way():
    base, models = normal(4, 6, seed=0), [normal(4, 6, seed=seed) for seed in (1, 2, 3)]
    rows = torch.stack([merge(model_stock, [m[i] for m in models], base[i]) for i in range(4)])
    assert equals(merge(model_stock, models, base, scope="row"), rows)
