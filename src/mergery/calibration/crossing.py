"""Cross-moments: what the weights of a model are multiplied with, against what they are in another, on the same texts.

    cross   X^T Y, summed over tokens        (in, in) for a weight [out, in]

X are the inputs of a weight in the model, behind its own blocks, Y those of the same weight in the other, behind that one's.
With the Gram matrix X^T X they tell how inputs have drifted, as from an expert to a merge. Both models run side by side, block
by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mergery.calibration.data import Texts, inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.opening import Opened
from mergery.calibration.options import CalibrationOptions
from mergery.calibration.passes import Shelf
from mergery.calibration.sequential.lockstep import Lockstep, Teacher
from mergery.calibration.sequential.seen import Place, Seen
from mergery.calibration.storing import Store
from mergery.checkpoints.statistics import Shared
from mergery.errors import CheckpointError, DataError, RecipeError, Where
from mergery.run.events import Notify, Visited


def pair(model: StreamedModel, beside: Opened | None, options: CalibrationOptions) -> StreamedModel | None:
    """The other model, once it is known to have the same blocks; None where none is wanted. Raises MergeryError."""
    if "cross" not in options.stats:
        if beside is not None:
            hint = "--stats gram,cross, or leave out --beside"
            raise RecipeError("a model beside this one is for cross-moments", hint=hint)
        return None
    if beside is None:
        hint = "--beside FOLDER, such as the merge beside one of its experts"
        raise RecipeError("cross-moments are between two models", why="one is named", hint=hint)
    if options.tokens:
        hint = "leave out --tokens, or --stats gram,activation"
        raise RecipeError("cross is of all tokens", why="those that count are found of one model", hint=hint)
    other = StreamedModel(beside.view)
    wrong = [
        name for name, node in model.nodes.items() if name not in other.nodes or other.nodes[name].shape != node.shape
    ]
    if wrong:
        why = f"it has no {wrong[0]!r} of shape {list(model.nodes[wrong[0]].shape)}"
        what, hint = f"{beside.name!r} is of another shape than the model", "name a model of the same architecture"
        raise CheckpointError(what, where=Where(beside.view.donor.location), why=why, hint=hint)
    return other


@dataclass
class Crossing:
    """Gathers cross-moments, unit by unit, and changes nothing."""

    model: StreamedModel
    prefix: Literal["own", "merged"] = field(default="own", init=False)
    sums: dict[Place, Any] = field(default_factory=dict)  # float64 (in, in)
    tokens: dict[Place, int] = field(default_factory=dict)
    leads: dict[Place, Place] = field(default_factory=dict)  # whose sums a matrix's own are

    def tensors(self, place: Place) -> list[str]:
        """The view's tensors of which a matrix is made."""
        pieces = self.model.stored(place.name, place.start, place.start + place.shape[0] * place.shape[1])
        return list(dict.fromkeys(piece[0] for piece in pieces))

    def wants(self, place: Place) -> bool:
        """Matrices of attention and MLPs; not of experts, to which the models may send other tokens."""
        roles = [self.model.roles(tensor) for tensor in self.tensors(place)]
        return bool(roles) and all("linear" in each and "expert" not in each for each in roles)

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """See `Fitter.see`."""
        assert merged is not None
        self.leads |= merged.leads
        for place in merged.rows:
            rows, theirs = merged.of(place), own.of(place)
            if theirs is None or theirs.shape != rows.shape:
                raise CheckpointError(
                    f"the other model multiplies {place.name!r} with other rows", hint="leave out cross"
                )
            product = (rows.T @ theirs).double()
            self.sums[place] = self.sums[place].add_(product) if place in self.sums else product
            self.tokens[place] = self.tokens.get(place, 0) + len(rows)

    def fitted(self, weights: Mapping[str, Any], teachers: Any) -> dict[str, Any]:
        """See `Fitter.fitted`: nothing."""
        return {}

    def take(self, known: dict[str, Shared]) -> dict[str, Any]:
        """The sums of the unit at hand by name, float32; `known` learns whose they are. Raises DataError."""
        found: dict[str, Any] = {}
        for place, lead in self.leads.items():
            owner = self.tensors(lead)[0]
            for tensor in self.tensors(place):
                known.setdefault(tensor, Shared(owner, (self.tokens[lead],)))
            name, sums = f"{known[owner].of}.cross", self.sums[lead]
            if not bool(sums.isfinite().all()):
                raise DataError(f"the inputs of {owner!r} hold NaN or infinity", hint="a model overflows on this data")
            found[name] = sums.float().numpy()
        self.sums, self.tokens, self.leads = {}, {}, {}
        return found


def cross(
    model: StreamedModel,
    other: StreamedModel,
    texts: Texts,
    pairs: bool,
    store: Store,
    known: Mapping[str, Shared],
    notify: Notify,
) -> dict[str, Shared]:
    """Measure cross-moments into the store; and whose statistics of inputs each weight's are. Raises MergeryError."""

    def one(rows: Any) -> Any:
        return lambda each: each.module(**inputs_of(rows, each.config))

    crossing, found = Crossing(model), dict(known)
    passes = [one(rows) for rows in texts.batches(pairs)]
    text = getattr(model.config, "text_config", None) or model.config
    width = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 1)
    places = {unit.name: number for number, unit in enumerate(model.units, 1)}
    seen: set[str] = set()

    def told(unit: Unit, weights: Any, changed: Any) -> None:
        store.add(f"{unit.name}.cross", crossing.take(found))

    def visited(unit: Unit) -> None:
        if unit.name in seen and unit.layer:
            what, why = "cross-moments are of models that run each block once", f"{unit.name} is run several times"
            raise CheckpointError(what, why=why, hint="leave out cross")
        seen.add(unit.name)
        notify(Visited(unit.name, places[unit.name], len(places)))

    shelf = Shelf(store.partial, 4 * texts.tokens * width * 4)
    Lockstep(model, [Teacher("beside", other, passes)], shelf).run(
        crossing, kept=lambda unit: None, told=told, visited=visited
    )
    return found
