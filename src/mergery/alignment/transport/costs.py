"""How unlike two models' neurons are: one minus the correlation of what they say on the same texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STILL = 1e-6  # of a feature's size: one that varies less says nothing


@dataclass(frozen=True)
class Features:
    """What neurons say, standardised: each with mean 0 and variance 1 over the rows.

    values: float32 (rows, n); 0 for dead features.
    scale:  float64 (n,): the standard deviations.
    dead:   bool (n,): those that do not vary.
    size:   float64 (n,): the mean of |x|, before.
    """

    values: Tensor
    scale: Tensor
    dead: Tensor
    size: Tensor


def standardised(rows: Tensor) -> Features:
    """Standardise activations (rows, n)."""
    exact = rows.double()
    mean, size = exact.mean(0), exact.abs().mean(0)
    exact = exact - mean
    scale = exact.square().mean(0).sqrt()
    dead = scale <= STILL * size
    factor = scale.reciprocal().masked_fill(dead, 0.0)
    return Features((exact * factor).float(), scale.masked_fill(dead, 0.0), dead, size)


def correlation(target: Features, source: Features) -> Tensor:
    """Pearson correlations of all neurons of two models, float32 (n, m); 0 where one is dead."""
    rows = target.values.shape[0]
    return (target.values.T @ source.values).div_(rows).clamp_(-1.0, 1.0)


def cost_of(correlations: Tensor, *, signed: bool) -> Tensor:
    """The paper's cost, 1 - rho, in [0, 2]; `signed`: 1 - |rho|, for which a neuron's negative is the same neuron."""
    return 1.0 - (correlations.abs() if signed else correlations)
