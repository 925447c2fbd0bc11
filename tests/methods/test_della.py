"""della and della_linear."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels import random
from mergery.methods.dare_linear import dare_linear
from mergery.methods.della import della
from mergery.methods.della_linear import della_linear, ramp

from .merging import equals, merge, normal, suite

BOTH = pytest.mark.parametrize("method", [della, della_linear], ids=["della", "della_linear"])


@suite(della)
def test_conformance(check):
    check()


@suite(della_linear)
def test_conformance_without_election(check):
    check()


@suite(della, settings={"rescale": "l1", "density": 0.5, "window": 0.4, "normalize": False, "scale": 1.1})
def test_conformance_by_l1(check):
    check()


@suite(della_linear, settings={"rescale": "none", "density": 0.5, "window": 1.0, "normalize": True})
def test_conformance_without_rescaling(check):
    check()


def test_by_hand():
    # magnitudes 3, 1, 2 have ranks 3, 1, 2: probabilities 0.5 + 0.2 (rank - 2)
    chance = torch.tensor([0.7, 0.3, 0.5])
    assert equals(ramp(torch.tensor([[-3.0, 1.0, 2.0]]), 0.5, 0.4), chance[None])
    coins = random.uniform(random.key(1, "tensor", "0"), 0, 3)
    out = merge(della_linear, [[-3, 1, 2]], [0, 0, 0], density=0.5, window=0.4, seed=1)
    assert equals(out, [d / p if u < p else 0 for d, p, u in zip((-3, 1, 2), chance, coins, strict=True)])


def test_signs_are_elected():
    # nothing dropped: 3, -1 elect +: 3; weights 1 and 4 elect -: -1
    everything = {"density": 1.0, "window": 0.0}
    assert equals(merge(della, [[3.0], [-1.0]], [0.0], **everything), [3.0])
    assert equals(merge(della, [[3.0], [-1.0]], [0.0], weight=[1, 4], **everything), [-1.0])
    assert equals(merge(della_linear, [[3.0], [-1.0]], [0.0], scale=1.0, **everything), [2.0])
    assert equals(merge(della, [[3.0], [1.0]], [0.0], normalize=False, scale=0.5, **everything), [2.0])


def test_the_ramp_is_taken_in_each_row():
    delta = normal(7, 11)
    whole = ramp(delta, 0.6, 0.5)
    for row in range(7):
        order = delta[row].abs().argsort()
        assert equals(whole[row][order], torch.linspace(0.35, 0.85, 11))
    assert float(whole.double().mean()) == pytest.approx(0.6)


def test_equal_magnitudes_rank_in_their_order():
    assert equals(ramp(torch.tensor([[1.0, -1.0, 1.0]]), 0.5, 1.0), [[0, 0.5, 1]])


@BOTH
def test_rows_of_one_entry_have_the_density(method):
    for shape in ((), (1,), (20_000, 1)):
        out = merge(method, [torch.ones(shape)], torch.zeros(shape), density=0.6, window=0.8, rescale="none")
        assert out.shape == shape
    kept = float(out.double().mean())
    assert abs(kept - 0.6) < 5 * (0.6 * 0.4 / 20_000) ** 0.5


def test_without_a_window_it_is_dare():
    models, base = [normal(30, 40, seed=seed) for seed in (1, 2)], normal(30, 40, seed=3)
    out = merge(della_linear, models, base, density=0.3, window=0.0, seed=8)
    assert equals(out, merge(dare_linear, models, base, density=0.3, seed=8))


def test_the_expected_task_vector_is_the_original():
    rows, n = 4000, 16
    row = torch.linspace(0.5, 2.0, n)
    out = merge(della_linear, [row.repeat(rows, 1)], torch.zeros(rows, n), density=0.5, window=0.6)
    chance = torch.linspace(0.2, 0.8, n).double()
    sigma = row * ((1 - chance) / chance / rows) ** 0.5
    assert bool(((out.double().mean(0) - row).abs() < 5 * sigma).all())
    rate = (out != 0).double().mean(0)
    assert bool(((rate - chance).abs() < 5 * (chance * (1 - chance) / rows) ** 0.5).all())
    assert float(rate[-1]) > float(rate[n // 2]) > float(rate[0])


@BOTH
def test_l1_rescaling_keeps_the_sum_of_magnitudes(method):
    delta = normal(20, 30)
    out = merge(method, [delta], torch.zeros(20, 30), density=0.4, window=0.2, rescale="l1")
    assert float(out.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    kept = out != 0
    ratio = out[kept] / delta[kept]
    assert float(ratio.max() - ratio.min()) < 1e-5


@settings(max_examples=60)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_window_fits_or_is_refused(density, window):
    room = min(density, 1 - density) - window / 2
    if room < -1e-11:
        with pytest.raises(RecipeError, match="does not fit density"):
            merge(della, [[1.0, 2.0]], [0.0, 0.0], density=density, window=window)
    elif room >= 0.0:
        assert bool(merge(della, [[1.0, 2.0]], [0.0, 0.0], density=density, window=window).isfinite().all())


def test_the_error_says_what_fits():
    with pytest.raises(RecipeError) as error:
        merge(della_linear, [[1.0], [2.0]], [0.0], density=[0.5, 0.95], window=0.14)
    assert "window 0.14 does not fit density 0.95" in str(error.value)
    assert "would run from 0.88 to 1.02" in str(error.value)
    assert "a window of at most 0.1" in str(error.value)
