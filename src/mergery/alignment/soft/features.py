"""What the units of two models say on the same data: sums over rows, by space.

Language models run over texts side by side, block by block. A plain chain of matrices runs over rows of numbers (.npy); its
`config.json` says which activation stands between its matrices (`hidden_act`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.alignment.matching.activations import Correlating, Moments, measured
from mergery.alignment.soft.pairing import SoftModels
from mergery.calibration.sequential.seen import Place, Seen
from mergery.errors import CheckpointError, DataError, Where
from mergery.graph.view import View
from mergery.recipe.aligning import Align
from mergery.run.events import Notify

if TYPE_CHECKING:
    from torch import Tensor

FEW = 2  # rows of data, below which nothing varies
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu")


@dataclass
class Joint(Moments):
    """Moments that also hold the products of each model's units with one another, float64 [n, n] and [m, m]."""

    mine: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    theirs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def between(cls, one: int, other: int) -> Joint:
        """Of no rows yet, of so many units of the reference and of the model."""
        return cls(
            np.zeros(one), np.zeros(other), np.zeros(one), np.zeros(other), np.zeros((one, other)), 0,
            np.zeros((one, one)), np.zeros((other, other)),
        )  # fmt: skip

    def add(self, one: Any, other: Any) -> None:
        """Add float32 rows of the same tokens, torch tensors [tokens, n] and [tokens, m]."""
        super().add(one, other)
        self.mine += (one.T @ one).double().numpy()
        self.theirs += (other.T @ other).double().numpy()

    @property
    def whole(self) -> np.ndarray:
        """Correlations of all units of both, float64 [n + m, n + m]; 0 where one of the two does not vary."""
        means = np.concatenate([self.one, self.other]) / self.tokens
        products = np.block([[self.mine, self.both], [self.both.T, self.theirs]]) / self.tokens
        deviations = np.concatenate(self.deviations)
        scale = np.outer(deviations, deviations)
        return np.divide(products - np.outer(means, means), scale, out=np.zeros_like(scale), where=scale > 0)


class Joining(Correlating):
    """Gathers joint moments by space, of models whose widths may differ."""

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """See `Fitter.see`: `merged` is the model that is mapped, `own` the reference."""
        assert merged is not None
        namesakes = {_key(place): place for place in own.leads}
        for place in merged.rows:
            key = _key(place)
            space = self.space(self.tensors(place)[0])
            if space is None or key not in namesakes:
                continue
            one, other = own.of(namesakes[key]), merged.of(place)
            if one is None or len(one) != len(other):
                continue
            if key not in self.by_place:
                self.by_place[key] = Joint.between(one.shape[1], other.shape[1])
                self.of_spaces.setdefault(space, []).append(self.by_place[key])
            self.by_place[key].add(one.float(), other.float())


def _key(place: Place) -> tuple[str, int]:
    return place.name, place.start


def joint_moments(models: SoftModels, align: Align, folder: Path, notify: Notify) -> dict[str, list[Joint]]:
    """Joint moments of both models' activations by space, on the data that `align` names. Raises MergeryError."""
    if any(name.startswith("hidden.") for name in models.spaces.sizes):
        found = _of_chains(models, align, folder)
    else:
        found = measured(models, align, folder, notify, Joining)
    if not found or min(each.tokens for own in found.values() for each in own) < FEW:
        raise DataError("the data are too few to compare activations", hint="more samples, or longer ones")
    return found


def _of_chains(models: SoftModels, align: Align, folder: Path) -> dict[str, list[Joint]]:
    import torch

    rows = torch.from_numpy(_rows(align, folder)[: align.samples])
    names = [name for name in models.spaces.sizes if name.startswith("hidden.")]
    found = {}
    for name, one, other in zip(names, _says(models.reference, rows), _says(models.model, rows), strict=True):
        found[name] = [Joint.between(one.shape[1], other.shape[1])]
        found[name][0].add(one, other)
    return found


def _rows(align: Align, folder: Path) -> np.ndarray:
    """The rows that data name, float32."""
    path, hint = folder / Path(align.data).expanduser(), "numpy.save('inputs.npy', rows), and data: inputs.npy"
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        what = f"the data {align.data!r} are no rows of numbers"
        raise DataError(what, where=align.place, why=str(error), hint=hint) from None
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number) or not np.all(np.isfinite(rows)):
        why = f"they are {list(rows.shape)} of {rows.dtype}, or not all finite"
        raise DataError(f"the data {align.data!r} are no rows of numbers", where=align.place, why=why, hint=hint)
    return rows.astype(np.float32)


def _says(view: View, rows: Tensor) -> list[Tensor]:
    """What each hidden layer of a chain says of rows."""
    import torch

    from mergery.alignment.matching.pairs import values_of
    from mergery.planning.coordinates import spaces_of

    activation = _activation(view)
    pieces = spaces_of(view).pieces
    found: list[Tensor] = []
    for number in range(sum(len(piece.axes) == 2 for piece in pieces) - 1):
        own = [piece for piece in pieces if piece.axes[0] is not None and piece.axes[0].space == f"hidden.{number}"]
        for piece in sorted(own, key=lambda piece: -len(piece.axes)):
            values = torch.from_numpy(values_of(piece, view))
            if values.dim() == 2 and values.shape[1] != rows.shape[1]:
                why = f"rows have {rows.shape[1]} numbers, and {piece.tensor!r} reads {values.shape[1]}"
                raise DataError(f"{view.name!r} cannot read the data", why=why, hint="data that it was trained on")
            rows = rows @ values.T if values.dim() == 2 else rows + values
        rows = activation(rows)
        found.append(rows)
    return found


def _activation(view: View) -> Callable[[Tensor], Tensor]:
    import torch

    said = view.config.get("hidden_act")
    if said not in ACTIVATIONS:
        why = f"config.json has hidden_act of {said!r}"
        hint = f"hidden_act: one of {', '.join(ACTIVATIONS)}"
        where = Where(f"{view.donor.location}/config.json")
        raise CheckpointError(
            f"what stands between the matrices of {view.name!r} is not known", where=where, why=why, hint=hint
        )
    return getattr(torch, said, None) or getattr(torch.nn.functional, said)
