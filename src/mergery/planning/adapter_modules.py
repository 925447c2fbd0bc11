"""The modules that an adapter would have for a view's tensors, as transformers names them: single weights, and the experts of a
layer, which it has in stacks, whether the files do or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mergery.architecture.fused import transposed
from mergery.architecture.spelling import canonical_name, canonical_names, name_in_transformers
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.lora import read_lora
from mergery.graph.view import View

_EXPERT = re.compile(r"\.experts\.(?P<number>\d+)\.(?P<word>gate_proj|up_proj|down_proj)\.weight$")
_PARAMETERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


class Stack(NamedTuple):
    """The matrices of a layer's experts: a parameter of a module, and for each expert the names of its pieces, in order.

    `whole` says that one tensor has all of them.
    """

    module: str
    parameter: str
    names: tuple[tuple[str, ...], ...]
    turned: bool = False
    whole: bool = False

    @property
    def name(self) -> str:
        return f"{self.module}.{self.parameter}"


class ModuleNames:
    """What transformers calls the modules of a view's tensors: as adapters do that were made for them, else by rule."""

    def __init__(self, view: View, views: Iterable[View]) -> None:
        self.view, self.family = view, view.config.family_of("language")
        self.known: dict[str, str] = {}
        for each in views:
            adapters = each.donor.adapters if isinstance(each.donor, AdaptedCheckpoint) else ()
            for update in (update for adapter in adapters for update in read_lora(adapter).updates):
                for last in update.parameters or ("weight",):
                    name = f"{update.module}.{last}"
                    self.known.setdefault(canonical_name(name, self.family), name)

    def of(self, name: str) -> str:
        """The name of a tensor there."""
        return self.known.get(canonical_name(name, self.family)) or name_in_transformers(name, self.view.config)

    def stacks(self) -> list[Stack]:
        """The experts of all layers, where all of a layer are there."""
        found: dict[str, dict[str, dict[int, str]]] = {}
        stacks: list[Stack] = []
        for name, canonical in canonical_names(self.view.nodes, self.view.config).items():
            shape = self.view.nodes[name].shape
            match = _EXPERT.search(canonical)
            if match and len(shape) == 2:
                stem = name[: name.rindex(f".experts.{match['number']}.")]
                found.setdefault(stem, {}).setdefault(match["word"], {})[int(match["number"])] = name
            elif len(shape) == 3 and "expert" in self.view.architecture.names[name].roles:
                module, _, parameter = self.of(name).rpartition(".")
                turned = transposed(name, shape, self.view.config)
                stacks.append(Stack(module, parameter, ((name,),) * shape[0], turned, whole=True))
        for stem, words in found.items():
            for parameter, pieces in _PARAMETERS.items():
                stacks += self._stack(stem, parameter, [words.get(word, {}) for word in pieces])
        return stacks

    def _stack(self, stem: str, parameter: str, columns: list[Mapping[int, str]]) -> list[Stack]:
        """The stack of a layer's experts that are stored one by one; none where they are not all there, or differ in shape."""
        numbers = range(len(columns[0]))
        if not numbers or any(set(column) != set(numbers) for column in columns):
            return []
        names = tuple(tuple(column[number] for column in columns) for number in numbers)
        if len({tuple(self.view.nodes[name].shape for name in each) for each in names}) > 1:
            return []
        own = f"{stem}.experts.{parameter}"
        known = self.known.get(canonical_name(own, self.family)) or name_in_transformers(own, self.view.config)
        return [Stack(known.rpartition(".")[0], parameter, names)]
