"""The quadratic surrogate: a quadratic function is found with as many candidates as it has terms, and one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mergery.errors import RecipeError
from mergery.exploration.options import SearchOptions
from mergery.exploration.sampling.surrogate import first_points, fitted, largest, quadratic, terms
from mergery.exploration.study import Study
from mergery.recipe.space import read_space
from tests.exploration.test_study import bowl, opened, run, space


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_first_points_determine_the_function(count: int) -> None:
    points = first_points(count, np.random.default_rng(0))
    assert points.shape == (terms(count), count)
    np.testing.assert_array_equal(points[0], 0.5)
    assert np.linalg.matrix_rank(quadratic(points)) == terms(count)


def test_the_largest_value_is_found_inside_and_at_a_bound() -> None:
    points = np.random.default_rng(1).random((40, 2))
    inside = fitted(points, -((points - [0.3, 0.6]) ** 2).sum(axis=1))
    np.testing.assert_allclose(largest(inside, 2, np.random.default_rng(2)), [0.3, 0.6], atol=1e-3)
    bound = fitted(points, -((points - [1.7, 0.6]) ** 2).sum(axis=1))
    np.testing.assert_allclose(largest(bound, 2, np.random.default_rng(2)), [1.0, 0.6], atol=1e-3)


def test_a_planted_bowl_is_found_with_one_candidate_more_than_terms(tmp_path: Path) -> None:
    study = opened(tmp_path / "study", space(tmp_path), "quadratic")
    run(study, bowl, terms(3) + 1)
    assert bowl(study.candidates[-1].values) > -1e-4


@pytest.mark.parametrize("together", [1, 4])
def test_a_stopped_study_goes_on_as_if_it_had_not_been(tmp_path: Path, together: int) -> None:
    over = space(tmp_path)

    def go(folder: str, until: int) -> Study:
        study = opened(tmp_path / folder, over, "quadratic", together=together, trials=until)
        while len(study.candidates) < study.most:
            for trial, values in study.draw():
                study.tell(trial, values, [bowl(values)], {}, stopped=False)
        return study

    whole = go("whole", 18)
    go("parts", 7)
    assert [each.values for each in go("parts", 18).candidates] == [each.values for each in whole.candidates]
    assert len({repr(each.values) for each in whole.candidates}) == 18


def test_choices_are_refused(tmp_path: Path) -> None:
    over = read_space(
        {
            "models": {name: str(tmp_path / name) for name in ("base", "a", "b")},
            "merge": {"method": {"choose": ["ties", "pcb"]}, "base": "base"},
        }
    )
    with pytest.raises(RecipeError, match="quadratic cannot search this"):
        Study(tmp_path, over, SearchOptions("quadratic"), "question")
