import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.ties import ties

from .merging import equals, merge, normal, suite


@suite(ties, fixed_point={"density": 1.0})
def test_conformance(check):
    check()


@suite(ties, settings={"rescale": "l1", "function": "sum", "scope": "tensor", "density": 0.35, "scale": 0.5})
def test_conformance_of_the_other_settings(check):
    check()


def test_by_hand():
    # entry 1: +3, +1, -1 elect +, mean of 3 and 1; entry 2: -4, +1, +2 elect -, -4; entry 3: 0, 0, 5
    models = [[4, -3, 1], [2, 2, 1], [0, 3, 6]]
    assert equals(merge(ties, models, [1, 1, 1], density=1.0), [3, -3, 6])
    # sums instead of means, halved
    out = merge(ties, models, [1, 1, 1], density=1.0, function="sum", scale=0.5)
    assert equals(out, [3, -1, 3.5])
    # weights 1, 1, 5: entry 1 is 3 + 1 - 5 < 0, so -1; entry 2 is -4 + 1 + 10 > 0: (1 + 10) / 6
    assert equals(merge(ties, models, [1, 1, 1], density=1.0, weight=[1, 1, 5]), [0, 1 + 11 / 6, 6])


def test_trimming_keeps_the_largest():
    delta = torch.tensor([0.1, -5.0, 0.3, 4.0, -0.2, 3.0])
    assert equals(merge(ties, [delta], torch.zeros(6), density=0.5), [0, -5, 0, 4, 0, 3])
    assert equals(merge(ties, [delta], torch.zeros(6), density=0.01), [0, -5, 0, 0, 0, 0])
    assert equals(merge(ties, [delta], torch.zeros(6), density=0.0), [0.0] * 6, 1)


def test_ties_at_the_threshold_are_kept():
    assert equals(merge(ties, [[1, -1, 1, 0.5]], [0, 0, 0, 0], density=0.25), [1, -1, 1, 0])


def test_a_sum_of_zero_is_positive():
    assert equals(merge(ties, [[2.0], [-2.0]], [0.0], density=1.0), [2.0])


def test_one_untrimmed_model_comes_back():
    base, model = normal(9, seed=1), normal(9, seed=2)
    assert equals(merge(ties, [model], base, density=1.0), model)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_flipping_all_signs_flips_the_result(seed, density):
    deltas = [normal(40, seed=seed + i) for i in range(3)]
    zero = torch.zeros(40)
    there = merge(ties, deltas, zero, density=density)
    back = merge(ties, [-delta for delta in deltas], zero, density=density)
    assert equals(-back, there)


def test_l1_rescaling_keeps_the_sum_of_magnitudes():
    delta = normal(200, seed=3)
    out = merge(ties, [delta], torch.zeros(200), density=0.1, rescale="l1")
    assert int((out != 0).sum()) == 20
    assert float(out.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


@suite(ties, settings={"keep": "one_more", "zero": "majority", "function": "max", "density": 0.4})
def test_conformance_of_the_authors_details(check):
    check()


def test_the_largest_of_those_that_agree():
    models = [[4, -3, 1], [2, 2, 1], [0, 3, 6]]
    assert equals(merge(ties, models, [1, 1, 1], density=1.0, function="max"), [4, -3, 6])


def test_the_authors_code_keeps_one_more():
    delta = torch.tensor([0.1, -5.0, 0.3, 4.0, -0.2, 3.0])
    assert equals(merge(ties, [delta], torch.zeros(6), density=0.5, keep="one_more"), [0, -5, 0.3, 4, 0, 3])
    assert equals(merge(ties, [delta], torch.zeros(6), density=1.0, keep="one_more"), delta)


def test_a_sum_of_zero_may_follow_the_majority():
    # the first vote is even; of the elected signs, two are negative and one is positive
    models = [[2.0, -1, -1, 3], [-2.0, -1, -1, 1]]
    assert equals(merge(ties, models, [0.0] * 4, density=1.0, zero="majority"), [-2, -1, -1, 2])
    assert equals(merge(ties, models, [0.0] * 4, density=1.0), [2, -1, -1, 2])
    # without a majority, positive
    assert equals(merge(ties, [[2.0], [-2.0]], [0.0], density=1.0, zero="majority"), [2.0])


def test_a_majority_of_trimmed_vectors_is_not_one_of_rescaled_ones():
    with pytest.raises(RecipeError, match="does not go with rescale: l1"):
        merge(ties, [[2.0]], [0.0], zero="majority", rescale="l1")


@suite(ties, settings={"vote": "alike", "function": "sum", "density": 0.4, "scale": 0.5})
def test_conformance_of_a_vote_without_weights(check):
    check()


def test_weights_may_be_left_out_of_the_vote():
    models = [[4, -3, 1], [2, 2, 1], [0, 3, 6]]  # deltas 3 1 -1, -4 1 2, 0 0 5
    out = merge(ties, models, [1, 1, 1], density=1.0, function="sum", vote="alike", weight=[1, 0.5, 9])
    assert equals(out, [1 + 3 + 0.5, 1 - 4, 1 + 9 * 5])
    out = merge(ties, models, [1, 1, 1], density=1.0, function="sum", vote="alike", weight=[-1, 0, 0])
    assert equals(out, [1 - 3, 1 + 4, 1])  # a negative weight subtracts what its model has won


def test_equal_weights_make_no_difference_to_the_vote():
    base, *models = (normal(500, seed=seed) for seed in range(4))
    one = merge(ties, models, base, function="sum", density=0.3, scale=0.3)
    assert equals(merge(ties, models, base, function="sum", vote="alike", density=0.3, weight=0.3), one)


def test_a_vote_without_weights_is_for_sums():
    with pytest.raises(RecipeError, match="vote: alike goes with function: sum"):
        merge(ties, [[1.0]], [0.0], vote="alike")
