"""Statistics that are added to earlier ones; and what is to be known of statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mergery.calibration.model import StreamedModel
from mergery.calibration.options import CalibrationOptions
from mergery.calibration.storing import Store
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.statistics import Shared, Statistics, read_statistics
from mergery.errors import CheckpointError, Where, listed


def addable(
    checkpoint: Checkpoint, mark: Mapping[str, Any], beside: Mapping[str, Any], options: CalibrationOptions
) -> Statistics:
    """What earlier statistics say, once they are known to be of the same model and kinds. Raises CheckpointError."""
    found, where = read_statistics(checkpoint), Where(checkpoint.location)
    if found is None:
        raise CheckpointError(
            "these are no statistics", where=where, hint="name a folder that `mergery calibrate` wrote"
        )
    if {key: value for key, value in found.model.items() if key != "name"} != dict(mark):
        raise CheckpointError(
            "these statistics are of another model",
            where=where,
            why=f"of {found.model.get('name')}",
            hint="calibrate this model anew",
        )
    if {key: value for key, value in found.beside.items() if key != "name"} != dict(beside):
        raise CheckpointError(
            "these statistics are beside another model",
            where=where,
            why=f"{found.beside.get('name', 'none')}",
            hint="name the same one with --beside",
        )
    if found.only != options.tokens:
        have = ", ".join(map(repr, found.only)) or "all tokens"
        raise CheckpointError(
            "these statistics are of other tokens", where=where, why=f"of {have}", hint="ask for the same with --tokens"
        )
    if set(found.kinds) != set(options.stats) or (found.labels and found.labels != options.labels):
        have = ", ".join(found.kinds) + (f" of {found.labels} labels" if found.labels else "")
        hint = "ask for the same with --stats and --labels"
        raise CheckpointError("these statistics are of other kinds", where=where, why=f"they are {have}", hint=hint)
    return found


def add(store: Store, earlier: Checkpoint, said: Statistics, inputs: Mapping[str, Shared]) -> dict[str, Shared]:
    """Add earlier statistics to those in the store."""
    if {name: shared.of for name, shared in said.inputs.items()} != {name: each.of for name, each in inputs.items()}:
        why = "they say otherwise which weights share an input"
        raise CheckpointError(
            "these statistics cannot be added", where=Where(earlier.location), why=why, hint="calibrate anew"
        )
    for unit, infos in store.files.items():
        for name, info in infos.items():
            if name not in earlier.tensors:
                hint = "calibrate anew"
                raise CheckpointError(f"these statistics have no {name!r}", where=Where(earlier.location), hint=hint)
            values = np.empty(info.elements, np.float32)
            earlier.read(name, 0, info.elements, values.view(np.uint8))
            store.add(unit, {name: values.reshape(info.shape)})
    return {
        name: Shared(each.of, tuple(a + b for a, b in zip(each.tokens, said.inputs[name].tokens, strict=True)))
        for name, each in inputs.items()
    }


def remarks(found: Statistics, model: StreamedModel) -> Iterator[str]:
    """What is to be known of statistics: singular Gram matrices, experts without tokens."""
    if not found.inputs:
        return
    few = {
        name: (min(shared.tokens), width)
        for name, shared in found.inputs.items()
        if 0 < min(shared.tokens) < (width := model.view.nodes[name].shape[-1]) and "gram" in found.kinds
    }
    if few:
        worst = max(few, key=lambda name: few[name][1] / few[name][0])
        tokens, width = few[worst]
        yield (
            f"{len(few)} weights have seen fewer tokens than they have inputs, such as {worst!r} with {tokens} tokens and "
            f"{width} inputs: their Gram matrices are singular, and shrinkage decides what they do not"
        )
    idle = [name for name, shared in found.inputs.items() if min(shared.tokens) == 0]
    if idle:
        yield f"no token has reached {listed(idle)}"
