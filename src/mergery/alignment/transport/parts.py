"""The matrices of a model that are transported, by layer and by what they are for, whatever a family calls or fuses them.

Neurons stand in spaces: what a module reads (`before`) and what it says (`after`). Query, key and value read the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mergery.architecture import read_architecture
from mergery.architecture.fused import FusedPart, fused_parts, transposed
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.errors import CheckpointError, Where, listed

SPACES: Mapping[str, tuple[str, str]] = {
    "q": ("attention input", "q"),
    "k": ("attention input", "k"),
    "v": ("attention input", "v"),
    "o": ("heads", "o"),
    "gate": ("mlp input", "gate"),
    "up": ("mlp input", "up"),
    "down": ("inner", "down"),
}
"""Of each module: the space of its inputs, and that of its outputs."""
GROUPS: Mapping[str, tuple[str, ...]] = {"attention": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
BY_COLUMN = ("o", "down")
"""Modules whose neurons stand in their inputs: of these columns are selected, of others rows."""


@dataclass(frozen=True)
class Part:
    """A module's matrix of one layer, and where it stands.

    name:   of the tensor. fused: which of its elements, where others stand in it too.
    shape:  outputs and inputs. turned: whether it is stored [in, out].
    """

    module: str
    layer: int
    name: str
    fused: FusedPart | None
    shape: tuple[int, int]
    turned: bool
    bias: str | None = None
    bias_fused: FusedPart | None = None

    @property
    def outputs(self) -> np.ndarray | None:
        """Which outputs of the whole tensor are its own, int64; None for all."""
        if self.fused is None:
            return None
        return np.concatenate([np.arange(start, start + length) for start, length in self.fused.spans])


Parts = Mapping[tuple[int, str], Part]  # by layer and module


def find_parts(infos: Iterable[TensorInfo], config: Config) -> dict[tuple[int, str], Part]:
    """All matrices of attention and of plain MLPs in a model's main stack; of layers that have two of a kind, neither."""
    tensors = {info.name: info for info in infos}
    names = read_architecture(tensors.values(), config).names
    found: dict[tuple[int, str], Part | None] = {}
    for name, info in tensors.items():
        parsed = names[name]
        if parsed.layer is None or "linear" not in parsed.roles or "expert" in parsed.roles or len(info.shape) != 2:
            continue
        fused = fused_parts(name, info.shape, parsed.roles, config)
        if fused is None:
            continue  # query, key and value in one, and it is not known how
        bias = name.removesuffix("weight") + "bias" if name.endswith("weight") else ""
        held = fused_parts(bias, tensors[bias].shape, names[bias].roles, config) if bias in tensors else ()
        biases = {each.key: each for each in held or ()}
        for each in fused or (None,):
            role = each.roles[0] if each is not None else parsed.roles[0]
            module = role.rpartition(".")[2]
            if module not in SPACES:
                continue
            turned = each.transposed if each is not None else transposed(name, info.shape, config)
            rows, columns = each.shape if each is not None else info.shape
            shape = (columns, rows) if turned else (rows, columns)
            own = biases.get(each.key) if each is not None else None
            part = Part(module, parsed.layer, name, each, shape, turned, bias if bias in tensors else None, own)
            found[parsed.layer, module] = None if (parsed.layer, module) in found else part
    return {key: part for key, part in found.items() if part is not None}


def layers_with(parts: Parts, module: str) -> list[int]:
    """The layers that have a module."""
    return sorted(layer for layer, each in parts if each == module)


def check_modules(modules: Iterable[str], parts: Parts, name: str, location: str) -> None:
    """Refuse a model that lacks what is to be transported. Raises CheckpointError."""
    lacking = [module for module in modules if not layers_with(parts, module)]
    if not lacking:
        return
    have = [module for module in SPACES if layers_with(parts, module)]
    why = (
        f"of what can be transported it has {listed(have)}"
        if have
        else "no layer has attention or an MLP that is understood"
    )
    hint = f"--modules {','.join(have)}" if have else "transport is between models with blocks of attention"
    raise CheckpointError(f"{name} has no {listed(lacking)}", where=Where(location), why=why, hint=hint)
