"""Digests of plans, by which an interrupted merge is taken up again; what they are of; and what a plan shows."""

from __future__ import annotations

import pytest

from tests.golden import measure
from tests.golden.recipes import PLANS


@pytest.mark.parametrize("name", PLANS)
def test_digest(name, models):
    found, wanted = measure.digest(PLANS[name], models), measure.expected("digests")[name]
    assert found["content"] == wanted["content"]
    assert found["digest"] == wanted["digest"]


@pytest.mark.parametrize("name", PLANS)
def test_what_is_shown(name, models):
    assert measure.shown(PLANS[name], models) == measure.expected("shown")[name]


def test_no_result_is_left_over():
    assert measure.expected("digests").keys() == measure.expected("shown").keys() == PLANS.keys()
