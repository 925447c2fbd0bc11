"""Sums of few models: extrapolation, analogy, negation, and what image models' users add."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.analogy import analogy
from mergery.methods.clamp import clamp
from mergery.methods.cosine_add import cosine_add
from mergery.methods.expo import expo
from mergery.methods.magmax import magmax
from mergery.methods.negation import negation
from mergery.methods.rebase import rebase
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.train_difference import train_difference

from .merging import equals, merge, normal, suite


@suite(expo, settings={"alpha": 0.4})
def test_conformance_of_expo(check):
    check()


@suite(analogy)
def test_conformance_of_analogy(check):
    check()


@pytest.mark.parametrize("scope", ["model", "tensor", "row", "column"])
def test_conformance_of_negation(scope):
    for check in suite(negation, settings={"scope": scope, "scale": 0.7}).args[1]:
        check()


@pytest.mark.parametrize("scope", ["model", "tensor", "row", "column"])
def test_conformance_of_rebase(scope):
    for check in suite(rebase, settings={"scope": scope, "beta": 0.6, "scale": 0.7}).args[1]:
        check()


@suite(magmax, fixed_point={"scale": 1.0})
def test_conformance_of_magmax(check):
    check()


@suite(clamp, fixed_point={})
def test_conformance_of_clamp(check):
    check()


@suite(train_difference)
def test_conformance_of_train_difference(check):
    check()


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
def test_conformance_of_cosine_add(scope):
    for check in suite(cosine_add, settings={"scope": scope, "t": 0.2}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    assert equals(merge(expo, [[3.0, 1]], [1.0, 2], alpha=0.5), [4, 0.5])
    assert equals(merge(analogy, [[1.0, 1], [2.0, 4]], [10.0, 10], scale=2.0), [12, 16])
    assert equals(merge(magmax, [[1.0, -3, 2], [-2.0, 1, -2]], [0.0, 0, 0], scale=1.0), [-2, -3, 2])
    assert equals(merge(clamp, [[5.0, -5, 1], [0.0, 0, 0], [2.0, 2, 2]]), [2, 0, 1])
    # the base is 3 from B, A is 1 from it: 1.8 * 3/4 of the step; where the base is B, nothing
    assert equals(merge(train_difference, [[2.0, 2], [3.0, 3]], [0.0, 3]), [1.8 * 0.75, 3])
    # cosines 0 and 0.6
    assert equals(merge(cosine_add, [[[1.0, 3]], [[0.0, 0]]], scope="tensor"), [[0.0, 0]])
    assert equals(merge(cosine_add, [[3.0, 4], [5.0, 0]], scope="tensor"), [0.6 * 3 + 0.4 * 5, 0.6 * 4])


def test_expo_from_the_model_to_the_base():
    base, model = normal(6, seed=1), normal(6, seed=2)
    assert equals(merge(expo, [model], base, alpha=0.0), model)
    assert equals(merge(expo, [model], base, alpha=-1.0), base)


def test_an_analogy_of_equals_is_the_base():
    base, model = normal(6, seed=1), normal(6, seed=2)
    assert torch.equal(merge(analogy, [model, model], base), base)


def test_rebase_by_hand():
    # the old base (1, 0) became (3, 0): a step of (2, 0); of the fine-tune's, (1, 4), (1, 0) lies along it
    old, tuned, new = [1.0, 0.0], [2.0, 4.0], [3.0, 0.0]
    assert equals(merge(rebase, [old, tuned], new), [3, 4])
    assert equals(merge(rebase, [old, tuned], new, beta=0.5, scale=2.0), [3 + 2 * 0.5, 8])
    assert equals(merge(rebase, [old, tuned], new, beta=0.0), merge(analogy, [old, tuned], new))
    # where the base has not changed, the fine-tune comes back
    assert equals(merge(rebase, [old, tuned], old), tuned)


def test_rebase_adds_nothing_along_the_step_of_the_base():
    old, tuned, new = (normal(6, 5, seed=seed).double() for seed in range(3))
    moved = merge(rebase, [old, tuned], new).double() - new
    assert abs(float((moved * (new - old)).sum())) < 1e-5 * float(moved.norm() * (new - old).norm())


def test_negation_without_controls_is_task_arithmetic():
    base, model = normal(4, 5, seed=1), normal(4, 5, seed=2)
    assert equals(merge(negation, [model], base, scale=0.5), merge(task_arithmetic, [model], base, weight=-0.5))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_negation_takes_nothing_along_the_controls(seed, count):
    base = normal(12, seed=seed)
    target, *controls = (base + normal(12, seed=seed + i) for i in range(1, count + 2))
    out = merge(negation, [target, *controls, controls[0]], base)  # a control that stands twice changes nothing
    for control in controls:
        assert abs(float((out - base).double() @ (control - base).double())) < 1e-4
    assert float((out - base).double() @ (target - base).double()) <= 1e-4


def test_a_control_of_the_same_task_leaves_the_base():
    base, model = normal(9, seed=1), normal(9, seed=2)
    assert equals(merge(negation, [model, model], base), base, 1e-5)
    assert equals(merge(negation, [model, base], base), 2 * base - model)  # a control that never moved


def test_magmax_at_twenty_models_of_tiny_changes():
    base = torch.zeros(50)
    deltas = [normal(50, seed=seed) * 1e-6 for seed in range(20)]
    out = merge(magmax, deltas, base, scale=1.0)
    assert torch.equal(out.abs(), torch.stack(deltas).abs().amax(0))
