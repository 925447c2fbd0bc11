"""Tasks: what is asked of a model, and which numbers come of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Link = Literal["mean", "exp", "exp2"]
Role = Literal["", "search", "validation", "report"]


@dataclass(frozen=True)
class Metric:
    """A number that a task gives: the weighted mean over its items, or a power of that mean."""

    name: str
    higher: bool = True  # whether more is better
    link: Link = "mean"  # exp and exp2 make a perplexity of a mean in nats or bits


METRICS: Mapping[str, tuple[Metric, ...]] = {  # by kind; the first is the one that is compared by default
    "perplexity": (
        Metric("bits_per_byte", higher=False),
        Metric("byte_perplexity", higher=False, link="exp2"),
        Metric("perplexity", higher=False, link="exp"),
    ),
    "choice": (Metric("accuracy"), Metric("accuracy_normalised")),
    "generation": (Metric("match"),),
    "classification": (Metric("accuracy"), Metric("log_loss", higher=False)),
}
CLOSED, LENGTH = Metric("closed"), Metric("length", higher=False)
PROMPTED = ("choice", "generation")  # kinds to which a chat template can be applied


@dataclass(frozen=True)
class Item:
    """One question. `fields` are those of its kind, as they stand in the file."""

    id: str
    category: str
    fields: Mapping[str, Any]
    line: int

    @property
    def content(self) -> str:
        """A hash of what is asked and answered; items that differ in id or category alone share it."""
        return digest(dict(self.fields))


@dataclass(frozen=True)
class Settings:
    """How the items of a task are put to a model."""

    examples: tuple[Mapping[str, Any], ...] = ()  # shown before every item, solved
    letters: bool = False  # choices are listed under letters, and the letters are scored
    delimiter: str = " "  # between a prompt and its answer
    stop: tuple[str, ...] = ("\n",)  # a generation ends before the first of these
    max_tokens: int = 32  # of a generation
    block: tuple[str, ...] = ()  # what opens and closes a block, such as thinking, that stands before an answer
    length: bool = False  # whether generations are measured, in tokens

    def plain(self) -> dict[str, Any]:
        return {
            "examples": [dict(example) for example in self.examples], "letters": self.letters,
            "delimiter": self.delimiter, "stop": list(self.stop), "max_tokens": self.max_tokens,
            **({"block": list(self.block)} if self.block else {}), **({"length": True} if self.length else {}),
        }  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Items of one kind. `role` is the split that they stand for, empty where the task has not been split."""

    name: str
    kind: str
    items: tuple[Item, ...]
    settings: Settings = field(default_factory=Settings)
    metric: str = ""  # the one to compare by; the kind's first where empty
    file: str = ""
    role: Role = ""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics of the kind, the one to compare by first."""
        known = metrics_of(self.kind, self.settings)
        return tuple(sorted(known, key=lambda metric: metric.name != (self.metric or known[0].name)))

    @property
    def hash(self) -> str:
        """A hash of all that can change a result: items in their order, and settings."""
        items = [[item.id, item.category, dict(item.fields)] for item in self.items]
        return digest([self.kind, self.settings.plain(), items])

    def part(self, items: Iterable[Item], role: Role) -> Task:
        """The same task with some of its items."""
        return replace(self, items=tuple(items), role=role)


def metrics_of(kind: str, settings: Settings) -> tuple[Metric, ...]:
    """All metrics of tasks of a kind with some settings."""
    blocks = (CLOSED, LENGTH) if settings.block else ()
    return (*METRICS[kind], *(blocks or ((LENGTH,) if settings.length else ())))


def digest(data: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
