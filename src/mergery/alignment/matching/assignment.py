"""Units of one model matched with those of another, one to one."""

from __future__ import annotations

import numpy as np

AGREES = 0.9
"""The cosine from which on units count as the same: where all of a space do, it is left as it is."""


def best_order(scores: np.ndarray) -> np.ndarray:
    """The order with the largest sum: `scores[i, order[i]]` of [n, n]. int64."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(scores, maximize=True)[1], dtype=np.int64)


def gained(scores: np.ndarray, order: np.ndarray, best: np.ndarray) -> float:
    """How much more an order gives than another; 0 where the difference is rounding."""
    rows = np.arange(len(order))
    gain = float(scores[rows, best].sum() - scores[rows, order].sum())
    return gain if gain > 1e-7 * float(np.abs(scores[rows, best]).sum()) else 0.0
