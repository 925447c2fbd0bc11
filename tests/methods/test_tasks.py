"""Methods that choose entries by task: competition, consensus, masks, signs, trust regions."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.consensus import consensus
from mergery.methods.emr import emr
from mergery.methods.onebit import onebit
from mergery.methods.pcb import pcb, support
from mergery.methods.tall_mask import tall_mask
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.trust_region import trust_region

from .merging import equals, merge, normal, suite

METHODS = [
    (pcb, {}), (pcb, {"density": 0.5, "clip": 0.02, "scope": "tensor"}), (pcb, {"rivals": "each"}),
    (consensus, {}), (consensus, {"vector": "ties", "k": 1, "threshold": 0.6}),
    (tall_mask, {"task": 0}), (tall_mask, {"task": 0, "vector": "ties", "density": 0.6}),
    (onebit, {}), (onebit, {"scope": "row", "scale": 0.5}), (onebit, {"binary": False}),
    (trust_region, {}), (trust_region, {"drop": 0.3, "scope": "tensor", "scale": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=lambda value: getattr(value, "name", None))
def test_conformance(method, settings):
    for check in suite(method, settings=settings).args[1]:
        check()


@suite(emr, settings={"task": 0}, fixed_point={})
def test_conformance_of_emr(check):
    check()


# --- pcb ----------------------------------------------------------------------------------------------------------


def test_the_winners_of_one_model_are_its_own():
    delta = normal(1000, seed=1)
    out = merge(pcb, [delta], torch.zeros(1000), density=0.1, clip=0.0)
    won = out != 0
    assert equals(out[won], delta[won])
    assert 95 <= int(won.sum()) <= 100
    assert float(delta[won].abs().min()) >= float(delta[~won].abs().max())


def test_identical_models_win_alike():
    delta = normal(1000, seed=1)
    out = merge(pcb, [delta, delta, delta], torch.zeros(1000), density=0.2, clip=0.0)
    won = out != 0
    assert equals(out[won], delta[won])
    assert int(won.sum()) == pytest.approx(200, abs=1)


def test_an_entry_that_the_others_contradict_never_wins():
    # levels of the first: 1, 0.5, 0; of the others -1 in entry 0, so that its 1 scores tanh(-1) there, that is 0
    models = [[3.0, 2, 1], [-3.0, 2, 1], [-3.0, 2, 1]]
    out = merge(pcb, models, [0.0, 0, 0], density=1.0, clip=0.0)
    assert equals(out, [-3, 2, 0])


def test_rivals_are_met_together_or_one_by_one():
    units = [torch.tensor([1.0, 0.5]), torch.tensor([-0.5, 0.5]), torch.tensor([-0.5, 0.0])]
    # against the sums 0 and 1; or tanh(1) - 2 tanh(1/2) < 0 and 2 tanh(1/4) of the first, and so on
    at_once = [[0.0, math.tanh(0.5)], [0.0, math.tanh(0.5)], [0.0, 0.0]]
    assert all(equals(own, wanted) for own, wanted in zip(support(units, "sum"), at_once, strict=True))
    once, half, quarter = (math.tanh(each) for each in (1.0, 0.5, 0.25))
    by_one = [[once - 2 * half, 2 * quarter], [2 * quarter - half, 2 * quarter], [2 * quarter - half, 0.0]]
    assert all(equals(own, wanted, 1e-5) for own, wanted in zip(support(units, "each"), by_one, strict=True))


def test_equal_magnitudes_all_win():
    assert equals(merge(pcb, [[2.0, -2, 2]], [0.0, 0, 0], density=0.3), [2, -2, 2])


def test_a_clip_from_either_end_leaves_something():
    with pytest.raises(RecipeError, match=r"below 0\.5"):
        merge(pcb, [[1.0]], [0.0], clip=0.5)


# --- consensus and masks --------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_the_algebra_of_masks(seed):
    deltas = [normal(50, seed=seed + i) for i in range(4)]
    zero = torch.zeros(50)
    assert equals(merge(consensus, deltas, zero, k=0, scale=1.0), merge(task_arithmetic, deltas, zero, scale=1.0))
    assert torch.equal(merge(consensus, deltas, zero, k=5), zero)
    kept = [merge(consensus, deltas, zero, k=k) != 0 for k in range(5)]
    assert all(bool((more | ~less).all()) for more, less in itertools.pairwise(kept))


def test_tasks_that_do_not_overlap_are_served_exactly():
    deltas = [normal(30, seed=seed) * (torch.arange(30) % 3 == seed) for seed in range(3)]
    for task, delta in enumerate(deltas):
        assert torch.equal(merge(tall_mask, deltas, torch.zeros(30), task=task), delta)
        assert torch.equal(merge(emr, deltas, torch.zeros(30), task=task), delta)


def test_masks_shrink_with_the_threshold():
    deltas = [normal(200, seed=seed) for seed in range(3)]
    masks = [merge(tall_mask, deltas, torch.zeros(200), task=1, threshold=t) != 0 for t in (0.0, 0.2, 0.4, 0.8)]
    assert all(bool((more | ~less).all()) for more, less in itertools.pairwise(masks))
    assert bool(masks[0].all())


def test_consensus_by_hand():
    # sums 3, 1, 4: entry 0 is 2 + 1, entry 1 is 3 - 2, entry 2 is the second model's alone
    models = [[2.0, 3, 0], [1.0, -2, 4]]
    # |2| > .4 |1|, |1| > .4 |2|; |3| > .4 |-2|, |-2| > .4 |3|; |0| > .4 |4| fails
    assert equals(merge(consensus, models, [0.0, 0, 0], scale=1.0), [3, 1, 0])
    assert equals(merge(consensus, models, [0.0, 0, 0]), [3 / 2**0.5, 1 / 2**0.5, 0])


@pytest.mark.parametrize("method", [tall_mask, emr])
def test_a_serving_method_needs_a_task(method):
    with pytest.raises(RecipeError, match="no task is named") as error:
        merge(method, [[1.0], [2.0]], [0.0])
    assert "mergery pack" in error.value.hint
    with pytest.raises(RecipeError, match="task names 2, which is not merged"):
        merge(method, [[1.0], [2.0]], [0.0], task=2)


def test_thresholds_and_counts_are_not_negative():
    with pytest.raises(RecipeError, match="threshold must not be negative"):
        merge(consensus, [[1.0]], [0.0], threshold=-1.0)
    with pytest.raises(RecipeError, match="k is -1"):
        merge(consensus, [[1.0]], [0.0], k=-1)


# --- emr ----------------------------------------------------------------------------------------------------------


def test_emr_by_hand():
    # sums 3, -1, 0: elected 2, -3, -1; the first task has signs +, +, + there
    models = [[2.0, 2, 1], [1.0, -3, -1]]
    # what is left of it is 2, and its magnitudes sum to 5
    assert equals(merge(emr, models, [0.0, 0, 0], task=0), [5, 0, 0])
    # of the second all is left, 2 + 3 + 1 of 5
    assert equals(merge(emr, models, [0.0, 0, 0], task=1), [10 / 6, -15 / 6, -5 / 6])


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_emr_keeps_the_sum_of_magnitudes(seed, size):
    deltas = [normal(60, seed=seed + i) * size for i in range(4)]
    for task, delta in enumerate(deltas):
        out = merge(emr, deltas, torch.zeros(60), task=task)
        assert float(out.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


# --- one bit ------------------------------------------------------------------------------------------------------


def test_onebit_by_hand():
    delta = torch.tensor([[1.0, -3.0], [0.0, 4.0]])
    zero = torch.zeros(2, 2)
    assert equals(merge(onebit, [delta], zero), [[2, -2], [2, 2]])
    assert equals(merge(onebit, [delta], zero, scope="row"), [[2, -2], [2, 2]])
    assert torch.equal(merge(onebit, [delta], zero, binary=False), delta)
    assert torch.equal(merge(onebit, [delta[0]], zero[0]), delta[0])  # a vector stays


def test_equal_magnitudes_come_back_exactly():
    delta = normal(8, 9, seed=1).sign() * 0.25
    assert torch.equal(merge(onebit, [delta], torch.zeros(8, 9)), delta)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_mean_magnitude_is_the_nearest(seed):
    delta = normal(6, 11, seed=seed).double()
    size = delta.abs().mean()
    gap = {factor: float((delta - factor * size * delta.sign()).norm()) for factor in (0.9, 1.0, 1.1)}
    out = merge(onebit, [delta.float()], torch.zeros(6, 11)).double()
    assert float((delta - out).norm()) == pytest.approx(gap[1.0], rel=1e-5)
    assert gap[1.0] <= min(gap.values())
    share = float(delta.abs().sum()) ** 2 / (delta.numel() * float(delta.square().sum()))
    assert float((delta - out).square().sum() / delta.square().sum()) == pytest.approx(1 - share, rel=1e-5)


def test_a_task_of_onebit_is_its_own():
    deltas = [normal(4, 5, seed=seed) for seed in range(3)]
    zero = torch.zeros(4, 5)
    assert equals(merge(onebit, deltas, zero, task=1), merge(onebit, [deltas[1]], zero))
    whole = sum(merge(onebit, [delta], zero) for delta in deltas)
    assert equals(merge(onebit, deltas, zero), whole)


# --- trust region -------------------------------------------------------------------------------------------------


def test_the_entry_of_most_conflict_is_left_out():
    # conflicts 2 * 1 * 2, 2 * 3 * 3, 0
    models = [[1.0, 3, 5], [2.0, 3, 0]]
    assert equals(merge(trust_region, models, [0.0, 0, 0], drop=0.4, scale=1.0), [3, 0, 5])
    assert equals(merge(trust_region, models, [0.0, 0, 0], drop=0.0, scale=1.0), [3, 6, 5])
    assert equals(merge(trust_region, models, [0.0, 0, 0], drop=1.0, scale=1.0), [0, 0, 5])


def test_one_model_has_no_conflict():
    delta = normal(20, seed=1)
    assert equals(merge(trust_region, [delta], torch.zeros(20), drop=0.5, scale=1.0), delta)


# --- what must hold for all ---------------------------------------------------------------------------------------

ALL = [
    (pcb, {"density": 0.5}), (consensus, {"k": 1}), (tall_mask, {"task": 1}), (emr, {"task": 1}), (onebit, {}),
    (trust_region, {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "more"), ALL, ids=lambda value: getattr(value, "name", None))
def test_twenty_models_tiny_changes_and_some_that_never_moved(method, more):
    base = torch.zeros(8, 16)
    deltas = [normal(8, 16, seed=seed) * 1e-6 for seed in range(19)]
    out = merge(method, [*deltas, base], base, **more)
    assert bool(out.isfinite().all())
    assert 1e-8 < float(out.abs().max()) < 1e-4
    assert torch.equal(merge(method, [base, base], base, **more), base)
