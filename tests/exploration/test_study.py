"""Studies: the samplers find planted optima, and a study that was stopped goes on as if it had not been."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergery.errors import RecipeError
from mergery.exploration.options import SearchOptions
from mergery.exploration.pareto import front
from mergery.exploration.study import Study
from mergery.recipe.space import Space, read_space

Value = Callable[[Mapping[str, Any]], float]


def space(tmp_path: Path, count: int = 3) -> Space:
    names = [f"m{number}" for number in range(count)]
    return read_space(
        {
            "models": {name: str(tmp_path / name) for name in ("base", *names)},
            "merge": {"method": "task_arithmetic", "base": "base", "weight": {"search": [0, 2], "per": "model"}},
        }
    )


def run(study: Study, value: Value, until: int) -> None:
    while len(study.candidates) < until:
        trial, values = study.ask()
        study.tell(trial, values, [value(values)], {}, stopped=False)


def bowl(values: Mapping[str, Any]) -> float:
    """Largest, 0, at weights of .7, .8, .9 ..."""
    return -sum((values[name] - 0.7 - 0.1 * place) ** 2 for place, name in enumerate(sorted(values)))


def opened(folder: Path, over: Space, sampler: str = "cma", **more: Any) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder, over, SearchOptions(sampler, **more), "question")


def test_cma_finds_a_planted_optimum_within_the_stated_number(tmp_path: Path) -> None:
    """The card's budget: three dimensions, a loss below .0066 within 105 evaluations."""
    study = opened(tmp_path / "study", space(tmp_path))
    assert study.start() == {f"weight.m{number}": 1.0 for number in range(3)}
    run(study, bowl, 105)
    assert study.candidates[0].values == study.start()
    assert study.best is not None
    assert study.best.score > -0.0066
    centre = study.centre()
    assert centre is not None
    assert bowl(centre) > -0.0066


@pytest.mark.parametrize("sampler", ["cma", "tpe", "random", "grid"])
def test_a_stopped_study_goes_on_as_if_it_had_not_been(tmp_path: Path, sampler: str) -> None:
    over = space(tmp_path)
    whole = opened(tmp_path / "whole", over, sampler)
    run(whole, bowl, 24)
    run(opened(tmp_path / "parts", over, sampler), bowl, 9)
    killed = opened(tmp_path / "parts", over, sampler)
    killed.ask()  # and never told
    again = opened(tmp_path / "parts", over, sampler)
    assert len(again.candidates) == 9
    run(again, bowl, 24)
    assert [each.values for each in again.candidates] == [each.values for each in whole.candidates]


def test_another_seed_tries_others(tmp_path: Path) -> None:
    over = space(tmp_path)
    studies = [opened(tmp_path / str(seed), over, seed=seed) for seed in (0, 1)]
    for study in studies:
        run(study, bowl, 3)
    assert studies[0].candidates[1].values != studies[1].candidates[1].values


def test_only_the_order_of_scores_counts_for_cma(tmp_path: Path) -> None:
    over = space(tmp_path)
    plain, bent = opened(tmp_path / "plain", over), opened(tmp_path / "bent", over)
    run(plain, bowl, 30)
    run(bent, lambda values: -((-bowl(values)) ** 0.25), 30)
    assert [each.values for each in plain.candidates] == [each.values for each in bent.candidates]


def test_a_grid_has_its_corners_and_ends(tmp_path: Path) -> None:
    study = opened(tmp_path / "study", space(tmp_path, 2), "grid", trials=9)
    assert study.most == 9
    run(study, bowl, study.most)
    tried = {tuple(each.values.values()) for each in study.candidates}
    assert tried == set(itertools.product((0.0, 1.0, 2.0), repeat=2))


def test_a_folder_of_another_question_is_refused(tmp_path: Path) -> None:
    over = space(tmp_path)
    opened(tmp_path / "study", over)
    with pytest.raises(RecipeError, match="another search"):
        Study(tmp_path / "study", over, SearchOptions("cma"), "another")


def test_several_goals_are_kept_and_their_front_is_wide(tmp_path: Path) -> None:
    """Two goals that pull apart: the front is where neither weight can gain without the other losing."""
    over = space(tmp_path, 2)
    study = Study(tmp_path, over, SearchOptions("nsga", trials=80, pareto=True), "question", 2)
    while len(study.candidates) < 80:
        trial, values = study.ask()
        a, b = values["weight.m0"], values["weight.m1"]
        study.tell(
            trial, values, [-((a - 0.5) ** 2) - (b - 1) ** 2, -((a - 1.5) ** 2) - (b - 1) ** 2], {}, stopped=False
        )
    again = Study(tmp_path, over, SearchOptions("nsga", trials=80, pareto=True), "question", 2)
    assert [each.goals for each in again.candidates] == [each.goals for each in study.candidates]
    points = np.array([each.goals for each in study.candidates])
    weights = [study.candidates[place].values["weight.m0"] for place in front(points)]
    assert min(weights) < 0.8
    assert max(weights) > 1.2
