"""Matrices that a model does not see: they are found where they are planted, and left alone where nothing calls for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mergery.alignment.matching.assignment import best_order, gained
from mergery.alignment.matching.gauges import any_matrix, distance, dual, kept, of_queries_and_keys, pair_signs, turns
from mergery.architecture.spaces import Attention

PAIRS = ((0, 2), (1, 3))


def both(seed: int, size: int = 4, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(size, width)), draw.normal(size=(size, 2 * width))


def planted(matrix: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The sides of a model whose first is the matrix times another's."""
    x, y = both(seed, len(matrix))
    return matrix @ x, x, dual(matrix) @ y, y


def turn(angle: float, scale: float) -> np.ndarray:
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_an_assignment_is_the_best_of_all_orders():
    scores = np.random.default_rng(0).normal(size=(5, 5))
    best = max(itertools.permutations(range(5)), key=lambda order: sum(scores[i, j] for i, j in enumerate(order)))
    assert best_order(scores).tolist() == list(best)
    assert gained(scores, best_order(scores), best_order(scores)) == 0.0


def test_a_turn_by_hand():
    """One pair of coordinates: what points to the right there and upwards here is turned by a quarter."""
    made = turns(
        ((0, 1),),
        np.array([[0.0], [2.0]]),
        np.array([[2.0], [0.0]]),
        np.array([[0.0], [2.0]]),
        np.array([[2.0], [0.0]]),
    )
    assert np.allclose(made, [[0.0, -1.0], [1.0, 0.0]])


@pytest.mark.parametrize("seed", range(5))
def test_planted_turns_and_scales_are_found(seed):
    draw = np.random.default_rng(seed)
    matrix = np.eye(4)
    for pair in PAIRS:
        matrix[np.ix_(pair, pair)] = turn(draw.uniform(0, 6), np.exp(draw.uniform(-0.7, 0.7)))
    sides = planted(matrix, seed)
    assert np.abs(turns(PAIRS, *sides) - matrix).max() < 1e-9
    assert np.abs(kept(turns(PAIRS, *sides), *sides) - matrix).max() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_no_turn_and_scale_of_a_grid_is_better(seed):
    """Of two models that have nothing to do with each other, in one pair of coordinates."""
    (xa, ya), (xb, yb) = both(seed, 2), both(seed + 100, 2)
    made = distance(turns(((0, 1),), xa, xb, ya, yb), xa, xb, ya, yb)
    grid = [
        distance(turn(angle, scale), xa, xb, ya, yb)
        for angle in np.linspace(0, 2 * np.pi, 121)
        for scale in np.exp(np.linspace(-1, 1, 41))
    ]
    assert made <= min(grid) + 1e-2 * min(grid)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_matrix_is_found(seed):
    matrix = np.eye(4) + 0.4 * np.random.default_rng(seed).normal(size=(4, 4))
    sides = planted(matrix, seed)
    assert np.abs(any_matrix(*sides) - matrix).max() < 1e-8


def test_signs_of_pairs():
    matrix = np.diag([1.0, -1.0, 1.0, -1.0])
    assert np.array_equal(pair_signs(PAIRS, *planted(matrix)), matrix)


def test_partly_turned_heads():
    """Two coordinates that positions turn, and two that they leave: a turn of the first, any matrix of the others."""
    own = Attention(1, 1, 4, "planes", ((0, 1),))
    matrix = np.eye(4)
    matrix[:2, :2], matrix[2:, 2:] = turn(2.0, 1.3), [[1.0, 0.5], [-0.2, 0.8]]
    assert np.abs(of_queries_and_keys(own, *planted(matrix)) - matrix).max() < 1e-8


def test_what_has_learnt_since_is_no_reason_to_turn_it():
    """The best rotation of a fine-tune is never quite the identity; what it gains is fitted to noise."""
    x, y = both(0, 8, 40)
    draw = np.random.default_rng(1)
    other = x + 0.05 * draw.normal(size=x.shape), y + 0.05 * draw.normal(size=y.shape)
    sides = x, other[0], y, other[1]
    made = any_matrix(*sides)
    assert distance(made, *sides) < distance(np.eye(8), *sides)
    assert np.array_equal(kept(made, *sides), np.eye(8))
