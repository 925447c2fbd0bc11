"""Down the gradient of the weights, step by step, in a way that can be taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.learning.additions import Additions
from mergery.calibration.learning.answers import together
from mergery.calibration.learning.model import WholeModel
from mergery.calibration.learning.objectives import Source
from mergery.calibration.learning.options import LearnOptions
from mergery.calibration.learning.weights import Weights
from mergery.errors import DataError
from mergery.kernels.random import key
from mergery.run.events import Learning, Notify

EVERY = 2.0  # seconds between two savings


class Descent:
    """Where a descent is: the weights, how Adam has moved them, and the loss before; kept in a file of `work`."""

    def __init__(self, weights: Weights, work: Path | None) -> None:
        self.weights, self.before = weights, None
        self.path = work / "weights.npz" if work is not None else None
        self.saved = time.monotonic()
        if self.path is not None and self.path.exists():
            with np.load(self.path) as kept:
                weights.free, weights.mean, weights.square = kept["free"], kept["mean"], kept["square"]
                weights.step, self.before = int(kept["step"]), float(kept["before"])

    before: float | None

    def save(self) -> None:
        """Write it, whole or not at all."""
        self.saved = time.monotonic()
        if self.path is None:
            return
        own, unfinished = self.weights, self.path.with_suffix(".part")
        with open(unfinished, "wb") as file:
            np.savez(file, free=own.free, mean=own.mean, square=own.square, step=own.step, before=self.before)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.path)


def descend(
    merged: WholeModel,
    additions: Additions,
    descent: Descent,
    tensors: frozenset[str],
    sources: Sequence[Source],
    objective: Any,
    options: LearnOptions,
    notify: Notify,
) -> None:
    """Take the steps that are left. Raises DataError where the loss is not finite."""
    weights = descent.weights
    descent.save()
    while weights.step < options.steps:
        merged.write(additions, weights)
        loss = sum(
            backward(merged, source, drawn(source, options, weights.step), objective) for source in sources
        ) / len(sources)
        if not np.isfinite(loss):
            raise DataError(f"the loss is {loss} at step {weights.step}", hint="a smaller --rate, or --range unit")
        weights.move(weights.gathered(merged.slopes(additions, tensors)), options.rate)
        notify(Learning("learning", weights.step, options.steps, loss))
        if time.monotonic() - descent.saved > EVERY:
            descent.save()
    descent.save()


def backward(merged: WholeModel, source: Source, numbers: Sequence[int], objective: Any) -> float:
    """The mean loss of some rows of a source; its gradient is added to that of the parameters."""
    import torch

    total = sum(objective.weight(source.rows[number]) for number in numbers)
    found = 0.0
    with torch.enable_grad(), merged.with_parameters(source.heads):
        for part in together(source.rows, numbers, merged.module.config):
            loss = objective.loss(merged.module, part, source) / total
            loss.backward()
            found += float(loss.detach())
    return found


def mean_loss(merged: WholeModel, sources: Sequence[Source], objective: Any) -> float:
    """The mean loss over all rows of each source, and over the sources."""
    import torch

    found = []
    with torch.no_grad():
        for source in sources:
            numbers = range(len(source.rows))
            with merged.with_parameters(source.heads):
                parts = together(source.rows, numbers, merged.module.config)
                total = sum(float(objective.loss(merged.module, part, source)) for part in parts)
            found.append(total / sum(objective.weight(row) for row in source.rows))
    return sum(found) / len(found)


def drawn(source: Source, options: LearnOptions, step: int) -> list[int]:
    """The rows of a step: the next of an order that is drawn anew each time that it is through."""
    count, size = len(source.rows), min(options.batch, len(source.rows))
    wanted = range(step * size, (step + 1) * size)
    orders = {
        turn: np.random.Generator(np.random.Philox(key(options.seed, source.model, f"turn {turn}"))).permutation(count)
        for turn in {place // count for place in wanted}
    }
    return [int(orders[place // count][place % count]) for place in wanted]
