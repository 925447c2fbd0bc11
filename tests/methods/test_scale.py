"""`scale: auto`: between least interference and unit response, and the usual scale of a sum."""

import math
from typing import Any

import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.kernels.spectral import Frame, framed
from mergery.methods._scale import least_interference, trust, unit_response
from mergery.methods.ace import ace
from mergery.methods.actmat import actmat
from mergery.methods.breadcrumbs import breadcrumbs
from mergery.methods.consensus import consensus
from mergery.methods.dare_linear import dare_linear
from mergery.methods.dare_ties import dare_ties
from mergery.methods.dc_merge import dc_merge
from mergery.methods.della_linear import della_linear
from mergery.methods.dop import dop
from mergery.methods.iso_c import iso_c
from mergery.methods.iso_cts import iso_cts
from mergery.methods.subspace_boosting import subspace_boosting
from mergery.methods.svc import svc
from mergery.methods.swudi import swudi
from mergery.methods.swudi_a import swudi_a
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.tsv_merge import tsv_merge
from mergery.report.explain import explain
from mergery.testing.reference import spectral as reference

from .matrices import apart, of_rank
from .merging import equals, merge, normal
from .small_models import BASE, MODELS

SPECTRAL = [iso_c, iso_cts, subspace_boosting, tsv_merge, dc_merge, svc]
LEAST = [swudi, swudi_a, actmat, dop, ace]


def response(out: torch.Tensor, deltas: list[torch.Tensor]) -> float:
    """How a merged task vector answers to the tasks' own, on average; 1 is as they do themselves."""
    answers = [(out.double() * delta.double()).sum() / delta.double().square().sum() for delta in deltas]
    return float(sum(answers)) / len(answers)


# --- merged matrices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("k", [2, 5])
def test_it_stands_between_least_interference_and_unit_response(method, k):
    own: dict[str, Any] = {"density": 0.1} if method is dc_merge else {}
    deltas, zero = [normal(20, 24, seed=task) * (1 + task) for task in range(k)], torch.zeros(20, 24)
    plain = merge(method, deltas, zero, scale=1.0, **own).double()
    out = merge(method, deltas, zero, scale="auto", **own).double()
    found = float((out * plain).sum() / (plain * plain).sum())
    least = reference.least_interference(plain.numpy(), [(1.0, 1.0, delta.double().numpy()) for delta in deltas])
    assert found == pytest.approx(math.sqrt(least / response(plain, deltas)), rel=1e-4)


@pytest.mark.parametrize("method", [tsv_merge, svc])
def test_tasks_that_share_nothing_are_summed(method):
    deltas = apart(3, 8, 24, 28, seed=5)  # of a third of all directions each
    assert equals(merge(method, deltas, torch.zeros(24, 28), scale="auto"), sum(deltas), 1e-5)


@pytest.mark.parametrize("method", [*SPECTRAL, *LEAST])
def test_each_matrix_of_a_stack_has_a_scale_of_its_own(method):
    deltas, zero = [normal(3, 10, 12, seed=task) for task in range(2)], torch.zeros(3, 10, 12)
    deltas[0][1] = of_rank(1, 10, 12, 7).dense()
    out = merge(method, deltas, zero, scale="auto")
    for place in range(3):
        alone = merge(method, [delta[place] for delta in deltas], zero[place], scale="auto")
        assert equals(out[place], alone, 1e-5)


@pytest.mark.parametrize("method", [*SPECTRAL, *LEAST])
@pytest.mark.parametrize("shape", [(18, 15), (150, 40)])  # more outputs than are looked along one by one
def test_low_rank_factors_have_the_scale_of_their_products(method, shape):
    factors = [of_rank(2, shape[0], shape[1], 10 * task) for task in range(3)]
    out: Any = method(factors, scale="auto")
    dense = [factor.dense() for factor in factors]
    assert equals(out.dense(), merge(method, dense, torch.zeros(shape), scale="auto"), 1e-5)


@pytest.mark.parametrize("method", [*SPECTRAL, *LEAST])
def test_identical_models_come_back_where_they_do_at_full_scale(method):
    for delta in (normal(16, 20, seed=1), of_rank(2, 16, 20, 3).dense(), of_rank(2, 200, 20, 3).dense()):
        zero = torch.zeros_like(delta)
        plain = merge(method, [delta] * 3, zero, scale=1.0)
        if equals(plain, delta, 1e-5):
            assert equals(merge(method, [delta] * 3, zero, scale="auto"), delta, 1e-5)


@pytest.mark.parametrize("method", LEAST)
def test_what_looks_for_least_interference_is_taken_as_it_is_where_all_is_trusted(method):
    deltas, zero = [normal(16, 20, seed=task) for task in range(3)], torch.zeros(16, 20)
    assert torch.equal(merge(method, deltas, zero, scale="auto"), merge(method, deltas, zero, scale=1.0))


@pytest.mark.parametrize("method", LEAST)
def test_adapters_that_share_no_input_are_not_summed(method):
    """Their rows are where training began, not their tasks' inputs: what others add disturbs a task wherever it is."""
    deltas = apart(4, 2, 40, 48, seed=5)
    out = merge(method, deltas, torch.zeros(40, 48), scale="auto").double()
    found = float((out * sum(deltas)).sum() / sum(delta.square().sum() for delta in deltas))
    assert 1 / 4 < found < 1 / 2


def test_unit_response_by_hand():
    merged, deltas = torch.tensor([[2.0, 2.0]]).double(), [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    # answers 2 / 1 and 8 / 16: together 2.5, wanted 2
    assert float(unit_response(merged, deltas, [1.0, 1.0])) == pytest.approx(2 / 2.5)
    # of weights 3 and 1, 4 are wanted; a negative one wants the opposite answer
    assert float(unit_response(merged, deltas, [3.0, 1.0])) == pytest.approx(4 / 2.5)
    assert float(unit_response(merged, deltas, [1.0, -1.0])) == pytest.approx(2 / 1.5)
    # a task of zeros, or of no weight, has no say
    assert float(unit_response(merged, [*deltas, deltas[0] * 0.0], [1.0] * 3)) == pytest.approx(2 / 2.5)
    assert float(unit_response(merged, deltas, [1.0, 0.0])) == pytest.approx(1 / 2)
    # 1 where the answer is the opposite of what is wanted
    assert float(unit_response(merged, deltas, [-1.0, -1.0])) == 1.0


def least(merged: torch.Tensor, deltas: list[torch.Tensor], trusted: float) -> float:
    trusts = [torch.tensor([[trusted]]).double()] * len(deltas)
    ones = [1.0] * len(deltas)
    return float(least_interference(merged, deltas, ones, ones, trusts, Frame((len(merged), merged.shape[1]))))


def test_least_interference_by_hand():
    merged, deltas = torch.tensor([[2.0, 2.0]]).double(), [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    # the tasks' inputs are (1, 0) and (0, 4): of them it makes 2 and 8, wanted are 1 and 16
    assert least(merged, deltas, 1.0) == pytest.approx((2 / 1 + 8 * 16 / 256) / (4 / 1 + 64 / 256))
    # of any inputs alike: products of entries
    assert least(merged, deltas, 0.0) == pytest.approx((2 / 1 + 8 / 16) / (8 / 1 + 8 / 16))
    # a sum of unrelated ones is then the mean
    assert least(torch.tensor([[1.0, 4.0]]).double(), deltas, 0.0) < 1.0
    square = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    assert least(torch.tensor([[1.0, 1.0]]).double(), square, 0.0) == pytest.approx(1 / 2)


def test_adapters_are_told_by_their_rank():
    for rank, wanted in ((1, 1 / 16), (3, 3 / 16), (4, 1.0), (9, 1.0)):
        assert float(trust(of_rank(rank, 16, 20, 5).dense(), Frame((16, 20)))) == wanted
    cores, frame = framed([of_rank(2, 16, 20, 5), of_rank(3, 16, 20, 7)])
    assert [float(trust(core, frame)) for core in cores] == [2 / 16, 3 / 16]
    # adapters that were baked into float32 weights, and a few rows that were trained whole
    base = normal(16, 20, seed=1) * 0.05
    baked = base + of_rank(2, 16, 20, 5).dense() * 1e-3 - base
    assert float(trust(baked, Frame((16, 20)))) == 2 / 16


# --- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [task_arithmetic, dare_linear, della_linear])
def test_a_sum_is_scaled_by_its_terms(method):
    settings = method.resolve(4, {})
    assert settings["scale"] == pytest.approx(4**-0.75)
    assert method.resolve(1, {})["scale"] == 1.0
    # not where weights are given, or divided by
    assert method.resolve(4, {"weight": 0.3})["scale"] == 1.0
    assert method.resolve(4, {"weight": 1.0})["scale"] == 1.0
    assert method.resolve(3, {"weight": [1, 1, -1]})["scale"] == 1.0
    assert method.resolve(4, {"normalize": True})["scale"] == 1.0
    assert method.resolve(4, {"scale": 0.9})["scale"] == 0.9


def test_dare_with_ties_is_a_sum_at_low_density_and_an_average_at_a_high_one():
    def usual(k: int, **given: float) -> float:
        return dare_ties.resolve(k, given)["scale"]

    assert usual(8, density=1e-6) == pytest.approx(8**-0.75, rel=1e-4)
    assert usual(8, density=1.0) == 1.0
    # of two entries at one half, one alone 2/4 of the time and both 1/4: 3/4 over 1/2 terms
    assert usual(8, density=0.5) == pytest.approx(((1 - 0.5**8) / 0.5) ** -0.75)
    assert usual(8, density=0.5, normalize=False) == pytest.approx(8**-0.75)
    assert usual(8, density=0.0) == pytest.approx(8**-0.75)


def test_thinned_sums_go_by_how_many_meet():
    # at a density of 0.15 an entry meets 0.15 of the 7 others
    assert breadcrumbs.resolve(8, {})["scale"] == pytest.approx(2.05**-0.75)
    assert breadcrumbs.resolve(8, {"density": 1.0})["scale"] == pytest.approx(8**-0.75)
    assert (
        breadcrumbs.resolve(8, {"normalize": True})["scale"] == breadcrumbs.resolve(8, {"weight": 0.5})["scale"] == 1.0
    )
    assert consensus.resolve(4, {})["scale"] == 0.5
    assert consensus.resolve(4, {"scale": 1.0})["scale"] == 1.0


def test_the_plan_shows_the_scale_that_it_came_to():
    models = {"base": BASE, "a": MODELS[0], "b": MODELS[1]}
    plan = mergery.plan({"models": models, "merge": {"method": "task_arithmetic", "base": "base"}})
    assert all("scale 0.59" in part["what"] for part in explain(plan)["parts"])
    assert not any("overshoots" in text for text in plan.warnings)


def test_a_sum_at_full_weight_is_warned_of():
    models = {"base": BASE} | dict.fromkeys("abcde", MODELS[0])
    merge_ = {"method": "task_arithmetic", "base": "base", "scale": 1.0}
    plan = mergery.plan({"models": models, "merge": merge_})
    wanted = "the sum of 5 task vectors at full weight usually overshoots: begin with scale 0.30"
    assert wanted in plan.warnings
    assert not any(
        "overshoots" in text for text in mergery.plan({"models": models, "merge": merge_ | {"weight": 0.3}}).warnings
    )


def test_words_are_checked():
    with pytest.raises(RecipeError, match="scale is 'atuo'"):
        task_arithmetic.resolve(2, {"scale": "atuo"})
    with pytest.raises(RecipeError, match="scale is 'auto'"):
        mergery.method.find("opcm").resolve(2, {"scale": "auto"})
    assert task_arithmetic.settings["scale"].type_in_words() == "a number or auto"
