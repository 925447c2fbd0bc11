"""One mergekit document as it stands: inputs, slices and parameters, checked but not yet translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergery.errors import Where
from mergery.method import Method
from mergery.recipe.document import Document
from mergery.recipe.mergekit.methods import Rule
from mergery.recipe.mergekit.parameters import Chain, Level, Path_
from mergery.recipe.mergekit.tokens import Tokens


@dataclass(frozen=True)
class Reference:
    """A model as a file refers to it: a path, a hub id or the name of another document."""

    path: str
    revision: str | None = None


@dataclass(frozen=True, eq=False)
class Input:
    """A model with its own parameters; `layers` is a half-open range, None for all."""

    model: Reference
    level: Level
    path: Path_
    layers: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Part:
    """An output slice."""

    inputs: tuple[Input, ...]
    base: Reference | None
    level: Level
    path: Path_


@dataclass
class Config:
    """One document."""

    document: Document
    word: str
    rule: Rule
    method: Method
    base: Reference | None = None
    inputs: tuple[Input, ...] = ()
    parts: tuple[Part, ...] = ()
    common: Mapping[str, Chain] = field(default_factory=dict)  # of the module, then of the whole file
    dtype: str | None = None
    tokens: Tokens | None = None
    template: str | None = None
    name: str | None = None
    seed: int = 0
    places: dict[Reference, Where] = field(default_factory=dict)
    marks: dict[str, Where] = field(default_factory=dict)  # where each parameter first stands

    def references(self) -> dict[Reference, None]:
        """All models that it merges or takes its config from, in the order of the file, base first."""
        found = [self.base] if self.base else []
        for part in self.parts:
            found += [part.base] if part.base and self.rule.base != "input" else []
            found += [item.model for item in part.inputs]
        found += [item.model for item in self.inputs]
        return dict.fromkeys(found)
