"""What one mergekit document states: inputs, slices and parameters, checked but not yet translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergery.errors import Where
from mergery.method import Method
from mergery.recipe.document import Document, KeyPath
from mergery.recipe.mergekit.methods import Rule
from mergery.recipe.mergekit.parameters import Chain, Level
from mergery.recipe.mergekit.references import Reference
from mergery.recipe.mergekit.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Input:
    """A model with its own parameters; `layers` is a half-open range, None for all."""

    model: Reference
    level: Level
    path: KeyPath
    layers: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class OutputSlice:
    """An output slice."""

    inputs: tuple[Input, ...]
    base: Reference | None
    level: Level
    path: KeyPath


@dataclass
class MergeStatement:
    """One document: a merge."""

    document: Document
    word: str
    rule: Rule
    method: Method
    base: Reference | None = None
    inputs: tuple[Input, ...] = ()
    slices: tuple[OutputSlice, ...] = ()
    common: Mapping[str, Chain] = field(default_factory=dict)  # of the module, then of the whole file
    dtype: str | None = None
    tokens: Tokens | None = None
    template: str | None = None
    name: str | None = None
    seed: int = 0
    places: dict[Reference, Where] = field(default_factory=dict)
    marks: dict[str, Where] = field(default_factory=dict)  # where each parameter first stands

    @property
    def donor(self) -> Reference:
        """The model from which its result has config and tokenizer."""
        return self.base or next(iter(self.references()))

    def references(self) -> dict[Reference, None]:
        """All models that it merges or takes its config from, in the order of the file, base first."""
        found = [self.base] if self.base else []
        for part in self.slices:
            found += [part.base] if part.base and self.rule.base != "input" else []
            found += [item.model for item in part.inputs]
        found += [item.model for item in self.inputs]
        return dict.fromkeys(found)
