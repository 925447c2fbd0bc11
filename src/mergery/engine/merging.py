"""Makes a merged tensor: reduce, then map."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mergery.dtypes import F32, F64, DType
from mergery.engine import calling as tensors
from mergery.engine import reductions as reduce
from mergery.engine.evaluator import Evaluator
from mergery.engine.ranks import NARROW
from mergery.engine.reader import RUN, Reader, sampled_runs
from mergery.engine.workspace import KEPT, Shared, Workspace
from mergery.graph.nodes import Merged
from mergery.graph.products import route_of
from mergery.graph.ranks import ranks_of_derived
from mergery.kernels import random as keyed
from mergery.kernels.devices import CPU
from mergery.kernels.ranks import WIDTH
from mergery.method import Ask, Consensus, Largest, Sum
from mergery.method.compiled import Compiled, find_compiled
from mergery.method.consensus import Rule
from mergery.method.piece import Piece

TEMPORARIES = 4  # float32 intermediates for each row that methods on tensors hold at once
GRAMS = 2  # Gram matrices of all columns that are held at once: as they are summed, and as the method takes them
FUSED = 2  # the same of methods that have a compiled version


class Merging(Evaluator[Merged]):
    """Evaluates one merged tensor: runs the reductions that its method asks for, then maps window by window."""

    def __init__(self, node: Merged, shared: Shared, workspace: Workspace, level: int = 0) -> None:
        super().__init__(node, shared, workspace, level)
        self.method, self.settings = node.method, node.settings
        self.reader = Reader(node, self.inner, shared, workspace, level)
        self.reader.keeps = self.reduces and workspace.device == CPU  # a GPU's windows are larger than what is kept
        self.keys = np.array([keyed.key(shared.seed, node.name, model) for model in node.models], dtype=np.uint64)
        self.asked: dict[str, Any] = {}
        self.memory: dict[Any, Any] = {}  # of compiled versions
        self.result: Any = None
        self.ready = False

    @property
    def grain(self) -> int:
        """See `Evaluator.grain`."""
        return self.reader.grain

    @property
    def reduces(self) -> bool:
        """See `Evaluator.reduces`."""
        return self.method.reads_twice(self.settings) or super().reduces

    def outputs(self) -> Iterator[tuple[int, int]]:
        """The windows in which the result is made: small ones, to stay in the cache, where nothing is read twice."""
        reader = self.reader
        yield from reader.windows() if self.reduces else reader.pieces(0, reader.n)

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`."""
        reader = self.reader
        if not reader.n:
            return 0
        start, stop = next(self.outputs())
        size, row = max(size, stop - start), len(reader.rows) * reader.itemsize
        total = size * row
        if reader.keeps:
            total += min(KEPT, reader.n * row)
        if self.method.ranks(self.settings):
            total += reader.k * NARROW * WIDTH * 8 + min(reader.n, sampled_runs(reader.n) * RUN) * row
        if reader.workspace.device == CPU:
            total += self.temporaries
        if reader.scope == "column":
            total += GRAMS * reader.columns * reader.k**2 * F64.itemsize
        beside = 0
        if self.node.matrices is not None and len(self.inner) > len(reader.rows):
            gram = self.node.matrices.together * self.node.matrices.sides[1] ** 2
            beside = gram * F32.itemsize * (len(self.inner) - len(reader.rows))
        rows = zip(self.inner, self.node.rows, strict=True)
        return total + beside + sum(inner.held(size, row.dtype) for inner, row in rows)

    @property
    def temporaries(self) -> int:
        """Bytes of intermediate tensors, on the device, while a method works on tensors."""
        if self.method.gives != "tensor" and self.reader.scope == "tensor":
            return 0
        start, stop = next(self.reader.slices(0, self.reader.n))
        rows = (stop - start) * F32.itemsize * len(self.reader.rows)
        route = route_of(self.node)
        if route is not None:
            return rows + route.workspace
        return rows * (FUSED if self.compiled(self.method.function) else TEMPORARIES)

    # --- reduce -------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Run every reduction that the method asks for, in the order of its signature; then call it, if that is all."""
        if self.ready:
            return
        super().prepare()
        self.before()
        if self.method.gives != "tensor" and self.reader.scope == "tensor":
            first = self._gram() if self.method.takes == "gram" else self.reader.k
            result = self.method.function(first, **self.asked, **self.settings)
            if self.method.gives == "coefficients":
                with np.errstate(over="ignore"):  # what does not fit is told when it is checked
                    self.result = np.ascontiguousarray(result, dtype=np.float32)[None]
            else:
                self.result = self._rule(result)
        elif self.reader.scope == "column":
            self.result = self._coefficients(tensors.column_gram(self.reader))
        self.ready = True

    def before(self, stop: str = "") -> Merging:
        """Itself, with answers to all asks, or to those that come before the one called `stop`."""
        for kind, asks in grouped(self.method.asks, self.settings):
            names = [name for name, _ in asks]
            if stop in names:
                break
            if names[0] in self.asked:
                continue
            if kind is None:
                self.asked |= dict.fromkeys(names)
            elif asks[0][1].spans_model(self.settings) and not self.shared.alone:
                self.asked |= {name: self._of_model(name) for name in names}
            elif kind is Sum:
                self.asked |= zip(names, self.sums([ask.of for _, ask in asks if isinstance(ask, Sum)]), strict=True)
            else:
                self.asked |= self._order([(name, ask) for name, ask in asks if isinstance(ask, Largest)])
        return self

    def _of_model(self, name: str) -> Any:
        """What the run has found out about the whole model."""
        return self.shared.statistics[self.node.merge, f"{self.method.name}.{name}"]

    def _gram(self) -> np.ndarray:
        if self.method.gram_spans_model(self.settings) and not self.shared.alone:
            return np.array(self._of_model(self.method.first))
        return reduce.gram(self.reader)

    @property
    def known(self) -> dict[str, Any]:
        """Settings, and answers to asks so far."""
        return {**self.settings, **self.asked}

    def derived(self, of: Any, pieces: Iterable[tuple[int, int]] | None = None) -> Iterator[Any]:
        """What an ask's `of` gives, piece by piece: a tensor, or a list of them."""
        reader, known = self.reader, self.known
        for start, stop in reader.pieces(0, reader.n) if pieces is None else pieces:
            reader.load(start, stop)
            for first, last in reader.slices(start, stop):
                yield tensors.call(reader, of, known, self.keys, start, first, last)

    def compiled(self, function: Any) -> Compiled | None:
        """The compiled version of a function, on the processor."""
        return find_compiled(function) if self.reader.workspace.device == CPU else None

    def gives_each(self, of: Any) -> bool:
        """Whether an ask's `of` gives one tensor for each model."""
        compiled = self.compiled(of)
        return compiled.each if compiled else isinstance(next(iter(self.derived(of))), (list, tuple))

    def stacked(self, of: Any, pieces: Iterable[tuple[int, int]] | None = None) -> Iterator[np.ndarray]:
        """The same as float32 (tensors, elements)."""
        compiled = self.compiled(of)
        if compiled is None:
            for values in self.derived(of, pieces):
                items = values if isinstance(values, (list, tuple)) else [values]
                yield np.stack(
                    [item.reshape(-1).cpu().numpy() for item in items], dtype=np.float32, casting="same_kind"
                )
            return
        items = self.reader.k if compiled.each else 1
        for start, stop in self.reader.pieces(0, self.reader.n) if pieces is None else pieces:
            values = np.empty((items, stop - start), dtype=np.float32)
            self.reader.check(compiled.run(self._piece(start, stop), values), F32)
            yield values

    def _piece(self, start: int, stop: int) -> Piece:
        """A window as compiled versions take it."""
        reader = self.reader
        raw = reader.load(start, stop)
        return Piece(
            raw, reader.codes, stop - start, start, reader.columns, reader.block, self.keys, self.known, self.memory
        )

    def _order(self, asks: list[tuple[str, Largest]]) -> dict[str, Any]:
        """Order statistics of one thing: the models' deltas, or what is derived from them."""
        of = asks[0][1].of
        if of is None:
            return reduce.thresholds(self.reader, asks, self.asked)
        each = self.gives_each(of)
        ranks = reduce.ranking(
            asks, self.reader.n, lambda n: ranks_of_derived(self.node, asks, n, self.asked, each=each)
        )
        few = self.reader.sampled_pieces()
        sample = (lambda: self.stacked(of, few)) if few else None
        k = self.reader.k if each else 1
        values = reduce.largest_of(lambda: self.stacked(of), ranks, k, self.reader.n, sample)
        columns = [values[:, column].tolist() for column in range(len(asks))]
        return {name: column if each else column[0] for (name, _), column in zip(asks, columns, strict=True)}

    def sum(self, of: Any) -> float | list[float]:
        """Float64 sums over the tensor of what an ask's `of` gives."""
        return self.sums([of])[0]

    def sums(self, functions: list[Any]) -> list[float | list[float]]:
        """Float64 sums over the tensor of what the `of` of several asks give, in one pass."""
        reader, grain, each = self.reader, self.reader.block, [True] * len(functions)
        sums: list[list[list[float]]] = [
            [] for _ in functions
        ]  # not arrays: small ones that stay, among large ones that go, keep memory from returning
        for start, stop in reader.pieces(0, reader.n):
            reader.load(start, stop)
            for number, of in enumerate(functions):
                each[number], parts = self._block_sums(of, start, stop, grain)
                sums[number] = sums[number] or [[] for _ in parts]
                for own, part in zip(sums[number], parts, strict=True):
                    own += part.tolist()
        totals = [[math.fsum(own) for own in items] for items in sums]
        return [total if many else total[0] for total, many in zip(totals, each, strict=True)]

    def _block_sums(self, of: Any, start: int, stop: int, grain: int) -> tuple[bool, list[np.ndarray]]:
        """Whether `of` gives a tensor for each model, and the sums of a piece, item by item."""
        compiled = self.compiled(of)
        if compiled is None:
            each, slices = False, []
            for values in self.derived(of, [(start, stop)]):
                each = isinstance(values, (list, tuple))
                items = values if each else [values]
                slices.append([reduce.block_sums(item.reshape(-1).cpu().numpy(), grain) for item in items])
            return each, [np.concatenate(parts) for parts in zip(*slices, strict=True)]
        out = np.empty((self.reader.k if compiled.each else 1, -(-(stop - start) // grain)))
        self.reader.check(compiled.run(self._piece(start, stop), out), F32)
        return compiled.each, list(out)

    def _rule(self, consensus: Consensus) -> Rule:
        """A consensus as the kernels take it; what preserves L1 norms is found in one more pass."""
        rule = consensus.rule()
        if consensus.preserve_l1:
            thinning = (rule.least, rule.most, rule.probability, rule.random)
            before, after = reduce.l1_norms(self.reader, self.keys, thinning)
            for model in range(self.reader.k):
                rule.gain[model] *= before[model] / after[model] if after[model] > 0.0 else 1.0
        return rule

    # --- map ----------------------------------------------------------------------------------------------------------

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        self.prepare()
        reader, kernel = self.reader, self.reader.workspace.kernels
        raw = reader.load(start, stop)
        size = stop - start
        if self.method.gives == "tensor" or reader.scope != "tensor":
            self._map_tensors(start, stop, out, dtype)
        elif self.method.gives == "consensus":
            status = kernel.consensus(raw, reader.codes, size, start, self.keys, *self.result, out, dtype.code)
            reader.check(status, dtype)
        else:
            reader.check(kernel.mix(raw, reader.codes, size, reader.deltas, self.result, out, dtype.code), dtype)

    def _map_tensors(self, window: int, end: int, out: np.ndarray, dtype: DType) -> None:
        compiled = self.compiled(self.method.function) if self.reader.scope == "tensor" else None
        if compiled is not None:
            self.reader.check(compiled.run(self._piece(window, end), out, dtype.code), dtype)
            return
        known = self.known
        for start, stop in self.reader.slices(window, end):
            if self.reader.scope == "tensor":
                function = self.method.function
                result = tensors.call(self.reader, function, known, self.keys, window, start, stop)
            else:
                vectors, base = tensors.spanned(self.reader, window, start, stop)
                by_row = self.reader.scope == "row"
                shares = self._coefficients(tensors.row_gram(vectors)) if by_row else self.result
                result = tensors.mix_vectors(self.reader, vectors, base, shares)
            first, last = (start - window) * dtype.itemsize, (stop - window) * dtype.itemsize
            tensors.store(self.node, result, out[first:last], dtype)

    def _coefficients(self, gram: np.ndarray) -> np.ndarray:
        return self.method.function(gram, **self.asked, **self.settings)


def grouped(
    asks: tuple[tuple[str, Ask], ...], settings: Mapping[str, Any]
) -> Iterator[tuple[type[Sum] | type[Largest] | None, list[tuple[str, Ask]]]]:
    """Asks in the order of the signature, those together that one pass can answer: neighbours that want order statistics
    of the same thing, or sums none of which needs another.

    The kind is None for asks that the settings make needless.
    """

    def kind(item: tuple[str, Ask]) -> tuple[Any, Any, bool]:
        _, ask = item
        if not ask.needed(settings):
            return None, None, False
        return type(ask), (ask.of, ask.nonzero) if isinstance(ask, Largest) else None, ask.spans_model(settings)

    streamed = [item for item in asks if item[1].streamed]
    for (which, _, _), found in itertools.groupby(streamed, kind):
        group: list[tuple[str, Ask]] = []
        for name, ask in found:
            if which is Sum and isinstance(ask, Sum) and {known for known, _ in group} & names_of(ask.of):
                yield which, group
                group = []
            group.append((name, ask))
        yield which, group


def names_of(function: Any) -> set[str]:
    """The parameters of a function."""
    return set(inspect.signature(function).parameters)
