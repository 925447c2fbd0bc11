"""What a method's signature says: what is merged, what is asked of the engine, and what comes back.

Loads neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mergery.kernels.random import KeyedUniform
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


EXPONENT = 0x7F800000  # the bits of a float32 that give its power of two

# --- asks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What a method may be given of one piece of a tensor, besides what is merged.

    shape: of the whole tensor. base: the base's values, where there is one. random: numbers keyed by seed, tensor, model and
    element. models: each model's values, float32, before the base is taken off. dtypes: in which they are stored.
    statistics: by kind, one for each model.
    """

    shape: tuple[int, ...]
    base: Tensor | None
    random: KeyedUniform
    models: Sequence[Tensor] = ()
    dtypes: Sequence[str] = ()
    statistics: Mapping[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """Something that a method needs besides what is merged: of each piece (`take`), or a statistic, for which the inputs are
    read before the method is called (`streamed`).

    `when(settings)` says whether a statistic is needed at all; where it is not, the method receives None. `scope` says whether
    it is of the tensor or of the whole model, whatever the method's setting of that name; a tensor of the merge whose own
    setting is `tensor` takes no part in the statistics of the model.
    """

    when: Callable[[Mapping[str, Any]], bool] | None = field(default=None, kw_only=True)
    scope: Literal["tensor", "model"] | None = field(default=None, kw_only=True)

    streamed: ClassVar[bool] = False
    rows: ClassVar[tuple[str, ...]] = ()
    """Inputs that it adds to those that are merged: `base`."""
    statistic: ClassVar[str] = ""
    """The kind of statistics of data that it adds, of each model: see `mergery calibrate`."""
    aligned: ClassVar[bool] = False
    """Whether these have the shape of the tensor that is merged."""
    of_base: ClassVar[bool] = False
    """Whether these are of the base, on the data of each model."""

    @property
    def kind(self) -> str:
        """What it is known as among the statistics that a method is given."""
        return f"{self.statistic}_of_base" if self.of_base else self.statistic

    def needed(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is asked at a tensor with these settings."""
        return self.when is None or self.when(settings)

    def spans_model(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is asked of the whole model at a tensor with these settings."""
        return self.streamed and (self.scope or settings.get("scope")) == "model"

    def take(self, given: Given) -> Any:
        """What the method receives, for one piece."""
        raise NotImplementedError(f"{type(self).__name__} is of the whole tensor")


@dataclass(frozen=True)
class Shape(Ask):
    """The tensor's own shape, a tuple: `element` and `row` methods see its pieces flat, or as a matrix."""

    def take(self, given: Given) -> tuple[int, ...]:
        """See `Ask.take`."""
        return given.shape


@dataclass(frozen=True)
class Base(Ask):
    """The base's own values, a float32 tensor of the same shape as the models'."""

    rows = ("base",)

    def take(self, given: Given) -> Tensor | None:
        """See `Ask.take`."""
        return given.base


@dataclass(frozen=True)
class Random(Ask):
    """Keyed randomness: `random.uniform(i)` is a float32 tensor in [0, 1) for model i, of the shape of the piece.

    Element e of tensor t of model m always receives the same number for one seed, whatever the chunk or the thread.
    """

    def take(self, given: Given) -> KeyedUniform:
        """See `Ask.take`."""
        return given.random


SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Between 1 and the next number, of the types whose rounding can be told from what was learned."""
NORMAL = {"bfloat16": 2.0**-126, "float16": 2.0**-14}
"""The least number of each with all its bits; the spacing below is that at it."""


@dataclass(frozen=True)
class Noise(Ask):
    """What rounding has added to the matrices of each model that is stored in 16 bits: a list of k float64 tensors (...), the
    standard deviation of an entry; zero for models in float32 or float64, and for low-rank factors.

    A rounding error is anywhere within half a spacing, so that its variance is a twelfth of the spacing's square.
    """

    def take(self, given: Given) -> list[Tensor]:
        """See `Ask.take`."""
        return [self.of(model, dtype) for model, dtype in zip(given.models, given.dtypes, strict=True)]

    def of(self, values: Tensor, dtype: str) -> Tensor:
        """That of one model's matrices (..., m, n)."""
        import torch

        if dtype not in SPACING or not values.numel():
            return torch.zeros(values.shape[:-2], dtype=torch.float64, device=values.device)
        power = (values.contiguous().view(torch.int32) & EXPONENT).view(torch.float32).clamp_(min=NORMAL[dtype])
        size = torch.linalg.vector_norm(power, dim=(-2, -1), dtype=torch.float64)
        return size * (SPACING[dtype] / math.sqrt(12 * values.shape[-2] * values.shape[-1]))


@dataclass(frozen=True)
class Fisher(Ask):
    """The diagonal Fisher information of each model: a list of k float32 tensors of the models' shape, means over examples."""

    statistic = "fisher"
    aligned = True

    def take(self, given: Given) -> list[Tensor]:
        """See `Ask.take`."""
        return given.statistics[self.kind]


@dataclass(frozen=True)
class FisherOfBase(Fisher):
    """The diagonal Fisher information of the base on each model's data: as `Fisher`."""

    of_base = True


@dataclass(frozen=True)
class Inputs(Ask):
    """What each model's matrix is multiplied with: a list of k Gram matrices X^T X over tokens, float32 (..., in, in).

    Each is divided by the number of tokens of its model's data.
    """

    statistic = "gram"

    def take(self, given: Given) -> list[Tensor]:
        """See `Ask.take`."""
        return given.statistics[self.kind]


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

    streamed = True

    def rank_among(self, n: int, settings: Mapping[str, Any]) -> int:
        """The rank among n numbers, counted from the largest; 0 means none, above n means all."""
        if callable(self.rank):
            return int(self.rank(n, settings))
        fraction = float(settings[self.rank])
        return max(1, int(fraction * n)) if fraction > 0.0 else 0

    def measure(self, values: Tensor, settings: Mapping[str, Any]) -> float:
        """The statistic of a whole tensor's magnitudes."""
        sizes = values.reshape(-1).abs()
        rank = self.rank_among(int(sizes.count_nonzero()) if self.nonzero else sizes.numel(), settings)
        if rank <= 0:
            return math.inf
        return float(sizes.kthvalue(sizes.numel() + 1 - rank).values) if rank <= sizes.numel() else 0.0


@dataclass(frozen=True)
class Sum(Ask):
    """A float64 sum over the whole tensor, or the whole model, of `of(...)`, which takes the method's parameters by name
    (those before this one, and settings; `deltas` or `models` for what is merged) and returns a tensor, or a list of k
    tensors. The method receives a float or a list of k floats.
    """

    of: Callable[..., Any] | None = None

    streamed = True

    def measure(self, values: Tensor, settings: Mapping[str, Any]) -> float:
        """The sum over a whole tensor."""
        return float(values.double().sum())


Statistic = Largest | Sum
