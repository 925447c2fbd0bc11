"""What a method's signature says: what is merged, what is asked of the engine, and what comes back.

Loads neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mergery.kernels.spectral import Factored
else:

    class Tensor:
        """Stands for `torch.Tensor` in annotations, so that reading a signature does not load torch."""


# --- what is merged ---------------------------------------------------------------------------------------------


class Count(int):
    """The number of vectors in the span. The method returns one coefficient for each (`Coefficients`)."""


if TYPE_CHECKING:
    Gram = np.ndarray
    Models = list[Tensor]
    Deltas = list[Tensor]
else:

    class Gram:
        """Inner products of the vectors that span the merge: float64 `(..., k, k)`; the method returns `(..., k)`.

        Leading dimensions are present where the engine works per row or per column (setting `scope`). With `scope: model`
        the vectors are whole models, and the coefficients of all tensors follow from one Gram matrix.
        """

    class Models:
        """A list of k float32 tensors of one shape: the same part of each model."""

    class Deltas:
        """A list of k float32 tensors of one shape: each model minus the base. The method returns the merged delta."""


if TYPE_CHECKING:
    Coefficients = np.ndarray
    MergedDelta = Tensor | Factored
else:

    class MergedDelta:
        """What a method on matrices returns: the merged task vectors (..., out, in), or their factors where those that it
        was given are factored.
        """

    class Coefficients:
        """What a method returns that mixes its vectors: float64 `(..., k)`, one coefficient for each."""


@dataclass(frozen=True)
class Consensus:
    """What a method returns that thins, weighs and sums task vectors, element by element.

    Of each delta d_i an entry is kept where least_i <= |d_i| <= most_i and, with `probability`, a keyed coin that
    falls on its side with that probability says so. Kept entries are multiplied by gain_i (with `preserve_l1`, by
    the ratio of the tensor's L1 norms before and after thinning) and by weight_i. With `elect`, the sign of the
    sum wins (a sum of zero has the sign of `zero`) and entries of the other sign are dropped. With `normalize`, the sum is
    divided by the weights that took part; with `largest`, which needs `elect`, the largest entry of the winning sign
    stands for the sum. The result is multiplied by `scale` and added to the base.
    """

    weight: np.ndarray
    least: Sequence[float] | np.ndarray | None = None
    most: Sequence[float] | np.ndarray | None = None
    probability: Sequence[float] | np.ndarray | None = None
    gain: Sequence[float] | np.ndarray | None = None
    preserve_l1: bool = False
    elect: bool = False
    normalize: bool = False
    scale: float = 1.0
    zero: float = 1.0
    largest: bool = False


# --- asks ---------------------------------------------------------------------------------------------------------


Scope = Literal["tensor", "model"]


@dataclass(frozen=True)
class Ask:
    """Something that the engine computes before the method is called.

    `when(settings)` says whether it is needed at all; where it is not, the method receives None. `scope` says whether a
    statistic is of the tensor or of the whole model, whatever the method's setting of that name; a tensor of the merge
    whose own setting is `tensor` takes no part in the statistics of the model.
    """

    when: Callable[[Mapping[str, Any]], bool] | None = field(default=None, kw_only=True)
    scope: Scope | None = field(default=None, kw_only=True)

    def needed(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is asked at a tensor with these settings."""
        return self.when is None or self.when(settings)

    def spans_model(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is asked of the whole model at a tensor with these settings."""
        return (self.scope or settings.get("scope")) == "model"


@dataclass(frozen=True)
class Shape(Ask):
    """The tensor's own shape, a tuple: `element` and `row` methods see its pieces flat, or as a matrix."""


@dataclass(frozen=True)
class Base(Ask):
    """The base's own values, a float32 tensor of the same shape as the models'."""


@dataclass(frozen=True)
class Random(Ask):
    """Keyed randomness: `random.uniform(i)` is a float32 tensor in [0, 1) for model i, of the shape of the chunk.

    Element e of tensor t of model m always receives the same number for one seed, whatever the chunk or the thread.
    """


@dataclass(frozen=True)
class Largest(Ask):
    """An exact order statistic: the value of the element with a given rank, counted from the largest (rank 1).

    `rank` is the name of a `Fraction` setting (rank = max(1, floor(fraction * n)); 0 where the fraction is 0), or a
    function of `(n, settings)` with the model's own settings. Rank 0 gives infinity: nothing is that large.
    Ranks above n give 0. By default the statistic is of each model's |delta|, and the method receives a list
    of k floats. With `of`, as in `Sum`, it is of what that function gives: one non-negative tensor, and the method
    receives a float, or a list of k, each ranked by its model's own settings, and the method receives k floats.
    n counts the elements of the tensor or of the whole model; with `nonzero`, those that are not zero. Asks of the same
    thing that stand side by side are answered together.
    """

    rank: str | Callable[[int, Mapping[str, Any]], int] = ""
    of: Callable[..., Any] | None = None
    nonzero: bool = False


@dataclass(frozen=True)
class Sum(Ask):
    """A float64 sum over the whole tensor, or the whole model, of `of(...)`, which takes the method's parameters by name
    (those before this one, and settings; `deltas` or `models` for what is merged) and returns a tensor, or a list of k
    tensors. The method receives a float or a list of k floats.
    """

    of: Callable[..., Any] | None = None
