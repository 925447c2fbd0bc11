"""Changes of coordinates that a model does not see, drawn at random: to plant what an alignment must find."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mergery.architecture.spaces import Attention, Spaces
from mergery.recipe.aligning import KINDS
from mergery.views.transforms import Heads, Transform, Units


def random_transform(spaces: Spaces, seed: int = 0, kinds: Collection[str] = KINDS) -> Transform:
    """A legal transform of everything, or of some kinds of spaces, as far as a model has them."""
    draw = np.random.default_rng(seed)
    units: dict[str, Units] = {}
    for name, space in spaces.sizes.items():
        if name == "residual" and spaces.fixed:
            continue
        kind = "mlp" if name.endswith(".mlp") or name.startswith("hidden.") else name.rpartition(".")[2]
        if kind in kinds and kind in ("residual", "mlp", "experts"):
            signs = draw.choice(np.array([-1.0, 1.0], np.float32), space.size) if space.signs else None
            units[name] = Units(draw.permutation(space.size), signs)
    return Transform(units, {layer: _heads(own, draw, kinds) for layer, own in spaces.attention.items()})


def _heads(own: Attention, draw: np.random.Generator, kinds: Collection[str]) -> Heads:
    groups, queries = np.arange(own.keys), np.arange(own.queries)
    if "heads" in kinds and own.order:
        groups = draw.permutation(own.keys)
        inner = [draw.permutation(own.shared) for _ in range(own.keys)]
        queries = np.concatenate([group * own.shared + order for group, order in zip(groups, inner, strict=True)])
    qk = np.stack([_qk(own, draw) for _ in range(own.keys)]) if "qk" in kinds and own.free else None
    vo = np.stack([_mild(own.size, draw) for _ in range(own.keys)]) if "vo" in kinds else None
    return Heads(groups, queries, qk, vo)


def _qk(own: Attention, draw: np.random.Generator) -> np.ndarray:
    """A matrix of a key head of the form that its positions do not see."""
    if own.free == "any":
        return _mild(own.size, draw)
    made = np.eye(own.size)
    for pair in own.pairs:
        angle, scale = draw.uniform(0, 2 * np.pi), np.exp(draw.uniform(-0.5, 0.5))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        made[np.ix_(pair, pair)] = turn if own.free == "planes" else draw.choice([-1.0, 1.0]) * np.eye(2)
    rest = [place for place in range(own.size) if all(place not in pair for pair in own.pairs)]
    if rest and own.free == "planes":
        made[np.ix_(rest, rest)] = _mild(len(rest), draw)
    return made


def _mild(size: int, draw: np.random.Generator) -> np.ndarray:
    """A matrix with singular values from 0.6 to 1.6."""
    left, right = (np.linalg.qr(draw.normal(size=(size, size)))[0] for _ in range(2))
    return (left * np.exp(draw.uniform(-0.5, 0.5, size))) @ right
