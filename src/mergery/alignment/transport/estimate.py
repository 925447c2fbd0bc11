"""What a transport takes: time, memory and disk, from shapes and counts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mergery.alignment.transport.capture import Place, sizes_of
from mergery.alignment.transport.parts import Parts, layers_with
from mergery.alignment.transport.texts import Paired
from mergery.calibration.demand import RATE
from mergery.calibration.model import StreamedModel
from mergery.errors import size
from mergery.report.words import about

READ = 8e9  # bytes of a matrix that an iteration reads in a second
MATRICES = 5  # float64 matrices of a pair of layers that are there at once


@dataclass(frozen=True)
class Estimate:
    """What is going to be done, and takes how much.

    pairs:   plans of neurons that are made. neurons: of the widest space, of target and source.
    seconds: of running the models (`forward`) and of plans and products (`matching`), on a processor's core or two.
    disk:    bytes of activations, while it runs. memory: bytes of the plans at hand. weights: bytes that are kept.
    """

    modules: tuple[str, ...]
    layers: tuple[int, int]
    neurons: tuple[int, int]
    texts: int
    rows: int
    pairs: int
    forward: float
    matching: float
    disk: int
    memory: int
    weights: int

    @property
    def words(self) -> list[str]:
        """The same in lines."""
        return [
            f"{', '.join(self.modules)} of {self.layers[1]} layers of the source into {self.layers[0]} of the target",
            f"{self.texts} texts, {self.rows} rows; {self.pairs} plans of up to {self.neurons[0]} x {self.neurons[1]} neurons",
            f"running both models {about(self.forward)}, matching {about(self.matching)}",
            f"{size(self.memory)} of memory beside the models' blocks, {size(self.disk)} of disk for activations meanwhile, "
            f"{size(self.weights)} for transported weights",
        ]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    models: Mapping[str, StreamedModel], parts: Mapping[str, Parts], texts: Paired, how: Mapping[str, Any]
) -> Estimate:
    """What a transport takes; `how` are its settled options."""
    wanted, rows = tuple(how["modules"]), texts.rows
    sizes = {name: sizes_of(parts[name], wanted) for name in ("target", "source")}
    tokens = {name: sum(len(text.ids) for text in getattr(texts, name)) for name in sizes}
    forward = sum(2.0 * tokens[name] * _weights(models[name]) for name in sizes) / RATE
    pairs, work, bytes_read, largest = 0, 0.0, 0.0, 0
    for (_, space), width in sizes["target"].items():
        for other in _of(sizes["source"], space):
            pairs += 1
            work += 2.0 * rows * width * other
            bytes_read += 16.0 * width * other * how["iterations"]
            largest = max(largest, width * other)
    widest = [max(each.values(), default=0) for each in sizes.values()]
    changed = [part for (_, module), part in parts["target"].items() if module in wanted]
    matrices = [part.shape[0] * part.shape[1] for part in changed]
    return Estimate(
        wanted,
        (len(layers_with(parts["target"], wanted[0])), len(layers_with(parts["source"], wanted[0]))),
        (widest[0], widest[1]),
        len(texts.target),
        rows,
        pairs,
        forward,
        2 * work / RATE + bytes_read / READ,
        4 * rows * sum(sum(each.values()) for each in sizes.values()),
        8 * MATRICES * largest,
        4 * sum(matrices),
    )


def _of(sizes: Mapping[Place, int], space: str) -> list[int]:
    return [width for (_, each), width in sizes.items() if each == space]


def _weights(model: StreamedModel) -> int:
    """Numbers in a model's matrices."""
    return sum(node.elements for node in model.nodes.values() if len(node.shape) == 2)
