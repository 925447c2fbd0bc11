"""Natural niches: what an item is worth to those that solve it, worked by hand, and what follows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mergery.evaluation.task import Task
from mergery.exploration.options import SearchOptions
from mergery.exploration.sampling.genes import first_rows, scores_of
from mergery.exploration.sampling.niches import ARCHIVE, attraction, crossed, fitness, shared, survivors
from mergery.exploration.study import Study
from mergery.recipe.space import read_space
from tests.exploration.test_study import opened, space

SOLVED = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])


def test_by_hand() -> None:
    """The first item is solved by three, the second by two, the third by one, the last by none."""
    third, half = 1 / 3, 1 / 2
    np.testing.assert_allclose(shared(SOLVED), [[third, half, 0, 0], [third, half, 0, 0], [third, 0, 1, 0]])
    np.testing.assert_allclose(fitness(SOLVED), [5 / 6, 5 / 6, 4 / 3])
    np.testing.assert_allclose(attraction(SOLVED, 0), [0, 0, 1])
    np.testing.assert_allclose(attraction(SOLVED, 2), [half, half, 0])


def test_without_competition_fitness_is_the_plain_sum_and_the_best_survive() -> None:
    scores = np.random.default_rng(0).random((12, 40))
    np.testing.assert_allclose(fitness(scores, 0.0), scores.sum(axis=1))
    best = sorted(np.argsort(-scores.sum(axis=1), kind="stable")[:5].tolist())
    assert sorted(survivors(scores, 5, 0.0)) == best


def test_an_item_that_all_solve_tells_nobody_apart() -> None:
    scores = np.random.default_rng(1).integers(0, 2, (6, 30)).astype(float)
    more = np.hstack([scores, np.ones((6, 7))])
    np.testing.assert_allclose(fitness(more) - fitness(scores), 7 / 6)
    np.testing.assert_allclose(attraction(more, 2), attraction(scores, 2))


def test_who_solves_what_nobody_else_does_survives_many_that_are_better_on_average() -> None:
    lonely = np.zeros((1, 40))
    lonely[0, 30:] = 1
    crowd = np.hstack([np.ones((9, 30)), np.zeros((9, 10))])
    scores = np.vstack([crowd[:3], lonely, crowd[3:]])
    assert 3 in survivors(scores, 4)
    assert 3 not in survivors(scores, 4, 0.0)


def test_a_child_is_between_its_parents_and_turns_at_a_point(tmp_path: Path) -> None:
    dimensions = space(tmp_path, 4).dimensions
    one, other = np.zeros(4), np.ones(4)
    np.testing.assert_allclose(crossed(one, other, dimensions, 0.25, 2), [0.75, 0.75, 0.25, 0.25])
    np.testing.assert_array_equal(crossed(one, one, dimensions, 0.3, 1), one)


def test_scores_of_tasks_count_alike_and_losses_are_likelihoods() -> None:
    quiz = Task("quiz", "choice", ())
    texts = Task("texts", "perplexity", ())
    found = scores_of({"quiz": [1.0, 1.0, 0.0, 1.0], "texts": [1.0, 3.0, 2.0, 1.0]}, (quiz, texts))
    np.testing.assert_allclose(found, [0.5, 0.0, 0.5 * 3 / 4, 0.25 / 4])


def test_it_begins_with_the_middle_and_every_model_alone(tmp_path: Path) -> None:
    over = space(tmp_path)  # three weights from 0 to 2
    rows = np.stack(first_rows(over))
    np.testing.assert_allclose(rows, [[0.5] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    scale = read_space(
        {
            "models": {name: str(tmp_path / name) for name in ("base", "a", "b")},
            "merge": {"method": "task_arithmetic", "base": "base", "scale": {"search": [0.5, 1.5]}},
        }
    )
    np.testing.assert_allclose(np.stack(first_rows(scale)), [[0.5]])


@pytest.mark.parametrize("together", [1, 4])
def test_a_stopped_study_goes_on_and_skills_that_need_each_other_are_joined(tmp_path: Path, together: int) -> None:
    """Each model knows items of its own, and a candidate solves those of the models that it takes by a half or more."""
    over = space(tmp_path)
    quiz = Task("quiz", "choice", ())

    def run(folder: str, until: int) -> Study:
        (tmp_path / folder).mkdir(exist_ok=True)
        options = SearchOptions("niches", trials=until, together=together)
        study = Study(tmp_path / folder, over, options, "question", 1, (quiz,))
        while len(study.candidates) < study.most:
            for trial, values in study.draw():
                solved = [min(1.0, 2 * values[f"weight.m{place}"]) for place in range(3) for _ in range(5)]
                items = {"quiz": [number for value in solved for number in (value, 1.0)]}
                study.tell(trial, values, [float(np.mean(solved))], items, stopped=False)
        return study

    whole = run("whole", 40)
    run("parts", 18)
    assert [each.values for each in run("parts", 40).candidates] == [each.values for each in whole.candidates]
    assert max(each.score for each in whole.candidates[ARCHIVE:]) > 0.8


def test_it_is_for_one_goal(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="niches cannot go for several goals"):
        opened(tmp_path, space(tmp_path), "niches", pareto=True)
