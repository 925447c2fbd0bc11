"""Nodes known by what they are made of, so that two plans can tell which of their tensors are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mergery.graph.nodes import Computed, Gathered, Merged, Node, Stored
from mergery.graph.walking import merges_below
from mergery.planning.plan import Plan
from mergery.recipe import Source


class Keys:
    """Keys of the nodes of one plan. Equal keys, in plans over the same open checkpoints, are tensors of equal bytes.

    A merge that asks something of the whole model has the whole of it in the key of each of its tensors.
    """

    def __init__(self, plan: Plan) -> None:
        self.seed = plan.recipe.seed
        self.known: dict[int, bytes] = {}
        sources = {name: model for name, model in plan.recipe.models.items() if isinstance(model, Source)}
        vocabulary = plan.vocabulary.digest() if plan.vocabulary is not None else None
        # What a computed tensor does is in a function, which how the sources are stated decides, and nothing that is merged.
        self.sources = _hashed(repr(sorted((name, repr(model)) for name, model in sources.items())), vocabulary)
        self.settings: dict[int, bytes] = {}
        self.whole: dict[int, bytes] = {}
        for merge, nodes in merges_below([step.node for step in plan.steps]).items():
            if any(node.method.spans_model(node.settings) for node in nodes):
                self.whole[merge] = _hashed(*(self._merged(node, b"") for node in nodes))

    def of(self, node: Node) -> bytes:
        """The key of a node."""
        known = self.known.get(id(node))
        if known is None:
            known = self.known[id(node)] = self._key(node)
        return known

    def _key(self, node: Node) -> bytes:
        match node:
            case Stored():
                return _hashed("stored", id(node.checkpoint), node.info.name)
            case Merged():
                return self._merged(node, self.whole.get(node.merge, b""))
            case Gathered():
                ranges = (node.which.tobytes(), node.starts.tobytes(), node.lengths.tobytes())
                return _hashed("gathered", node.shape, node.dtype.name, *ranges, *map(self.of, node.sources))
            case Computed():
                return _hashed("computed", node.name, node.what, node.shape, self.sources, *map(self.of, node.sources))

    def _merged(self, node: Merged, whole: bytes) -> bytes:
        factors = [(each.kind, each.factors, each.aligned) for each in node.statistics]
        return _hashed(
            "merged", node.method.name, node.name, node.models, node.base is None, node.dtype.name, self.seed,
            repr(node.matrices), self._of_settings(node.settings), repr(factors), whole, *map(self.of, node.rows),
        )  # fmt: skip

    def _of_settings(self, settings: Mapping[str, Any]) -> bytes:
        known = self.settings.get(id(settings))
        if known is None:
            pairs = ((name, *_plain(value)) for name, value in sorted(settings.items()))
            known = self.settings[id(settings)] = _hashed(*(piece for pair in pairs for piece in pair))
        return known


def _plain(value: Any) -> Iterable[Any]:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else (repr(value),)


def _hashed(*pieces: Any) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        data = piece if isinstance(piece, bytes) else repr(piece).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.digest()
