"""Geometry on the sphere, in coefficients: all it needs of the vectors is their inner products.

A vector is a float64 array (..., k) of coefficients over k spanning vectors with Gram matrix (..., k, k);
leading dimensions are independent problems.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ANTIPODAL = 2.0**-30
"""Vectors whose cosine is below -1 + ANTIPODAL (180 degrees to within 0.0025) have no arc."""

CANCELLED = 1e-7
"""A mean of unit vectors shorter than this is rounding noise: float64 products know lengths to about 1e-8."""


def inner(gram: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of vectors (..., k): shape (...)."""
    return (a[..., None, :] @ gram @ b[..., :, None])[..., 0, 0]


def length(gram: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Euclidean lengths of vectors (..., k): shape (...)."""
    import numpy as np

    return np.sqrt(np.maximum(inner(gram, a, a), 0.0))


def lengths(gram: np.ndarray) -> np.ndarray:
    """Lengths of the spanning vectors: shape (..., k)."""
    import numpy as np

    return np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 0.0))


def cosines(gram: np.ndarray) -> np.ndarray:
    """The Gram matrix of the unit vectors (..., k, k). A zero vector has cosine 0 to all, itself included."""
    import numpy as np

    size = lengths(gram)
    product = size[..., :, None] * size[..., None, :]
    cosine = np.divide(gram, product, out=np.zeros_like(product), where=product > 0.0)
    return np.clip(cosine, -1.0, 1.0)


def directed(mass: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Weights (..., k) of the directions: of those vectors that have one, divided by their sum (or zeros)."""
    import numpy as np

    share = np.where(size > 0.0, mass, 0.0)
    total = share.sum(-1, keepdims=True)
    return np.divide(
        share, total, out=np.zeros_like(share), where=total > CANCELLED * np.abs(share).sum(-1, keepdims=True)
    )


def start(cosine: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The normalized mean (..., k) of the unit vectors, and where (...) it cancels, so that there is none."""
    import numpy as np

    size = length(cosine, share)
    cancelled = size <= CANCELLED * np.abs(share).sum(-1)
    return share / np.where(cancelled, 1.0, size)[..., None], cancelled


def arc(
    aa: np.ndarray, ab: np.ndarray, bb: np.ndarray, t: float, lerp_above: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The shares of a and b at fraction t of the way from a to b along their great circle.

    aa, ab, bb: inner products (...). The shares are sin((1-t) angle) / sin(angle) and sin(t angle) /
    sin(angle), written with sinc so that they are exact at angle 0. They are 1 - t and t where a vector is
    zero, where the vectors are antipodal, and where |cosine| exceeds `lerp_above`.
    """
    import numpy as np

    product = np.sqrt(np.maximum(aa, 0.0)) * np.sqrt(np.maximum(bb, 0.0))
    cosine = np.clip(np.divide(ab, product, out=np.zeros_like(product), where=product > 0.0), -1.0, 1.0)
    straight = (product == 0.0) | (np.abs(cosine) > lerp_above) | (cosine < ANTIPODAL - 1.0)
    turn = np.where(straight, 0.0, np.arccos(cosine) / np.pi)  # the angle in half circles
    whole = np.sinc(turn)
    return (1.0 - t) * np.sinc((1.0 - t) * turn) / whole, t * np.sinc(t * turn) / whole


def tangent(cosine: np.ndarray, mean: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The weighted mean of the logarithms of the unit vectors at the unit vector `mean`: a tangent (..., k).

    cosine: Gram matrix of the unit vectors (..., k, k). share: weights (..., k).
    log(u) = angle / sin(angle) (u - cos(angle) mean).
    Zero vectors and antipodes of the mean have no direction and count as zero.
    """
    import numpy as np

    toward = np.clip((cosine @ mean[..., :, None])[..., 0], -1.0, 1.0)
    lost = (toward < ANTIPODAL - 1.0) | (np.diagonal(cosine, axis1=-2, axis2=-1) == 0.0)
    stretch = np.where(lost, 0.0, share / np.sinc(np.where(lost, 0.0, np.arccos(toward) / np.pi)))
    return stretch - (stretch * toward).sum(-1, keepdims=True) * mean


def walk(cosine: np.ndarray, mean: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The unit vector reached from `mean` along a tangent: cos|step| mean + sin|step| step / |step|."""
    import numpy as np

    angle = length(cosine, step)[..., None]
    return np.cos(angle) * mean + np.sinc(angle / np.pi) * step


def on_vectors(gram: np.ndarray, direction: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Coefficients over the vectors themselves of `radius` times a direction over their unit vectors."""
    import numpy as np

    size = lengths(gram)
    scaled = radius[..., None] * direction
    return np.divide(scaled, size, out=np.zeros_like(scaled), where=size > 0.0)
