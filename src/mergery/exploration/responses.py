"""Scores of all items from answers to a few: item-response estimates of merges (MERGE3, arXiv 2502.10436).

An item is solved with probability sigma(a . theta - b): `a` says which abilities it wants, `b` how hard it is, theta what a
model can do. Items are fitted once to models that were asked all of them. A merge is then asked a few, its abilities are taken
to be a mixture of those of the models that it is made of, and the others are estimated:

    estimate = n / N mean(what was asked) + (1 - n / N) mean(sigma(a . theta - b) over the others)

Mixtures of abilities are an assumption, which a merge that breaks does not keep: `Estimate.misfit` says how far what was asked
is from what is expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABILITIES = 2  # dimensions
ROUNDS = 12  # of items and models in turn
NEWTON = 8  # steps of each fit
PRIOR = 1.0  # of abilities and items: the inverse of the variance of a normal distribution
RIDGE = 0.1  # of the weights of a mixture, about equal ones
LARGEST = 1.5  # weight of a model in a mixture


@dataclass(frozen=True)
class Items:
    """What items want of a model. wants: float64 (items, abilities); hard: (items,)."""

    wants: np.ndarray
    hard: np.ndarray

    def chances(self, abilities: np.ndarray) -> np.ndarray:
        """How likely each item is solved. abilities: (abilities,) or (models, abilities); returns (..., items)."""
        return sigmoid(abilities @ self.wants.T - self.hard)


@dataclass(frozen=True)
class Estimate:
    """The score on all items from answers to some.

    filled: what each item gave or is expected to give, (items,).
    misfit: what was asked minus what the fitted abilities expect of it, in standard errors.
    """

    score: float
    filled: np.ndarray
    weights: np.ndarray  # of the models in the mixture
    misfit: float


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -40.0, 40.0)))


def fit_items(answers: np.ndarray, abilities: int = ABILITIES) -> tuple[Items, np.ndarray]:
    """Items, and the abilities of the models that answered them, by the largest posterior in turns.

    answers: 0 or 1, (models, items). Returns the items and float64 (models, abilities).
    """
    count = min(abilities, max(1, len(answers) - 1))
    centred = answers - answers.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    theta = left[:, :count] * np.where(sizes[:count] > 0, np.sqrt(len(answers)), 0.0)
    wants, hard = np.zeros((answers.shape[1], count)), np.zeros(answers.shape[1])
    for _ in range(ROUNDS):
        wants, hard = _fit_rows(theta, answers.T, wants, hard)
        theta = np.stack([able(Items(wants, hard), row) for row in answers])
        theta = (theta - theta.mean(axis=0)) / np.maximum(theta.std(axis=0), 1e-6)
    wants, hard = _fit_rows(theta, answers.T, wants, hard)
    return Items(wants, hard), theta


def _fit_rows(
    theta: np.ndarray, answers: np.ndarray, wants: np.ndarray, hard: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A logistic regression for each item at once. theta: (models, d); answers: (items, models)."""
    known = np.column_stack([theta, -np.ones(len(theta))])
    found = np.column_stack([wants, hard])
    penalty = PRIOR * np.eye(known.shape[1])
    penalty[-1, -1] *= 0.25  # items differ more in how hard they are than in what they want
    for _ in range(NEWTON):
        chance = sigmoid(found @ known.T)
        slope = (answers - chance) @ known - found @ penalty
        curve = np.einsum("im,mj,mk->ijk", chance * (1.0 - chance), known, known) + penalty
        found = found + np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
    return found[:, :-1], found[:, -1]


def able(items: Items, answers: np.ndarray) -> np.ndarray:
    """The abilities of a model by its answers to items, 0 or 1 (items,): (abilities,)."""
    return _regress(items.wants, items.hard, answers, np.zeros(items.wants.shape[1]), PRIOR)


def mixture(items: Items, models: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The weights, from 0 to `LARGEST`, with which the abilities of models make those of a merge.

    models: (models, abilities); answers: 0 or 1 (items,). At twenty answers the weights themselves mean nothing: what they
    expect of items is well determined although they are not.
    """
    count = len(models)
    start = np.full(count, 1.0 / count)
    found = _regress(items.wants @ models.T, items.hard, answers, start, RIDGE * len(answers) / count)
    return np.clip(found, 0.0, LARGEST)


def _regress(known: np.ndarray, hard: np.ndarray, answers: np.ndarray, about: np.ndarray, penalty: float) -> np.ndarray:
    """The largest posterior of w in sigma(known . w - hard), drawn towards `about`."""
    found = about.copy()

    def value(at: np.ndarray) -> float:
        logits = np.clip(known @ at - hard, -40.0, 40.0)
        return float(np.sum(answers * logits - np.logaddexp(0.0, logits)) - penalty * np.sum((at - about) ** 2) / 2)

    best = value(found)
    for _ in range(4 * NEWTON):
        chance = sigmoid(known @ found - hard)
        slope = known.T @ (answers - chance) - penalty * (found - about)
        curve = (known * (chance * (1.0 - chance))[:, None]).T @ known + penalty * np.eye(len(found))
        step = np.linalg.solve(curve, slope)
        while (now := value(found + step)) < best and np.abs(step).max() > 1e-9:
            step = step / 2
        found, gained, best = found + step, now - best, max(now, best)
        if gained < 1e-10:
            break
    return found


def estimate(items: Items, models: np.ndarray, asked: np.ndarray, answers: np.ndarray) -> Estimate:
    """The share of all items that a merge solves, from its answers to some, as a mixture of models (mp-IRT).

    models: (models, abilities) of what it is made of; asked: places of items (n,); answers: 0 or 1 (n,).
    """
    weights = mixture(Items(items.wants[asked], items.hard[asked]), models, answers)
    filled = items.chances(weights @ models)
    expected = filled[asked]
    error = np.sqrt(np.sum(expected * (1.0 - expected))) / len(asked)
    misfit = (answers.mean() - expected.mean()) / max(error, 1e-12)
    filled[asked] = answers
    return Estimate(float(filled.mean()), filled, weights, float(misfit))


def by_ability(items: Items, asked: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """What all items give, by abilities that fit the answers themselves (p-IRT): (items,), those asked as they are."""
    filled = items.chances(able(Items(items.wants[asked], items.hard[asked]), answers))
    filled[asked] = answers
    return filled


def mean_of(values: np.ndarray, groups: np.ndarray) -> float:
    """The mean over groups of the mean of each."""
    return float(np.mean([values[groups == group].mean() for group in np.unique(groups)]))
