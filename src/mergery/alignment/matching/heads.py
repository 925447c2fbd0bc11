"""A layer's heads matched: key heads with the query heads that share them, and the matrices that nothing else sees.

Heads are compared by what is left of their difference once the matrices of their queries and keys, and of their values and
outputs, are as good as they can be. So it does not matter in which coordinates each head works (arXiv 2502.00264, 2506.22712).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mergery.alignment.matching.assignment import best_order
from mergery.alignment.matching.gauges import any_matrix, distance, dual, kept, of_queries_and_keys
from mergery.alignment.matching.pairs import Pair, unfolded
from mergery.alignment.matching.units import Agreement
from mergery.architecture.spaces import Attention
from mergery.views.transforms import Heads


@dataclass(frozen=True, eq=False)
class Side:
    """One model's heads, float64: queries and outputs [query heads, size, m], keys and values [key heads, size, m]."""

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    mixed: np.ndarray

    def of_group(self, group: int, own: Attention) -> slice:
        """The query heads of a key head."""
        return slice(group * own.shared, (group + 1) * own.shared)


class Matched(NamedTuple):
    """Two groups as well matched as they can be: what is left of their difference, and how."""

    left: float
    inner: np.ndarray  # which query head of the model's group comes to each place
    qk: np.ndarray
    vo: np.ndarray


def sides(layer: int, pairs: Sequence[Pair], own: Attention) -> tuple[Side, Side]:
    """The heads of the reference and of the model, whose pieces are in the reference's residual coordinates."""
    found: list[dict[str, np.ndarray]] = [{}, {}]
    for word in ("queries", "keys", "values", "mixed"):
        space = f"layers.{layer}.{word}"
        axes = [(pair, pair.along(space)) for pair in pairs]
        use = [(pair, axis) for pair, axis in axes if axis is not None and pair.piece.axes[axis].signed]  # type: ignore[union-attr]
        for side, values in zip(found, ([p.one for p, _ in use], [p.other for p, _ in use]), strict=True):
            parts = [unfolded(each, axis) for each, (_, axis) in zip(values, use, strict=True)]
            whole = np.concatenate(parts, axis=1).astype(np.float64)
            side[word] = whole.reshape(len(whole) // own.size, own.size, -1)
    return Side(**found[0]), Side(**found[1])


def match_heads(one: Side, other: Side, own: Attention, wanted: Collection[str]) -> Heads:
    """The heads of the model, `other`, that come to the places of the reference's. `wanted` has heads, qk and vo, or some."""
    matched = {(group, group): _match_groups(one, other, own, group, group, wanted) for group in range(own.keys)}
    groups = np.arange(own.keys)
    if "heads" in wanted and own.order and own.keys > 1 and not heads_agree(one, other, own):
        for first in range(own.keys):
            for second in range(own.keys):
                if first != second:
                    matched[first, second] = _match_groups(one, other, own, first, second, wanted)
        left = np.array([[matched[first, second].left for second in range(own.keys)] for first in range(own.keys)])
        found, places = best_order(-left), np.arange(own.keys)
        if left[places, found].sum() < left[places, places].sum() * (1 - 1e-9):
            groups = found
    chosen = [matched[place, int(group)] for place, group in enumerate(groups)]
    queries = [group * own.shared + each.inner for group, each in zip(groups, chosen, strict=True)]
    qk, vo = (_unless_still(np.stack(each)) for each in zip(*((each.qk, each.vo) for each in chosen), strict=True))
    return Heads(groups, np.concatenate(queries), qk, vo)


def with_gauges(one: Side, other: Side, own: Attention, heads: Heads, wanted: Collection[str]) -> Heads:
    """The same heads in the same places, with the best matrices of the kinds that are wanted: qk, vo."""
    qk, vo = [], []
    for place, group in enumerate(heads.groups.tolist()):
        inner = heads.queries[one.of_group(place, own)] - group * own.shared
        made = _match_gauges(one, other, own, place, group, inner, wanted)
        qk.append(made.qk)
        vo.append(made.vo)
    return Heads(
        heads.groups,
        heads.queries,
        _unless_still(np.stack(qk)) if "qk" in wanted else heads.qk,
        _unless_still(np.stack(vo)) if "vo" in wanted else heads.vo,
    )


def _unless_still(matrices: np.ndarray) -> np.ndarray | None:
    """None where all are the identity."""
    return None if np.array_equal(matrices, np.broadcast_to(np.eye(matrices.shape[1]), matrices.shape)) else matrices


def left_between(one: Side, other: Side, own: Attention, heads: Heads) -> float:
    """What is left of the difference of a layer's heads with a choice of them: a sum of squares."""
    total, still = 0.0, np.eye(own.size)
    for place, group in enumerate(heads.groups):
        mine, theirs = one.of_group(place, own), heads.queries[other.of_group(place, own)]
        qk = still if heads.qk is None else heads.qk[place]
        vo = still if heads.vo is None else heads.vo[place]
        total += distance(
            qk, one.keys[place], other.keys[group], _flat(one.queries[mine]), _flat(other.queries[theirs])
        )
        total += distance(
            vo, one.values[place], other.values[group], _flat(one.mixed[mine]), _flat(other.mixed[theirs])
        )
    return total


def _flat(heads: np.ndarray) -> np.ndarray:
    """Heads [n, size, m] beside one another: [size, n x m]."""
    return np.concatenate(list(heads), axis=1)


def heads_agree(one: Side, other: Side, own: Attention) -> bool:
    """Whether all heads are about their namesakes, in the coordinates in which they stand."""
    for words, count in ((("keys", "values"), own.keys), (("queries", "mixed"), own.queries)):
        agreement = Agreement(count)
        for word in words:
            agreement.add(getattr(one, word).reshape(count, -1), getattr(other, word).reshape(count, -1))
        if not agreement.holds:
            return False
    return True


def _match_groups(one: Side, other: Side, own: Attention, first: int, second: int, wanted: Collection[str]) -> Matched:
    """Key head `first` of the reference with `second` of the model: query heads and matrices in turns, while it gets better."""
    mine, theirs = one.of_group(first, own), other.of_group(second, own)
    xa, xb, va, vb = one.keys[first], other.keys[second], one.values[first], other.values[second]
    inner = np.arange(own.shared)
    best = _match_gauges(one, other, own, first, second, inner, wanted)
    if "heads" not in wanted or not own.order or own.shared == 1:
        return best
    none = np.zeros((own.size, 0))
    qk = of_queries_and_keys(own, xa, xb, none, none) if "qk" in wanted else best.qk
    vo = any_matrix(va, vb, none, none) if "vo" in wanted else best.vo
    for _ in range(3):
        scores = _head_scores(one.queries[mine], dual(qk) @ other.queries[theirs])
        scores += _head_scores(one.mixed[mine], dual(vo) @ other.mixed[theirs])
        found = best_order(scores)
        made = _match_gauges(one, other, own, first, second, found, wanted)
        if made.left >= best.left * (1 - 1e-9):
            break
        best, qk, vo = made, made.qk, made.vo
    return best


def _head_scores(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Less half the squared distance of each two heads, but for what is the same in each row: [n, n]."""
    flat = other.reshape(len(other), -1)
    return one.reshape(len(one), -1) @ flat.T - 0.5 * (flat**2).sum(1)[None, :]


def _match_gauges(
    one: Side, other: Side, own: Attention, first: int, second: int, inner: np.ndarray, wanted: Collection[str]
) -> Matched:
    mine, theirs = one.of_group(first, own), np.arange(own.queries)[other.of_group(second, own)][inner]
    keys = one.keys[first], other.keys[second], _flat(one.queries[mine]), _flat(other.queries[theirs])
    values = one.values[first], other.values[second], _flat(one.mixed[mine]), _flat(other.mixed[theirs])
    qk = kept(of_queries_and_keys(own, *keys), *keys) if "qk" in wanted else np.eye(own.size)
    vo = kept(any_matrix(*values), *values) if "vo" in wanted else np.eye(own.size)
    return Matched(distance(qk, *keys) + distance(vo, *values), inner, qk, vo)
