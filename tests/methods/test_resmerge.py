import math

import pytest
import torch

from mergery.errors import RecipeError
from mergery.methods.resmerge import resmerge

from .hard_cases import hard_cases
from .matrices import diagonal, truncated
from .merging import equals, merge, normal, preset, suite


@suite(resmerge, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(resmerge, settings={"branch": "jump", "heads": 2}, tolerance=1e-5)
def test_conformance_as_published(check):
    check()


@hard_cases(resmerge)
def test_hard_cases(case):
    case()


def test_by_hand():
    zero = torch.zeros(3, 3)
    # heads of opposite sign are left out; the rests are one direction, of lengths 1 and 3: their mean
    models = [diagonal(5, 1, 0), diagonal(-5, 3, 0)]
    assert equals(merge(resmerge, models, zero), diagonal(0, 2, 0))
    # heads that agree come back at a fifth of the rest's length
    models = [diagonal(5, 1, 0), diagonal(5, 3, 0)]
    assert equals(merge(resmerge, models, zero), diagonal(0.4, 2, 0))
    assert equals(merge(resmerge, models, zero, share=0.5, scale=2.0), diagonal(2, 4, 0))
    # rests at right angles agree by chance: their mean
    models = [diagonal(5, 1, 0), diagonal(5, 0, 1)]
    assert equals(merge(resmerge, models, zero), diagonal(0.2 * math.sqrt(0.5), 0.5, 0.5), 1e-5)


def test_beyond_chance_the_length_is_a_power_of_the_agreement():
    # rests (1, 0) and (0.6, 0.8): <q_1, q_2> = 0.6 = s, c = sqrt(0.8)
    models = [diagonal(9, 1, 0), diagonal(-9, 0.6, 0.8)]
    c, s, chance = math.sqrt(0.8), 0.6, math.sqrt(0.5)
    power = 1 - 0.3 * ((s + 1) / 2 + (c + 1) / 2) / 2
    q, plain = diagonal(0, 0.8, 0.4) / math.sqrt(0.8), diagonal(0, 0.8, 0.4)
    jump = merge(resmerge, models, torch.zeros(3, 3), **preset(resmerge, "paper"))
    assert equals(jump, q * c**power)
    way = (c - chance) / (1 - chance)
    assert equals(merge(resmerge, models, torch.zeros(3, 3)), plain + way * (q * c**power - plain))


def test_identical_models_give_their_rest_and_a_shorter_head():
    delta = normal(8, 10)
    rest = delta - truncated(delta, 1)
    head = truncated(delta, 1)
    wanted = rest + 0.2 * float(rest.norm()) * head / head.norm()
    assert equals(merge(resmerge, [delta] * 3, torch.zeros(8, 10)), wanted, 2e-6)


def test_the_branch_is_smooth():
    """At agreement by chance a small turn changes little; as published it changes the length at once."""

    def near(turn: float, branch: str) -> torch.Tensor:
        second = diagonal(-9, math.sin(turn), math.cos(turn))
        return merge(resmerge, [diagonal(9, 1, 0), second], torch.zeros(3, 3), branch=branch)

    before, after = near(-1e-4, "smooth"), near(1e-4, "smooth")
    assert float((after - before).norm()) < 1e-3
    assert float((near(1e-4, "jump") - near(-1e-4, "jump")).norm()) > 0.02


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="heads must not be negative"):
        merge(resmerge, [diagonal(1, 2)], torch.zeros(2, 2), heads=-1)
    with pytest.raises(RecipeError, match="least must not be above most"):
        merge(resmerge, [diagonal(1, 2)], torch.zeros(2, 2), least=0.9, most=0.5)
