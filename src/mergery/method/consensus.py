"""What a method returns that thins, weighs and sums task vectors. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Numbers = Sequence[float] | np.ndarray


class Rule(NamedTuple):
    """A consensus as kernels take it: see `mergery.kernels.readable.consensus`. Arrays are float32 (k,)."""

    weight: np.ndarray
    least: np.ndarray
    most: np.ndarray
    probability: np.ndarray
    gain: np.ndarray
    random: int
    elect: int
    normalize: int
    divisor: float
    scale: float


@dataclass(frozen=True)
class Consensus:
    """What a method returns that thins, weighs and sums task vectors, element by element.

    Of each delta d_i an entry is kept where least_i <= |d_i| <= most_i and, with `probability`, a keyed coin that
    falls on its side with that probability says so. Kept entries are multiplied by gain_i (with `preserve_l1`, by
    the ratio of the tensor's L1 norms before and after thinning) and by weight_i. With `elect`, the sign of the
    sum wins (a sum of zero has the sign of `zero`) and entries of the other sign are dropped. With `normalize`, the sum is
    divided by the weights that took part; with `largest`, which needs `elect`, the largest entry of the winning sign
    stands for the sum. With `alike`, which needs `elect` and is for sums, weights take no part in the election. The result is
    multiplied by `scale` and added to the base.
    """

    weight: np.ndarray
    least: Numbers | None = None
    most: Numbers | None = None
    probability: Numbers | None = None
    gain: Numbers | None = None
    preserve_l1: bool = False
    elect: bool = False
    normalize: bool = False
    scale: float = 1.0
    zero: float = 1.0
    largest: bool = False
    alike: bool = False

    def rule(self) -> Rule:
        """The same as kernels take it. The sum of weights that cancel, to rounding, is no divisor: that is 1 then."""
        import numpy as np

        k = len(self.weight)

        def each(values: Any, default: float) -> np.ndarray:
            return np.full(k, default, np.float32) if values is None else np.array(values, np.float32)

        exact = np.asarray(self.weight, dtype=np.float64)
        total = float(exact.sum())
        return Rule(
            weight=each(self.weight, 1.0),
            least=each(self.least, 0.0),
            most=each(self.most, float("inf")),
            probability=each(self.probability, 1.0),
            gain=each(self.gain, 1.0),
            random=int(self.probability is not None),
            elect=0 if not self.elect else 1 if self.zero > 0.0 else -1,
            normalize=3 if self.alike else 2 if self.largest else int(self.normalize),
            divisor=total if abs(total) > 1e-12 * float(np.abs(exact).sum()) else 1.0,
            scale=float(self.scale),
        )
