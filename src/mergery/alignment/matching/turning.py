"""The rotation of the residual stream that brings one model's weights closest to another's."""

from __future__ import annotations

import numpy as np


def best_turn(scores: np.ndarray, *, mean: bool) -> tuple[np.ndarray, float]:
    """The orthogonal T [n, n] with the largest sum of T * scores, and that sum (Procrustes).

    mean: whether norms take off the mean of all channels. Then T leaves the direction u of equal numbers where it is: with an
    orthonormal basis P [n, n - 1] of what is orthogonal to u, T = u u' + P O P', and O is the best of P' scores P.
    """
    if not mean:
        left, values, right = np.linalg.svd(scores)
        return left @ right, float(values.sum())
    basis = across(len(scores))
    left, values, right = np.linalg.svd(basis.T @ scores @ basis)
    still = np.full(scores.shape, 1.0 / len(scores))
    return still + basis @ (left @ right) @ basis.T, float((still * scores).sum() + values.sum())


def across(size: int) -> np.ndarray:
    """An orthonormal basis [n, n - 1] of what is orthogonal to equal numbers: all but the first column of the reflection that
    takes the first axis to them.
    """
    mirror = np.full(size, size**-0.5)
    mirror[0] -= 1.0
    mirror /= max(np.linalg.norm(mirror), 1e-300)
    return (np.eye(size) - 2.0 * np.outer(mirror, mirror))[:, 1:]
