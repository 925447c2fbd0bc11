"""How a block's matrices are fitted, one by one, in closed form: FeatCal and RegMean++.

FeatCal    C_t = X_s' X_s / n,  N_t = X_s' (a X_t + (1 - a) X_s) / n,  v_t = |C_t|
           W = (sum_t W_t N_t' / v_t + l A) (sum_t C_t / v_t + l I)^-1,   A = r W_m + (1 - r) W_0
           b = (sum_t (b_t + W_t x_t - W x_s) / v_t + l (r b_m + (1 - r) b_0)) / (sum_t 1 / v_t + l)

           (g, c) = argmin sum_t |g z_s + c - g_t z_t' - c_t|^2 / v_t + l |(g, c) - anchor|^2

The last is of each channel of a norm, whose input is normalised to z; z_t' = a z_t + (1 - a) z_s, as for matrices.
X_s are a matrix's inputs in the merge, whose blocks before are fitted already, and X_t those in model t, behind its own; W_m is
the merge's matrix and W_0 the base's. (arXiv 2605.13030)

RegMean++  W = (sum_t W_t G_t) (sum_t G_t)^-1

G_t are those of the inputs of model t's own block, which is run on what the merge's blocks before give. (arXiv 2508.03121)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mergery.calibration.model import StreamedModel
from mergery.calibration.sequential.lockstep import Weights
from mergery.calibration.sequential.seen import Place, Seen
from mergery.errors import DataError
from mergery.methods.regmean import regmean, solved


@dataclass
class Moments:
    """What is known of the inputs of one matrix on one model's data: sums over tokens, float64."""

    tokens: int = 0
    gram: Any = None  # X_s' X_s (in, in)
    cross: Any = None  # X_s' X_t (in, in)
    merged: Any = 0.0  # of X_s (in,)
    own: Any = 0.0  # of X_t (in,)

    def add(self, merged: Any, own: Any) -> None:
        """Take rows of inputs (tokens, in) of both."""
        self.tokens += len(merged)
        gram = merged.T @ merged
        self.gram = gram.double() if self.gram is None else self.gram.add_(gram)
        cross = gram if own is merged else merged.T @ own
        self.cross = cross.double() if self.cross is None else self.cross.add_(cross)
        self.merged = self.merged + merged.double().sum(0)
        self.own = self.own + own.double().sum(0)


@dataclass
class _Fitter:
    """Gathers moments of a merge's linear matrices."""

    model: StreamedModel  # the merge
    count: int  # of teachers

    def __post_init__(self) -> None:
        self.moments: dict[tuple[Place, int], Moments] = {}
        self.leads: dict[Place, Place] = {}
        self.tokens: dict[str, tuple[int, int]] = {}  # of each parameter: the fewest tokens, and inputs
        self.channels: dict[tuple[str, int], Any] = {}  # of norms: sums over tokens of 1, z_s, z_t, z_s^2, z_s z_t
        self.offsets: dict[str, float] = {}  # what norms add to their weights

    def wants(self, place: Place) -> bool:
        """Matrices of attention, MLPs and experts."""
        size = place.shape[0] * place.shape[1]
        pieces = self.model.stored(place.name, place.start, place.start + size)
        return bool(pieces) and all("linear" in self.model.roles(piece[0]) for piece in pieces)

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """See `Fitter.see`. Tokens that a router sends elsewhere in the model count as the merge has them."""
        known = own if merged is None else merged
        for place in known.leads:
            self.leads.setdefault(place, known.leads[place])
        for place in known.rows:
            rows, theirs = known.of(place), own.of(place)
            if theirs is None or theirs.shape != rows.shape or self._is_expert(place):
                theirs = rows
            self.moments.setdefault((place, teacher), Moments()).add(rows, theirs)

    def _is_expert(self, place: Place) -> bool:
        return "expert" in self.model.roles(self.model.stored(place.name, place.start, place.start + 1)[0][0])

    def fitted(self, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """See `Fitter.fitted`. Raises DataError where inputs are not finite."""
        found: dict[str, Any] = {}
        parameters: dict[str, list[Place]] = {}
        for place in self.leads:
            parameters.setdefault(place.name, []).append(place)
        for name, places in parameters.items():
            theirs = [teacher.read(name) for teacher in teachers]
            new = weights[name].detach().clone()
            changed = False
            for place in places:
                moments = [self.moments.get((self.leads[place], index)) for index in range(len(teachers))]
                if not any(each is not None and each.tokens for each in moments):
                    continue
                if not all(each is None or bool(each.gram.isfinite().all()) for each in moments):
                    raise DataError(
                        f"the inputs of {name!r} hold NaN or infinity", hint="the model overflows on this data"
                    )
                fewest = sum(each.tokens for each in moments if each is not None)
                if name not in self.tokens or fewest < self.tokens[name][0]:
                    self.tokens[name] = fewest, place.into
                place.of(new).copy_(self.solve(place, moments, weights, theirs))
                changed = True
                if len(places) == 1:
                    found |= self.biases(place, moments, new, weights, theirs, teachers)
            if changed:
                found[name] = new
        self.moments.clear()
        self.leads.clear()
        found |= self.norms(weights, teachers)
        self.channels.clear()
        return found

    def norms(self, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """Weights and biases of norms, where they change."""
        return {}

    def solve(self, place: Place, moments: Sequence[Moments | None], weights: Weights, theirs: Sequence[Any]) -> Any:
        """A matrix [out, in], from what is known of each teacher's data and its weights."""
        raise NotImplementedError

    def biases(
        self,
        place: Place,
        moments: Sequence[Moments | None],
        new: Any,
        weights: Weights,
        theirs: Sequence[Any],
        teachers: Sequence[StreamedModel],
    ) -> dict[str, Any]:
        """The bias that belongs to a matrix, where it changes."""
        return {}


@dataclass
class FeatCal(_Fitter):
    """Closed-form calibration of a merge's blocks to the features of its models."""

    base: StreamedModel | None
    towards: float = 0.3  # a: how far the inputs aimed at are those of the model itself
    anchor: float = 2.0  # r: the ridge is towards this multiple of the merge's task vector
    ridge: float = 0.05  # l
    prefix: Literal["own", "merged"] = field(default="own", init=False)

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """See `Fitter.see`."""
        import torch

        super().see(teacher, merged, own)
        for name, rows in (merged.scaled if merged is not None else {}).items():
            mine, theirs = (torch.cat(each).double() for each in (rows, own.scaled[name]))
            self.offsets[name] = own.offsets[name]
            ones = torch.full((mine.shape[-1],), float(len(mine)), dtype=torch.float64)
            sums = torch.stack([ones, mine.sum(0), theirs.sum(0), mine.square().sum(0), (mine * theirs).sum(0)])
            known = self.channels.get((name, teacher))
            self.channels[name, teacher] = sums if known is None else known + sums

    def norms(self, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """See `_Fitter.norms`: a ridge regression of two unknowns for each channel."""
        import torch

        found: dict[str, Any] = {}
        for name in dict.fromkeys(name for name, _ in self.channels):
            bias = f"{name.removesuffix('weight')}bias"
            based = bias in weights
            offset = self.offsets[name]
            gain, shift = self._anchor(name, weights) + offset, self._anchor(bias, weights) if based else None
            a11 = torch.full_like(gain, self.ridge)
            a12, a22 = torch.zeros_like(gain), torch.full_like(gain, self.ridge)
            b1, b2 = self.ridge * gain, self.ridge * shift if shift is not None else torch.zeros_like(gain)
            for index, teacher in enumerate(teachers):
                if (name, index) not in self.channels:
                    continue
                sums = self.channels[name, index]
                mine, theirs, square, product = sums[1:] / sums[0]
                aimed = self.towards * theirs + (1.0 - self.towards) * mine
                both = self.towards * product + (1.0 - self.towards) * square
                own = teacher.read(name).double() + offset
                lift = teacher.read(bias).double() if based else torch.zeros_like(own)
                share = (
                    1.0 / torch.sqrt(square.square() + 2.0 * mine.square() + 1.0)
                    if based
                    else 1.0 / square.clamp(min=1e-30)
                )
                a11 += share * square
                a12 += share * mine
                a22 += share
                b1 += share * (own * both + lift * mine)
                b2 += share * (own * aimed + lift)
            if not based:
                found[name] = (b1 / a11 - offset).float()
                continue
            size = a11 * a22 - a12.square()
            found[name] = ((b1 * a22 - b2 * a12) / size - offset).float()
            found[bias] = ((b2 * a11 - b1 * a12) / size).float()
        return found

    def _anchor(self, name: str, weights: Weights) -> Any:
        merged = weights[name].detach().double()
        if self.base is None or self.anchor == 1.0:
            return merged
        return self.anchor * merged + (1.0 - self.anchor) * self.base.read(name).double()

    def _shares(self, moments: Sequence[Moments | None]) -> list[tuple[int, Moments, float]]:
        """Teachers whose data reach a matrix, and how much they count: one over the norm of the mean Gram matrix."""
        found = [(index, each) for index, each in enumerate(moments) if each is not None and each.tokens]
        norms = [float(each.gram.norm()) / each.tokens for _, each in found]
        return [(index, each, 1.0 / norm) for (index, each), norm in zip(found, norms, strict=True) if norm > 0.0]

    def solve(self, place: Place, moments: Sequence[Moments | None], weights: Weights, theirs: Sequence[Any]) -> Any:
        """See `_Fitter.solve`."""
        import torch

        anchor = place.of(self._anchor(place.name, weights))
        gram = self.ridge * torch.eye(place.into, dtype=torch.float64)
        pull = torch.zeros_like(anchor)
        for index, each, share in self._shares(moments):
            share /= each.tokens
            gram += share * each.gram
            mixed = self.towards * each.cross + (1.0 - self.towards) * each.gram
            pull += share * (place.of(theirs[index]).double() @ mixed.T - anchor @ each.gram)
        return anchor + solved(pull, gram)

    def biases(
        self,
        place: Place,
        moments: Sequence[Moments | None],
        new: Any,
        weights: Weights,
        theirs: Sequence[Any],
        teachers: Sequence[StreamedModel],
    ) -> dict[str, Any]:
        """See `_Fitter.biases`."""
        name = f"{place.name.removesuffix('weight')}bias"
        matrix = place.of(new).double()
        if not place.name.endswith(".weight") or name not in weights or weights[name].shape != matrix.shape[:1]:
            return {}
        above, below = self.ridge * self._anchor(name, weights), self.ridge
        for index, each, share in self._shares(moments):
            aimed = (self.towards * each.own + (1.0 - self.towards) * each.merged) / each.tokens
            bias = teachers[index].read(name).double()
            above = above + share * (
                bias + place.of(theirs[index]).double() @ aimed - matrix @ each.merged / each.tokens
            )
            below += share
        return {name: (above / below).float()} if below > 0.0 else {}


@dataclass
class RegMeanPlus(_Fitter):
    """RegMean on the inputs that the models' blocks get behind the merge's."""

    off_diagonal: float = 0.9
    weight: Mapping[int, float] = field(default_factory=dict)  # of each teacher's data
    prefix: Literal["own", "merged"] = field(default="merged", init=False)

    def solve(self, place: Place, moments: Sequence[Moments | None], weights: Weights, theirs: Sequence[Any]) -> Any:
        """See `_Fitter.solve`."""
        import torch

        empty = torch.zeros(place.into, place.into)
        grams = [empty if each is None or not each.tokens else (each.gram / each.tokens).float() for each in moments]
        shares = [self.weight.get(index, 1.0) for index in range(len(theirs))]
        matrices = [place.of(each) for each in theirs]
        return regmean(matrices, statistics={"gram": grams}, weight=shares, off_diagonal=self.off_diagonal)
