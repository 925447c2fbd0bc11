"""What is made small: entropy, cross-entropy, the distance to each model's own answers, or what a model cannot read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.calibration.data import Row
from mergery.calibration.learning.answers import Kind, count, logits, padded_inputs, targets


@dataclass(frozen=True)
class Source:
    """The rows of one file, and the model to which they belong; its name is empty where they belong to all.

    heads:   the model's own parameters that give the answer, where it keeps them.
    answers: the model's logits of all answers (answers, classes), one row of the file behind the other.
    """

    model: str
    rows: tuple[Row, ...]
    heads: Mapping[str, Any] = field(default_factory=dict)
    answers: np.ndarray | None = None
    starts: tuple[int, ...] = ()  # of each row's answers


def entropy(found: Any, rows: Sequence[Row], kind: Kind, wanted: Any) -> Any:
    """The entropy of answers, summed."""
    logs = found.log_softmax(dim=-1)
    return -(logs.exp() * logs).sum()


def surprise(found: Any, rows: Sequence[Row], kind: Kind, wanted: Any) -> Any:
    """The cross-entropy of the data's answers, summed."""
    import torch

    return torch.nn.functional.cross_entropy(found, targets(rows, kind), reduction="sum")


def distance(found: Any, rows: Sequence[Row], kind: Kind, wanted: Any) -> Any:
    """The Kullback-Leibler divergence from a model's own answers, summed."""
    logs, own = found.log_softmax(dim=-1), wanted.to(found.dtype).log_softmax(dim=-1)
    return (own.exp() * (own - logs)).sum()


LOSSES = {"entropy": entropy, "labels": surprise, "distill": distance}


@dataclass(frozen=True)
class Answering:
    """A loss of answers, as a mean over them."""

    kind: Kind
    objective: str

    def weight(self, row: Row) -> int:
        return count(row, self.kind)

    def loss(self, module: Any, numbers: Sequence[int], source: Source) -> Any:
        """The loss of rows, summed over their answers."""
        import torch

        rows = [source.rows[number] for number in numbers]
        wanted = None
        if source.answers is not None:
            spans = [(source.starts[number], self.weight(source.rows[number])) for number in numbers]
            wanted = torch.from_numpy(np.concatenate([source.answers[start : start + size] for start, size in spans]))
        return LOSSES[self.objective](logits(module, rows, self.kind), rows, self.kind, wanted)


@dataclass(frozen=True)
class Reading:
    """The share of activations that lies outside of what a model's own changes read (NSC, arXiv 2603.26317).

        omega(z) = sqrt(1 - |V^T z|^2 / |z|^2)        V an orthonormal basis (in, r) of the rows of D_i

    It is the mean over the matrices of the last quarter of the layers, and over tokens. Neither labels nor logits are needed.
    bases: V of each matrix, float32, by the model's name and the module's name.
    """

    bases: Mapping[str, Mapping[str, Any]]

    def weight(self, row: Row) -> int:
        return len(row.tokens)

    def loss(self, module: Any, numbers: Sequence[int], source: Source) -> Any:
        """The share that is not read by rows of a source, summed over their tokens."""
        bases = self.bases[source.model]
        given = padded_inputs([source.rows[number] for number in numbers], module.config)
        masks = {tuple(mask.shape): mask for name, mask in given.items() if name.endswith("attention_mask")}
        shares: list[Any] = []

        def seeing(basis: Any) -> Any:
            def see(_: Any, args: Any) -> None:
                rows = args[0]
                size = rows.square().sum(-1)
                inside = (rows @ basis.to(rows.dtype)).square().sum(-1)
                share = (1.0 - inside / size.clamp(min=1e-30)).clamp(min=1e-12).sqrt()
                mask = masks.get(tuple(share.shape))
                shares.append(share.mean() if mask is None else (share * mask).sum() / mask.sum())

            return see

        hooks = [module.get_submodule(name).register_forward_pre_hook(seeing(basis)) for name, basis in bases.items()]
        try:
            module(**given)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(shares) / len(shares) * sum(self.weight(source.rows[number]) for number in numbers)
