"""A model in memory that is given weights, and what texts say of it: its loss, and the gradient of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mergery.calibration.data import Row
from mergery.calibration.learning.answers import count, together
from mergery.calibration.learning.model import WholeModel, whole
from mergery.calibration.learning.objectives import Answering, Source
from mergery.calibration.model import StreamedModel
from mergery.calibration.running import task_of
from mergery.errors import CheckpointError, PlanError, RecipeError, Where
from mergery.evaluation.running import torch_threads
from mergery.kernels.random import key

BATCH = 16  # texts of a step
HELD = 4  # each fourth text is not learnt from: by it the best step is chosen


class Answers(Protocol):
    """What gives a model's loss: on data to learn from, a part of which is drawn for each step, and on others, held out."""

    def slopes(self, weights: Mapping[str, np.ndarray], step: int) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of a step, and its gradient with respect to each tensor, of its number of elements."""
        ...

    def held_out(self, weights: Mapping[str, np.ndarray]) -> float:
        """The loss on what is held out."""
        ...


@dataclass
class TextAnswers:
    """See `Answers`: the cross-entropy of texts, a mean over tokens; of a classifier, over texts with their labels."""

    merged: WholeModel
    objective: Answering
    learnt: Source
    kept: Source

    @classmethod
    def of(cls, model: StreamedModel, rows: Sequence[Row]) -> TextAnswers:
        """Raises MergeryError where the model answers nothing, or the rows are too few."""
        task: Any = task_of(model)
        where = Where(model.view.donor.location)
        if not task:
            what = f"a {type(model.module).__name__} gives no answers that could be learnt by"
            raise CheckpointError(what, where=where, hint="--method weights or activations")
        use = tuple(row for row in rows if count(row, task) and (task != "labels" or row.label is not None))
        if len(use) < HELD:
            why = f"{len(use)} texts have answers, and each fourth is held out to choose by"
            what = "labels of texts are missing" if task == "labels" and not use else "the data are too few to learn by"
            raise RecipeError(what, why=why, hint="more texts, or --method weights, which needs none")
        vocabulary = model.module.get_input_embeddings().weight.shape[0]
        if (largest := max(max(row.tokens) for row in use)) >= vocabulary:
            why = f"a text has the token {largest}, and the model has {vocabulary} rows"
            raise CheckpointError("the tokenizer is not the model's", where=where, why=why)
        kept = use[HELD - 1 :: HELD]
        learnt = tuple(row for place, row in enumerate(use) if place % HELD != HELD - 1)
        merged = whole(model)
        for each in merged.held:
            if sum(length for *_, length in each.pieces) != each.parameter.numel():
                what = f"{each.places[0].name!r} is not made of stored tensors alone"
                raise PlanError(what, where=where, hint="--method weights or activations")
            each.parameter.requires_grad_(True)
        return cls(merged, Answering(task, "labels"), Source("learnt", learnt), Source("held out", kept))

    def write(self, weights: Mapping[str, np.ndarray]) -> None:
        """Give the model its weights."""
        for each in self.merged.held:
            flat = each.parameter.detach().reshape(-1).numpy()
            for tensor, start, at, length in each.pieces:
                flat[at : at + length] = weights[tensor].reshape(-1)[start : start + length]

    def slopes(self, weights: Mapping[str, np.ndarray], step: int) -> tuple[float, dict[str, np.ndarray]]:
        """See `Answers`."""
        import torch

        self.write(weights)
        numbers = _drawn(len(self.learnt.rows), step)
        total = sum(self.objective.weight(self.learnt.rows[number]) for number in numbers)
        loss = 0.0
        with torch.enable_grad(), torch_threads(0):
            for part in together(self.learnt.rows, numbers, self.merged.module.config):
                own = self.objective.loss(self.merged.module, part, self.learnt) / total
                own.backward()
                loss += float(own.detach())
        found = {name: np.zeros(values.size, np.float32) for name, values in weights.items()}
        for each in self.merged.held:
            if each.parameter.grad is not None:
                flat = each.parameter.grad.reshape(-1).numpy()
                for tensor, start, at, length in each.pieces:
                    found[tensor][start : start + length] += flat[at : at + length]
                each.parameter.grad = None
        return loss, found

    def held_out(self, weights: Mapping[str, np.ndarray]) -> float:
        """See `Answers`."""
        import torch

        self.write(weights)
        rows = self.kept.rows
        with torch.no_grad(), torch_threads(0):
            parts = together(rows, range(len(rows)), self.merged.module.config)
            total = sum(float(self.objective.loss(self.merged.module, part, self.kept)) for part in parts)
        return total / sum(self.objective.weight(row) for row in rows)


def _drawn(texts: int, step: int) -> list[int]:
    """The texts of a step: the next of an order that is drawn anew each time that it is through."""
    size = min(BATCH, texts)
    wanted = range(step * size, (step + 1) * size)
    orders = {
        turn: np.random.Generator(np.random.Philox(key(0, "align", f"turn {turn}"))).permutation(texts)
        for turn in {place // texts for place in wanted}
    }
    return [int(orders[place // texts][place % texts]) for place in wanted]
