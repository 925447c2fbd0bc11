"""The diagonal of the Fisher information: squared gradients of the log-likelihood, summed over examples.

    fisher     F = sum_x E_y (d log p(y | x) / d theta)^2
    gradient   the gradients themselves, summed
    sign       their signs, summed

The labels y are drawn from the model (`sampled`), are those of the data (`empirical`), or all classes in turn, weighed by their
probability (`exact`, for classifiers). The gradient is that of a whole example, squared after it is complete; a weight that is
used in several places, as tied embeddings are, has the sum of all its uses' gradients squared.

No more than one unit has its weights at a time: a unit keeps what it was called with, and is run again with gradients when its
turn comes on the way back.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.utils import _pytree as trees

from mergery.calibration.data import Row, inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.errors import DataError

Labels = Literal["sampled", "empirical", "exact"]
Work = Callable[[], Any]
OF_A_GRADIENT: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "fisher": np.square,
    "gradient": np.asarray,
    "sign": np.sign,
}
"""What is summed of each example's gradient, by kind."""


@dataclass
class Example:
    """One example on its way through the model and back: gradients that are not complete, float64 and flattened."""

    anchor: Any = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    called: Counter[str] = field(default_factory=Counter)  # how often each unit was
    waiting: Counter[str] = field(default_factory=Counter)  # calls of each unit without their gradients yet
    weights: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # by parameter, of units that were called several times
    tied: dict[str, np.ndarray] = field(default_factory=dict)  # by tensor of the view, of those that several units use
    share: float = 1.0  # how much its squares count


class Fisher:
    """Gathers gradients of a model, unit by unit: their squares, or the other kinds that are wanted."""

    def __init__(self, model: StreamedModel, kinds: Sequence[str] = ("fisher",)) -> None:
        self.model, self.kinds = model, tuple(kinds)
        self.sums: dict[tuple[str, str], np.ndarray] = {}  # by tensor and kind, float32, of the unit at hand, flattened
        self.late: dict[tuple[str, str], np.ndarray] = {}  # of tensors that several units use
        self.local = threading.local()  # the example of a pass's thread
        uses = Counter(
            tensor
            for unit in model.units
            for tensor in {piece[0] for _, _, name in unit.parameters for piece in model.stored(name)}
        )
        self.tied = {tensor for tensor, count in uses.items() if count > 1}

    def call(self, unit: Unit, ask: Callable[[Work], Any], args: Any, kwargs: Any) -> Any:
        """A unit's call within an example's pass: run without gradients, and remembered for the way back."""
        example: Example = self.local.example
        leaves, spec = trees.tree_flatten((args, kwargs))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        step = _Step(self, example, unit, ask, leaves, places, spec)
        example.called[unit.name] += 1
        outputs = _Run.apply(step, example.anchor, *[leaves[place] for place in places])
        for place, tensor in zip(step.found, outputs, strict=True):
            step.given[place] = tensor
        answer, step.given = trees.tree_unflatten(step.given, step.out), []
        return answer

    def pass_of(self, row: Row, labels: Labels, seed: int) -> Callable[[], None]:
        """The function that takes one example through the model and back."""

        def run() -> None:
            example = self.local.example = Example()
            with torch.enable_grad():
                logits = self.model.module(**inputs_of([row], self.model.config)).logits[0]
                for share, likelihood in likelihoods(logits, row, labels, seed):
                    example.share, example.waiting = share, Counter(example.called)
                    likelihood.backward(retain_graph=labels == "exact")
                    self.finish(example)

        return run

    def add(self, example: Example, unit: Unit, gradients: Mapping[str, Any]) -> None:
        """The gradients of a unit's parameters, by name, of one of its calls within an example."""
        for name, gradient in gradients.items():
            if gradient is not None:
                flat = gradient.detach().reshape(-1).double().numpy()
                example.weights[name] = example.weights[name] + flat if name in example.weights else flat
        example.waiting[unit.name] -= 1
        if example.waiting[unit.name] == 0:
            self._complete(example, list(gradients), self.sums)

    def finish(self, example: Example) -> None:
        """The example's gradients are complete."""
        self._complete(example, list(example.weights), self.late)
        self._add(example.tied, self.late, example.share)
        example.tied = {}

    def _complete(self, example: Example, names: Sequence[str], sums: dict[tuple[str, str], np.ndarray]) -> None:
        whole: dict[str, np.ndarray] = {}
        for name in names:
            flat = example.weights.pop(name, None)
            for tensor, start, at, length in self.model.stored(name) if flat is not None else ():
                into = example.tied if tensor in self.tied else whole
                if tensor not in into:
                    into[tensor] = np.zeros(self.model.view.nodes[tensor].elements)
                assert flat is not None
                into[tensor][start : start + length] += flat[at : at + length]
        self._add(whole, sums, example.share)

    def _add(self, gradients: Mapping[str, np.ndarray], sums: dict[tuple[str, str], np.ndarray], share: float) -> None:
        for tensor, gradient in gradients.items():
            for kind in self.kinds:
                value = (share * OF_A_GRADIENT[kind](gradient)).astype(np.float32)
                sums[tensor, kind] = sums[tensor, kind] + value if (tensor, kind) in sums else value

    def take(self, sums: dict[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
        """Sums as they are written, by name; they are then forgotten. Raises DataError where they are not finite."""
        for (name, _), flat in sums.items():
            if not np.isfinite(flat).all():
                raise DataError(
                    f"the gradients of {name!r} hold NaN or infinity", hint="the model overflows on this data"
                )
        shaped = {
            f"{name}.{kind}": flat.reshape(self.model.view.nodes[name].shape) for (name, kind), flat in sums.items()
        }
        sums.clear()
        return shaped


def likelihoods(logits: Any, row: Row, labels: Labels, seed: int) -> Iterator[tuple[float, Any]]:
    """Log-likelihoods of an example's labels, and how much the square of each one's gradient counts.

    Logits are (classes,), or (tokens, vocabulary) of which the last are those of the answer, and the token behind it.
    """
    if bool(logits.isnan().any()):
        raise DataError("the model answers NaN", hint="its weights hold NaN, or it overflows on this data")
    logs = torch.log_softmax(logits.float(), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    if logs.dim() == 1:
        if labels == "exact":
            yield from ((float(log.exp().detach()), log) for log in logs)
            return
        drawn = torch.multinomial(logs.detach().exp(), 1, generator=generator)[0]
        yield 1.0, logs[row.label if labels == "empirical" else drawn]
        return
    answer = row.answer if row.prompt else row.answer[1:]
    whole = len(logs) == len(row.tokens)  # a decoder's alone, which has read the prompt
    logs = logs[len(logs) - 1 - len(answer) : -1] if whole else logs
    if not len(answer):
        return
    told = torch.tensor(answer)
    if labels == "sampled":
        told = torch.multinomial(logs.detach().exp(), 1, generator=generator)[:, 0]
    yield 1.0, logs.gather(1, told[:, None]).sum()


@dataclass
class _Step:
    """One call of a unit: what it was given, and what it gave."""

    fisher: Fisher
    example: Example
    unit: Unit
    ask: Callable[[Work], Any]
    leaves: list[Any]
    places: list[int]  # of the tensors among the leaves
    spec: Any
    given: list[Any] = field(default_factory=list)  # what it gave, flattened
    found: list[int] = field(default_factory=list)  # places of tensors among these
    out: Any = None

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        """Run the unit; the tensors that it gives."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = trees.tree_unflatten(leaves, self.spec)
        self.given, self.out = trees.tree_flatten(self.unit.forward(*args, **kwargs))
        self.found = [place for place, leaf in enumerate(self.given) if isinstance(leaf, torch.Tensor)]
        return [self.given[place] for place in self.found]

    def forth(self, tensors: Sequence[Any]) -> list[Any]:
        """Run the unit without gradients."""
        with torch.no_grad():
            return self.run(tensors)

    def back(self, tensors: Sequence[Any], gradients: Sequence[Any], needed: Sequence[bool]) -> list[Any]:
        """The gradients of the tensors that it was given; those of its weights are kept."""
        names = [name for _, _, name in self.unit.parameters]
        weights = [holder._parameters[own] for holder, own, _ in self.unit.parameters]
        inputs = [
            tensor.detach().requires_grad_(need) if tensor.is_floating_point() else tensor
            for tensor, need in zip(tensors, needed, strict=True)
        ]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        with torch.enable_grad():
            for weight in weights:
                weight.requires_grad_(True)
            outputs = self.run(inputs)
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            found = torch.autograd.grad(
                [output for output, _ in pairs],
                [*wanted, *weights],
                [gradient for _, gradient in pairs],
                allow_unused=True,
            )
        self.given = []
        of_inputs = iter(found[: len(wanted)])
        self.fisher.add(self.example, self.unit, dict(zip(names, found[len(wanted) :], strict=True)))
        return [next(of_inputs) if tensor.requires_grad else None for tensor in inputs]


class _Run(torch.autograd.Function):
    """A unit as one step of autograd, which asks for its turn on the way there and on the way back."""

    @staticmethod
    def forward(ctx: Any, step: _Step, anchor: Any, *tensors: Any) -> Any:
        """The tensors that the unit gives."""
        ctx.step = step
        ctx.save_for_backward(*tensors)
        outputs = step.ask(lambda: step.forth(tensors))
        ctx.mark_non_differentiable(*[output for output in outputs if not output.is_floating_point()])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradients of the tensors that it was given."""
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        return (None, None, *ctx.step.ask(lambda: ctx.step.back(tensors, gradients, needed)))
