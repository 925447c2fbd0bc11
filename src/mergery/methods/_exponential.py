"""The exponential in float32, and the logarithm in float64, from sums, products and bits alone, so that a compiled version
gives the same bytes.

Relative errors are below 3e-7 and 1e-14. Coefficients are those of the Taylor series.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238  # its last 20 bits are zero: times a whole number below 2**20 it is exact
LN2_LOW = 1.9082149292705877e-10
LN2_SHORT = 0.693359375  # of 10 bits: in float32, times a whole number below 2**14 it is exact
LN2_REST = -2.1219444005469057e-4
LEAST = -87.0  # the exponential of anything below is 0
LARGEST = 3.4028234663852886e38  # float32
EXP = tuple(1.0 / math.factorial(n) for n in range(6, -1, -1))  # for |x| <= ln(2) / 2
LOG = tuple(2.0 / n for n in range(23, 0, -2))  # of (1 + f) / (1 - f), odd powers of f, for |f| <= 0.172
NEAR = 0.25
BEND = tuple(
    (-1.0) ** n / math.factorial(n + 2) for n in range(5, -1, -1)
)  # of (r - 1 + exp(-r)) / r^2, for |r| <= NEAR


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The highest power first."""
    total = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        total = total * x + coefficient
    return total


def exp(x: Tensor) -> Tensor:
    """e^x for x <= 0: float32."""
    import torch

    inside = x.clamp(min=LEAST)
    halvings = (inside * LOG2_E).round()
    rest = (inside - halvings * LN2_SHORT) - halvings * LN2_REST
    power = ((halvings.to(torch.int32) + 127) << 23).view(torch.float32)
    return (polynomial(EXP, rest) * power).where(x >= LEAST, x.new_zeros(()))


def log(x: Tensor) -> Tensor:
    """ln(x) for positive normal x: float64."""
    import torch

    bits = x.contiguous().view(torch.int64)
    exponent = (bits >> 52) - 1023
    part = ((bits & ((1 << 52) - 1)) | (1023 << 52)).view(torch.float64)
    large = part > math.sqrt(2.0)
    part = part.where(~large, part * 0.5)
    doublings = (exponent + large).double()
    f = (part - 1.0) / (part + 1.0)
    return doublings * LN2_HIGH + (f * polynomial(LOG, f * f) + doublings * LN2_LOW)


def bend(r: Tensor) -> Tensor:
    """r - 1 + e^-r for |r| <= NEAR, without cancellation."""
    return r * r * polynomial(BEND, r)
