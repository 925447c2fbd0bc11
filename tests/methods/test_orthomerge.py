import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.orthomerge import orthomerge

from .hard_cases import consensus, hard_cases
from .matrices import of_rank, orthonormal
from .merging import equals, merge, normal, suite
from .small_models import EMBED, LINEAR, NORM, by_recipe, mean, of_models


@suite(orthomerge, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("case", [{"rows": "all"}, {"residual": "tsv", "scale": 0.2}], ids=str)
def test_conformance_of_other_settings(case):
    consensus(orthomerge, **case)


@hard_cases(orthomerge, bounded=False)
def test_hard_cases(case):
    case()


@hard_cases(orthomerge, bounded=False, rows="all", residual="tsv")
def test_hard_cases_of_all_rows(case):
    case()


def turn(*degrees: float) -> torch.Tensor:
    """Rotations of planes, float64."""
    blocks = []
    for angle in map(math.radians, degrees):
        blocks.append(
            torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
        )
    return torch.block_diag(*blocks)


def rotation(size: int, seed: int, reach: float) -> torch.Tensor:
    """A rotation near the identity: Cayley's of a skew matrix."""
    skew = normal(size, size, seed=seed).double() * reach
    unit = torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(unit - (skew - skew.mT), unit + (skew - skew.mT))


def test_by_hand():
    # tan(45 degrees) is 1 and the second turns nothing: the mean is 1/2, of an angle whose cosine is 0.6
    base = torch.eye(2)
    out = merge(orthomerge, [turn(90), base], base, rows="all")
    assert equals(out, [[0.6, 0.8], [-0.8, 0.6]])
    # opposite turns leave nothing; nothing else was learned
    assert equals(merge(orthomerge, [turn(50), turn(-50)], base, rows="all"), base)
    # weights 3 and 1: tan is 3/4, the cosine (1 - 9/16) / (1 + 9/16)
    out = merge(orthomerge, [turn(90), base], base, rows="all", weight=[3.0, 1.0], scale=0.0)
    assert equals(out, [[7 / 25, 24 / 25], [-24 / 25, 7 / 25]])


def test_turns_about_different_planes_do_not_shrink():
    # tan(45 degrees) in one plane each; the mean has the norm of either, so that both planes turn by tan = 1 / sqrt(2)
    base = torch.eye(4)
    out = merge(orthomerge, [turn(90, 0), turn(0, 90)], base, rows="all")
    angle = 2 * math.degrees(math.atan(1 / math.sqrt(2)))
    assert equals(out, turn(angle, angle))


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(2, 6), st.integers(0, 1000))
def test_rotations_average_to_a_rotation(k, out, into, seed):
    """Whatever the base spans: what it does not reach stays, and nothing is left for the residual."""
    base = normal(out, into, seed=seed).double()
    models = [base @ rotation(into, seed + 1 + task, 0.1) for task in range(k)]
    merged = merge(orthomerge, models, base, rows="all", scale=0.0)
    assert equals(merged.double() @ merged.double().mT, base @ base.mT, 1e-5)
    assert equals(merge(orthomerge, models, base, rows="all", scale=0.7), merged, 2e-5)


def half_turns(out: int, into: int, seed: int) -> torch.Tensor:
    """A reflection of some directions and a turn of the others."""
    basis = orthonormal(into, into, seed)
    signs = torch.ones(into, dtype=torch.float64)
    signs[: 1 + seed % into] = -1.0
    return basis * signs @ basis.mT @ rotation(into, seed, 0.05)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["any", "mirrored"]), st.integers(0, 1000))
def test_one_model_comes_back(out, into, kind, seed):
    """Half turns too, which no mean of rotations can hold: they are of what rotations do not explain."""
    base = normal(out, into, seed=seed)
    model = normal(out, into, seed=seed + 1)
    if kind == "mirrored":
        model = (base.double() @ half_turns(out, into, seed)).float()
    for rows in ("all", "conflicting"):
        assert equals(merge(orthomerge, [model], base, rows=rows), model, 1e-4)
        assert equals(merge(orthomerge, [model] * 3, base, rows=rows), model, 1e-4)


def test_directions_that_swap_places_come_back():
    """The base knows one direction and the model another, at a right angle to it."""
    base, model = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert equals(merge(orthomerge, [model], base, rows="all"), model)


def test_without_conflict_it_is_the_mean():
    base = normal(6, 4)
    delta = normal(6, 4, seed=1)
    assert equals(merge(orthomerge, [base + delta, base + 2 * delta], base), base + 1.5 * delta)
    assert equals(merge(orthomerge, [base + delta, base], base), base + 0.5 * delta)
    assert equals(merge(orthomerge, [base + delta, base + delta], base, scale=0.2), base + 0.4 * delta)


def test_only_rows_that_conflict_are_turned():
    """The first rows oppose each other, and the smaller change points away from the mean."""
    base = torch.eye(2)
    first, second = turn(60) - base.double(), turn(-20) - base.double()
    change = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    models = [base + first * change, base + second * change]
    # only the second conflicts; a turn by t of both rows is nearest to (row turned by -20, row kept) at -10 degrees
    whole = merge(orthomerge, models, base, scale=0.0)
    mean_angle = 2 * math.degrees(math.atan(math.tan(math.radians(5)) / 2))
    assert equals(whole, turn(-mean_angle))


def test_its_file_may_be_the_first_that_is_imported():
    """It shares a function with the file of another method."""
    code = (
        "import mergery.methods.orthomerge as file, mergery.method as m; assert m.find('orthomerge') is file.orthomerge"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_low_ranks_and_a_base_of_zeros():
    base = of_rank(2, 9, 7, 0).dense()
    models = [base + of_rank(1, 9, 7, seed).dense() for seed in (10, 20)]
    assert bool(merge(orthomerge, models, base, rows="all").isfinite().all())
    zero = torch.zeros(9, 7)
    assert equals(merge(orthomerge, models, zero, rows="all"), (models[0] + models[1]) / 2)


def test_the_scale_and_where_it_works():
    paper, usual = by_recipe(orthomerge, preset="paper"), by_recipe(orthomerge)
    assert equals(usual[LINEAR], of_models(orthomerge, LINEAR, scale=0.5))
    assert equals(paper[LINEAR], of_models(orthomerge, LINEAR, scale=0.2))
    assert equals(paper[EMBED], of_models(orthomerge, EMBED, scale=0.2))
    assert equals(usual[EMBED], mean(EMBED)) and equals(paper[NORM], mean(NORM))
