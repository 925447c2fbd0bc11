"""What each model adds to each tensor at weight 1, float32 in files, of which a window is in memory at a time.

A file for the merge without any model, and one for each model, with the tensors one behind the other; zeros take no space on
disks that can leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mergery.calibration.learning.host import Host
from mergery.calibration.opening import merged_statistics
from mergery.dtypes import F32
from mergery.engine import Workspace, evaluator
from mergery.planning.plan import Plan
from mergery.run.output import write_at_once

WINDOW = 1 << 20  # elements that are in hand at once


@dataclass(frozen=True)
class Additions:
    """Tensors by name: W_0 and D_1 .. D_k, flat. Where no model adds anything, a tensor has no weights."""

    names: tuple[str, ...]
    starts: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    rows: Sequence[np.ndarray]  # W_0, D_1 .. D_k: float32, all tensors one behind the other
    moved: frozenset[str]  # tensors to which some model adds something

    def of(self, name: str, row: int) -> np.ndarray:
        """One tensor of W_0 (row 0) or D_row, flat."""
        start = self.starts[name]
        return self.rows[row][start : start + int(np.prod(self.shapes[name], dtype=np.int64))]

    def merged(self, name: str, weights: np.ndarray, start: int, into: np.ndarray) -> None:
        """Write elements [start, start + len(into)) of a tensor with some weights (k,): float32 or float64, as `into` is."""
        for first in range(0, len(into), WINDOW):
            part = into[first : first + WINDOW]
            at = slice(start + first, start + first + len(part))
            np.copyto(part, self.of(name, 0)[at])
            if name in self.moved:
                for row, weight in enumerate(weights, 1):
                    part += part.dtype.type(weight) * self.of(name, row)[at]

    def products(self, name: str, start: int, gradient: np.ndarray) -> np.ndarray:
        """<gradient, D_i> over elements [start, start + len(gradient)) of a tensor: float64 (k,), summed by windows."""
        found = np.zeros(len(self.rows) - 1)
        for first in range(0, len(gradient), WINDOW):
            part = gradient[first : first + WINDOW].astype(np.float64)
            at = slice(start + first, start + first + len(part))
            found += [float(np.sum(part * self.of(name, row)[at])) for row in range(1, len(self.rows))]
        return found


def nbytes(host: Host) -> int:
    """Bytes of the files, at most."""
    return 4 * sum(node.elements for node in host.nothing.view.nodes.values()) * (len(host.units) + 1)


def gather(host: Host, folder: Path, told: Callable[[int, int], None]) -> Additions:
    """Make the files, or open those that an earlier run has made. Raises DataError for what is not finite."""
    nodes = {name: node for name, node in host.nothing.view.nodes.items() if node.dtype.floating}
    starts, total = {}, 0
    for name, node in nodes.items():
        starts[name] = total
        total += node.elements
    plans = (host.nothing, *host.units)
    done = folder / "moved"
    if not done.exists():
        moved: set[str] = set()
        for number, plan in enumerate(plans):
            path = folder / f"{number}.f32"
            with open(path, "wb") as file:
                file.truncate(4 * total)
            row = np.memmap(path, np.float32, "r+", shape=(total,))
            first = np.memmap(folder / "0.f32", np.float32, "r", shape=(total,)) if number else None
            for name, values in _tensors(plan, list(nodes)):
                here = slice(starts[name], starts[name] + len(values))
                if first is not None:
                    values = values - first[here]
                if values.any():
                    row[here] = values
                    moved |= {name} if number else set()
            row.flush()
            told(number + 1, len(plans))
        write_at_once(done, "".join(f"{name}\n" for name in sorted(moved)))
    rows = [np.memmap(folder / f"{number}.f32", np.float32, "r", shape=(total,)) for number in range(len(plans))]
    shapes = {name: tuple(node.shape) for name, node in nodes.items()}
    return Additions(tuple(nodes), starts, shapes, rows, frozenset(done.read_text().splitlines()))


def _tensors(plan: Plan, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of a merge, made one after the other: float32, flat."""
    shared, workspace = merged_statistics(plan), Workspace()
    for name in names:
        node = plan.view.nodes[name]
        values = np.empty(node.elements, np.float32)
        making = evaluator(node, shared, workspace)
        making.prepare()
        for start, stop in making.outputs():
            making.compute(start, stop, values[start:stop].view(np.uint8), F32)
        yield name, values
