"""Ranks for an adapter that is taken out of a fine-tune: by the energy that it must hold, or the bytes that it may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.computing import reading
from mergery.errors import PlanError
from mergery.kernels.threads import quiet_torch
from mergery.planning.plan import Plan
from mergery.run.events import Notify, Tally
from mergery.run.merging import prepare
from mergery.run.workers import Options
from mergery.views.changes import Change


def singular_values(plan: Plan, options: Options, notify: Notify) -> dict[str, np.ndarray]:
    """Of each module's difference from the base, by name: float64, largest first. Reads all of both models.

    Of experts it is the length of all their values of one place together: they get one rank.
    """
    assert plan.adapter is not None
    prepare(plan, notify, options)
    changes = {module: factors.change for module, factors in plan.adapter.factors.items()}
    tally = Tally("measuring", sum(change.elements for change in changes.values()), notify)

    def look(item: tuple[str, Change]) -> tuple[str, np.ndarray]:
        module, change = item
        values = _values_of(change)
        tally.add(change.elements)
        return module, values

    with quiet_torch(load=True), ThreadPoolExecutor(options.workers, thread_name_prefix="mergery") as pool:
        return dict(pool.map(look, changes.items()))


def _values_of(change: Change) -> np.ndarray:
    from mergery.kernels.spectral import svd

    reads = {id(node): reading(evaluator(node, Shared(), Workspace())) for node in change.sources}
    squares = np.zeros(min(change.sides))
    for difference, size in change.differences(reads):
        _, s, _ = svd(difference, of=size * 1e-3)
        squares[: len(s)] += s.numpy() ** 2
    return np.sqrt(squares)


def ranks_by_energy(values: Mapping[str, np.ndarray], energy: float) -> dict[str, int]:
    """The least rank of each module that holds this share of its squared length: at least 1."""
    ranks: dict[str, int] = {}
    for module, s in values.items():
        held = np.cumsum(s**2)
        enough = held >= energy * held[-1] * (1.0 - 1e-12)
        ranks[module] = int(np.argmax(enough)) + 1
    return ranks


def ranks_by_budget(values: Mapping[str, np.ndarray], cost: Callable[[str], int], budget: int) -> dict[str, int]:
    """The ranks, at least 1, with which the factors of all modules hold the most within `budget` bytes.

    `cost` is what one more rank of a module takes. Singular values are taken in the order of what they hold for each byte.
    Raises PlanError where not even rank 1 of all fits.
    """
    ranks = dict.fromkeys(values, 1)
    left = budget - sum(map(cost, values))
    if left < 0:
        least = budget - left
        raise PlanError(
            f"{budget:,} bytes are too few", why=f"rank 1 of all modules takes {least:,}", hint=f"--budget {least}"
        )
    steps = [
        (-float(s[place] ** 2) / cost(module), module, place)
        for module, s in values.items()
        for place in range(1, len(s))
    ]
    for worth, module, place in sorted(steps):
        if worth == 0.0:
            break
        if ranks[module] == place and cost(module) <= left:
            ranks[module] += 1
            left -= cost(module)
    return ranks


def rank_cost(plan: Plan) -> Callable[[str], int]:
    """What one more rank of a module takes, in bytes of the output's dtype."""
    assert plan.adapter is not None
    sizes: dict[str, Any] = {}
    for module, factors in plan.adapter.factors.items():
        sizes[module] = len(factors.change.matrices) * sum(factors.change.sides) * plan.dtype.itemsize
    return sizes.__getitem__
