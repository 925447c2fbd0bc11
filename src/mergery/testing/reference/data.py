"""Methods that look at data; and the statistics that the conformance suite gives them, made of the models themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_matrix, matrix


def gram_of(model: Array) -> Array:
    """The Gram matrices of a model's own rows, as if they were its inputs."""
    return model.swapaxes(-1, -2) @ model if model.ndim in (2, 3) else matrix(model).T @ matrix(model)


def fisher_of(model: Array) -> Array:
    """Something that is positive where the model is not zero."""
    return np.asarray(model**2)


def fisher_of_base(model: Array) -> Array:
    """Something else that is positive where the model is not zero, and not in its order."""
    return np.where(model > 0.0, model**2, model**2 / 9.0)


STATISTICS: Mapping[str, Callable[[Array], Array]] = {
    "gram": gram_of,
    "fisher": fisher_of,
    "fisher_of_base": fisher_of_base,
}
"""By kind, from a model's float64 tensor: float64, of which the suite gives float32."""


def regmean(
    models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, weight: Any, off_diagonal: float
) -> Array:
    def merge(own: list[Array]) -> Array:
        size = own[0].shape[1]
        factor = np.full((size, size), off_diagonal)
        np.fill_diagonal(factor, 1.0)
        grams = [
            w * factor * gram_of(x).astype(np.float32).astype(np.float64) for w, x in zip(weight, own, strict=True)
        ]
        mean = add(w * x for w, x in zip(weight, own, strict=True)) / sum(weight)
        pull = add((x - mean) @ gram for x, gram in zip(own, grams, strict=True))
        return mean + pull @ np.linalg.pinv(add(grams), rcond=size * 2.0**-23, hermitian=True)

    return by_matrix(merge, models)


def fisher(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, weight: Any, floor: float) -> Array:
    known = [w * (fisher_of(x) + floor) for w, x in zip(weight, models, strict=True)]
    return add(f * x for f, x in zip(known, models, strict=True)) / add(known)


def reasonany(
    models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, domain: float, reasoning: float
) -> Array:
    assert base is not None
    first, second = (fisher_of(x).astype(np.float32).reshape(-1) for x in models)
    most, least = (int(share * first.size + 0.5) for share in (domain, reasoning))
    above = first >= np.sort(first)[first.size - most] if most else np.zeros(first.size, bool)
    below = second <= np.sort(second)[least - 1] if least else np.zeros(first.size, bool)
    chosen = [(above & ~below).reshape(base.shape), (below & ~above).reshape(base.shape)]
    return base + add((x - base) * each for x, each in zip(models, chosen, strict=True))


def led(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, share: Any, scale: float) -> Array:
    assert base is not None
    elected = []
    for x, part in zip(models, share, strict=True):
        both = np.ones(base.shape, bool)
        for values, known in ((x, fisher_of(x)), (base, fisher_of_base(x))):
            scores = (np.abs(values) * np.sqrt(known.astype(np.float32))).astype(np.float32)
            rank = max(1, int(part * scores.size)) if part > 0.0 and scores.size else 0
            both &= scores >= (np.sort(scores, axis=None)[scores.size - rank] if rank else np.inf)
        elected.append(both)
    alone = sum(each.astype(int) for each in elected) == 1
    return base + scale * add((x - base) * (each & alone) for x, each in zip(models, elected, strict=True))


REFERENCES = {"regmean": regmean, "fisher": fisher, "reasonany": reasonany, "led": led}
