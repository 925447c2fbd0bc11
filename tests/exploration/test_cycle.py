"""Quality and diversity in turn: archives that never get worse, children that are what they are said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergery.errors import RecipeError
from mergery.exploration.options import SearchOptions
from mergery.exploration.sampling.cycle import Archives, archives, averaged, blend, chances, mutated
from mergery.exploration.study import Study
from tests.exploration.test_study import space


def test_no_cell_gets_worse_and_none_is_emptied() -> None:
    goals = np.random.default_rng(0).random((200, 3))
    found = Archives(np.zeros(3), np.ones(3))
    before: list[dict[Any, Any]] = [{}, {}, {}]
    quality, coverage = 0.0, 0
    for place, own in enumerate(goals):
        found.insert(place, own)
        assert found.quality >= quality
        assert found.coverage >= coverage
        for task, archive in enumerate(found.cells):
            assert all(archive[cell][1] >= score for cell, (_, score) in before[task].items())
        before = [dict(archive) for archive in found.cells]
        quality, coverage = found.quality, found.coverage
    assert coverage > 100


def test_a_candidate_is_told_apart_by_the_other_tasks() -> None:
    """Of two tasks: cells of the first archive are bins of the second task, fifteen of them from 0 to 1."""
    found = Archives(np.zeros(2), np.ones(2))
    for place, own in enumerate(([0.2, 0.5], [0.4, 0.52], [0.1, 0.95])):
        found.insert(place, np.array(own))
    assert found.cells[0] == {(7,): (1, 0.4), (14,): (2, 0.1)}
    assert found.cells[1] == {(3,): (0, 0.5), (6,): (1, 0.52), (1,): (2, 0.95)}
    assert (found.best(0), found.best(1)) == (1, 2)


def test_with_one_cell_it_is_the_best_of_all() -> None:
    goals = np.random.default_rng(1).random((50, 1))
    found = archives(goals, 5)
    assert found.cells[0][()][0] == int(np.argmax(goals[:, 0]))


def test_bins_go_a_little_beyond_the_first_candidates() -> None:
    found = archives(np.array([[0.2, 0.8], [0.4, 0.1], [0.9, 0.9]]), 2)
    np.testing.assert_allclose(found.low, [0.17, 0.085])
    np.testing.assert_allclose(found.high, [0.46, 0.92])


def test_a_child_of_equals_without_mutation_is_the_same(tmp_path: Path) -> None:
    dimensions = space(tmp_path).dimensions
    row = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(averaged(row, row, dimensions, np.array([1.01, 0.99])), row)
    np.testing.assert_allclose(mutated(row, dimensions, np.random.default_rng(0), 0.0), row)
    grown = mutated(row, dimensions, np.random.default_rng(0), 0.1)  # ranges begin at 0: places grow as values do
    assert ((grown >= row) & (grown <= np.minimum(1.1 * row, 1))).all()


def test_better_elites_are_likelier_by_hand() -> None:
    """Scaled scores of 0 and 1 in two tasks: .5 x .8, .8 x .5 and .8 x .8, over their sum."""
    found = chances(np.array([[0.0, 3.0], [2.0, 1.0], [2.0, 3.0]]))
    np.testing.assert_allclose(found, np.array([0.4, 0.4, 0.64]) / 1.44)


def test_the_blend_is_between_the_elites_of_the_tasks(tmp_path: Path) -> None:
    rows = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2], [0.5, 0.5, 0.5]])
    goals = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.4]])
    found = blend(rows, goals, 3, space(tmp_path).dimensions)
    assert list(found.values()) == pytest.approx([1.0, 1.0, 0.4])


def test_two_goals_that_pull_apart_are_both_kept(tmp_path: Path) -> None:
    over = space(tmp_path, 2)

    def run(folder: str, until: int) -> Study:
        (tmp_path / folder).mkdir(exist_ok=True)
        study = Study(tmp_path / folder, over, SearchOptions("cycle", trials=until, pareto=True), "question", 2)
        while len(study.candidates) < until:
            for trial, values in study.draw():
                a, b = values["weight.m0"], values["weight.m1"]
                goals = [1 - (a - 0.5) ** 2 - (b - 1) ** 2, 1 - (a - 1.5) ** 2 - (b - 1) ** 2]
                study.tell(trial, values, goals, {}, stopped=False)
        return study

    whole = run("whole", 50)
    run("parts", 11)
    assert [each.values for each in run("parts", 50).candidates] == [each.values for each in whole.candidates]
    goals = np.array([each.goals for each in whole.candidates])
    assert (goals.max(axis=0) > 0.85).all()


def test_it_is_for_several_goals() -> None:
    with pytest.raises(RecipeError, match="cycle is for several goals"):
        SearchOptions("cycle")
