import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.neuromerging import neuromerging
from mergery.methods.ties import ties

from .merging import equals, merge, normal, suite


@suite(neuromerging)
def test_conformance(check):
    check()


@suite(neuromerging, settings={"density": 0.6, "parallel": 1.0, "orthogonal": 1.0, "scope": "tensor"})
def test_conformance_of_the_other_settings(check):
    check()


WHOLE = {"density": 1.0, "parallel": 1.0, "orthogonal": 1.0}


def test_one_model_and_identical_models_come_back():
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    assert equals(merge(neuromerging, [model], base, **WHOLE), model)
    assert equals(merge(neuromerging, [model, model, model], base, **WHOLE), model)


def test_changes_at_right_angles_add_up():
    base = torch.zeros(1, 4)  # a row of zeros has no direction: everything is across it
    models = [[[3.0, 0, 0, 0]], [[0.0, 2, 0, 0]], [[0.0, 0, 0, -1]]]
    assert equals(merge(neuromerging, models, base, **WHOLE), [[3, 2, 0, -1]])


def test_by_hand():
    # along (2, 0): projections 1 and 2 agree, mean 1.5 of the base; across: 4 and -1 elect +, 4
    models = [[[4.0, 4]], [[6.0, -1]]]
    base = [[2.0, 0]]
    assert equals(merge(neuromerging, models, base, **WHOLE), [[2 + 1.5 * 2, 4]])
    assert equals(merge(neuromerging, models, base, density=1.0, orthogonal=1.0), [[2, 4]])


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_without_the_parallel_part_a_neurons_own_direction_is_untouched(seed):
    base = normal(4, 10, seed=seed)
    models = [base + normal(4, 10, seed=seed + i) for i in range(1, 4)]
    step = merge(neuromerging, models, base).double() - base.double()
    assert float((step * base.double()).sum(-1).abs().max()) < 1e-4


def test_vectors_are_elected_entry_by_entry():
    base, models = normal(12, seed=1), [normal(12, seed=seed) for seed in (2, 3, 4)]
    assert equals(merge(neuromerging, models, base, density=1.0), merge(ties, models, base, density=1.0))


def test_the_factor_makes_up_for_what_trimming_took():
    # of 5 + 3 + 1 + 1, trimming to one half takes 2: 1 / (1 - 0.2)
    models, base = [[[5.0, -3, 1, 1]]], torch.zeros(1, 4)
    out = merge(neuromerging, models, base, density=0.5, restored=1.0)
    assert equals(out, [[5 / 0.8, -3 / 0.8, 0, 0]])
    assert equals(merge(neuromerging, models, base, density=0.5), [[5 / 0.8**0.5, -3 / 0.8**0.5, 0, 0]])


def test_twenty_models_of_tiny_changes_and_one_that_never_moved():
    base = normal(5, 30, seed=0)
    models = [base + normal(5, 30, seed=seed) * 1e-6 for seed in range(1, 20)]
    out = merge(neuromerging, [*models, base], base)
    assert bool(out.isfinite().all())
    assert torch.equal(merge(neuromerging, [base, base], base), base)
    assert float((out - base).abs().max()) == pytest.approx(1e-5, rel=1.0)
