"""The statistics: worked by hand, against enumeration, and by what they promise over many repetitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergery.evaluation import statistics


def test_mcnemar_worked_by_hand():
    """Five items differ, four one way: 2 * (C(5,0) + C(5,1)) / 2^5 = 12 / 32."""
    a, b = np.array([1, 1, 1, 1, 0, 1, 0]), np.array([0, 0, 0, 0, 1, 1, 0])
    assert statistics.mcnemar(a, b) == pytest.approx(12 / 32, rel=1e-12)
    assert statistics.mcnemar(b, a) == statistics.mcnemar(a, b)
    assert statistics.mcnemar(a, a) == 1.0


@given(more=st.integers(0, 200), less=st.integers(0, 200))
def test_mcnemar_against_whole_numbers(more, less):
    a = np.array([1] * more + [0] * less)
    total, few = more + less, min(more, less)
    exact = min(1.0, 2 * sum(math.comb(total, k) for k in range(few + 1)) / 2**total)
    assert statistics.mcnemar(a, 1 - a) == pytest.approx(exact, rel=1e-9)


def test_permutation_worked_by_hand():
    """Signs of (1, 2, 3) give sums 6, 4, 2, 0, 0, -2, -4, -6: two of eight are as far out as 6."""
    assert statistics.permutation(np.array([1.0, 2.0, 3.0, 0.0]), seed=0, name="x") == 2 / 8
    assert statistics.permutation(np.zeros(5), seed=0, name="x") == 1.0


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_permutation_against_enumeration(values):
    differences = np.array(values, np.float64)
    flips = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) for signs in flips]
    exact = sum(total >= abs(sum(values)) for total in sums) / len(sums)
    assert statistics.permutation(differences, seed=0, name="x") == pytest.approx(exact)


def test_sampled_sign_changes_agree_with_mcnemar():
    a = np.array([1.0] * 30 + [0.0] * 15)
    sampled = statistics.permutation(a - (1 - a), seed=3, name="x")
    assert sampled == pytest.approx(statistics.mcnemar(a, 1 - a), abs=0.01)
    assert statistics.permutation(np.ones(100), seed=0, name="x") == 1 / 10_001  # never zero


def test_holm_worked_by_hand():
    """Sorted 0.01, 0.02, 0.04, times 3, 2, 1; each at least the one before it."""
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.holm([0.01, 0.012]) == pytest.approx([0.02, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_resamples_are_shared_by_models_and_keyed_by_seed_and_name():
    values = np.random.default_rng(0).random((2, 50))
    weights = np.ones(50)
    both = statistics.resampled_means(values, weights, seed=1, name="t", resamples=500)
    alone = statistics.resampled_means(values[1:], weights, seed=1, name="t", resamples=500)
    assert np.array_equal(both[1], alone[0])
    other = statistics.resampled_means(values[1:], weights, seed=2, name="t", resamples=500)
    assert not np.array_equal(other, alone)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    values, weights = np.random.default_rng(0).random((2, 64)), np.ones(64)
    whole = statistics.resampled_means(values, weights, seed=1, name="t", resamples=300)
    monkeypatch.setattr(statistics, "CHUNK", 64 * 7)
    assert np.array_equal(whole, statistics.resampled_means(values, weights, seed=1, name="t", resamples=300))


def test_the_spread_of_resampled_means_is_the_standard_error():
    values = np.random.default_rng(0).random((1, 400))
    means = statistics.resampled_means(values, np.ones(400), seed=0, name="t", resamples=4000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    weighted = statistics.resampled_means(values, np.arange(1.0, 401.0), seed=0, name="t", resamples=4000)
    assert weighted.mean() == pytest.approx(np.average(values[0], weights=np.arange(1.0, 401.0)), abs=0.005)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(7)
    held = 0
    for trial in range(200):
        values = (rng.random((1, 120)) < 0.6).astype(np.float64)
        means = statistics.resampled_means(values, np.ones(120), seed=0, name=str(trial), resamples=400)
        low, high = statistics.interval(means[0])
        held += low <= 0.6 <= high
    assert 178 <= held <= 199  # 95% of 200, give or take


def test_the_difference_that_can_be_seen_is_seen_four_times_out_of_five():
    """A paired z-test at 5% on 200 items, whose true difference is the one that the formula names."""
    rng = np.random.default_rng(1)
    sample = rng.standard_normal(200)
    visible = statistics.smallest_visible((sample - sample.mean()) / sample.std(ddof=1), np.ones(200))
    samples = rng.standard_normal((2000, 200)) + visible
    seen = np.sum(np.abs(samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / 200**0.5)) > 1.96)
    assert 0.77 < seen / 2000 < 0.83
    assert statistics.smallest_visible(np.ones(1), np.ones(1)) == math.inf


@pytest.mark.parametrize(("items", "shown"), [(20, 0.846), (100, 0.660), (500, 0.572)])
def test_the_best_of_a_thousand_equal_candidates(items, shown):
    assert 0.5 + statistics.binomial_optimism(0.5, items, 1000) == pytest.approx(shown, abs=0.001)


def test_optimism_worked_by_hand():
    """Two fair coins thrown once each: the best shows 3/4. Two normal scores: 1/sqrt(pi) standard errors."""
    assert statistics.binomial_optimism(0.5, 1, 2) == pytest.approx(0.25)
    assert statistics.normal_optimism(2.0, 2) == pytest.approx(2 / math.sqrt(math.pi), rel=1e-6)
    assert statistics.normal_optimism(1.0, 1) == pytest.approx(0, abs=1e-9)
    assert statistics.binomial_optimism(1.0, 20, 5) == 0.0


def test_the_bootstrap_sees_that_candidates_go_together():
    """Ten copies of one model leave no room for luck; ten independent ones do; one far ahead does not either."""
    rng = np.random.default_rng(0)

    def optimism(values: np.ndarray) -> float:
        means = statistics.resampled_means(values, np.ones(values.shape[1]), seed=0, name="t", resamples=2000)
        return statistics.bootstrap_optimism(means, values.mean(axis=1))

    coins = (rng.random((10, 200)) < 0.5).astype(np.float64)
    ahead = np.concatenate([np.ones((1, 200)), coins])
    assert optimism(np.repeat(coins[:1], 10, axis=0)) == pytest.approx(0, abs=0.003)
    assert optimism(ahead) == pytest.approx(0, abs=0.003)
    assert 0.01 < optimism(coins) < 0.08
