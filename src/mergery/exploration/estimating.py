"""Candidates that are asked a few items, the anchors: their scores on all items, and how far such estimates are off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.errors import CheckpointError, DataError, RecipeError
from mergery.exploration.candidates import Candidate
from mergery.exploration.live import LiveModel
from mergery.exploration.responses import Items, able, by_ability, estimate, fit_items, mean_of
from mergery.exploration.scoring import Found, Objective, ask
from mergery.recipe import Merge, Recipe, Source

WHOLE = 16  # candidates that are asked all items: by these the items are fitted
SOLVED = ("accuracy", "accuracy_normalised", "match")  # metrics of items that are solved or not
WAYS = {
    "mean": "the mean of the anchors",
    "mixture": "item response, abilities mixed of the models' (mp-IRT)",
    "ability": "item response, abilities of the candidate's own (p-IRT)",
    "half": "half of the mean of the anchors and half of item response with abilities of its own",
}


@dataclass(frozen=True)
class Trust:
    """How far estimates were off: mean absolute errors by way, of candidates that were asked all, each left out of the fit."""

    candidates: int
    errors: Mapping[str, float]

    @property
    def way(self) -> str:
        """The way that was least off, by which candidates are scored."""
        return min(self.errors, key=lambda way: self.errors[way])

    def plain(self) -> dict[str, Any]:
        return {"candidates": self.candidates, "way": self.way, "errors": dict(self.errors)}

    @property
    def words(self) -> str:
        told = ", ".join(f"{way} {error:.4f}" for way, error in self.errors.items())
        return (
            f"scores from anchors by {WAYS[self.way]}; of {self.candidates} candidates that were asked all items, each left "
            f"out of the fit, off by: {told}"
        )


class Estimator:
    """Scores from anchors, by candidates that were asked all items and by the models that are merged."""

    def __init__(self, objective: Objective, whole: Sequence[Candidate], models: Sequence[Found]) -> None:
        """whole: candidates with the answers to all items; models: the answers of each model by itself."""
        self.tasks = objective.tasks
        sizes = [len(task) for task in objective.tasks]
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        few = [np.arange(start, start + len(task)) for start, task in zip(starts, objective.anchors, strict=True)]
        self.asked = np.concatenate(few)
        answers = np.stack([self._answers(each.items) for each in whole])
        self.known = [self._answers(each) for each in models]
        self.trust = self._trust(answers)
        self.items, _ = fit_items(answers)
        self.models = np.stack([able(self.items, each) for each in self.known])

    def score(self, found: Mapping[str, Sequence[float]]) -> float:
        """The score on all items, of what the anchors gave."""
        return self._ways(self.items, self.models, self._answers(found))[self.trust.way]

    def _ways(self, items: Items, models: np.ndarray, own: np.ndarray) -> dict[str, float]:
        plain = mean_of(own, self.groups[self.asked])
        mixed = mean_of(estimate(items, models, self.asked, own).filled, self.groups)
        able_ = mean_of(by_ability(items, self.asked, own), self.groups)
        return {"mean": plain, "mixture": mixed, "ability": able_, "half": (plain + able_) / 2}

    def _answers(self, found: Mapping[str, Sequence[float]]) -> np.ndarray:
        return np.concatenate([np.array(found[task.name], np.float64)[0::2] for task in self.tasks])

    def _trust(self, answers: np.ndarray) -> Trust:
        """Each of the candidates estimated by items that were fitted to the others."""
        errors = dict.fromkeys(WAYS, 0.0)
        for place, own in enumerate(answers):
            items, _ = fit_items(np.delete(answers, place, axis=0))
            models = np.stack([able(items, each) for each in self.known])
            truth = mean_of(own, self.groups)
            for way, score in self._ways(items, models, own[self.asked]).items():
                errors[way] += abs(score - truth) / len(answers)
        return Trust(len(answers), errors)


def check_anchors(objective: Objective, anchors: int) -> None:
    """Whether the tasks can be asked by anchors. Raises RecipeError."""
    for task in objective.tasks:
        if task.metrics[0].name not in SOLVED:
            why = f"{task.name} is compared by {task.metrics[0].name}, and item response is of items that are solved or not"
            raise RecipeError("these tasks have no anchors", why=why, hint="leave out --anchors")
    if anchors >= objective.items:
        why = f"there are {objective.items} items to search with"
        raise RecipeError(f"{anchors} anchors are no part of the items", why=why, hint="fewer, such as --anchors 50")


def ask_models(live: LiveModel, recipe: Recipe, objective: Objective) -> list[Found]:
    """What each model by itself gives; those that cannot be scored are left out. Raises CheckpointError where none can."""
    found: list[Found] = []
    wrong: list[str] = []
    for name, source in recipe.models.items():
        if isinstance(source, Source):
            alone = Recipe({name: source}, Merge("passthrough", (name,)), folder=recipe.folder)
            try:
                found.append(ask(live.subject(alone, name), objective, lambda _: True)[0])
            except (CheckpointError, DataError) as error:
                wrong.append(f"{name}: {error.what}")
    if not found:
        why = "; ".join(wrong)
        raise CheckpointError("none of the models can be scored alone", why=why, hint="leave out --anchors")
    return found
