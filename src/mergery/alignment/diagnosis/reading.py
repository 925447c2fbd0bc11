"""Two models side by side: their tensors by place, and those of them that are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergery.architecture.anatomy import ANATOMIES
from mergery.architecture.fused import transposed
from mergery.architecture.spelling import canonical_names, language_family
from mergery.calibration.opening import Opened
from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.computing import reading
from mergery.graph.nodes import Read
from mergery.graph.view import View

LAYERS = 3  # that are looked at: the first, the middle and the last
NORMS = {"attention": ("input_layernorm", "ln_1", "attention_norm", "attn_norm"),
         "mlp": ("post_attention_layernorm", "ln_2", "ffn_norm", "pre_feedforward_layernorm")}  # fmt: skip
"""What a block's norms are called, by what reads behind them: their gains belong to its columns."""


@dataclass(frozen=True)
class Side:
    """One of the models."""

    opened: Opened

    @property
    def view(self) -> View:
        return self.opened.view

    @cached_property
    def names(self) -> dict[str, str]:
        """Its tensors by their canonical names."""
        own = list(self.view.nodes)
        found = canonical_names(own, self.view.config)
        return {canonical: name for name, canonical in found.items()} if found else {name: name for name in own}

    @property
    def family(self) -> str | None:
        return language_family(self.view.config)

    @property
    def depth(self) -> int:
        return self.view.architecture.depth

    def roles(self, canonical: str) -> tuple[str, ...]:
        return self.view.architecture.names[self.names[canonical]].roles

    def layer(self, canonical: str) -> int | None:
        return self.view.architecture.names[self.names[canonical]].layer

    def shape(self, canonical: str) -> tuple[int, ...]:
        return self.view.nodes[self.names[canonical]].shape

    def read(self, canonical: str, elements: int | None = None) -> Tensor:
        """The first elements of a tensor, or all, float32 and flat."""
        node = self.view.nodes[self.names[canonical]]
        return torch.from_numpy(self._reads(canonical)(0, node.elements if elements is None else elements))

    def rows(self, canonical: str, chosen: Tensor) -> Tensor:
        """Some rows of a matrix, float32."""
        width, read = self.shape(canonical)[1], self._reads(canonical)
        return torch.from_numpy(np.stack([read(row * width, (row + 1) * width) for row in chosen.tolist()]))

    def _reads(self, canonical: str) -> Read:
        making = evaluator(self.view.nodes[self.names[canonical]], Shared(), Workspace())
        making.prepare()
        return reading(making)

    def matrix(self, canonical: str) -> Tensor:
        """A matrix [out, in], the first of a stack."""
        shape, name = self.shape(canonical), self.names[canonical]
        flat = self.read(canonical, shape[-2] * shape[-1])
        matrix = flat.view(shape[-2], shape[-1])
        return matrix.T if transposed(name, shape, self.view.config) else matrix

    def gains(self, layer: int, kind: str, width: int) -> Tensor | None:
        """What the norm before a block's attention or MLP multiplies each channel with."""
        for canonical, name in self.names.items():
            if self.view.architecture.names[name].layer != layer or self.shape(canonical) != (width,):
                continue
            if canonical.endswith("weight") and any(f".{word}." in f".{canonical}" for word in NORMS[kind]):
                own = self.read(canonical)
                anatomy = ANATOMIES.get(self.family or "")
                return own + 1.0 if anatomy is not None and anatomy.norm == "offset" else own
        return None


@dataclass(frozen=True)
class Pair:
    """Both models."""

    mine: Side
    theirs: Side

    @cached_property
    def common(self) -> list[str]:
        """Canonical names that both have."""
        return [name for name in self.mine.names if name in self.theirs.names]

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """What tells their shapes apart: names that one lacks, and shapes that differ, tables of tokens aside."""
        table = {name for name in self.common if self.mine.roles(name)[0] in ("embed", "head")}
        return {
            "lacking": len(self.mine.names) + len(self.theirs.names) - 2 * len(self.common),
            "differing": [
                name for name in self.common if name not in table and self.mine.shape(name) != self.theirs.shape(name)
            ],
            "tokens": [name for name in sorted(table) if self.mine.shape(name) != self.theirs.shape(name)],
        }

    def sampled(self) -> Iterator[tuple[int, str]]:
        """Matrices that are looked at, with their layers: one of each kind, of experts the first."""
        depth = self.mine.depth
        layers = sorted({0, depth // 2, max(0, depth - 1)})[:LAYERS]
        seen: set[tuple[int, tuple[str, ...]]] = set()
        for name in self.common:
            layer, roles = self.mine.layer(name), self.mine.roles(name)
            if layer not in layers or not ({"linear", "router"} & set(roles)) or "bias" in roles:
                continue
            if len(self.mine.shape(name)) not in (2, 3) or (layer, roles) in seen:
                continue
            seen.add((layer, roles))
            yield layer, name

    def embeddings(self) -> str | None:
        """The table of tokens' rows."""
        found = [
            name for name in self.common if "embed" in self.mine.roles(name) and len(self.mine.shape(name)) == 2
            and "position" not in name and not name.endswith("wpe.weight")
        ]  # fmt: skip
        return max(found, key=lambda name: self.mine.shape(name)[0]) if found else None
