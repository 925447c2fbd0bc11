"""`scale: auto`: unit response of merged matrices, and the usual scale of a sum."""

import math
from typing import Any

import pytest
import torch

import mergery
from mergery.errors import RecipeError
from mergery.methods._scale import unit_response
from mergery.methods.dare_linear import dare_linear
from mergery.methods.dare_ties import dare_ties
from mergery.methods.dc_merge import dc_merge
from mergery.methods.della_linear import della_linear
from mergery.methods.iso_c import iso_c
from mergery.methods.iso_cts import iso_cts
from mergery.methods.subspace_boosting import subspace_boosting
from mergery.methods.svc import svc
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.tsv_merge import tsv_merge
from mergery.report.explain import explain

from .matrices import apart, of_rank
from .merging import equals, merge, normal
from .small_models import BASE, MODELS

SPECTRAL = [iso_c, iso_cts, subspace_boosting, tsv_merge, dc_merge, svc]


def response(out: torch.Tensor, deltas: list[torch.Tensor]) -> float:
    """How a merged task vector answers to the tasks' own, on average; 1 is as they do themselves."""
    answers = [(out.double() * delta.double()).sum() / delta.double().square().sum() for delta in deltas]
    return float(sum(answers)) / len(answers)


# --- unit response ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("k", [2, 5])
def test_a_merge_answers_to_the_tasks_as_they_do_themselves_or_is_as_long_as_their_orthogonal_sum(method, k):
    """Noise fills all directions, so that to answer in full a merge would be longer than that; of few directions it is not."""
    own: dict[str, Any] = {"density": 0.1} if method is dc_merge else {}
    deltas = [normal(20, 24, seed=task) * (1 + task) for task in range(k)]
    out = merge(method, deltas, torch.zeros(20, 24), scale="auto", **own)
    longest = math.sqrt(sum(float(delta.double().square().sum()) for delta in deltas))
    assert float(out.double().norm()) == pytest.approx(longest, rel=1e-5)
    assert response(out, deltas) < 1.0
    common = normal(20, 24, seed=9)
    near = [common + 0.3 * delta / (1 + task) for task, delta in enumerate(deltas)]
    out = merge(method, near, torch.zeros(20, 24), scale="auto", **own)
    longest = math.sqrt(sum(float(delta.double().square().sum()) for delta in near))
    bound = float(out.double().norm()) == pytest.approx(longest, rel=1e-5)
    assert bound or response(out, near) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", [tsv_merge, svc])
def test_tasks_that_share_nothing_are_summed(method):
    deltas = apart(3, 4, 16, 20, seed=5)
    assert equals(merge(method, deltas, torch.zeros(16, 20), scale="auto"), sum(deltas), 1e-5)


@pytest.mark.parametrize("method", SPECTRAL)
def test_each_matrix_of_a_stack_has_a_scale_of_its_own(method):
    deltas, zero = [normal(3, 10, 12, seed=task) for task in range(2)], torch.zeros(3, 10, 12)
    out = merge(method, deltas, zero, scale="auto")
    for place in range(3):
        alone = merge(method, [delta[place] for delta in deltas], zero[place], scale="auto")
        assert equals(out[place], alone, 1e-5)


@pytest.mark.parametrize("method", SPECTRAL)
def test_low_rank_factors_have_the_scale_of_their_products(method):
    factors = [of_rank(2, 18, 15, 10 * task) for task in range(3)]
    out = method(factors, scale="auto")
    dense = [factor.dense() for factor in factors]
    assert equals(out.dense(), merge(method, dense, torch.zeros(18, 15), scale="auto"), 1e-5)


def test_by_hand():
    merged, deltas = torch.tensor([[2.0, 2.0]]).double(), [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    # answers 2 / 1 and 8 / 16: together 2.5, wanted 2
    assert float(unit_response(merged, deltas, [1.0, 1.0])) == pytest.approx(2 / 2.5)
    # of weights 3 and 1, 4 are wanted; a negative one wants the opposite answer
    assert float(unit_response(merged, deltas, [3.0, 1.0])) == pytest.approx(4 / 2.5)
    assert float(unit_response(merged, deltas, [1.0, -1.0])) == pytest.approx(2 / 1.5)
    # a task of zeros, or of no weight, has no say
    assert float(unit_response(merged, [*deltas, deltas[0] * 0.0], [1.0] * 3)) == pytest.approx(2 / 2.5)
    merged_alone = torch.tensor([[2.0, 0.5]]).double()
    assert float(unit_response(merged_alone, deltas, [1.0, 0.0])) == pytest.approx(1 / math.sqrt(4.25))
    # 1 where the answer is the opposite of what is wanted
    assert float(unit_response(merged, deltas, [-1.0, -1.0])) == 1.0
    # the result is no longer than the sum of the weighed task vectors, were they orthogonal
    assert float(unit_response(merged, deltas, [-0.1, -0.1])) == pytest.approx(0.1 * math.sqrt(17) / math.sqrt(8))
    crossed = torch.tensor([[1e-3, 0.0], [0.0, 1.0]]).double()
    own = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert float(unit_response(crossed, [own], [1.0])) == pytest.approx(1.0, rel=1e-5)


# --- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [task_arithmetic, dare_linear, della_linear])
def test_a_sum_is_scaled_by_its_terms(method):
    settings = method.resolve(4, {})
    assert settings["scale"] == pytest.approx(0.6)
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

    assert usual(8, density=1e-6) == pytest.approx(1.2 / math.sqrt(8), rel=1e-4)
    assert usual(8, density=1.0) == 1.0
    # of two entries at one half, one alone 2/4 of the time and both 1/4: 3/4 over 1/2 terms
    assert usual(8, density=0.5) == pytest.approx(1.2 / math.sqrt((1 - 0.5**8) / 0.5))
    assert usual(8, density=0.5, normalize=False) == pytest.approx(1.2 / math.sqrt(8))
    assert usual(8, density=0.0) == pytest.approx(1.2 / math.sqrt(8))


def test_the_plan_shows_the_scale_that_it_came_to():
    models = {"base": BASE, "a": MODELS[0], "b": MODELS[1]}
    plan = mergery.plan({"models": models, "merge": {"method": "task_arithmetic", "base": "base"}})
    assert all("scale 0.84" in part["what"] for part in explain(plan)["parts"])
    assert not any("overshoots" in text for text in plan.warnings)


def test_a_sum_at_full_weight_is_warned_of():
    models = {"base": BASE} | dict.fromkeys("abcde", MODELS[0])
    merge_ = {"method": "task_arithmetic", "base": "base", "scale": 1.0}
    plan = mergery.plan({"models": models, "merge": merge_})
    wanted = "the sum of 5 task vectors at full weight usually overshoots: begin with scale 0.54"
    assert wanted in plan.warnings
    assert not any(
        "overshoots" in text for text in mergery.plan({"models": models, "merge": merge_ | {"weight": 0.3}}).warnings
    )


def test_words_are_checked():
    with pytest.raises(RecipeError, match="scale is 'atuo'"):
        task_arithmetic.resolve(2, {"scale": "atuo"})
    with pytest.raises(RecipeError, match="scale is 'auto'"):
        mergery.method.find("swudi").resolve(2, {"scale": "auto"})
    assert task_arithmetic.settings["scale"].type_in_words() == "a number or auto"
