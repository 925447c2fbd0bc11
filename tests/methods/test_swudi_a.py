import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.swudi import swudi
from mergery.methods.swudi_a import above_noise, above_published, participating, swudi_a
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors


@suite(swudi_a, fixed_point={})
def test_conformance(check):
    check()


@suite(swudi_a, settings={"rule": "noise", "start": "sum"})
def test_conformance_by_noise(check):
    check()


@suite(swudi_a, settings={"rule": "published"})
def test_conformance_by_the_published_bound(check):
    check()


def test_by_hand():
    # two equal tasks on input 1, one on input 2: eigenvalues 2 and 1, (sqrt(2) + 1)^2 / 3 = 1.94: both take part
    a, b = [[2.0, 0.0], [1.0, 0.0]], [[0.0, 4.0], [0.0, 2.0]]
    assert equals(merge(swudi_a, [a, a, b], np.zeros((2, 2)), start="sum"), [[2, 4], [1, 2]])
    # weights 25, 25 and 1: eigenvalues 50 and 1, (sqrt(50) + 1)^2 / 51 = 1.28: both again
    out = merge(swudi_a, [a, a, b], np.zeros((2, 2)), start="sum", weight=[25, 25, 1])
    assert equals(out, [[2, 4], [1, 2]])
    # eigenvalues 1e8 and 1: 1.0002, the first alone; along the other the sum stays
    out = merge(swudi_a, [a, b, b], np.zeros((2, 2)), start="sum", weight=[1e8, 0.5, 0.5])
    assert equals(out, [[2, 8], [1, 4]])


def test_how_many_take_part():
    assert participating(torch.tensor([4.0, 4.0, 4.0])) == 3
    assert participating(torch.tensor([9.0, 0.0, 0.0])) == 1
    assert participating(torch.tensor([16.0, 1.0, 1.0])) == 2  # 36 / 18
    assert participating(torch.tensor([16.0, 1.0])) == 2  # 25 / 17
    assert participating(torch.zeros(3)) == 1
    assert participating(torch.tensor([[1.0, 1.0], [1.0, 0.0]])).tolist() == [2, 1]


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12))
def test_never_more_take_part_than_there_are(values):
    ordered = sorted(values, reverse=True)
    count = int(participating(torch.tensor(ordered, dtype=torch.float64)))
    assert 1 <= count <= len(values)
    assert count == quadratic.participation(np.array(ordered))


def test_what_is_above_noise():
    # square: 0.56 - 0.95 + 1.82 + 1.43 = 2.86 times the median, which is 2 of the roots 10, 3, 1, 1 and 4 of 10, 7, 1, 1
    assert above_noise(torch.tensor([100.0, 9.0, 1.0, 1.0]), 4, 4) == 1
    assert above_noise(torch.tensor([100.0, 49.0, 1.0, 1.0]), 4, 4) == 0
    # twice as wide: 0.07 - 0.2375 + 0.91 + 1.43 = 2.1725 times 2.1 and times 2.4
    assert above_noise(torch.tensor([25.0, 4.41, 1.0]), 3, 6) == 1
    assert above_noise(torch.tensor([25.0, 5.76, 1.0]), 3, 6) == 0
    # eigenvalues that a basis leaves out are zero: of 5, 2, 0, 0 the median is 1, and 4 of 6 make it 2.39
    assert above_noise(torch.tensor([25.0, 4.0]), 4, 6) == 1
    assert above_noise(torch.zeros(3), 3, 3) == 0


def test_what_is_above_noise_as_published():
    # square: 4 / sqrt(3) / sqrt(2 + sqrt(3)) = 1.1954 times the lower median, which is 2 of the roots 4, 2.4, 2, 1
    assert above_published(torch.tensor([16.0, 2.4**2, 4.0, 1.0]), 8, 4, 4) == 2
    assert above_published(torch.tensor([16.0, 2.38**2, 4.0, 1.0]), 8, 4, 4) == 1
    # twice as wide: sqrt(3 + 4 / (1.5 + sqrt(8.25))) / sqrt(0.75) = 2.285 times the lower median
    assert above_published(torch.tensor([6.25, 1.0, 1.0]), 3, 2, 4) == 1
    assert above_published(torch.tensor([6.25, 5.76, 1.0, 1.0]), 4, 2, 4) == 2
    assert above_published(torch.zeros(3), 6, 3, 3) == 1  # one always


@settings(max_examples=30)
@given(task_vectors())
def test_it_is_swudi_after_all_time_with_as_many_eigenvectors(deltas):
    wide = [delta.double().numpy() for delta in deltas]
    values, _ = quadratic.spectrum(quadratic.own_rows(wide, [1.0] * len(wide)))
    into = wide[0].shape[1]
    count = quadratic.participation(values)
    gap = values[count - 1] - (values[count] if count < into else 0.0)
    ratio = np.sqrt(values).sum() ** 2 / values.sum()
    if gap < 1e-3 * values[0] or abs((ratio - 1e-3) % 1.0 - 0.5) > 0.5 - 1e-6:
        return  # which of two equal eigenvectors comes first is a matter of rounding
    zero = np.zeros(wide[0].shape)
    wanted = merge(swudi, deltas, zero, start="sum", time=1e300, rank=count / into)
    assert equals(merge(swudi_a, deltas, zero, start="sum"), wanted)


def test_equal_eigenvalues_all_take_part_and_the_minimum_comes_out():
    # task vectors with orthonormal rows that share no input: all eigenvalues equal
    turned = np.linalg.qr(normal(6, 6, seed=3).double().numpy())[0]
    deltas = [2.0 * turned[:3], 3.0 * turned[3:]]
    assert equals(merge(swudi_a, deltas, np.zeros((3, 6))), deltas[0] + deltas[1])


def test_one_task_vector_stays():
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    assert equals(merge(swudi_a, [model], base), model)
    assert equals(merge(swudi_a, [model], base, start="sum"), model)


def test_the_paper_begins_at_the_sum():
    models, base = [normal(4, 6, seed=1), normal(4, 6, seed=2)], normal(4, 6, seed=9)
    assert preset(swudi_a, "paper") == {"start": "sum", "scale": 1.0}
    out = merge(swudi_a, models, base, **preset(swudi_a, "paper"))
    # where nothing takes part, the sum stands
    deltas = [(model - base).double() for model in models]
    terms = quadratic.own_rows([delta.numpy() for delta in deltas], [1, 1])
    values, vectors = quadratic.spectrum(terms)
    outside = torch.from_numpy(vectors[:, quadratic.participation(values) :].copy())
    assert outside.shape[1] > 0
    assert equals((out - base).double() @ outside, sum(deltas) @ outside, 1e-5)


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(swudi_a, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(swudi_a, models, base, weight=[0, 0])


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("own", [{}, {"start": "sum"}, {"rule": "noise"}])
def test_hard_cases(name, own):
    deltas = hard_cases()[name]
    out = merge(swudi_a, deltas, np.zeros(deltas[0].shape), **own)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in swudi_a.settings.values()} | own
    wanted = quadratic.swudi_a(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    assert equals(out, wanted, 1e-5)


@pytest.mark.parametrize("own", [{}, {"start": "sum"}, {"rule": "noise", "start": "sum"}])
def test_low_rank_factors(own):
    pairs = factors(9, 14)
    out = swudi_a(pairs, **own)
    assert isinstance(out, Factored)
    assert out.rank <= sum(pair.rank for pair in pairs)
    assert equals(out.dense(), merge(swudi_a, [pair.dense() for pair in pairs], np.zeros((9, 14)), **own), 2e-6)
