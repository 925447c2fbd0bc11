"""Item-response estimates: exact where all is asked, better than the mean where little is; and what they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from mergery.exploration.responses import Items, able, by_ability, estimate, fit_items, mixture, sigmoid

COUNT = 1000


def world(seed: int) -> tuple[Items, np.ndarray, np.random.Generator]:
    """Items of two abilities, and three models."""
    draw = np.random.default_rng(seed)
    items = Items(np.abs(draw.normal(0.0, 1.0, (COUNT, 2))), draw.normal(0.0, 1.0, COUNT))
    return items, draw.normal(0.0, 1.0, (3, 2)), draw


def test_chances_by_hand() -> None:
    items = Items(np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([0.0, 3.0]))
    np.testing.assert_allclose(items.chances(np.array([0.0, 5.0])), [0.5, sigmoid(np.array(2.0))])


def test_where_all_items_are_asked_the_estimate_is_what_they_gave() -> None:
    items, models, draw = world(0)
    answers = (draw.random(COUNT) < items.chances(models[0])).astype(float)
    assert estimate(items, models, np.arange(COUNT), answers).score == pytest.approx(answers.mean(), abs=1e-12)
    np.testing.assert_array_equal(by_ability(items, np.arange(COUNT), answers), answers)


@pytest.mark.parametrize("asked", [10, 20, 50, 100])
def test_of_mixtures_it_is_nearer_than_the_mean_of_what_was_asked(asked: int) -> None:
    """300 merges whose abilities are mixtures: the mean absolute error of both."""
    plain, fitted, free = [], [], []
    for seed in range(300):
        items, models, draw = world(seed)
        weights = draw.dirichlet(np.ones(3))
        solved = (draw.random(COUNT) < items.chances(weights @ models)).astype(float)
        places = draw.choice(COUNT, asked, replace=False)
        plain.append(abs(solved[places].mean() - solved.mean()))
        free.append(abs(by_ability(items, places, solved[places]).mean() - solved.mean()))
        fitted.append(abs(estimate(items, models, places, solved[places]).score - solved.mean()))
    assert np.mean(fitted) < np.mean(plain)
    assert np.mean(free) < np.mean(plain)


def test_abilities_are_those_of_a_plain_newton_in_float64() -> None:
    items, models, draw = world(3)
    answers = (draw.random(COUNT) < items.chances(models[1])).astype(float)
    theta = np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-(items.wants @ theta - items.hard)))
        slope = items.wants.T @ (answers - chance) - theta
        curve = (items.wants * (chance * (1 - chance))[:, None]).T @ items.wants + np.eye(2)
        theta = theta + np.linalg.solve(curve, slope)
    np.testing.assert_allclose(able(items, answers), theta, atol=1e-6)


def test_weights_stay_in_their_bounds() -> None:
    items, models, _ = world(4)
    for answers in (np.ones(20), np.zeros(20)):
        own = Items(items.wants[:20], items.hard[:20])
        weights = mixture(own, models, answers)
        assert (weights >= 0).all()
        assert (weights <= 1.5).all()


def test_items_are_found_again_from_the_answers_of_many_models() -> None:
    items, _, draw = world(5)
    models = draw.normal(0.0, 1.0, (100, 2))
    answers = (draw.random((100, COUNT)) < items.chances(models)).astype(float)
    found, abilities = fit_items(answers)
    assert np.abs(found.chances(abilities) - items.chances(models)).mean() < 0.08


def test_a_broken_merge_is_told_by_its_misfit() -> None:
    """Good models, and a merge that solves nothing: no mixture of them expects that."""
    items, _, draw = world(6)
    good = np.array([[2.5, 2.0], [2.0, 2.5]])
    places = draw.choice(COUNT, 60, replace=False)
    broken = estimate(items, good, places, np.zeros(60))
    whole = (draw.random(COUNT) < items.chances(good.mean(axis=0))).astype(float)
    assert broken.misfit < -3
    assert abs(estimate(items, good, places, whole[places]).misfit) < 3
