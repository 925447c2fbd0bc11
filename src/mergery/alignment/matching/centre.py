"""Many models matched to their common centre (MergeMany of arXiv 2209.04836): each to the mean of the others, in turns.

One of them, the anchor, stays as it is, and the others begin as they match it. Then each is matched to the mean of all others
as they stand, until none moves: what two models share that the anchor does not have is matched as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mergery.alignment.matching.pairs import Models
from mergery.alignment.matching.weights import WeightMatching
from mergery.dtypes import F32
from mergery.graph.nodes import Merged, Node
from mergery.graph.view import View
from mergery.method import find
from mergery.run.events import Notify, ignore
from mergery.views.transforms import Transform, transformed

ROUNDS = 5


def match_to_centre(
    views: Mapping[str, View], anchor: str, wanted: Collection[str], *, rounds: int = ROUNDS, notify: Notify = ignore
) -> tuple[dict[str, Transform], dict[str, tuple[float, float]]]:
    """The transform of each model but the anchor; and what was left of its squared difference from the mean of the others, at
    first and in the end. The views have the anchor's names.
    """
    found: dict[str, Transform] = {}
    left: dict[str, tuple[float, float]] = {}
    stand = dict(views)
    for turn in range(rounds + 1):
        moved = False
        for name, view in views.items():
            if name == anchor:
                continue
            others = [stand[anchor]] if turn == 0 else [each for other, each in stand.items() if other != name]
            models = Models(mean_of(others), view)
            matching = WeightMatching(models, wanted, notify=notify, start=found.get(name))
            made = matching.run()
            moved |= name not in found or not _same(made, found[name])
            found[name], stand[name] = made, transformed(view, made, models.spaces)
            first = left[name][0] if name in left else matching.history[0]
            left[name] = first, matching.history[-1]
        if not moved or len(views) < 3:
            break
    return found, left


def mean_of(views: Sequence[View]) -> View:
    """The mean of models that are called alike; what is no number of a model is the first one's."""
    if len(views) == 1:
        return views[0]
    settings = {"weight": np.full(len(views), 1.0), "normalize": True}
    names = tuple(view.name for view in views)
    nodes: dict[str, Node] = {}
    for name, node in views[0].nodes.items():
        inputs = tuple(view.nodes[name] for view in views)
        alike = node.dtype.floating and all(each.shape == node.shape for each in inputs)
        nodes[name] = Merged(find("linear"), name, names, inputs, None, settings, F32, 0) if alike else node
    return replace(views[0], nodes=nodes)


def _same(one: Transform, other: Transform) -> bool:
    mine, theirs = one.arrays(), other.arrays()
    return mine.keys() == theirs.keys() and all(np.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)
