"""AIM: what a merge has changed is taken back where the base's inputs are large.

    W' = W_0 + (W - W_0) (1 - (1 - w) a / max a)      column by column

a_j is the mean magnitude of input j of the matrix in the base, on calibration data: a column that the base rests on keeps the
share w of its change. Nobari et al. 2025 (arXiv 2502.02421).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergery.architecture.fused import transposed
from mergery.calibration.model import StreamedModel
from mergery.calibration.replacing import as_stored, write_arrays
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.statistics import Statistics, read_statistics
from mergery.run.events import Notify, Visited


def take_back(
    merged: StreamedModel, base: StreamedModel, known: Checkpoint, keep: float, work: Path, notify: Notify
) -> None:
    """Write the merge's matrices of attention, MLPs and experts, taken back towards the base's, unit by unit.

    known: the base's statistics of activation. keep: the share of the change that the column of the largest input keeps.
    What earlier runs have written in `work` is not written again.
    """
    said = read_statistics(known)
    assert said is not None
    for number, unit in enumerate(merged.units, 1):
        path = work / f"{number:05d}.safetensors"
        if not path.exists():
            weights = {name: merged.read(name) for _, _, name in unit.parameters}
            found: dict[str, Any] = {}
            for name, value in weights.items():
                shares = _shares(name, base, known, said, keep)
                if shares is not None:
                    origin = base.read(name)
                    found[name] = origin + (value - origin) * shares
            if found:
                write_arrays(path, as_stored(merged, {**weights, **found}, found), {})
        notify(Visited(unit.name, number, len(merged.units)))


def _shares(name: str, base: StreamedModel, known: Checkpoint, said: Statistics, keep: float) -> Any:
    """The share of its change that each number of a parameter keeps, float32 of its shape; None where all keep all of it."""
    import torch

    shares: np.ndarray | None = None
    made: Mapping[str, np.ndarray] = {}
    for tensor, start, at, length in base.stored(name):
        if tensor not in made:
            made = {tensor: _of_tensor(tensor, base, known, said, keep)}
        if made[tensor].size:
            if shares is None:
                shares = np.ones(base.nodes[name].elements, np.float32)
            shares[at : at + length] = made[tensor][start : start + length]
    return None if shares is None else torch.from_numpy(shares).reshape(base.nodes[name].shape)


def _of_tensor(tensor: str, base: StreamedModel, known: Checkpoint, said: Statistics, keep: float) -> np.ndarray:
    """The shares of one of the base's tensors, flattened; empty for one whose inputs are not known."""
    owner = said.inputs.get(tensor)
    if owner is None or "linear" not in base.roles(tensor):
        return np.empty(0, np.float32)
    info = known.tensors[f"{owner.of}.activation"]
    sums = np.empty(info.elements, np.float32)
    known.read(info.name, 0, info.elements, sums.view(np.uint8))
    shape = base.view.nodes[tensor].shape
    each = shares_of(sums.reshape(-1, info.shape[-1]), keep)
    turned = transposed(tensor, shape, base.view.config)
    wide = each[..., :, None] if turned else each[..., None, :]
    return np.broadcast_to(wide.reshape(*wide.shape[-len(shape) :]) if len(shape) == 2 else wide, shape).reshape(-1)


def shares_of(sums: np.ndarray, keep: float) -> np.ndarray:
    """The shares of columns (matrices, in), from sums of their inputs' magnitudes; all of it where no token was seen."""
    largest = sums.max(axis=-1, keepdims=True)
    relative = np.divide(sums, largest, out=np.zeros_like(sums), where=largest > 0.0)
    return (1.0 - (1.0 - keep) * relative).astype(np.float32)
