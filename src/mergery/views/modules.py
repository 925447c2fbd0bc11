"""Where an adapter's modules stand among a base's tensors.

They are found under their own names, under canonical ones, as parts of a stack of experts, or by names in which every dot is a
line (kohya).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from mergery.architecture.fused import FusedPart
from mergery.architecture.spelling import aliases, canonical_name, canonical_names
from mergery.checkpoints.lora import Update
from mergery.graph.view import View
from mergery.views.respelling import expert_parts

_PIPELINE = re.compile(r"^(unet|transformer|text_encoder(_\d)?)\.")
_FLAT = re.compile(r"^lora_(unet|transformer|te\d?)_")
_FOLDERS = {
    "unet": "unet",
    "transformer": "transformer",
    "te": "text_encoder",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
}
_EXPERT_STACK = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")


class Modules:
    """The tensors of a base, to be found in an adapter's spelling."""

    def __init__(self, base: View) -> None:
        self.base, self.nodes = base, base.nodes
        self.family = base.config.family_of("language")

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """The base's tensors by canonical name."""
        own = canonical_names(self.nodes, self.base.config) or {name: name for name in self.nodes}
        return {alias: name for name, alias in own.items()}

    @cached_property
    def in_stacks(self) -> Mapping[str, tuple[str, FusedPart]]:
        """Matrices of experts by canonical name, where the base has them in stacks."""
        return {
            key: (name, part)
            for alias, name in self.canonical.items()
            for key, part in expert_parts(self.base, name, alias, self.nodes[name])
        }

    @cached_property
    def flat(self) -> Mapping[str, str]:
        """The base's weights by the module's name with a line for every dot."""
        weights = [name for name in self.nodes if name.endswith(".weight")]
        return {name.removesuffix(".weight").replace(".", "_"): name for name in weights}

    def alias(self, name: str) -> str:
        """The canonical name."""
        return canonical_name(name, self.family)

    def find(self, name: str) -> str | None:
        """The base's name of a tensor in an adapter's spelling."""
        if name in self.nodes:
            return name
        if (alias := self.alias(name)) in self.canonical:
            return self.canonical[alias]
        if name != (inner := _PIPELINE.sub("", name)):
            return self.find(inner)
        module = name.removesuffix(".weight")
        if "." in module:
            return None
        found = self.flat.get(module) or self.flat.get(_FLAT.sub("", module))
        if found is None and (match := _FLAT.match(module)) and match[1] in _FOLDERS:
            found = self.flat.get(f"{_FOLDERS[match[1]]}_{module[match.end() :]}")
        return found

    def tied(self, name: str) -> str | None:
        """The tensor that stands for one that is tied to it."""
        return self.canonical.get(aliases(self.base.config, self.canonical).get(self.alias(name), ""))

    def experts(self, candidate: str, update: Update) -> list[tuple[str, int, tuple[int, int] | None]]:
        """Where each expert's matrices stand, of an update of all, where the base has them one by one."""
        alias = self.alias(candidate)
        match = _EXPERT_STACK.search(alias)
        if not match:
            return []
        outputs = update.up.shape[0]
        words: dict[str, tuple[int, int] | None] = {"down_proj": None}
        if match[1] == "gate_up_proj":
            words = {"gate_proj": (0, outputs // 2), "up_proj": (outputs // 2, outputs)}
        found: list[tuple[str, int, tuple[int, int] | None]] = []
        for expert in range(update.experts):
            for word, rows in words.items():
                name = self.canonical.get(f"{alias[: match.start()]}.experts.{expert}.{word}.weight")
                height = outputs if rows is None else rows[1] - rows[0]
                if name is None or self.nodes[name].shape != (height, update.down.shape[1]):
                    return []
                found.append((name, expert, rows))
        return found


def orientation(shape: tuple[int, ...], update: Update, *, fallback: bool) -> bool | None:
    """Whether the tensor that an update changes is stored [in, out]; None where it does not fit. `fallback` is for squares."""
    down, up = update.down.shape, update.up.shape
    if update.experts > 1 or (update.parameters and len(shape) == 3):
        if len(shape) != 3 or shape[0] != update.experts:
            return None
        straight, turned = shape[1:] == (up[0], down[1]), shape[1:] == (down[1], up[0])
        return (fallback if straight and turned else turned) if straight or turned else None
    if len(shape) > 2:
        whole = shape == (up[0], *down[1:])
        return False if whole or (shape[2:].count(1) == len(shape) - 2 and shape[:2] == (up[0], down[1])) else None
    if len(down) != 2 or len(up) != 2:
        flat = len(shape) == 2 and shape == (up[0], down[1]) and {*down[2:], *up[2:]} == {1}
        return False if flat else None
    straight, turned = shape == (up[0], down[1]), shape == (down[1], up[0])
    if straight and turned:
        return update.embedding or update.fan_in_fan_out or fallback
    if update.embedding:
        return True if turned else None
    return turned if straight or turned else None
