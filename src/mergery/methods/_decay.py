"""Decays of a learning rate as merges of checkpoints, and back.

A run's checkpoints x_0 .. x_k are the first one plus updates; a merge sum_j c_j x_j with sum 1 is the first one plus the
same updates, each times a multiplier m_i = c_i + ... + c_k (i = 1 .. k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def decay(shape: str, place: np.ndarray) -> np.ndarray:
    """Multipliers at places in (0, 1) of a decay from 1 to 0: `linear`, `cosine` or `sqrt` (1 - sqrt)."""
    import numpy as np

    curves = {"linear": 1.0 - place, "cosine": 0.5 + 0.5 * np.cos(np.pi * place), "sqrt": 1.0 - np.sqrt(place)}
    return curves[shape]


def coefficients(multipliers: np.ndarray) -> np.ndarray:
    """c_0 .. c_k (k + 1,) of the merge that does what multipliers m_1 .. m_k (k,) would. They sum to 1."""
    import numpy as np

    return -np.diff(np.concatenate([[1.0], multipliers, [0.0]]))


def multipliers(coefficients: np.ndarray) -> np.ndarray:
    """m_1 .. m_k (k,) that do what a merge with c_0 .. c_k (k + 1,) does."""
    import numpy as np

    return np.cumsum(coefficients[::-1])[::-1][1:]
