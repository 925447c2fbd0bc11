"""What each model's changes read: orthonormal bases of the rows of what it adds to the matrices of the last layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergery.architecture.fused import transposed
from mergery.calibration.learning.additions import Additions
from mergery.calibration.learning.host import Host
from mergery.calibration.model import StreamedModel
from mergery.errors import CheckpointError, Where

LAST = 0.25  # of the layers
LEAST = 1e-4  # of the largest singular value: a direction with less is rounding


def bases(host: Host, model: StreamedModel, additions: Additions, rank: int) -> dict[str, dict[str, Any]]:
    """V (in, r), float32, by the names of model and linear module. Raises CheckpointError where there are none."""
    import torch

    layers = [unit for unit in model.units if unit.layer]
    last = layers[-max(1, round(LAST * len(layers))) :]
    found: dict[str, dict[str, Any]] = {name: {} for name in host.models}
    for unit in last:
        for _, own, name in unit.parameters:
            pieces = model.stored(name)
            tensor = pieces[0][0]
            whole = len(pieces) == 1 and pieces[0][3] == model.nodes[name].elements
            if (
                own != "weight"
                or not whole
                or "linear" not in model.roles(tensor)
                or len(additions.shapes[tensor]) != 2
            ):
                continue
            for place, expert in enumerate(host.models, 1):
                matrix = torch.from_numpy(np.array(additions.of(tensor, place))).reshape(additions.shapes[tensor])
                if transposed(tensor, additions.shapes[tensor], model.view.config):
                    matrix = matrix.T
                if bool(matrix.any()):
                    found[expert][name.removesuffix(".weight")] = directions(matrix, rank)
    empty = [name for name, own in found.items() if not own]
    if empty:
        what = f"{empty[0]!r} adds nothing to a matrix of the last layers"
        hint = "--objective entropy, labels or distill"
        raise CheckpointError(what, where=Where(model.view.donor.location), hint=hint)
    return found


def directions(matrix: Any, rank: int) -> Any:
    """The right singular vectors (in, r) of a matrix [out, in] with the largest singular values, `rank` at most."""
    import torch

    values, vectors = torch.linalg.eigh(matrix.double().T @ matrix.double())
    count = min(rank, int((values > LEAST**2 * values[-1]).sum()))
    return vectors[:, -count:].float()
