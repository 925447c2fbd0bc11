"""Where a model of a recipe is, and how it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mergery.checkpoints.adapted import ROUNDINGS
from mergery.errors import Where

CONVERSIONS = ("heads", "kv_heads", "intermediate_size", "hidden_size", "layers")
"""What of a source's shape can be changed, in the order in which it is."""


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder, a file, a hub id, or an object in memory; of packed models, which task's; and the
    shape and the names in which it is taken."""

    path: Any
    revision: str | None = None
    place: Where | None = field(default=None, compare=False)
    task: str | None = None
    convert: Mapping[str, int] = field(default_factory=dict)  # by the words of `CONVERSIONS`
    places: Mapping[str, Where] = field(default_factory=dict, compare=False)  # of its conversions
    rename: Mapping[str, str] = field(default_factory=dict)  # patterns of names of tensors, and the new names
    adapters: tuple[Any, ...] = ()  # put on it, besides those that its path names behind a `+`
    rounding: str = ROUNDINGS[0]  # of a model with adapters
    statistics: Any = None  # the folder of its statistics on data; of a base, one for each model whose data they are of
    transform: Any = None  # the coordinates in which it is taken: a folder that `mergery align` keeps, or a checkpoint

    @property
    def measured(self) -> Mapping[str, Any]:
        """The folders of its statistics by the model whose data they are of; under an empty name where that is not said."""
        return (
            self.statistics
            if isinstance(self.statistics, Mapping)
            else {"": self.statistics}
            if self.statistics
            else {}
        )

    def with_measured(self, folders: Mapping[str, Any]) -> Source:
        """The same with statistics, as `measured` has them."""
        return replace(self, statistics=folders[""] if set(folders) == {""} else dict(folders))

    def plain(self) -> Any:
        """The source as plain data: its path alone where there is nothing else to say."""
        path = self.path if isinstance(self.path, str) else f"<{type(self.path).__name__} in memory>"
        more: dict[str, Any] = {
            "revision": self.revision, "task": self.task, "convert": dict(self.convert), "rename": dict(self.rename),
        }  # fmt: skip
        more["adapters"] = [
            each if isinstance(each, str) else f"<{type(each).__name__} in memory>" for each in self.adapters
        ]
        more["rounding"] = self.rounding if self.rounding != ROUNDINGS[0] else None
        more["statistics"] = dict(self.measured) if isinstance(self.statistics, Mapping) else self.statistics
        in_memory = self.transform is not None and not isinstance(self.transform, str)
        more["transform"] = f"<{type(self.transform).__name__} in memory>" if in_memory else self.transform
        if not self.path:
            return {"adapters": more["adapters"]}
        return {"path": path, **{key: value for key, value in more.items() if value}} if any(more.values()) else path
