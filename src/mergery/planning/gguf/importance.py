"""A model's statistics of inputs as llama.cpp's importance matrix: under its GGUF file's names, a row for each expert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.gguf.encoding import OutTensor
from mergery.checkpoints.gguf.imatrix import Entry, Imatrix
from mergery.checkpoints.statistics import FILE, Statistics, read_statistics
from mergery.errors import CheckpointError, PlanError, Where
from mergery.planning.gguf.plan import GgufPlan

if TYPE_CHECKING:
    import numpy as np

HINT = "measure it so: mergery calibrate MODEL STATISTICS --data TEXTS --stats square"


def imatrix_of(checkpoint: Checkpoint, made: GgufPlan) -> Imatrix:
    """The importance matrix of a model from its statistics. Raises CheckpointError, and PlanError for another model's."""
    said = read_statistics(checkpoint)
    if said is None:
        raise CheckpointError(
            "these are no statistics", where=Where(checkpoint.location), why=f"there is no {FILE}", hint=HINT
        )
    if not {"square", "gram"} & set(said.kinds):
        why = f"they hold {' and '.join(said.kinds)}, and an importance matrix is of squares of inputs"
        raise CheckpointError(
            "these statistics make no importance matrix", where=Where(checkpoint.location), why=why, hint=HINT
        )
    rows: dict[str, dict[int, tuple[np.ndarray, float]]] = {}
    for name, place in made.places.items():
        target = made.targets[place.target]
        origin = made.origins.get(name, name)
        if origin not in said.inputs or len(target.shape) < 2:
            continue
        found = _squares(checkpoint, said, origin)
        if found is None:
            continue
        values, counts = found
        _check(checkpoint, origin, values, target)
        first = place.start * _sides(target)[0] // max(1, math.prod(target.shape))
        for number, row in enumerate(values):
            rows.setdefault(place.target, {})[first + number] = row, float(counts[number])
    if not rows:
        why = f"they are of {', '.join(list(said.inputs)[:2])} ..., and it has {', '.join(list(made.places)[:2])} ..."
        raise PlanError("these statistics are of another model", where=Where(checkpoint.location), why=why, hint=HINT)
    texts = tuple(str(each["file"]) for each in said.data)
    entries = {name: _stacked(found, made.targets[name]) for name, found in rows.items()}
    return Imatrix(entries, texts, said.examples, max(1, said.tokens // max(1, said.examples)))


def check_sizes(imatrix: Imatrix, made: GgufPlan, where: str) -> None:
    """Refuse an importance matrix that is another model's: whose tensors the file does not have, or in other sizes."""
    known = [name for name in imatrix.entries if name in made.targets and len(made.targets[name].shape) > 1]
    odd = [name for name in known if imatrix.entries[name].sums.size != math.prod(_sides(made.targets[name]))]
    if odd or not known:
        first = odd[0] if odd else next(iter(imatrix.entries))
        size = imatrix.entries[first].sums.size
        here = f"{math.prod(_sides(made.targets[first]))} here" if odd else "is not here"
        why = f"{first!r} has {size} columns there, and {here}"
        raise PlanError("this importance matrix is of another model", where=Where(where), why=why, hint=HINT)


def _sides(target: OutTensor) -> tuple[int, int]:
    """How many matrices a tensor is, and the columns of each."""
    *stack, _, columns = target.shape
    return math.prod(stack), columns


def _squares(checkpoint: Checkpoint, said: Statistics, weight: str) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """Sums of squares (matrices, in) of a weight's inputs, and tokens of each; None where they were not measured."""
    import numpy as np

    shared = said.inputs[weight]
    if f"{shared.of}.square" in checkpoint.tensors:
        values = _read(checkpoint, f"{shared.of}.square")
        return values.reshape(-1, values.shape[-1]), shared.tokens
    if f"{shared.of}.gram" in checkpoint.tensors:
        values = np.diagonal(_read(checkpoint, f"{shared.of}.gram"), axis1=-2, axis2=-1)
        return np.maximum(values, 0.0).reshape(-1, values.shape[-1]), shared.tokens
    return None


def _read(checkpoint: Checkpoint, name: str) -> Any:
    import numpy as np

    info = checkpoint.tensors[name]
    values = np.empty(info.elements, dtype=np.float32)
    checkpoint.read(name, 0, info.elements, values.view(np.uint8))
    return values.reshape(info.shape)


def _check(checkpoint: Checkpoint, name: str, values: np.ndarray, target: OutTensor) -> None:
    experts, columns = _sides(target)
    if values.shape[1] != columns or len(values) not in (1, experts):
        why = f"its inputs were {values.shape[1]} there, and the model's {name!r} has {columns}"
        raise PlanError("these statistics are of another model", where=Where(checkpoint.location), why=why, hint=HINT)


def _stacked(found: Mapping[int, tuple[np.ndarray, float]], target: OutTensor) -> Entry:
    """The rows of all matrices of a tensor; zeros where nothing was measured."""
    import numpy as np

    experts, columns = _sides(target)
    sums, counts = np.zeros((experts, columns), np.float32), np.zeros(experts, np.float32)
    for number, (row, tokens) in found.items():
        sums[number], counts[number] = row, tokens
    return Entry(sums, counts)
