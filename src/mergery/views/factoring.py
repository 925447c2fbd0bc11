"""The factors of an adapter, made of what stands between matrices and their base.

Where a matrix is merged of others that are products of factors on one base, the merge is made of their cores (`space`), and no
matrix is multiplied out. Else the difference is, and its best product of the rank is taken: so it is with DoRA, which scales
the base's own rows, so that its difference has the rank of the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.dtypes import F32
from mergery.graph.gathering import from_ranges, zeros
from mergery.graph.nodes import Matrices, Merged, Node, Read, made_whole
from mergery.views.changes import Change, Product, distinct
from mergery.views.factored import Energies, Once, Wanted

if TYPE_CHECKING:
    from mergery.kernels.low_rank import Cores, Pair


@dataclass(frozen=True, eq=False)
class Factors:
    """The two factors of a module's change: nodes of B [out, r] and A [r, in], or [out, r x experts] and [experts x r, in]."""

    down: Node
    up: Node
    rank: int
    change: Change
    space: str  # in which they were merged


def factored(change: Change, wanted: Wanted, energies: Energies) -> Factors | None:
    """The factors of matrices minus their base; None where they are the base."""
    if change.unchanged:
        return None
    products = change.products if wanted.space != "full" else None
    if products is None:
        return _of_difference(change, wanted, energies)
    total = max(sum(product.rank for product in matrix) for matrix in products)
    if not total:
        return None
    rank = min(total, *change.sides, wanted.rank or total)
    alone = len(products[0]) == 1
    space = wanted.space or ("core" if rank >= min(total, *change.sides) or alone else "shared")
    return _of_cores(change, products, rank, space, wanted, energies)


def _of_cores(
    change: Change,
    products: Sequence[tuple[Product, ...]],
    rank: int,
    space: str,
    wanted: Wanted,
    energies: Energies,
) -> Factors:
    """The factors of merges of products: cores, the merge of the cores, and the best product of the rank for that."""
    name, sides, node = change.name, change.sides, change.first
    models = node.models if isinstance(node, Merged) else (name,)
    sources = distinct(node for matrix in products for product in matrix for node in product.nodes)
    totals = [sum(product.rank for product in matrix) for matrix in products]

    def frames(reads: Sequence[Read]) -> list[Any]:
        """For each matrix the models' cores and products; None where none changes it."""
        import torch

        from mergery.kernels.low_rank import core_space, shared_space

        values = {
            id(each): torch.from_numpy(np.ascontiguousarray(read(0, each.elements))).reshape(each.shape)
            for each, read in zip(sources, reads, strict=True)
        }
        found: list[tuple[Cores, list[Pair]] | None] = []
        for matrix, total in zip(products, totals, strict=True):
            pairs = [product.pair(values) for product in matrix]
            if not total:
                found.append(None)
            elif space == "shared":
                found.append((shared_space(pairs, rank, pico=wanted.pico), pairs))
            else:
                found.append((core_space(pairs, pico=wanted.pico), pairs))
        return found

    most = max(totals)
    memory = 8 * (sum(sides) * 2 * sum(totals) + (sum(sides) + 4 * most) * most)

    def core(place: int, number: int) -> Node:
        def make(reads: Sequence[Read]) -> np.ndarray:
            found = wanted.recent.get(name, lambda: frames(reads))[number]
            return found[0].cores[place].float().numpy()

        what = f"{models[place]} in {space} space"
        return made_whole(f"{name} core", shapes[number], sources, make, what, torch=True)

    shapes = [tuple(min(side, rank if space == "shared" else total, total) for side in sides) for total in totals]
    merged: list[Node] = []
    for number, (p, q) in enumerate(shapes):
        if not totals[number]:
            continue
        cores = tuple(core(place, number) for place in range(len(models)))
        made: Node = cores[0]
        if isinstance(node, Merged):
            matrices = Matrices(1, p, q) if node.matrices is not None else None
            base = zeros(f"{name} core", (p, q), F32) if node.base is not None else None
            own = f"{name} [expert {number}]" if change.stacked else node.name
            made = replace(node, name=own, inputs=cores, base=base, matrices=matrices)
        merged.append(made)

    def finish(reads: Sequence[Read]) -> Iterator[Pair | None]:
        import torch

        from mergery.kernels.low_rank import best, kept, restored

        rest = iter(reads[: len(merged)])
        held = {model: [0.0, 0.0] for model in models}
        for number, (p, q) in enumerate(shapes):
            if not totals[number]:
                yield None
                continue
            middle = torch.from_numpy(np.ascontiguousarray(next(rest)(0, p * q))).double().reshape(p, q)
            made, pairs = wanted.recent.get(name, lambda: frames(reads[len(merged) :]))[number]
            pair, _ = best(made.left, middle, made.right, rank)
            pair = restored(pair, pairs) if wanted.pico else pair
            for model, own in zip(models, pairs, strict=True):
                held[model] = [a + b for a, b in zip(held[model], kept(own, pair.left, pair.right), strict=True)]
            yield pair
        wanted.recent.drop(name)
        for model in models:
            energies.note(name, model, *held[model])

    return _both(change, (*merged, *sources), finish, rank, space, memory)


def _of_difference(change: Change, wanted: Wanted, energies: Energies) -> Factors:
    """The best products of the rank for differences that are multiplied out."""
    sides, models = change.sides, change.models
    rank = min(*sides, wanted.rank or min(sides))
    inputs = distinct(own for piece in change.pieces if isinstance(piece.node, Merged) for own in piece.node.inputs)
    sources = distinct((*change.sources, *(inputs if models else ())))

    def finish(reads: Sequence[Read]) -> Iterator[Pair]:
        from mergery.kernels.low_rank import Pair
        from mergery.kernels.spectral import svd

        found = {id(node): read for node, read in zip(sources, reads, strict=True)}
        what = "the merge" if isinstance(change.first, Merged) else "the fine-tune"
        held = {model: [0.0, 0.0] for model in (*models, what)}
        for number, (difference, size) in enumerate(change.differences(found)):
            u, s, vh = svd(difference, rank, of=size * 1e-3)
            noted = {what: (difference.square().sum(), s.square().sum())}
            base = change.matrix(number, lambda piece: found[id(piece.base)]) if models else difference
            for place, model in enumerate(models):
                own = change.matrix(number, change.input(place, found)) - base
                noted[model] = (own.square().sum(), (u.mT @ own @ vh.mT).square().sum())
            for model, sizes in noted.items():
                held[model] = [a + float(b) for a, b in zip(held[model], sizes, strict=True)]
            root = s.sqrt()
            yield Pair(u * root, root[:, None] * vh)
        for model, sizes in held.items():
            energies.note(change.name, model, *sizes)

    memory = 8 * 6 * sides[0] * sides[1]
    return _both(change, sources, finish, rank, "full", memory)


def _both(
    change: Change,
    sources: tuple[Node, ...],
    finish: Callable[[Sequence[Read]], Iterator[Pair | None]],
    rank: int,
    space: str,
    memory: int,
) -> Factors:
    """Nodes of the two factors: ranges of one tensor, which is made once for both. Ranks that a matrix lacks are zeros."""
    name, (outputs, inputs), count = change.name, change.sides, len(change.matrices)
    what = f"factors of rank {rank}, merged in {space} space"
    what = f"the best factors of rank {rank} of a difference" if space == "full" else what
    once, size = Once(2), outputs * rank * count

    def make(reads: Sequence[Read]) -> np.ndarray:
        def both() -> np.ndarray:
            values = np.zeros(size + count * rank * inputs, dtype=np.float32)
            up, down = values[:size].reshape(outputs, rank, count), values[size:].reshape(count, rank, inputs)
            for number, pair in enumerate(finish(reads)):
                if pair is not None:
                    up[:, : pair.rank, number], down[number, : pair.rank] = pair.left.numpy(), pair.right.numpy()
            return values

        return once.get(both)

    made = made_whole(name, (size + count * rank * inputs,), sources, make, what, memory, torch=True)
    b = from_ranges(f"{name} B", (outputs, rank * count), [(made, 0, size)])
    a = from_ranges(f"{name} A", (count * rank, inputs), [(made, size, count * rank * inputs)])
    return Factors(a, b, rank, change, space)
