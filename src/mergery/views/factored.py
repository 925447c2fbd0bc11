"""What stands between a tensor and its base, as the factors of an adapter.

Where a tensor is merged of others that are products of factors on one base, the merge is made of their cores (`space`), and no
matrix is multiplied out. Else the difference is, and its best product of the rank is taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.dtypes import F32
from mergery.graph.gathering import from_ranges, zeros
from mergery.graph.nodes import Computed, Gathered, LowRank, Matrices, Merged, Node, Read, Stored, made_whole

if TYPE_CHECKING:
    from mergery.kernels.low_rank import Cores, Pair

SPACES = ("core", "shared", "full")
"""Where adapters are merged: in all that they span, in the best bases of the output's rank, or multiplied out."""


@dataclass
class Energies:
    """How much of each adapter's squared length the factors hold: sums over tensors, filled while they are made."""

    whole: dict[str, dict[str, float]] = field(default_factory=dict)  # by tensor and model
    held: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, tensor: str, model: str, whole: float, held: float) -> None:
        self.whole.setdefault(tensor, {})[model] = whole
        self.held.setdefault(tensor, {})[model] = held

    def shares(self) -> dict[str, float]:
        """By model, the share of its squared length that is held, over all tensors."""
        models = dict.fromkeys(model for found in self.whole.values() for model in found)
        sums = {
            m: [sum(each.get(m, 0.0) for each in part.values()) for part in (self.held, self.whole)] for m in models
        }
        return {model: held / whole if whole else 1.0 for model, (held, whole) in sums.items()}


class Once:
    """A value that is made once, whoever asks first, and dropped when it was asked for as often as it is needed."""

    def __init__(self, uses: int) -> None:
        self._uses, self._lock, self._value, self._asked = uses, threading.Lock(), None, 0

    def get(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            value = make() if self._value is None else self._value
            self._asked += 1
            self._value = value if self._asked % self._uses else None
            return value


class Recent:
    """Values that were made lately, each once at a time, whoever asks: a worker asks for one several times in a row."""

    def __init__(self, most: int = 8) -> None:
        self._most, self._lock = most, threading.Lock()
        self._entries: dict[str, tuple[threading.Lock, list[Any]]] = {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is not there."""
        with self._lock:
            entry = self._entries[key] = self._entries.pop(key, None) or (threading.Lock(), [])
            if len(self._entries) > self._most:
                self._entries.pop(next(iter(self._entries)))
        with entry[0]:
            if not entry[1]:
                entry[1].append(make())
            return entry[1][0]


@dataclass(frozen=True)
class Wanted:
    """What factors are wanted: their rank (None: as many as nothing is lost with), where to merge, and Pico's calibration."""

    rank: int | None = None
    space: str | None = None
    pico: bool = False
    recent: Recent = field(default_factory=Recent, compare=False)


@dataclass(frozen=True, eq=False)
class Factors:
    """The two factors of a tensor's difference from its base: nodes of B [out, r] and A [r, in]."""

    down: Node
    up: Node
    rank: int
    made: Node  # both, as one tensor: to find what was noted of them
    space: str  # in which they were merged


def same_base(one: Node, other: Node) -> bool:
    """Whether two nodes are one stored tensor, or both are zeros."""
    if isinstance(one, Stored) and isinstance(other, Stored):
        return (one.checkpoint.location, one.info) == (other.checkpoint.location, other.info)
    return one is other or (is_zero(one) and is_zero(other) and one.shape == other.shape)


def is_zero(node: Node) -> bool:
    return isinstance(node, Gathered) and not node.sources


def unchanged(node: Node, base: Node) -> bool:
    """Whether a node is its base: the same tensor, or a merge in which nothing stands between the models and the base."""
    if not isinstance(node, Merged):
        return same_base(node, base)
    return all(same_base(row, base) for row in node.rows) and (node.method.takes == "gram" or _on_deltas(node, base))


def low_rank_of(node: Node, base: Node) -> tuple[LowRank, ...] | None:
    """The products that a node adds to a base; None where it is more than that."""
    if same_base(node, base):
        return ()
    if isinstance(node, Computed) and node.base is not None and same_base(node.base, base):
        return node.low_rank
    return None


def base_of(node: Node) -> Node | None:
    """The base on which a node's factors stand; None where it has none."""
    if isinstance(node, Computed):
        return node.base
    if isinstance(node, Merged):
        found = next((found for row in node.rows if (found := base_of(row)) is not None), node.base)
        alike = all(same_base(row, node.inputs[0]) for row in node.inputs)
        return found if found is not None or not alike else node.inputs[0]
    return None


def factored(name: str, node: Node, base: Node, wanted: Wanted, energies: Energies, *, turned: bool) -> Factors | None:
    """The factors of a matrix minus its base; None where it is the base. `turned` says that both are stored [in, out]."""
    if unchanged(node, base):
        return None
    inputs = node.inputs if isinstance(node, Merged) else (node,)
    found = [low_rank_of(each, base) for each in inputs]
    products = [each for each in found if each is not None]
    sides = (node.shape[1], node.shape[0]) if turned else (node.shape[0], node.shape[1])
    if len(products) < len(found) or wanted.space == "full" or not _on_deltas(node, base):
        return _of_difference(name, node, base, sides, wanted, energies, turned=turned)
    total = sum(each.left.shape[1] for product in products for each in product)
    if not total:
        return None
    rank = min(total, *sides, wanted.rank or total)
    space = wanted.space or ("core" if rank >= min(total, *sides) or len(inputs) == 1 else "shared")
    models = node.models if isinstance(node, Merged) else (name,)
    return _of_cores(name, node, products, models, sides, rank, space, wanted, energies)


def _on_deltas(node: Node, base: Node) -> bool:
    """Whether a merge is of differences from the base, so that it can be made of them alone."""
    if not isinstance(node, Merged) or is_zero(base):
        return True
    if node.base is not None:
        return same_base(node.base, base) and node.method.span != "models"
    method = node.method
    if method.gives != "coefficients" or method.takes == "gram" or method.asks:
        return False
    return abs(float(np.sum(method.function(len(node.inputs), **node.settings))) - 1.0) < 1e-6


def _pairs(products: Sequence[tuple[LowRank, ...]], sides: tuple[int, int], reads: Sequence[Read]) -> list[Pair]:
    """Each model's products as one; `reads` are of all their factors and scalars, in order."""
    import torch

    from mergery.kernels.low_rank import Pair

    rest, pairs = iter(reads), []

    def take(node: Node) -> Any:
        values = np.ascontiguousarray(next(rest)(0, node.elements))
        return torch.from_numpy(values).double().reshape(node.shape)

    for product in products:
        lefts, rights = [torch.zeros(sides[0], 0, dtype=torch.float64)], [torch.zeros(0, sides[1], dtype=torch.float64)]
        for each in product:
            left, right = take(each.left), take(each.right)
            scale = each.scale * (float(take(each.alpha)) if each.alpha is not None else 1.0)
            lefts.append(left * scale)
            rights.append(right)
        pairs.append(Pair(torch.cat(lefts, dim=1), torch.cat(rights)))
    return pairs


def _factor_nodes(products: Sequence[tuple[LowRank, ...]]) -> tuple[Node, ...]:
    nodes = [node for product in products for each in product for node in (each.left, each.right, each.alpha)]
    return tuple(node for node in nodes if node is not None)


def _of_cores(
    name: str,
    node: Node,
    products: Sequence[tuple[LowRank, ...]],
    models: tuple[str, ...],
    sides: tuple[int, int],
    rank: int,
    space: str,
    wanted: Wanted,
    energies: Energies,
) -> Factors:
    """The factors of a merge of products: cores, the merge of the cores, and the best product of the rank for that."""
    total = sum(each.left.shape[1] for product in products for each in product)
    p, q = (min(side, rank if space == "shared" else total) for side in sides)
    sources = _factor_nodes(products)

    def frame(reads: Sequence[Read]) -> tuple[Cores, list[Pair]]:
        from mergery.kernels.low_rank import core_space, shared_space

        pairs = _pairs(products, sides, reads)
        made = shared_space(pairs, rank, pico=wanted.pico) if space == "shared" else core_space(pairs, pico=wanted.pico)
        return made, pairs

    memory = 8 * (sum(sides) * 3 * total + 4 * total * total)

    def core(place: int) -> Node:
        def make(reads: Sequence[Read]) -> np.ndarray:
            return wanted.recent.get(name, lambda: frame(reads))[0].cores[place].float().numpy()

        return made_whole(
            f"{name} core", (p, q), sources, make, f"{models[place]} in {space} space", memory, torch=True
        )

    cores = tuple(core(place) for place in range(len(products)))
    merged: Node = cores[0]
    if isinstance(node, Merged):
        matrices = Matrices(1, p, q) if node.matrices is not None else None
        base = zeros(f"{name} core", (p, q), F32) if node.base is not None else None
        merged = replace(node, inputs=cores, base=base, matrices=matrices)

    def finish(reads: Sequence[Read]) -> Pair:
        import torch

        from mergery.kernels.low_rank import best, kept, restored

        middle = torch.from_numpy(np.ascontiguousarray(reads[0](0, p * q))).double().reshape(p, q)
        made, pairs = wanted.recent.get(name, lambda: frame(reads[1:]))
        pair, _ = best(made.left, middle, made.right, rank)
        pair = restored(pair, pairs) if wanted.pico else pair
        for model, own in zip(models, pairs, strict=True):
            energies.note(name, model, *kept(own, pair.left, pair.right))
        return pair

    return _both(name, (merged, *sources), finish, sides, rank, space, memory)


def _of_difference(
    name: str, node: Node, base: Node, sides: tuple[int, int], wanted: Wanted, energies: Energies, *, turned: bool
) -> Factors:
    """The best product of the rank for a difference that is multiplied out."""
    rank = min(*sides, wanted.rank or min(sides))

    def finish(reads: Sequence[Read]) -> Pair:
        import torch

        from mergery.kernels.low_rank import Pair
        from mergery.kernels.spectral import svd

        own, theirs = (np.ascontiguousarray(read(0, node.elements)) for read in reads)
        difference = (torch.from_numpy(own).double() - torch.from_numpy(theirs).double()).reshape(node.shape)
        size = torch.linalg.vector_norm(torch.from_numpy(theirs).double())
        u, s, vh = svd(difference.mT if turned else difference, rank, of=size * 1e-3)
        root = s.sqrt()
        what = "the merge" if isinstance(node, Merged) else "the fine-tune"
        energies.note(name, what, float(difference.square().sum()), float(s.square().sum()))
        return Pair(u * root, root[:, None] * vh)

    memory = 8 * 4 * node.elements
    return _both(name, (node, base), finish, sides, rank, "full", memory)


def _both(
    name: str,
    sources: tuple[Node, ...],
    finish: Callable[[Sequence[Read]], Pair],
    sides: tuple[int, int],
    rank: int,
    space: str,
    memory: int,
) -> Factors:
    """Nodes of the two factors: ranges of one tensor, which is made once for both."""
    what = f"factors of rank {rank}, merged in {space} space"
    what = f"the best factors of rank {rank} of a difference" if space == "full" else what
    once, up = Once(2), sides[0] * rank

    def make(reads: Sequence[Read]) -> np.ndarray:
        def both() -> np.ndarray:
            pair = finish(reads)
            return np.concatenate([each.float().contiguous().numpy().reshape(-1) for each in pair])

        return once.get(both)

    made = made_whole(name, (up + rank * sides[1],), sources, make, what, memory, torch=True)
    b = from_ranges(f"{name} B", (sides[0], rank), [(made, 0, up)])
    a = from_ranges(f"{name} A", (rank, sides[1]), [(made, up, rank * sides[1])])
    return Factors(a, b, rank, made, space)
