"""ZipIt!: which units are merged, by hand and against a plain search, and what M and U make of weights."""

from __future__ import annotations

import numpy as np
import pytest

from mergery.alignment.soft.zipping import grouped, zip_maps
from mergery.views.transforms import SoftMap, Units


def members(groups: np.ndarray) -> list[list[int]]:
    return sorted(np.flatnonzero(groups == each).tolist() for each in np.unique(groups))


def test_the_most_alike_are_merged_within_a_model_too():
    """a0 and a1 say the same: they become one, and one of the places is free for b1 alone."""
    alike = np.eye(4)
    for pair, value in {(0, 1): 0.99, (0, 2): 0.9, (1, 2): 0.8, (0, 3): 0.1, (1, 3): 0.1, (2, 3): 0.2}.items():
        alike[pair] = alike[pair[::-1]] = value
    assert members(grouped(alike, 2, budget=0.5, decay=0.3)) == [[0, 1, 2], [3]]
    assert members(grouped(alike, 2, budget=0.0, decay=0.3)) == [[0, 2], [1, 3]]


def test_a_merged_group_is_as_alike_as_its_less_alike_part_times_the_decay():
    alike = np.eye(6)
    for pair, value in {(0, 3): 0.9, (0, 1): 0.8, (1, 3): 0.7, (1, 4): 0.25, (2, 5): 0.2, (2, 4): 0.22}.items():
        alike[pair] = alike[pair[::-1]] = value
    assert members(grouped(alike, 3, budget=1.0, decay=1.0)) == [[0, 1, 3], [2, 4], [5]]
    assert members(grouped(alike, 3, budget=1.0, decay=0.3)) == [[0, 3], [1, 4], [2, 5]]  # 0.7 x 0.3 is below 0.25


def plainly(alike: np.ndarray, count: int, budget: float, decay: float) -> list[list[int]]:
    """All pairs of groups looked at in every step."""
    groups = {number: {number} for number in range(2 * count)}
    scores = {(i, j): float(alike[i, j]) for i in range(2 * count) for j in range(i)}
    left = [int(budget * count)] * 2

    def within(i: int, j: int) -> list[bool]:
        sides = [{unit >= count for unit in groups[each]} for each in (i, j)]
        return [model in sides[0] and model in sides[1] for model in (False, True)]

    for _ in range(count):
        allowed = {
            pair: value
            for pair, value in scores.items()
            if all(n >= w for n, w in zip(left, within(*pair), strict=True))
        }
        second, first = max(allowed, key=lambda pair: allowed[pair])
        left = [n - w for n, w in zip(left, within(first, second), strict=True)]
        for other in groups.keys() - {first, second}:
            one, two = ((max(each, other), min(each, other)) for each in (first, second))
            scores[one] = min(scores[one], scores.pop(two)) * decay
        del scores[second, first]
        groups[first] |= groups.pop(second)
    return sorted(sorted(each) for each in groups.values())


@pytest.mark.parametrize("budget", [0.0, 0.125, 0.25, 1.0])
def test_the_search_is_the_plain_one(budget):
    draw = np.random.default_rng(int(8 * budget))
    for count, decay in ((8, 0.3), (16, 0.9)):
        both = draw.normal(size=(40, 2 * count)) @ draw.normal(size=(2 * count, 2 * count))
        alike = np.asarray(np.corrcoef(both.T))
        groups = grouped(alike, count, budget, decay)
        assert sorted(np.unique(groups)) == list(range(count))
        assert members(groups) == plainly(alike, count, budget, decay)
        for own in (groups[:count], groups[count:]):
            assert count - len(np.unique(own)) <= int(budget * count)  # merges within a model
        if budget == 0.0:
            assert all(len(each) == 2 for each in members(groups))


def test_m_times_u_is_one():
    """M averages the units of a group, U gives each unit its group; both maps are times two, for an average of two."""
    draw = np.random.default_rng(5)
    alike = np.asarray(np.corrcoef(draw.normal(size=(12, 30))))
    maps = zip_maps(grouped(alike, 6, 0.5, 0.9), 6)
    assert all(isinstance(each, SoftMap) for each in maps)
    joined = sum(each.writing(signed=True) @ each.reading(signed=True).T for each in maps if isinstance(each, SoftMap))
    assert np.allclose(joined / 2, np.eye(6))


def test_two_identical_models_are_paired_and_stay():
    draw = np.random.default_rng(6)
    says = draw.normal(size=(50, 7))
    order = draw.permutation(7)
    alike = np.asarray(np.corrcoef(np.concatenate([says, says[:, order]], 1).T))
    groups = grouped(alike, 7, 0.125, 0.3)
    one, other = zip_maps(groups, 7)
    assert isinstance(one, Units)
    assert isinstance(other, Units)
    assert one.is_identity
    assert np.array_equal(order[other.order], np.arange(7))
