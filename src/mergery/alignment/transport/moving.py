"""Weights of a source in the coordinates of a target, in two passes over the activations of both.

The first pass finds the plan of every pair of layers in every space, and keeps of each what it costs and its potentials, which
are as long as the layers are wide. The second makes again the plans of the layers that are coupled, and with them the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from mergery.alignment.transport.capture import Activations
from mergery.alignment.transport.costs import Features, correlation, cost_of, standardised
from mergery.alignment.transport.coupling import Coupling, couple
from mergery.alignment.transport.heads import head_maps, size_of_heads
from mergery.alignment.transport.maps import Maps
from mergery.alignment.transport.parts import BY_COLUMN, SPACES, Part, Parts, layers_with
from mergery.alignment.transport.sinkhorn import Solution, solve
from mergery.architecture.fused import FusedPart
from mergery.calibration.model import StreamedModel
from mergery.calibration.replacing import write_arrays
from mergery.graph.fused import take_part
from mergery.kernels.random import key
from mergery.kernels.threads import quiet_torch

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """One of the two models: its weights, the parts in them, and what its neurons say."""

    model: StreamedModel
    parts: Parts
    activations: Activations
    lock: Lock = field(default_factory=Lock, compare=False)  # a model has one workspace

    def matrix(self, part: Part) -> Any:
        """A part's weights, float32 (outputs, inputs)."""
        values = self._values(part.name, part.fused)
        return values.T if part.turned else values

    def offset(self, part: Part) -> Any:
        """A part's bias, float32 (outputs,); None where it has none."""
        if part.bias is None:
            return None
        return self._values(part.bias, part.bias_fused)

    def _values(self, name: str, fused: FusedPart | None) -> Any:
        node = self.model.view.nodes[name]
        with self.lock:
            return self.model.values(node if fused is None else take_part(name, node, fused))


class PairCosts(NamedTuple):
    """What is known of all pairs of layers in a space, after the first pass."""

    layers: list[int]  # of the target
    others: list[int]  # of the source
    costs: Any  # float64 (layers, others)
    errors: np.ndarray
    converged: np.ndarray


@dataclass
class Mover:
    """Both passes. `how` are the settled options; `base` is a model whose weights the source began with, if only what it has
    learnt since is moved.
    """

    target: Side
    source: Side
    how: Mapping[str, Any]
    work: Path
    device: str = "cpu"
    workers: int = 1
    base: Side | None = None
    couplings: dict[str, Coupling] = field(default_factory=dict)
    spaces: dict[str, PairCosts] = field(default_factory=dict)

    @property
    def modules(self) -> Sequence[str]:
        return self.how["modules"]

    def run(self, told: Callable[[str, int, int], None]) -> list[Path]:
        """Move all weights into files, and return these. A run that was killed goes on."""
        with quiet_torch(load=True), ThreadPoolExecutor(self.workers, thread_name_prefix="mergery") as pool:
            self.pool = pool
            if self.how["control"] != "shrink":
                self.match(lambda done, total: told("matching neurons", done, total))
                self.couple()
            return self.move(lambda done, total: told("moving weights", done, total))

    # --- the first pass ---------------------------------------------------------------------------------------------------

    def match(self, told: Told) -> None:
        """Find what every pair of layers costs in every space."""
        self.work.mkdir(parents=True, exist_ok=True)
        places = {space: self._layers(space) for space in self._spaces()}
        total, done = sum(len(one) * len(other) for one, other in places.values()), 0
        for space, (layers, others) in places.items():
            found = []
            for layer in layers:
                file = self._file(space, layer)
                if not file.exists():
                    self._match_layer(space, layer, others, file)
                done += len(others)
                told(done, total)
                with np.load(file) as kept:
                    found.append((kept["costs"], kept["errors"], kept["converged"]))
            import torch

            costs, errors, converged = (np.stack(each) for each in zip(*found, strict=True))
            self.spaces[space] = PairCosts(layers, others, torch.from_numpy(costs), errors, converged)

    def _spaces(self) -> list[str]:
        return list(dict.fromkeys(space for module in self.modules for space in SPACES[module]))

    def _layers(self, space: str) -> tuple[list[int], list[int]]:
        """The layers of target and source that have a space."""
        first, second = (
            sorted(layer for layer, each in side.activations.sizes if each == space)
            for side in (self.target, self.source)
        )
        return first, second

    def _file(self, space: str, layer: int) -> Path:
        return self.work / f"{layer:05d} {space}.npz"

    def _features(self, side: Side, space: str, layer: int) -> Features:
        return standardised(side.activations.read((layer, space)).to(self.device))

    def _match_layer(self, space: str, layer: int, others: list[int], file: Path) -> None:
        own, signed = self._features(self.target, space, layer), self.how["sign"] == "signed"

        def one(other: int) -> tuple[float, Solution]:
            cost = cost_of(correlation(own, self._features(self.source, space, other)), signed=signed)
            found = solve(cost, self.how["epsilon"], iterations=self.how["iterations"], tolerance=self.how["tolerance"])
            return float((cost * found.plan(cost)).sum()), found

        found = list(self.pool.map(one, others))
        unfinished = file.with_suffix(".part")
        kept = {
            "costs": np.array([cost for cost, _ in found]),
            "errors": np.array([each.error for _, each in found]),
            "converged": np.array([each.converged for _, each in found]),
            "rows": np.stack([each.rows.cpu().numpy() for _, each in found]),
        }
        for other, (_, each) in zip(others, found, strict=True):
            kept[f"columns {other}"] = each.columns.cpu().numpy()
        with open(unfinished, "wb") as opened:
            np.savez(opened, allow_pickle=False, **kept)
        unfinished.rename(file)

    def couple(self) -> None:
        """Couple the layers of each module."""
        for module in self.modules:
            before, after = (self.spaces[space] for space in SPACES[module])
            layers, others = (layers_with(side.parts, module) for side in (self.target, self.source))
            costs = [
                each.costs[[each.layers.index(layer) for layer in layers]][
                    :, [each.others.index(other) for other in others]
                ]
                for each in (before, after)
            ]
            self.couplings[module] = couple(
                costs[0], costs[1], self.how["layers"], eta=self.how["eta"], relaxed=self.how["relaxed"],
                raw=self.how["mode"] == "paper",
            )  # fmt: skip

    # --- the second pass --------------------------------------------------------------------------------------------------

    def move(self, told: Told) -> list[Path]:
        """Make the weights of every layer, in a file for each."""
        layers = sorted({layer for layer, module in self.target.parts if module in self.modules})
        folder = self.work / "moved"
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{layer:05d}.safetensors" for layer in layers]
        for number, (layer, file) in enumerate(zip(layers, files, strict=True), 1):
            if not file.exists():
                write_arrays(file, self._layer(layer), {})
            told(number, len(layers))
        return files

    def _layer(self, layer: int) -> dict[str, np.ndarray]:
        """The tensors of a layer with transported neurons in them, float32, under the target's names and in its shapes."""
        found: dict[str, np.ndarray] = {}
        modules = [module for module in self.modules if (layer, module) in self.target.parts]
        for module, (chosen, weight, bias) in zip(
            modules, self.pool.map(lambda module: self.transported(layer, module), modules), strict=True
        ):
            part = self.target.parts[layer, module]
            values = self._held(found, part.name)
            matrix = values.T if part.turned else values
            rows = np.arange(part.shape[0]) if part.outputs is None else part.outputs
            add = self.how["fusion"] == "residual"
            at = np.ix_(rows, chosen) if module in BY_COLUMN else np.ix_(rows[chosen], np.arange(part.shape[1]))
            matrix[at] = matrix[at] + weight if add else weight
            if bias is not None and part.bias is not None:
                offset = self._held(found, part.bias)
                own = rows[chosen] if part.bias_fused is None else rows_of_bias(part)[chosen]
                offset[own] = offset[own] + bias if add else bias
        return found

    def _held(self, found: dict[str, np.ndarray], name: str) -> np.ndarray:
        if name not in found:
            model = self.target.model
            with self.target.lock:
                found[name] = model.values(model.view.nodes[name]).numpy()
        return found[name]

    def transported(self, layer: int, module: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The neurons of a module that change, and their weights: (neurons, inputs), or (outputs, neurons) where neurons stand
        in the inputs; and their biases, where both models have them.
        """
        import torch

        part = self.target.parts[layer, module]
        by_column = module in BY_COLUMN
        chosen = self._chosen(layer, module)
        shape = (part.shape[0], len(chosen)) if by_column else (len(chosen), part.shape[1])
        total = torch.zeros(shape, dtype=torch.float32, device=self.device)
        bias = None if part.bias is None or by_column else torch.zeros(len(chosen), device=self.device)
        for other, share in self._shares(layer, module):
            before = self._maps(SPACES[module][0], layer, other)
            out, into = self._out(module, layer, other, chosen), before.into(chosen if by_column else None)
            theirs = self.source.parts[other, module]
            weight, offset = self.source.matrix(theirs), self.source.offset(theirs)
            if self.base is not None:
                weight = weight - self.base.matrix(self.base.parts[other, module])
                first = self.base.offset(self.base.parts[other, module])
                offset = offset if offset is None or first is None else offset - first
            total += share * (out @ weight.to(self.device) @ into)
            if bias is not None:
                bias = None if offset is None else bias + share * (out @ offset.to(self.device))
        return chosen.cpu().numpy(), total.cpu().numpy(), None if bias is None else bias.cpu().numpy()

    def _out(self, module: str, layer: int, other: int, chosen: Any) -> Any:
        """The map of a module's outputs to the target's: of the chosen ones, or of all where neurons stand in the inputs."""
        if module in ("q", "k") and self.how["heads"]:
            sides = [
                [side.activations.read((number, space)).to(self.device) for space in ("q", "k")]
                for side, number in ((self.target, layer), (self.source, other))
            ]
            size = size_of_heads(self.target.model, self.source.model)
            maps = head_maps((sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]), size, self.how["epsilon"])
            return maps[module == "k"][chosen]
        rows = None if module in BY_COLUMN else chosen
        return self._maps(SPACES[module][1], layer, other).out(rows)

    def _chosen(self, layer: int, module: str) -> Any:
        """The target's neurons that change: those that say most, in the order in which they stand."""
        import torch

        space = SPACES[module][0 if module in BY_COLUMN else 1]
        size = self._features(self.target, space, layer).size
        wanted = self.how["neurons"]
        if not wanted or wanted >= len(size):
            return torch.arange(len(size), device=self.device)
        return torch.argsort(size, descending=True, stable=True)[:wanted].sort().values

    def _shares(self, layer: int, module: str) -> list[tuple[int, float]]:
        """The source's layers that go into one of the target's module, each with its factor."""
        if self.how["control"] == "shrink":
            return []
        coupling = self.couplings[module]
        layers, others = (layers_with(side.parts, module) for side in (self.target, self.source))
        row, shares = coupling.masses[layers.index(layer)], coupling.shares[layers.index(layer)]
        kept = [place for place in range(len(others)) if float(shares[place]) > self.how["least"]]
        if self.how["mode"] == "normalised":
            total = float(shares[kept].sum())
            return [(others[place], float(shares[place]) / total) for place in kept]
        factor = len(layers) if self.how["mode"] == "released" else 1
        return [(others[place], factor * float(row[place])) for place in kept]

    def _maps(self, space: str, layer: int, other: int) -> Maps:
        import torch

        with np.load(self._file(space, layer)) as kept:
            place = self.spaces[space].others.index(other)
            rows, columns = (
                torch.from_numpy(each).to(self.device) for each in (kept["rows"][place], kept[f"columns {other}"])
            )
        solution = Solution(rows, columns, self.how["epsilon"], 0.0, 0, True)
        source = self._features(self.source, space, other)
        order = None
        if self.how["control"] == "shuffled":
            generator = np.random.Generator(np.random.PCG64(key(self.how["seed"], space, str(other))))
            order = torch.from_numpy(generator.permutation(len(columns))).to(self.device)
        return Maps(
            self._features(self.target, space, layer), source, solution,
            mode=self.how["mode"], sign=self.how["sign"], scale=self.how["scale"], order=order,
        )  # fmt: skip


def rows_of_bias(part: Part) -> np.ndarray:
    """Which elements of a fused bias are a part's own."""
    assert part.bias_fused is not None
    return np.concatenate([np.arange(start, start + length) for start, length in part.bias_fused.spans])
