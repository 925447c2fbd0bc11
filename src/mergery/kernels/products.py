"""Polar factors by products alone, in float32, with an estimate of their error.

**The factor.** Odd polynomials x (a + b x^T x + c (x^T x)^2) leave singular vectors as they are and bring singular values
closer to one. Each of the first is the one of its degree that brings those which the last has left closest to one (arXiv
2505.16932), and none of them makes a large singular value smaller than `CUSHION`, which would let rounding grow; the last
ones are Newton's and Schulz's. Singular values below `LEAST` of the largest come out anywhere between zero and one.

**Its error.** With x = P H but for rounding, H is symmetric and P^T P = I. To first order, what of P^T x is not symmetric,
K, has turned P by P S with H S + S H = 2 K. With the root of H, H = L L^T, S is never longer than L^-1 K L^-T, since
h_i + h_j >= 2 sqrt(h_i h_j). So small singular values need no assumption: what they do to rounding is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mergery.kernels.symmetric import gram

LEAST = 1e-5  # of the largest singular value: those from here on come to one
CUSHION = 0.1  # of the largest singular value: what is as large never falls below it
ROOM = 1.01  # times what should be the largest singular value: behind it polynomials are steep
CLOSE = 0.9  # length of x^T x - I, from which Newton's and Schulz's polynomial converges, quickly
NEWTON = (15 / 8, -10 / 8, 3 / 8)
CLOSER = 1e-2  # the same, from which one of degree 3 ends it
ALIKE = 3e-7  # the same for each column: what rounding leaves of it
ROUNDS = 16  # of all polynomials, at most


@dataclass(frozen=True)
class Polar:
    """A polar factor (m, n), the other factor (n, n), and estimates in parts of the first's length: its error, and by how much
    it enlarges errors of the matrix that lie in no special place.
    """

    factor: Tensor
    root: Tensor
    error: float
    gain: float


@cache
def polynomials() -> tuple[tuple[float, float, float], ...]:
    """a, b and c of each in turn, until all singular values from `LEAST` to 1 are above one half."""
    found, least = [], LEAST
    while least < 0.5:
        (a, b, c), off = closest(max(least, CUSHION))
        a, b, c = (each / (1.0 + off) / ROOM**power for each, power in ((a, 1), (b, 3), (c, 5)))
        found.append((a, b, c))
        least = min(a * least + b * least**3 + c * least**5, (1.0 - off) / (1.0 + off))  # they rise at first
    return tuple(found)


def closest(least: float) -> tuple[tuple[float, float, float], float]:
    """a, b and c for which a x + b x^3 + c x^5 is closest to one from `least` to one, and how close, by exchange."""
    points = np.array([least, least + 0.3 * (1.0 - least), least + 0.75 * (1.0 - least), 1.0])
    while True:
        powers = np.stack([points, points**3, points**5, np.array([1.0, -1.0, 1.0, -1.0])], axis=1)
        a, b, c, off = (float(each) for each in np.linalg.solve(powers, np.ones(4)))
        root = math.sqrt(9.0 * b * b - 20.0 * a * c)
        turns = sorted(math.sqrt((-3.0 * b + sign * root) / (10.0 * c)) for sign in (-1.0, 1.0))
        moved = np.array([least, *turns, 1.0])
        if float(np.abs(moved - points).max()) < 1e-12:
            return (a, b, c), abs(off)
        points = moved


def towards_polar(matrix: Tensor) -> Tensor:
    """The polar factor of a matrix (m, n), m >= n, not zero, where its singular values are above `LEAST` of the first."""
    squares = gram(matrix)
    fourth = gram(squares)
    bound = float(torch.linalg.vector_norm(fourth)) ** 0.25  # never below the largest singular value
    factor, squares, fourth = matrix / bound, squares / bound**2, fourth / bound**4
    steps = iter(polynomials())
    for turn in range(ROUNDS):
        if turn:
            squares, fourth = gram(factor), None
        off = apart(squares)
        if off <= ALIKE * squares.shape[-1] ** 0.5:
            break
        if off < CLOSER:
            factor = factor.mul(1.5).sub_(factor @ squares, alpha=0.5)
            continue
        a, b, c = NEWTON if off < CLOSE else next(steps, NEWTON)
        change = (gram(squares) if fourth is None else fourth).mul_(c).add_(squares, alpha=b)
        change.diagonal().add_(a)
        factor = factor @ change
    return factor


def polar(matrix: Tensor) -> Polar | None:
    """That of a matrix (m, n), m >= n, float32; None where it is numerically of lower rank."""
    n = matrix.shape[-1]
    if not bool(matrix.any()):
        return None
    size = float(matrix.abs().max())
    matrix = matrix / size
    factor = towards_polar(matrix)
    seen = factor.mT @ matrix
    root, odd = 0.5 * (seen + seen.mT), 0.5 * (seen - seen.mT)
    half, failed = torch.linalg.cholesky_ex(root)
    loose = apart(gram(factor))
    if bool(failed) or not loose <= CLOSER:
        return None
    inverse = torch.linalg.solve_triangular(half, torch.eye(n, dtype=root.dtype, device=root.device), upper=False)
    turned = float(torch.linalg.vector_norm(inverse @ odd @ inverse.mT))
    beyond = 0.0
    if matrix.shape[-2] > n:  # what the factor's columns do not span
        rest = matrix - factor @ root
        rest -= factor @ (factor.mT @ rest)
        beyond = float(torch.linalg.vector_norm(torch.cholesky_solve(rest.mT, half)))
    error = (math.hypot(turned, beyond) + 0.5 * loose) / n**0.5
    whole = inverse.mT @ inverse
    enlarged = gain(matrix.shape[-2], n, float(whole.trace()), float(whole.square().sum()))
    return Polar(factor, root * size, error, enlarged / size)


def gain(m: int, n: int, inverses: float, squares: float) -> float:
    """By how much a polar factor (m, n) enlarges errors of a matrix that lie in no special place, in parts of its length, from
    the sums of the inverses of singular values and of their squares. What lies within its columns is divided by h_i + h_j,
    the rest by h_i.
    """
    within = n / m
    return (within * inverses**2 / (2 * n) + (1.0 - within) * squares) ** 0.5 / n


def apart(squares: Tensor) -> float:
    """The length of x^T x - I."""
    rest = squares.clone()
    rest.diagonal().sub_(1.0)
    return float(torch.linalg.vector_norm(rest))
