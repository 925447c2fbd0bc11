"""Splits: items to search with, items to validate on, and items to report on that no choice has seen.

Where an item goes is decided by a hash of its content and the seed, and by nothing else: duplicates, in one file or in
several, stand on the same side; and an item stays where it is when others are added.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mergery.errors import TaskError
from mergery.evaluation.reading import load_tasks
from mergery.evaluation.task import Item, Role, Task

ROLES: tuple[Role, ...] = ("search", "validation", "report")


@dataclass(frozen=True)
class Splits:
    """Tasks in three disjoint parts. Commands that select take this, and see `search` and `validation` alone."""

    search: tuple[Task, ...]
    validation: tuple[Task, ...]
    _report: tuple[Task, ...] = field(repr=False)
    seed: int = 0
    _opened: list[str] = field(default_factory=list, repr=False, compare=False)

    def report(self, chosen: str) -> tuple[Task, ...]:
        """The part to report on, for the one model that was chosen, by fingerprint or name.

        Raises TaskError for a second one: whoever compares two candidates there has chosen by it.
        """
        if self._opened and self._opened[0] != chosen:
            raise TaskError(
                f"the report items have been opened for {self._opened[0]!r}",
                why=f"to score {chosen!r} on them as well would be to choose by them",
                hint="choose by the validation items; to compare finished models, evaluate them with --split report",
            )
        if not self._opened:
            self._opened.append(chosen)
        return self._report

    def sizes(self) -> dict[str, int]:
        """Items in each part."""
        parts = {"search": self.search, "validation": self.validation, "report": self._report}
        return {role: sum(len(task.items) for task in tasks) for role, tasks in parts.items()}


def split(
    tasks: str | Path | Task | Sequence[str | Path | Task],
    *,
    search: float = 0.5,
    validation: float = 0.25,
    report: float = 0.25,
    seed: int = 0,
) -> Splits:
    """Divide tasks into parts with these shares of the items, nearly: each item is sent to its part by its own hash.

    Raises TaskError where the shares do not add up to 1, or a part of a task that should have items gets none.
    """
    shares = {"search": search, "validation": validation, "report": report}
    if not all(0 <= share <= 1 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, rel_tol=1e-9):
        told = ", ".join(f"{role} {share:g}" for role, share in shares.items())
        hint = "search=0.5, validation=0.25, report=0.25"
        raise TaskError("the shares of a split must add up to 1", why=f"these are {told}", hint=hint)
    listed = [tasks] if isinstance(tasks, (str, Path, Task)) else list(tasks)
    parts: dict[Role, list[Task]] = {role: [] for role in ROLES}
    for task in load_tasks(listed):
        if task.role:
            what, why = f"the task {task.name!r} is a {task.role} part already", "a part is not split again"
            raise TaskError(what, why=why, hint="give the whole task")
        for role, items in divide(task, shares, seed).items():
            if shares[role] > 0:
                parts[role].append(task.part(items, role))
    return Splits(tuple(parts["search"]), tuple(parts["validation"]), tuple(parts["report"]), seed)


def split_of(task: Task, role: Role, *, seed: int = 0) -> Task:
    """One part of a task, by the default shares."""
    splits = split(task, seed=seed)
    found = {"search": splits.search, "validation": splits.validation, "report": splits._report}
    if role not in found:
        raise TaskError(f"there is no split {role!r}", hint=f"one of {', '.join(ROLES)}")
    return found[role][0]


def divide(task: Task, shares: dict[str, float], seed: int) -> dict[Role, list[Item]]:
    """The items of each part, in their order."""
    found: dict[Role, list[Item]] = {role: [] for role in ROLES}
    for item in task.items:
        place, bound = position(item, seed), 0.0
        for role in ROLES:
            bound += shares[role]
            if place < bound or (role == ROLES[-1]):
                found[role].append(item)
                break
    empty = [role for role in ROLES if shares[role] > 0 and not found[role]]
    if empty:
        raise TaskError(
            f"no item of {task.name!r} falls into the {empty[0]} part",
            why=f"it has {len(task.items)} items, and each is sent to its part by its own hash",
            hint="a larger task, another share, or another seed",
        )
    return found


def position(item: Item, seed: int) -> float:
    """A number in [0, 1) that depends on the item's content and the seed alone."""
    hashed = hashlib.blake2b(f"{seed}\0{item.content}".encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "little") >> 11) * 2.0**-53
