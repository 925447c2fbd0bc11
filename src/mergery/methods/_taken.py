"""Which eigenvectors take part in a problem of interference, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HAIR = 2.0**-23  # of the largest eigenvalue: the rounding of others in float32


def gain_of(values: Tensor, part: Tensor, like: Tensor) -> Tensor:
    """What directions that take part (..., c) are enlarged by: (..., 1, c), of another's dtype."""
    return (part / values.where(part > 0.0, 1.0)).to(like.dtype).unsqueeze(-2)


def told(share: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether the rounding of eigenvalues (r,) in float32 has no say in which take part."""
    error = HAIR * values[:1]
    counts = [int((share((values + sign * error).clamp(min=0.0)) > 0.0).sum()) for sign in (-1.0, 0.0, 1.0)]
    return counts[0] == counts[1] == counts[2]


def leading(part: Tensor) -> Tensor:
    """Parts up to the last that is taken in any matrix."""
    there = (part > 0.0).nonzero()[:, -1]
    return part[..., : int(there.max()) + 1 if len(there) else 0]


def there(values: Tensor) -> Tensor:
    """Eigenvalues (..., r), largest first, zero where nothing is."""
    from mergery.kernels.spectral import RANK

    return values * (values > RANK**2 * values[..., :1])
