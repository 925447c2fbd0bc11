"""The statistics of paired scores: intervals, tests, correction, and the optimism of choosing.

All are functions of arrays over the same items. Randomness is keyed: the same seed and name give the same numbers, on any
machine and for any number of threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 10_000
CHUNK = 1 << 21  # indices drawn at once
EXACT = 16  # items up to which all sign changes are tried


def generator(seed: int, name: str) -> np.random.Generator:
    """The stream of one name."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def resampled_means(
    values: np.ndarray, weights: np.ndarray, *, seed: int, name: str, resamples: int = RESAMPLES
) -> np.ndarray:
    """Weighted means of items drawn with replacement, the same items for every model (Efron 1979).

    values:  (models, items) float64
    weights: (items,) float64

    Returns shape (models, resamples).
    """
    models, items = values.shape
    weighed = values * weights
    result = np.empty((models, resamples), np.float64)
    for start, drawn in _draws(items, resamples, seed, name):
        below = weights[drawn].sum(axis=1)
        for model in range(models):
            result[model, start : start + len(drawn)] = weighed[model][drawn].sum(axis=1) / below
    return result


def _draws(items: int, resamples: int, seed: int, name: str) -> Iterator[tuple[int, np.ndarray]]:
    source = generator(seed, name)
    step = max(1, CHUNK // items)
    for start in range(0, resamples, step):
        yield start, source.integers(0, items, size=(min(step, resamples - start), items))


def interval(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact two-sided p-value that two models solve equally many items (McNemar 1947). Arrays of 0 and 1.

    Only items on which they differ count: under the null, each falls to either side as a fair coin does.
    """
    more, less = int(np.sum((a == 1) & (b == 0))), int(np.sum((a == 0) & (b == 1)))
    total = more + less
    if total == 0:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(min(more, less) + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def permutation(differences: np.ndarray, *, seed: int, name: str, resamples: int = RESAMPLES) -> float:
    """The two-sided p-value that paired differences are centred on zero: their signs are changed at random.

    All changes are tried for up to 16 items, otherwise `resamples` of them (Phipson & Smyth 2010: one is added to both
    counts, so that p is never 0).
    """
    differences = differences[differences != 0]
    items = len(differences)
    if items == 0:
        return 1.0
    seen = abs(math.fsum(differences)) * (1 - 1e-12)
    if items <= EXACT:
        signs = 1 - 2 * ((np.arange(2**items)[:, None] >> np.arange(items)) & 1)
        return float(np.mean(np.abs((signs * differences).sum(axis=1)) >= seen))
    source, step, count = generator(seed, name), max(1, CHUNK // items), 0
    for start in range(0, resamples, step):
        flips = source.integers(0, 2, size=(min(step, resamples - start), items), dtype=np.int8)
        count += int(np.sum(np.abs((differences * (1 - 2 * flips)).sum(axis=1)) >= seen))
    return (1 + count) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that one false alarm in the family is as rare as one alone (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    result, worst = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = worst
    return result


def smallest_visible(differences: np.ndarray, weights: np.ndarray, *, level: float = 0.95) -> float:
    """The difference in means that so many items would show four times out of five, at the noise they have."""
    from statistics import NormalDist

    items = len(differences)
    if items < 2:
        return math.inf
    shares = weights / weights.mean()
    centred = shares * (differences - np.sum(shares * differences) / items)
    error = math.sqrt(float(np.sum(centred**2)) / (items - 1) / items)
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(0.8)) * error


# --- the optimism of choosing -----------------------------------------------------------------------------------------


def binomial_optimism(rate: float, items: int, candidates: int) -> float:
    """By how much the best of so many equal candidates looks better than it is, each scored alone on 0/1 items.

    The expected maximum of independent binomial scores less their rate: 1,000 candidates of rate 0.5 show 0.846 on 20
    items, 0.660 on 100 and 0.572 on 500.
    """
    if not 0 < rate < 1:
        return 0.0
    k = np.arange(items + 1)
    logs = np.array(
        [math.lgamma(items + 1) - math.lgamma(i + 1) - math.lgamma(items - i + 1) for i in range(items + 1)]
    )
    below = np.minimum(1.0, np.cumsum(np.exp(logs + k * math.log(rate) + (items - k) * math.log1p(-rate))))
    return float(np.sum(1 - below[:-1] ** candidates) / items) - rate


def normal_optimism(error: float, candidates: int) -> float:
    """The same for scores that are about normal, with the standard error `error`."""
    x = np.linspace(-10, 10, 20_001)
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    top = cdf**candidates
    middle = (x[1:] + x[:-1]) / 2
    return error * float(np.sum(middle * np.diff(top)))


def bootstrap_optimism(means: np.ndarray, scores: np.ndarray) -> float:
    """The optimism of these very candidates, whose scores go together and may differ in truth.

    In each resample the best candidate is chosen; what it shows there beyond its score on all items, on average.

    means:  (candidates, resamples), larger is better
    scores: (candidates,)
    """
    best = np.argmax(means, axis=0)
    return float(np.mean(means[best, np.arange(means.shape[1])] - scores[best]))
