"""Naive float64 references of the methods, written from their equations on plain numpy arrays: a module for each family.

They share no code with the methods and care for neither speed nor memory. Each takes
`(models, base, coins, **settings)`: lists of float64 arrays, the base or None, `coins(i)` giving the uniform numbers of
model i, and every setting (per-model settings as sequences); it returns the merged array.
"""

from __future__ import annotations

from collections.abc import Callable

from mergery.testing.reference import (
    choices,
    data,
    filters,
    projections,
    quadratic,
    spectral,
    sphere,
    sums,
    tasks,
    thinning,
)
from mergery.testing.reference.arrays import Array

REFERENCES: dict[str, Callable[..., Array]] = {
    **choices.REFERENCES,
    **data.REFERENCES,
    **filters.REFERENCES,
    **projections.REFERENCES,
    **quadratic.REFERENCES,
    **spectral.REFERENCES,
    **sphere.REFERENCES,
    **sums.REFERENCES,
    **tasks.REFERENCES,
    **thinning.REFERENCES,
}
