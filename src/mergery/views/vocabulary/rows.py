"""Views whose embeddings, heads and head biases have the rows of the output's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mergery.architecture import Architecture
from mergery.checkpoints.base import TensorInfo
from mergery.errors import PlanError
from mergery.graph.gathering import from_rows
from mergery.graph.nodes import Merged, Node, Read, made_whole
from mergery.graph.view import View
from mergery.method import find
from mergery.views.vocabulary.choosing import AVERAGE, GROUPS, UNKNOWN, ZERO, Rows

PLACES = re.compile(r"position|token_type|(^|\.)wpe(\.|$)|(^|\.)embed_positions(\.|$)")
BIAS = re.compile(r"(^|\.)final_logits_bias$")
WINDOW = 1 << 12  # rows that an average reads at once

Fill = Callable[["TokenTensors", str, str, int], Node]
"""Rows for the tokens that no merged model has: of (token tensors, model, tensor, width), a node."""


def token_tensors(nodes: Mapping[str, Node | TensorInfo], architecture: Architecture) -> dict[str, int]:
    """The tensors that have a row for each token, and how many rows: embeddings, heads, biases of heads.

    The largest matrix of embeddings that are not of positions tells the number of rows; others outside the layers
    that have as many belong to it.
    """
    outside = {name: architecture.names[name].roles for name in nodes if architecture.names[name].layer is None}
    outside = {name: roles for name, roles in outside.items() if not PLACES.search(name)}
    tables = [name for name, roles in outside.items() if "embed" in roles and len(nodes[name].shape) == 2]
    if not tables:
        return {}
    rows = max((nodes[name] for name in tables), key=lambda node: node.elements).shape[0]
    found: dict[str, int] = {}
    for name, roles in outside.items():
        shape = nodes[name].shape
        belongs = ("embed" in roles or "head" in roles) and "norm" not in roles
        if (belongs and shape[:1] == (rows,)) or (BIAS.search(name) and shape == (1, rows)):
            found[name] = rows
    return found


def is_head(view: View, tensor: str) -> bool:
    return "embed" not in view.architecture.names[tensor].roles


class TokenTensors:
    """The token tensors of models, with rows in the order that `rows` states. `views` are the models as they are stored."""

    def __init__(self, views: Mapping[str, View], rows: Rows, fill: Fill | None, number: int) -> None:
        self.views, self.rows, self.fill, self.number = views, rows, fill, number
        self.heights = {name: token_tensors(view.nodes, view.architecture) for name, view in views.items()}

    @cached_property
    def size(self) -> int:
        """Rows of the output."""
        return len(self.rows.giver)

    def view(self, name: str) -> View:
        """One model with its rows in the output's order. Raises PlanError."""
        view = self.views[name]
        unified = {tensor: self.tensor(name, tensor) for tensor in self.heights[name]}
        return replace(view, nodes={each: unified.get(each, node) for each, node in view.nodes.items()})

    def tensor(self, name: str, tensor: str) -> Node:
        """One tensor of one model, with the rows of the output."""
        node = self.views[name].nodes[tensor]
        width = node.elements // self.heights[name][tensor]
        shape = (1, self.size) if BIAS.search(tensor) else (self.size, *node.shape[1:])
        giver, row = self.rows.of(name)
        sources: list[Node] = []
        which = np.full(self.size, -1, dtype=np.int64)
        for number in np.unique(giver):
            if number == ZERO:
                continue
            which[giver == number] = len(sources)
            sources.append(self.source(name, tensor, int(number), width))
        return from_rows(tensor, shape, sources, which, row, width)

    def source(self, name: str, tensor: str, number: int, width: int) -> Node:
        """What gives rows: another model's tensor, a mean of several, or rows that are made."""
        if number >= 0:
            return self.counterpart(self.rows.names[number], name, tensor, width)
        if number == AVERAGE:
            return self.average(name, tensor, width)
        if number == UNKNOWN:
            assert self.fill is not None
            return self.fill(self, name, tensor, width)
        group = GROUPS - number
        ids = self.rows.group_rows[group]
        names = [self.rows.names[place] for place in self.rows.groups[group]]
        shape = (len(ids), width)
        taken: list[Node] = []
        for each in names:
            one = self.counterpart(each, name, tensor, width)
            taken.append(from_rows(tensor, shape, [one], np.zeros(len(ids)), self.rows.own[each][ids], width))
        linear = find("linear")
        settings = {each.name: each.received([each.default] * len(names), names) for each in linear.settings.values()}
        return Merged(linear, tensor, tuple(names), tuple(taken), None, settings, taken[0].dtype, self.number)

    def counterpart(self, giver: str, name: str, tensor: str, width: int) -> Node:
        """A model's tensor of that name and width. Raises PlanError."""
        node, own_width = self.loose_counterpart(giver, name, tensor)
        if own_width != width:
            what = f"{giver!r} cannot give rows of {tensor!r} to {name!r}"
            why = f"its rows have {own_width} columns, those of {name!r} {width}"
            raise PlanError(what, why=why, hint="only models of one width share rows")
        return node

    def loose_counterpart(self, giver: str, name: str, tensor: str) -> tuple[Node, int]:
        """A model's tensor of that name or, for a head, its embeddings where it ties its head to them; and its width.

        Raises PlanError.
        """
        view, found = self.views[giver], self.heights[giver]
        other = tensor if tensor in found else None
        if other is None:
            head = is_head(self.views[name], tensor)
            matrices = [each for each in found if len(view.nodes[each].shape) == 2]
            own = [each for each in matrices if is_head(view, each) == head]
            other = next(iter(own), None) or (next(iter(matrices), None) if head else None)
        if other is None or (
            (BIAS.search(tensor) or len(self.views[name].nodes[tensor].shape) < 2) and other != tensor
        ):
            raise PlanError(
                f"{giver!r} cannot give rows of {tensor!r} to {name!r}",
                why="it has no such tensor",
                hint="name another model, or leave the token out",
            )
        node = view.nodes[other]
        return node, node.elements // found[other]

    def average(self, name: str, tensor: str, width: int) -> Node:
        """The mean of all rows of a model that are tokens: one row."""
        giver, row = self.rows.of(name)
        kept = np.flatnonzero(self.rows.tokens)
        sources: list[Node] = []
        which = np.full(len(kept), -1, dtype=np.int64)
        for number in np.unique(giver[kept]):
            if number != ZERO:
                which[giver[kept] == number] = len(sources)
                sources.append(self.source(name, tensor, int(number), width))
        rows = from_rows(tensor, (len(kept), width), sources, which, row[kept], width)

        def mean(reads: Sequence[Read]) -> np.ndarray:
            return mean_row(reads[0], len(kept), width)

        return made_whole(tensor, (1, width), (rows,), mean, "the mean of its rows", WINDOW * width * 8)


def mean_row(read: Read, count: int, width: int) -> np.ndarray:
    """The mean of `count` rows, added up in float64."""
    total = np.zeros(width, dtype=np.float64)
    for start in range(0, count, WINDOW):
        stop = min(count, start + WINDOW)
        total += read(start * width, stop * width).reshape(-1, width).sum(axis=0, dtype=np.float64)
    return (total / max(1, count)).astype(np.float32)
